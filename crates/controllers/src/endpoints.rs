//! The service side: which pods stand behind a Service, written as EndpointSlices and as Endpoints.

mod hints;
pub(crate) mod legacy;
pub(crate) mod mirror;
mod slice;
pub(crate) mod slices;
mod spread;
mod write;

use std::{collections::BTreeMap, sync::Arc};

use client::{Cache, Change, Item, Key, WorkQueue};
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
    jiff::Timestamp,
};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::{frame::Loop, pods, selector::Selector};

const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// A pod as an endpoint, read from the cache without building all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    pub addresses: Vec<String>,
    pub hostname: String,
    pub subdomain: String,
    pub ready: bool,
    /// Since when it has been ready or not.
    pub since: Option<Timestamp>,
    pub terminating: bool,
    finished: bool,
    ports: Vec<NamedPort>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedPort {
    #[serde(default)]
    name: String,
    #[serde(default)]
    protocol: Option<String>,
    container_port: i32,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    hostname: Option<String>,
    subdomain: Option<String>,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainer {
    #[serde(default)]
    restart_policy: Option<String>,
    #[serde(default)]
    ports: Vec<NamedPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<RawAddress>,
    conditions: Vec<RawCondition>,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(default)]
    ip: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    r#type: String,
    status: String,
    #[serde(default)]
    last_transition_time: Option<Timestamp>,
}

impl Backend {
    /// None if the pod cannot be read. It is read once for each version of it.
    pub fn new(item: &Item) -> Option<&Backend> {
        item.facts(Backend::read).ok()
    }

    fn read(item: &Item) -> Result<Backend, serde_json::Error> {
        let Raw { spec, status } = item.parse()?;
        // An init container that is restarted for ever is a sidecar, whose ports serve like any other's.
        let is_sidecar = |container: &RawContainer| container.restart_policy.as_deref() == Some("Always");
        let containers = spec.containers.into_iter().chain(spec.init_containers.into_iter().filter(is_sidecar));
        let addresses: Vec<String> = status.pod_ips.into_iter().map(|address| address.ip).collect();
        let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
        Ok(Backend {
            namespace: item.namespace().to_owned(),
            name: item.name().to_owned(),
            uid: item.uid.to_string(),
            node: item.node_name.to_string(),
            addresses: if addresses.is_empty() { status.pod_ip.into_iter().collect() } else { addresses },
            hostname: spec.hostname.unwrap_or_default(),
            subdomain: spec.subdomain.unwrap_or_default(),
            ready: ready.is_some_and(|ready| ready.status == "True"),
            since: ready.and_then(|ready| ready.last_transition_time),
            terminating: item.deleting,
            finished: pods::is_finished(item),
            ports: containers.flat_map(|container| container.ports).collect(),
        })
    }

    /// The pod's address of a family, `IPv4` or `IPv6`.
    pub fn address(&self, family: &str) -> Option<&str> {
        let is_wanted = |address: &&String| !address.is_empty() && address.contains(':') == (family == "IPv6");
        self.addresses.iter().find(is_wanted).map(String::as_str)
    }

    /// The number of a Service's target port on this pod.
    pub fn port(&self, port: &ServicePort) -> Option<i32> {
        let name = match &port.target_port {
            Some(IntOrString::Int(number)) if *number != 0 => return Some(*number),
            Some(IntOrString::String(name)) if !name.is_empty() => name,
            _ => return Some(port.port),
        };
        let protocol = |protocol: &Option<String>| protocol.as_deref().unwrap_or("TCP").to_owned();
        let is_meant = |own: &&NamedPort| own.name == *name && protocol(&own.protocol) == protocol(&port.protocol);
        self.ports.iter().find(is_meant).map(|own| own.container_port)
    }

    /// The pod's own host name under a Service, as DNS serves it for StatefulSets.
    pub fn hostname_in(&self, service: &str) -> Option<String> {
        (!self.hostname.is_empty() && self.subdomain == service).then(|| self.hostname.clone())
    }

    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }
}

/// Whether this controller looks after the Service: it selects pods, and is not just a name for another host.
fn is_managed(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() != Some("ExternalName")
            && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
    })
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses == Some(true))
}

/// The address families of a Service, the primary one first.
fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if families.is_empty() { vec!["IPv4".to_owned()] } else { families }
}

/// The pods that a Service selects and that have not ended.
fn backends(service: &Service, pods: &Cache<Pod>) -> Vec<Backend> {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return Vec::new() };
    let selector = Selector::equal(selector);
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let selected = pods.list_ns(namespace).into_iter().filter(|pod| selector.matches(&pod.labels));
    let unfinished = selected.filter(|pod| !pods::is_finished(pod));
    unfinished.filter_map(|pod| Backend::new(&pod).cloned()).collect()
}

/// The selectors of all Services, so that a pod's Services are found without reading each of them.
#[derive(Default)]
struct Selectors(Mutex<BTreeMap<Arc<str>, ByName>>);

type ByName = BTreeMap<Arc<str>, Selector>;

impl Selectors {
    /// A loop that queues every Service that changes, or of which a pod does.
    fn watch(services: &Cache<Service>, pods: &Cache<Pod>) -> Loop {
        let (selectors, all) = (Arc::new(Selectors::default()), services.clone());
        let selecting = selectors.clone();
        let work = Loop::new().on(services, move |change, queue| {
            selectors.learn(&all, change);
            queue.add(change.key.clone());
        });
        work.on(pods, move |change, queue| selecting.queue_selecting(change, queue))
    }

    fn learn(&self, services: &Cache<Service>, change: &Change) {
        let Key { namespace, name } = &change.key;
        let service = change.new.as_ref().and_then(|item| services.parse(item)).filter(is_managed);
        let selector = service.and_then(|service| service.spec?.selector).map(|selector| Selector::equal(&selector));
        let mut all = self.0.lock();
        match selector {
            Some(selector) => {
                all.entry(namespace.clone()).or_default().insert(name.clone(), selector);
            }
            None => {
                if let Some(services) = all.get_mut(namespace) {
                    services.remove(name);
                }
                all.retain(|_, services| !services.is_empty());
            }
        }
    }

    /// Queues the Services that a change of a pod concerns.
    fn queue_selecting(&self, change: &Change, queue: &WorkQueue<Key>) {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && old.labels == new.labels
            && Backend::new(old) == Backend::new(new)
        {
            return;
        }
        let all = self.0.lock();
        for (name, selector) in all.get(&change.key.namespace).into_iter().flatten() {
            if [&change.old, &change.new].into_iter().flatten().any(|pod| selector.matches(&pod.labels)) {
                queue.add(Key { namespace: change.key.namespace.clone(), name: name.clone() });
            }
        }
    }
}
