//! Endpoints of Services: where they are, how they stand, who writes them; and the ranges of Services' addresses.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cluster::objects::name;
use crate::cluster::{Cluster, Machine, possible};
use crate::nodes;

#[test]
fn endpoints_know_their_zones_and_states_and_services_their_ranges() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    zones(&cluster);
    states(&cluster);
    mirrors(&cluster);
    ranges(&cluster);
}

fn service(cluster: &Cluster, name: &str, more: &str) {
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}{more}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n"
    ));
}

fn slices(cluster: &Cluster, service: &str) -> Vec<Value> {
    let list = cluster.json(&["endpointslices", "-l", &format!("kubernetes.io/service-name={service}")]);
    list["items"].as_array().cloned().unwrap_or_default()
}

/// What there is of each endpoint of a Service by its address.
fn endpoints(cluster: &Cluster, service: &str) -> BTreeMap<String, Value> {
    let endpoints = slices(cluster, service)
        .into_iter()
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    endpoints.map(|endpoint| (endpoint["addresses"][0].as_str().unwrap_or_default().to_owned(), endpoint)).collect()
}

/// Waits until what is found at a pointer of each endpoint, by address, is this.
fn until(cluster: &Cluster, service: &str, pointer: &str, wanted: &[(&str, Value)]) {
    let wanted: BTreeMap<String, Value> =
        wanted.iter().map(|(address, value)| ((*address).to_owned(), value.clone())).collect();
    cluster.wait_for(&format!("{pointer} of the endpoints of {service}"), || {
        let found = endpoints(cluster, service).into_iter();
        let found: BTreeMap<String, Value> =
            found.map(|(address, it)| (address, it.pointer(pointer).cloned().unwrap_or_default())).collect();
        if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Zones share the endpoints of a Service as they share the CPU, or keep their own, or nodes do.
fn zones(cluster: &Cluster) {
    // The control plane's CPU does not count.
    cluster.kubectl(&["label", "node", "node", "node-role.kubernetes.io/control-plane="]);
    for (node, zone) in [("east-1", "east"), ("west-1", "west")] {
        nodes::make(cluster, node, &format!("topology.kubernetes.io/zone: {zone}"));
    }
    service(cluster, "shared", ", annotations: {service.kubernetes.io/topology-mode: Auto}");
    for (number, node) in ["east-1", "east-1", "west-1", "west-1"].into_iter().enumerate() {
        nodes::run(cluster, &format!("shared-{number}"), node, "", &format!("10.0.9.{number}"));
    }
    let zone = |name: &str| json!(name);
    until(
        cluster,
        "shared",
        "/zone",
        &[
            ("10.0.9.0", zone("east")),
            ("10.0.9.1", zone("east")),
            ("10.0.9.2", zone("west")),
            ("10.0.9.3", zone("west")),
        ],
    );
    until(
        cluster,
        "shared",
        "/hints/forZones/0/name",
        &[
            ("10.0.9.0", zone("east")),
            ("10.0.9.1", zone("east")),
            ("10.0.9.2", zone("west")),
            ("10.0.9.3", zone("west")),
        ],
    );
    assert_eq!(endpoints(cluster, "shared")["10.0.9.2"]["nodeName"], "west-1");
    cluster.told("shared", "TopologyAwareHintsEnabled", "Topology Aware Hints has been enabled, addressType: IPv4");
    // One for two zones cannot be shared.
    cluster.kubectl(&["delete", "pod", "shared-1", "shared-2", "shared-3", "--force", "--grace-period=0"]);
    until(cluster, "shared", "/hints", &[("10.0.9.0", Value::Null)]);
    let few = "Insufficient number of endpoints (1 endpoints, 2 zones), addressType: IPv4";
    cluster.told("shared", "TopologyAwareHintsDisabled", few);
    // By the Service's own wish each zone keeps its own, or each node.
    cluster.kubectl(&["annotate", "service", "shared", "service.kubernetes.io/topology-mode-"]);
    cluster.kubectl(&["patch", "service", "shared", "-p", r#"{"spec":{"trafficDistribution":"PreferSameZone"}}"#]);
    until(cluster, "shared", "/hints", &[("10.0.9.0", json!({"forZones": [{"name": "east"}]}))]);
    cluster.kubectl(&["patch", "service", "shared", "-p", r#"{"spec":{"trafficDistribution":"PreferSameNode"}}"#]);
    until(
        cluster,
        "shared",
        "/hints",
        &[("10.0.9.0", json!({"forNodes": [{"name": "east-1"}], "forZones": [{"name": "east"}]}))],
    );
}

/// Endpoints that are ready, not ready, published all the same, and on their way out.
fn states(cluster: &Cluster) {
    service(cluster, "states", "");
    nodes::run(cluster, "states-0", "east-1", "", "10.0.9.10");
    nodes::run(cluster, "states-1", "east-1", "", "10.0.9.11");
    let not_ready = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    nodes::patch_status(cluster, "pod/states-1", &not_ready);
    let state = |ready: bool, serving: bool, terminating: bool| json!({"ready": ready, "serving": serving, "terminating": terminating});
    until(
        cluster,
        "states",
        "/conditions",
        &[("10.0.9.10", state(true, true, false)), ("10.0.9.11", state(false, false, false))],
    );
    let legacy = cluster.json(&["endpoints", "states"]);
    assert_eq!(legacy["subsets"][0]["addresses"][0]["ip"], "10.0.9.10");
    assert_eq!(legacy["subsets"][0]["notReadyAddresses"][0]["targetRef"]["name"], "states-1");
    cluster.kubectl(&["delete", "pod", "states-0", "--wait=false"]);
    until(
        cluster,
        "states",
        "/conditions",
        &[("10.0.9.10", state(false, true, true)), ("10.0.9.11", state(false, false, false))],
    );
    cluster.kubectl(&["patch", "service", "states", "-p", r#"{"spec":{"publishNotReadyAddresses":true}}"#]);
    until(
        cluster,
        "states",
        "/conditions",
        &[("10.0.9.10", state(true, true, true)), ("10.0.9.11", state(true, false, false))],
    );
    cluster.kubectl(&["delete", "pod", "states-0", "states-1", "--force", "--grace-period=0"]);
    until(cluster, "states", "", &[]);
    cluster.kubectl(&["delete", "service", "states"]);
    cluster.until_gone("endpoints/states");
    cluster.wait_for("the slices to go", || match slices(cluster, "states") {
        slices if slices.is_empty() => Ok(()),
        slices => Err(format!("{slices:?}")),
    });
}

/// Endpoints that somebody writes for a Service without a selector become slices.
fn mirrors(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {ports: [{name: http, port: 80}]}\n---\napiVersion: \
         v1\nkind: Endpoints\nmetadata: {name: outside, labels: {team: blue}}\nsubsets: [{addresses: [{ip: 192.0.2.1}, {ip: \
         '2001:db8::1'}], notReadyAddresses: [{ip: 192.0.2.2}], ports: [{name: http, port: 8080}]}]\n",
    );
    until(
        cluster,
        "outside",
        "/conditions/ready",
        &[("192.0.2.1", json!(true)), ("192.0.2.2", json!(false)), ("2001:db8::1", json!(true))],
    );
    let all = slices(cluster, "outside");
    let kinds: Vec<&str> = all.iter().filter_map(|slice| slice["addressType"].as_str()).collect();
    assert_eq!((kinds.len(), kinds.contains(&"IPv6")), (2, true), "{kinds:?}");
    for slice in &all {
        let labels = &slice["metadata"]["labels"];
        assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslicemirroring-controller.k8s.io");
        assert_eq!((&labels["team"], &slice["ports"][0]["port"]), (&json!("blue"), &json!(8080)));
    }
    cluster.kubectl(&["label", "endpoints", "outside", "endpointslice.kubernetes.io/skip-mirror=true"]);
    until(cluster, "outside", "", &[]);
    cluster.kubectl(&["label", "endpoints", "outside", "endpointslice.kubernetes.io/skip-mirror-"]);
    cluster.wait_for("the mirror to be back", || match slices(cluster, "outside").len() {
        2 => Ok(()),
        other => Err(other.to_string()),
    });
    cluster.kubectl(&["delete", "endpoints", "outside"]);
    until(cluster, "outside", "", &[]);
}

/// A further range of addresses serves at once, and goes when nobody has an address of it.
fn ranges(cluster: &Cluster) {
    let first = cluster.json(&["servicecidr", "kubernetes"]);
    assert_eq!(first["status"]["conditions"][0]["type"], "Ready");
    let held = cluster.json(&["ipaddress", &cluster.field("service/kubernetes", ".spec.clusterIP")]);
    assert_eq!(
        held["spec"]["parentRef"],
        json!({"name": "kubernetes", "namespace": "default", "resource": "services"})
    );
    cluster.apply(
        "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.222.0.0/28]}\n",
    );
    let condition = |field: &str| format!(".status.conditions[?(@.type==\"Ready\")].{field}");
    cluster.until_field("servicecidr/more", &condition("status"), "True");
    assert_eq!(
        cluster.field("servicecidr/more", ".metadata.finalizers[0]"),
        "networking.k8s.io/service-cidr-finalizer"
    );
    cluster.kubectl(&["create", "service", "clusterip", "elsewhere", "--clusterip=10.222.0.7", "--tcp=80"]);
    cluster.until_field("ipaddress/10.222.0.7", ".spec.parentRef.name", "elsewhere");
    // What somebody deletes that is in use comes back.
    let uid = cluster.field("ipaddress/10.222.0.7", ".metadata.uid");
    cluster.kubectl(&["delete", "ipaddress", "10.222.0.7"]);
    cluster.wait_for("the address to be back", || {
        let found = cluster.try_kubectl(&["get", "ipaddress", "10.222.0.7", "-o", "jsonpath={.metadata.uid}"])?;
        if found == uid { Err(found) } else { Ok(()) }
    });
    cluster.kubectl(&["delete", "servicecidr", "more", "--wait=false"]);
    cluster.until_field("servicecidr/more", &condition("status"), "False");
    assert_eq!(cluster.field("servicecidr/more", &condition("reason")), "Terminating");
    let refused = ["create", "service", "clusterip", "late", "--clusterip=10.222.0.8", "--tcp=80"];
    let refused = cluster.try_kubectl(&refused).expect_err("the range is going");
    assert!(refused.contains("10.222.0.8"), "{refused}");
    cluster.kubectl(&["delete", "service", "elsewhere"]);
    cluster.until_gone("ipaddress/10.222.0.7");
    cluster.until_gone("servicecidr/more");
    // The first one stays as long as the API itself has an address of it.
    let left: Vec<String> =
        cluster.json(&["servicecidr"])["items"].as_array().map_or(Vec::new(), |all| all.iter().map(name).collect());
    assert_eq!(left, ["kubernetes"]);
}
