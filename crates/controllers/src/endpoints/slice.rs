//! From pods to what the EndpointSlices of a Service should hold. Functions of values.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone},
};

use super::{
    Backend, HEADLESS_LABEL, MANAGED_BY_LABEL, SERVICE_LABEL, families,
    hints::{self, Zones},
    is_headless, publishes_not_ready,
    spread::{Group, Set, Writes, sorted},
};
use crate::owner::{Named, controller_reference};

pub(super) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

/// For each family, whether the zones share its endpoints, or why not.
pub(super) type Shared = Vec<(String, Result<(), String>)>;

/// The writes that turn the slices that are into those that should be. `zone` gives a node's zone; with `zones` they share
/// the endpoints.
pub(super) fn plan(
    service: &Service,
    backends: &[Backend],
    existing: Vec<EndpointSlice>,
    zone: impl Fn(&str) -> Option<String>,
    zones: Option<&Zones>,
) -> (Writes, Shared) {
    let triggered = backends.iter().filter_map(|backend| backend.since).max();
    let set = Set {
        name: service.name().to_owned(),
        namespace: service.namespace().to_owned(),
        labels: labels(service),
        annotations: BTreeMap::new(),
        owner: controller_reference(service),
        triggered: triggered.map(|at| at.to_string()),
    };
    let mut groups = groups(service, backends, zone);
    let families = groups.chunk_by_mut(|a, b| a.family == b.family);
    let shared = families.filter_map(|family| Some((family[0].family.clone(), hints::give(family, zones?))));
    let shared = shared.collect();
    (set.plan(groups, existing), shared)
}

/// The Service's labels, and those by which slices are found.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS_LABEL);
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_LABEL.to_owned(), service.name().to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

/// The endpoints by family and ports; at least one group a family.
fn groups(service: &Service, backends: &[Backend], zone: impl Fn(&str) -> Option<String>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for family in families(service) {
        let first = groups.len();
        for backend in backends {
            let Some(address) = backend.address(&family) else { continue };
            let ports = ports(service, backend);
            let endpoint = endpoint(service, backend, address, zone(&backend.node));
            match groups[first..].iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { family: family.clone(), ports, endpoints: vec![endpoint], lasting: true }),
            }
        }
        if groups.len() == first {
            groups.push(Group { family, ports: Vec::new(), endpoints: Vec::new(), lasting: true });
        }
    }
    groups
}

fn ports(service: &Service, backend: &Backend) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    sorted(
        ports
            .filter_map(|port| {
                Some(EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some(backend.port(port)?),
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect(),
    )
}

fn endpoint(service: &Service, backend: &Backend, address: &str, zone: Option<String>) -> Endpoint {
    let ready = publishes_not_ready(service) || (backend.ready && !backend.terminating);
    let node = (!backend.node.is_empty()).then(|| backend.node.clone());
    let distribution = service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref());
    let distribution = distribution.filter(|_| !hints::are_wanted(service));
    let for_zones = || zone.iter().map(|name| ForZone { name: name.clone() }).collect::<Vec<_>>();
    let for_nodes = || node.iter().map(|name| ForNode { name: name.clone() }).collect::<Vec<_>>();
    let some = |ready: bool| ready.then_some(());
    let hints = some(ready).and(distribution).and_then(|distribution| match distribution {
        "PreferClose" | "PreferSameZone" => Some(EndpointHints { for_zones: Some(for_zones()), for_nodes: None }),
        "PreferSameNode" => Some(EndpointHints { for_zones: Some(for_zones()), for_nodes: Some(for_nodes()) }),
        _ => None,
    });
    let nonempty = |hints: &EndpointHints| {
        hints.for_zones.as_ref().is_some_and(|zones| !zones.is_empty())
            || hints.for_nodes.as_ref().is_some_and(|nodes| !nodes.is_empty())
    };
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(backend.ready),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname_in(service.name()),
        hints: hints.filter(nonempty),
        target_ref: Some(backend.reference()),
        node_name: node.clone(),
        zone: zone.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    fn service(spec: serde_json::Value) -> Service {
        let mut service = json!({"metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "a"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                "ports": [{"port": 80, "targetPort": "http"}]}});
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(service).unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool, more: serde_json::Value) -> Backend {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "node", "hostname": "db-0", "subdomain": "web", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        for (part, fields) in more.as_object().unwrap() {
            pod[part].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        }
        Backend::new(&item(pod)).unwrap().clone()
    }

    /// Runs the plan and returns the slices that result, with names for the new ones.
    fn apply(service: &Service, backends: &[Backend], existing: &[EndpointSlice]) -> (Vec<EndpointSlice>, usize) {
        let (writes, _) = plan(service, backends, existing.to_vec(), |_| Some("zone-a".to_owned()), None);
        let count = writes.create.len() + writes.update.len() + writes.delete.len();
        let name = |slice: &EndpointSlice| slice.metadata.name.clone();
        let touched: Vec<_> = writes.update.iter().chain(&writes.delete).map(name).collect();
        let mut all: Vec<_> = existing.iter().filter(|slice| !touched.contains(&name(slice))).cloned().collect();
        all.extend(writes.update);
        for (number, mut slice) in writes.create.into_iter().enumerate() {
            slice.metadata.name = Some(format!("web-{}-{number}", existing.len()));
            all.push(slice);
        }
        (all, count)
    }

    #[test]
    fn a_pod_becomes_an_endpoint_with_all_that_proxies_and_dns_need() {
        let (slices, _) = apply(&service(json!({})), &[pod("a", "10.1.0.1", true, json!({}))], &[]);
        assert_eq!(
            serde_json::to_value(&slices[0]).unwrap(),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "web-0-0", "generateName": "web-", "namespace": "n",
                    "labels": {"team": "a", "kubernetes.io/service-name": "web",
                        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s",
                        "controller": true, "blockOwnerDeletion": true}]},
                "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": ["10.1.0.1"], "nodeName": "node", "zone": "zone-a", "hostname": "db-0",
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "targetRef": {"kind": "Pod", "namespace": "n", "name": "a", "uid": "a"}}],
            })
        );
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let cases = [
            (json!({}), true, json!({}), [true, true, false]),
            (json!({}), false, json!({}), [false, false, false]),
            (json!({}), true, deleting.clone(), [false, true, true]),
            (json!({"publishNotReadyAddresses": true}), false, deleting, [true, false, true]),
        ];
        for (spec, ready, more, [ready_out, serving, terminating]) in cases {
            let (slices, _) = apply(&service(spec.clone()), &[pod("a", "10.1.0.1", ready, more)], &[]);
            let expected =
                EndpointConditions { ready: Some(ready_out), serving: Some(serving), terminating: Some(terminating) };
            assert_eq!(slices[0].endpoints.as_ref().unwrap()[0].conditions, Some(expected), "{spec}");
        }
    }

    #[test]
    fn slices_are_filled_and_changed_as_little_as_possible() {
        let service = service(json!({}));
        let pods: Vec<_> = (0..250).map(|n| pod(&format!("p{n}"), &format!("10.1.{n}.1"), true, json!({}))).collect();
        let sizes = |slices: &[EndpointSlice]| {
            let mut sizes: Vec<_> = slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
            sizes.sort_unstable();
            sizes
        };
        let (slices, writes) = apply(&service, &pods, &[]);
        assert_eq!((sizes(&slices), writes), (vec![50, 100, 100], 3));
        let (same, writes) = apply(&service, &pods, &slices);
        assert_eq!((sizes(&same), writes), (vec![50, 100, 100], 0), "nothing to do");
        let (more, writes) =
            apply(&service, &[pods.clone(), vec![pod("new", "10.9.9.9", true, json!({}))]].concat(), &slices);
        assert_eq!((sizes(&more), writes), (vec![51, 100, 100], 1));
        let (fewer, writes) = apply(&service, &pods[1..], &slices);
        assert_eq!((sizes(&fewer), writes), (vec![50, 99, 100], 1));
        let (none, writes) = apply(&service, &[], &slices);
        assert_eq!((sizes(&none), writes), (vec![0], 3), "one is kept, empty");
        let (back, writes) = apply(&service, &pods[..3], &none);
        assert_eq!((sizes(&back), writes, back[0].metadata.name == none[0].metadata.name), (vec![3], 1, true));
    }

    #[test]
    fn each_family_and_each_set_of_ports_has_slices_of_its_own() {
        let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
        let other = json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 9}]}]}});
        let pods = [pod("a", "10.1.0.1", true, json!({})), pod("b", "10.1.0.2", true, other)];
        let (slices, _) = apply(&dual, &pods, &[]);
        let mut shapes: Vec<_> =
            slices.iter().map(|slice| (slice.address_type.clone(), slice.ports.as_ref().unwrap()[0].port)).collect();
        shapes.sort();
        let expected = [("IPv4", 9), ("IPv4", 8080), ("IPv6", 9), ("IPv6", 8080)];
        assert_eq!(shapes, expected.map(|(family, port)| (family.to_owned(), Some(port))));
    }

    #[test]
    fn traffic_is_kept_close_where_that_is_asked_for() {
        let pods = [pod("a", "10.1.0.1", true, json!({}))];
        let close = service(json!({"trafficDistribution": "PreferSameNode"}));
        let (slices, _) = apply(&close, &pods, &[]);
        let hints = slices[0].endpoints.as_ref().unwrap()[0].hints.clone().unwrap();
        assert_eq!(
            (hints.for_zones.unwrap()[0].name.as_str(), hints.for_nodes.unwrap()[0].name.as_str()),
            ("zone-a", "node")
        );
        // Zones that share the endpoints come before that.
        let mut shared = close;
        let annotations = shared.metadata.annotations.get_or_insert_default();
        annotations.insert("service.kubernetes.io/topology-mode".to_owned(), "Auto".to_owned());
        let (writes, told) = plan(&shared, &pods, Vec::new(), |_| Some("zone-a".to_owned()), Some(&Zones::new()));
        assert_eq!(writes.create[0].endpoints.as_ref().unwrap()[0].hints, None);
        assert!(matches!(&told[..], [(family, Err(_))] if family == "IPv4"), "{told:?}");
    }
}
