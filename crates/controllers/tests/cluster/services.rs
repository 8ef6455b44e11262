//! Services get endpoints, namespaces what every namespace has.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Endpoints, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::{IPAddress, ServiceCIDR},
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{harness::Cluster, workloads::deployment};

fn ready(slices: &[EndpointSlice]) -> usize {
    let of_web = slices.iter().filter(|slice| {
        slice
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.get("kubernetes.io/service-name").is_some_and(|name| name == "web"))
    });
    let endpoints = of_web.flat_map(|slice| slice.endpoints.iter().flatten());
    endpoints
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_follows_its_pods() {
    let cluster = Cluster::with_node().await;
    cluster
        .make::<Service>(json!({"metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}))
        .await;
    cluster
        .until::<EndpointSlice>("an empty slice", |slices| {
            slices.iter().any(|slice| slice.metadata.generate_name.as_deref() == Some("web-"))
        })
        .await;
    cluster.make::<Deployment>(deployment(3, "web:1")).await;
    let slices = cluster.until::<EndpointSlice>("three endpoints", |slices| ready(slices) == 3).await;
    let slice = slices.iter().find(|slice| ready(std::slice::from_ref(slice)) == 3).expect("all in one slice");
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(slice.endpoints.as_ref().unwrap()[0].zone.as_deref(), Some("a"));
    cluster
        .until_one::<Endpoints>("web", "three addresses", |endpoints| {
            endpoints.subsets.iter().flatten().flat_map(|subset| subset.addresses.iter().flatten()).count() == 3
        })
        .await;
    cluster.patch::<Deployment>("web", json!({"spec": {"replicas": 1}})).await;
    cluster
        .until::<EndpointSlice>("one endpoint", |slices| {
            ready(slices) == 1
                && slices
                    .iter()
                    .flat_map(|slice| slice.endpoints.iter().flatten())
                    .filter(|endpoint| endpoint.target_ref.is_some())
                    .count()
                    == 1
        })
        .await;
    cluster.delete::<Service>("web", DeleteParams::default()).await;
    cluster
        .until::<EndpointSlice>("no slices", |slices| {
            !slices.iter().any(|slice| slice.metadata.generate_name.as_deref() == Some("web-"))
        })
        .await;
    cluster
        .until::<Endpoints>("no endpoints", |all| !all.iter().any(|one| one.metadata.name.as_deref() == Some("web")))
        .await;
    cluster.until::<Pod>("the pod stays", |pods| pods.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_namespace_has_a_service_account_and_the_root_certificate() {
    let cluster = Cluster::start().await;
    cluster.until_one::<ServiceAccount>("default", "made", |_| true).await;
    let is_whole =
        |map: &ConfigMap| map.data.iter().flatten().map(|(key, value)| (&**key, &**value)).eq([("ca.crt", "the root")]);
    cluster.until_one::<ConfigMap>("kube-root-ca.crt", "made", is_whole).await;
    cluster.delete::<ServiceAccount>("default", DeleteParams::default()).await;
    cluster.until_one::<ServiceAccount>("default", "made again", |_| true).await;
    cluster.patch::<ConfigMap>("kube-root-ca.crt", json!({"data": {"ca.crt": "false", "more": "x"}})).await;
    cluster.until_one::<ConfigMap>("kube-root-ca.crt", "restored", is_whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_somebody_writes_are_mirrored() {
    let cluster = Cluster::start().await;
    cluster.make::<Service>(json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 80}]}})).await;
    let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
    cluster.make::<Endpoints>(json!({"metadata": {"name": "db"}, "subsets": subsets("10.1.2.3")})).await;
    let mirrored = |slices: &[EndpointSlice]| -> Vec<String> {
        let label = |slice: &&EndpointSlice| {
            let labels = slice.metadata.labels.iter().flatten();
            labels.into_iter().any(|(key, value)| key == "kubernetes.io/service-name" && value == "db")
        };
        let endpoints = slices.iter().filter(label).flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.flat_map(|endpoint| endpoint.addresses.clone()).collect()
    };
    cluster.until::<EndpointSlice>("mirrored", |slices| mirrored(slices) == ["10.1.2.3"]).await;
    cluster.patch::<Endpoints>("db", json!({"subsets": subsets("10.2.3.4")})).await;
    cluster.until::<EndpointSlice>("changed", |slices| mirrored(slices) == ["10.2.3.4"]).await;
    cluster.delete::<Endpoints>("db", DeleteParams::default()).await;
    cluster.until::<EndpointSlice>("gone", |slices| mirrored(slices).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_addresses_stays_while_a_service_needs_it() {
    let cluster = Cluster::start().await;
    let ready = |range: &ServiceCIDR, status: &str, reason: &str| {
        let conditions = range.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.into_iter().filter(|condition| condition.type_ == "Ready");
        ready.any(|condition| condition.status == status && condition.reason == reason)
    };
    let of = |ranges: &[ServiceCIDR], name: &str| {
        ranges.iter().find(|range| range.metadata.name.as_deref() == Some(name)).cloned()
    };
    let all = cluster
        .until_anywhere::<ServiceCIDR>("the default range is ready", |all| {
            of(all, "kubernetes").is_some_and(|range| ready(&range, "True", ""))
        })
        .await;
    let finalizers = of(&all, "kubernetes").unwrap().metadata.finalizers.unwrap();
    assert_eq!(finalizers, ["networking.k8s.io/service-cidr-finalizer"]);
    cluster.make::<ServiceCIDR>(json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/24"]}})).await;
    cluster
        .until_anywhere::<ServiceCIDR>("the other is too", |all| {
            of(all, "more").is_some_and(|range| ready(&range, "True", ""))
        })
        .await;
    cluster
        .make::<Service>(json!({"metadata": {"name": "web"},
            "spec": {"clusterIP": "10.200.0.5", "ports": [{"port": 80}]}}))
        .await;
    let ranges = kube::Api::<ServiceCIDR>::all(cluster.client.clone());
    ranges.delete("more", &DeleteParams::default()).await.unwrap();
    cluster
        .until_anywhere::<ServiceCIDR>("it waits", |all| {
            of(all, "more").is_some_and(|range| ready(&range, "False", "Terminating"))
        })
        .await;
    cluster.delete::<Service>("web", DeleteParams::default()).await;
    cluster.until_anywhere::<ServiceCIDR>("it is gone", |all| of(all, "more").is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_was_deleted_is_taken_again() {
    let cluster = Cluster::start().await;
    let web = cluster.make::<Service>(json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})).await;
    let ip = web.spec.unwrap().cluster_ip.unwrap();
    let addresses = kube::Api::<IPAddress>::all(cluster.client.clone());
    let first = addresses.get(&ip).await.unwrap();
    addresses.delete(&ip, &DeleteParams::default()).await.unwrap();
    let is_again = |address: &IPAddress| {
        address.metadata.name.as_deref() == Some(&*ip) && address.metadata.uid != first.metadata.uid
    };
    let all = cluster.until_anywhere::<IPAddress>("again", |all| all.iter().any(is_again)).await;
    let again = all.iter().find(|address| is_again(address)).unwrap();
    assert_eq!((&again.spec, &again.metadata.labels), (&first.spec, &first.metadata.labels));
    let told = cluster.until_told("web", "ClusterIPNotAllocated").await;
    assert_eq!(told, format!("ClusterIPNotAllocated Cluster IP [IPv4]: {ip} is not allocated; repairing"));
    cluster.delete::<Service>("web", DeleteParams::default()).await;
    cluster.until_anywhere::<IPAddress>("given back", |all| !all.iter().any(is_again)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_gets_its_range_of_pods_and_its_ttl() {
    let cluster = Cluster::start().await;
    for name in ["a", "b", "c"] {
        cluster.add_node(name).await;
    }
    let range = |node: &Node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone());
    let ttl = |node: &Node| {
        node.metadata.annotations.as_ref().and_then(|all| all.get("node.alpha.kubernetes.io/ttl").cloned())
    };
    let nodes = cluster
        .until_anywhere::<Node>("all have what they should", |nodes| {
            nodes.len() == 3 && nodes.iter().all(|node| range(node).is_some() && ttl(node).as_deref() == Some("0"))
        })
        .await;
    let mut ranges: Vec<String> = nodes.iter().filter_map(range).collect();
    ranges.sort();
    assert_eq!(ranges, ["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24"]);
}
