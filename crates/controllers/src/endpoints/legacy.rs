//! The Endpoints controller, for clients that do not know EndpointSlices.

use std::collections::BTreeMap;

use client::Cache;
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, PostParams};

use super::{Backend, HEADLESS_LABEL, Selectors, backends, families, is_headless, is_managed, publishes_not_ready};
use crate::{
    frame::{Env, Synced},
    owner::Named,
};

const WORKERS: usize = 5;
/// The most addresses in one object; more are left out, and an annotation says so.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";

pub(crate) async fn run(env: Env) {
    let controller = Controller {
        services: env.caches.get(),
        pods: env.caches.get(),
        endpoints: env.caches.get(),
        env: env.clone(),
    };
    let work = Selectors::watch(&controller.services, &controller.pods).on(&controller.endpoints, |change, queue| {
        if change.item().is_some_and(|item| item.labels.get(MANAGED_BY_LABEL) == Some(MANAGED_BY)) {
            queue.add(change.key.clone());
        }
    });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

struct Controller {
    env: Env,
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
}

impl Controller {
    async fn sync(&self, key: client::Key) -> Synced {
        let existing = self.endpoints.read(&key.namespace, &key.name);
        let Some(service) = self.services.read(&key.namespace, &key.name) else {
            if let Some(stale) = existing {
                let (name, uid) = (stale.name(), stale.uid());
                self.env.delete::<Endpoints>(&key.namespace, name, uid, DeleteParams::default()).await?;
            }
            return Ok(None);
        };
        if !is_managed(&service) || service.is_deleting() {
            return Ok(None);
        }
        let Some(desired) = desired(&service, &backends(&service, &self.pods), existing.as_ref()) else {
            return Ok(None);
        };
        if existing.is_some() {
            let api = self.env.api::<Endpoints>(&key.namespace);
            api.replace(&key.name, &PostParams::default(), &desired).await?;
            return Ok(None);
        }
        match self.env.create::<Endpoints>(&key.namespace, serde_json::to_vec(&desired)?).await {
            Err(error) if error.is_namespace_terminating() => Ok(None),
            // The cache will show it.
            Err(error) if error.is_already_exists() => Ok(None),
            Err(error) => {
                let message = format!("Failed to create endpoint for service {key}: {}", error.message());
                self.env.recorder.warning(&service, "FailedToCreateEndpoint", message);
                Err(error)
            }
            Ok(_) => Ok(None),
        }
    }
}

/// The Endpoints that a Service should have; none if it has them.
fn desired(service: &Service, backends: &[Backend], existing: Option<&Endpoints>) -> Option<Endpoints> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let (subsets, truncated) = subsets(service, backends);
    let mut new = existing.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: Some(service.name().to_owned()),
            namespace: Some(service.namespace().to_owned()),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    new.metadata.labels = Some(labels);
    new.subsets = (!subsets.is_empty()).then_some(subsets);
    let annotations = new.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    new.metadata.annotations.take_if(|annotations| annotations.is_empty());
    (existing != Some(&new)).then_some(new)
}

/// A port in an order, so that equal sets of ports are found.
type Port = (String, i32, String, Option<String>);

/// Addresses with the same ports together, and whether some were left out.
fn subsets(service: &Service, backends: &[Backend]) -> (Vec<EndpointSubset>, bool) {
    let not_ready_too = publishes_not_ready(service);
    let family = families(service).swap_remove(0);
    let mut by_ports: BTreeMap<Vec<Port>, [Vec<EndpointAddress>; 2]> = BTreeMap::new();
    let reachable = backends.iter().filter(|backend| not_ready_too || !backend.terminating);
    let mut addressed: Vec<_> = reachable.filter_map(|backend| Some((backend, backend.address(&family)?))).collect();
    // Ready ones are the last to be left out.
    addressed.sort_by_key(|(backend, address)| (!backend.ready, (*address).to_owned()));
    let truncated = addressed.len() > CAPACITY;
    for (backend, ip) in addressed.into_iter().take(CAPACITY) {
        let ports = ports(service, backend);
        if ports.is_empty() && service.spec.as_ref().is_some_and(|spec| spec.ports.iter().flatten().next().is_some()) {
            continue;
        }
        let address = EndpointAddress {
            ip: ip.to_owned(),
            hostname: backend.hostname_in(service.name()),
            node_name: (!backend.node.is_empty()).then(|| backend.node.clone()),
            target_ref: Some(backend.reference()),
        };
        let [ready, not_ready] = by_ports.entry(ports).or_default();
        if not_ready_too || backend.ready { ready.push(address) } else { not_ready.push(address) }
    }
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    let subset = |(ports, [ready, not_ready]): (Vec<Port>, [Vec<EndpointAddress>; 2])| {
        let port = |(name, port, protocol, app_protocol): Port| EndpointPort {
            name: (!name.is_empty()).then_some(name),
            port,
            protocol: Some(protocol),
            app_protocol,
        };
        let ports: Vec<_> = ports.into_iter().map(port).collect();
        EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: (!ports.is_empty()).then_some(ports),
        }
    };
    (by_ports.into_iter().map(subset).collect(), truncated)
}

fn ports(service: &Service, backend: &Backend) -> Vec<Port> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let mut ports: Vec<Port> = ports
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port.name.clone().unwrap_or_default(), backend.port(port)?, protocol, port.app_protocol.clone()))
        })
        .collect();
    ports.sort();
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    fn backend(name: &str, ip: &str, ready: bool) -> Backend {
        let status = if ready { "True" } else { "False" };
        Backend::new(&item(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "node"},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": status}]},
        })))
        .unwrap()
        .clone()
    }

    #[test]
    fn addresses_are_grouped_by_ports_and_readiness() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}))
        .unwrap();
        let pods = [backend("b", "10.1.0.2", true), backend("a", "10.1.0.1", true), backend("c", "10.1.0.3", false)];
        let made = desired(&service, &pods, None).unwrap();
        let target = |name: &str| json!({"kind": "Pod", "namespace": "n", "name": name, "uid": name});
        let address = |ip: &str, name: &str| json!({"ip": ip, "nodeName": "node", "targetRef": target(name)});
        assert_eq!(
            serde_json::to_value(&made.subsets).unwrap(),
            json!([{"addresses": [address("10.1.0.1", "a"), address("10.1.0.2", "b")],
                "notReadyAddresses": [address("10.1.0.3", "c")], "ports": [{"port": 8080, "protocol": "TCP"}]}])
        );
        assert!(desired(&service, &pods, Some(&made)).is_none(), "nothing to do");
        assert_eq!(desired(&service, &[], Some(&made)).unwrap().subsets, None);
    }
}
