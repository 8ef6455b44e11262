//! Services in the kernel: rules loaded from objects, real packets between namespaces. Needs root, touches no namespace but
//! its own.

mod support;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::PodNetwork;
use net::proxy::{Node, compile, render};
use std::collections::BTreeSet;
use support::{Namespace, ask, ask_from, ask_udp, config, on_a_node, pod, refused, run};

fn node() -> Node {
    Node {
        name: "here".into(),
        zone: None,
        pods: vec!["10.42.0.0/24".parse().unwrap()],
        cluster: vec!["10.42.0.0/16".parse().unwrap()],
        served: vec!["10.96.0.10".parse().unwrap()],
    }
}

/// Loads one service whose endpoints are these addresses of this node's pods.
fn load(network: &PodNetwork, spec: &str, endpoints: &[&str]) {
    let service = format!("metadata: {{namespace: d, name: web}}\nspec: {spec}\n");
    let service: Service = serde_saphyr::from_str(&service).unwrap();
    let endpoints: Vec<String> =
        endpoints.iter().map(|address| format!("{{addresses: [{address}], nodeName: here}}")).collect();
    let slice = format!(
        "metadata: {{name: w, namespace: d}}\naddressType: IPv4\nports: [{{name: '', port: 8080}}, {{name: u, port: 8080, protocol: UDP}}]\nendpoints: [{}]",
        endpoints.join(", ")
    );
    let slice: EndpointSlice = serde_saphyr::from_str(&slice).unwrap();
    let fragment = compile(&service, &[slice], &node());
    network.nft().change(|table| render(table, [&fragment].into_iter())).unwrap();
}

const PORTS: &str = "ports: [{port: 80, nodePort: 30080}, {name: u, port: 80, protocol: UDP, nodePort: 30081}]";

fn name(answer: std::io::Result<String>) -> String {
    answer.unwrap().split('@').next().unwrap().to_owned()
}

async fn three(network: &PodNetwork) -> [Namespace; 3] {
    let (one, _) = pod(network, "one", vec![]).await;
    let (two, _) = pod(network, "two", vec![]).await;
    let (client, _) = pod(network, "client", vec![]).await;
    one.serve(8080, "one");
    two.serve(8080, "two");
    [one, two, client]
}

#[test]
fn a_cluster_address_reaches_every_endpoint_and_is_refused_without_any() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let [one, _two, client] = three(&network).await;
        let spec = format!("{{clusterIP: 10.96.0.5, {PORTS}}}");
        refused(client.ask("10.96.0.5:80"));
        load(&network, &spec, &["10.42.0.2", "10.42.0.3"]);
        let answers: BTreeSet<String> = (0..40).map(|_| client.ask("10.96.0.5:80").unwrap()).collect();
        assert_eq!(answers, BTreeSet::from(["one@10.42.0.4".to_string(), "two@10.42.0.4".to_string()]));
        let answers: BTreeSet<String> = (0..40).map(|_| name(ask("10.96.0.5:80"))).collect();
        assert_eq!(answers.len(), 2);
        assert!(name(ask_udp("10.96.0.5:80")).len() == 3);
        for _ in 0..20 {
            one.ask("10.96.0.5:80").unwrap();
        }
        refused(client.ask("10.96.0.5:81"));
        load(&network, &spec, &["10.42.0.3"]);
        for _ in 0..10 {
            assert_eq!(client.ask("10.96.0.5:80").unwrap(), "two@10.42.0.4");
        }
        load(&network, &spec, &["10.42.0.2"]);
        assert_eq!(name(one.ask("10.96.0.5:80")), "one", "a pod reaches itself");
        load(&network, &spec, &[]);
        refused(client.ask("10.96.0.5:80"));
        refused(ask("10.96.0.5:80"));
        refused(client.ask_udp("10.96.0.5:80"));
    });
}

#[test]
fn an_endpoint_that_is_no_pod_is_refused_whoever_asks() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let [_one, _two, client] = three(&network).await;
        load(&network, &format!("{{type: NodePort, clusterIP: 10.96.0.5, {PORTS}}}"), &["10.42.0.200"]);
        refused(client.ask("10.96.0.5:80"));
        refused(client.ask("10.42.0.1:30080"));
        for target in ["10.96.0.5:80", "10.42.0.1:30080", "127.0.0.1:30080"] {
            let answer = ask(target).map_err(|error| error.kind());
            assert_eq!(answer, Err(std::io::ErrorKind::ConnectionRefused), "{target}");
        }
    });
}

#[test]
fn a_node_port_answers_on_every_address_of_the_node_and_to_the_outside() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let [_one, _two, client] = three(&network).await;
        let outside = Namespace::new();
        // `ip` names a namespace by a process that is in it.
        let mut inside = outside.enter(|| std::process::Command::new("sleep").arg("20").spawn().unwrap());
        let process = inside.id().to_string();
        run("ip", &["link", "add", "lan0", "type", "veth", "peer", "name", "lan1", "netns", &process]);
        inside.kill().unwrap();
        inside.wait().unwrap();
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "lan0"]);
        run("ip", &["link", "set", "lan0", "up"]);
        run("ip", &["route", "add", "198.51.100.0/24", "dev", "lan0"]);
        outside.enter(|| {
            run("ip", &["addr", "add", "192.0.2.2/24", "dev", "lan1"]);
            run("ip", &["link", "set", "lan1", "up"]);
            run("ip", &["route", "add", "default", "via", "192.0.2.1"]);
        });
        outside.serve(9000, "outside");
        assert_eq!(client.ask("192.0.2.2:9000").unwrap(), "outside@192.0.2.1", "hidden behind the node");
        let spec = format!("{{type: NodePort, clusterIP: 10.96.0.5, externalIPs: [198.51.100.7], {PORTS}}}");
        load(&network, &spec, &["10.42.0.2"]);
        for target in ["127.0.0.1:30080", "10.42.0.1:30080", "192.0.2.1:30080"] {
            assert_eq!(name(ask(target)), "one", "{target}");
        }
        assert_eq!(name(ask_udp("127.0.0.1:30081")), "one");
        assert_eq!(name(client.ask("192.0.2.1:30080")), "one");
        assert_ne!(outside.ask("192.0.2.1:30080").unwrap(), "one@192.0.2.2");
        assert_eq!(name(outside.ask("198.51.100.7:80")), "one");
        assert_eq!(name(outside.ask("10.96.0.5:80")), "one");
        let local = spec.replace("type:", "externalTrafficPolicy: Local, type:");
        load(&network, &local, &["10.42.0.2"]);
        assert_eq!(outside.ask("192.0.2.1:30080").unwrap(), "one@192.0.2.2", "the client's address is kept");
        assert_eq!(name(ask("192.0.2.1:30080")), "one");
        load(&network, &spec, &[]);
        refused(outside.ask("192.0.2.1:30080"));
        refused(outside.ask("198.51.100.7:80"));
        refused(ask("127.0.0.1:30080"));
        let rules = run("nft", &["list", "ruleset"]);
        assert!(rules.contains("tcp . 30080 : goto reject"), "{rules}");
    });
}

#[test]
fn session_affinity_keeps_a_client_at_its_endpoint_until_that_vanishes() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let [_one, _two, client] = three(&network).await;
        let (other, _) = pod(&network, "other", vec![]).await;
        let spec = format!("{{clusterIP: 10.96.0.5, sessionAffinity: ClientIP, {PORTS}}}");
        load(&network, &spec, &["10.42.0.2", "10.42.0.3"]);
        let chosen = name(client.ask("10.96.0.5:80"));
        for _ in 0..20 {
            assert_eq!(name(client.ask("10.96.0.5:80")), chosen);
        }
        other.serve(8080, "other");
        let (kept, left) = if chosen == "one" { ("10.42.0.3", "two") } else { ("10.42.0.2", "one") };
        load(&network, &spec, &[kept, "10.42.0.5"]);
        let next = name(client.ask("10.96.0.5:80"));
        assert!([left, "other"].contains(&next.as_str()));
        for _ in 0..20 {
            assert_eq!(name(client.ask("10.96.0.5:80")), next);
        }
    });
}

#[test]
fn another_programs_removal_of_the_table_is_repaired_by_the_next_change() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let [_one, _two, client] = three(&network).await;
        let spec = format!("{{clusterIP: 10.96.0.5, {PORTS}}}");
        load(&network, &spec, &["10.42.0.2"]);
        run("nft", &["flush", "ruleset"]);
        load(&network, &spec, &["10.42.0.3"]);
        assert_eq!(name(client.ask("10.96.0.5:80")), "two");
    });
}

#[test]
fn a_udp_socket_that_keeps_sending_follows_the_service_to_its_new_endpoint() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let [_one, _two, _client] = three(&network).await;
        let spec = format!("{{clusterIP: 10.96.0.5, {PORTS}}}");
        load(&network, &spec, &["10.42.0.2"]);
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(name(ask_from(&socket, "10.96.0.5:80")), "one");
        load(&network, &spec, &["10.42.0.3"]);
        let datagrams = net::proxy::Datagrams {
            address: Some([10, 96, 0, 5].into()),
            port: 80,
            endpoints: vec!["10.42.0.3:8080".parse().unwrap()],
        };
        assert_eq!(name(ask_from(&socket, "10.96.0.5:80")), "one");
        assert_eq!(net::proxy::sweep(&[datagrams]).unwrap(), 1);
        assert_eq!(name(ask_from(&socket, "10.96.0.5:80")), "two");
    });
}

#[test]
fn services_go_on_through_a_restart_until_the_proxy_knows_them_again() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let [_one, _two, client] = three(&network).await;
        let spec = format!("{{clusterIP: 10.96.0.5, {PORTS}}}");
        load(&network, &spec, &["10.42.0.2"]);
        drop(network);
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let (_late, _) = pod(&network, "late", vec![]).await;
        assert_eq!(name(client.ask("10.96.0.5:80")), "one", "the table of before still serves");
        load(&network, &spec, &["10.42.0.3"]);
        assert_eq!(name(client.ask("10.96.0.5:80")), "two");
    });
}

#[test]
fn two_clusters_live_side_by_side_and_one_goes_without_the_other() {
    on_a_node(async || {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let network = PodNetwork::open(config(first.path())).unwrap();
        let [_one, _two, client] = three(&network).await;
        load(&network, &format!("{{clusterIP: 10.96.0.5, {PORTS}}}"), &["10.42.0.2"]);
        let mut other = config(second.path());
        other.id = "fedcba987".into();
        other.ranges.pods = vec!["10.52.0.0/24".parse().unwrap()];
        other.ranges.cluster = vec!["10.52.0.0/16".parse().unwrap()];
        other.ranges.services = vec!["10.106.0.0/16".parse().unwrap()];
        other.served.addresses = vec!["10.106.0.10".parse().unwrap()];
        other.run = second.path().join("run/fedcba987");
        let neighbour = PodNetwork::open(other).unwrap();
        let (theirs, address) = pod(&neighbour, "one", vec![]).await;
        assert_eq!(address.to_string(), "10.52.0.2");
        refused(theirs.ask("10.106.0.1:443"));
        assert_eq!(name(client.ask("10.96.0.5:80")), "one");
        PodNetwork::purge("fedcba987", &second.path().join("net"), &second.path().join("run/fedcba987")).unwrap();
        assert_eq!(name(client.ask("10.96.0.5:80")), "one");
        assert!(!run("ip", &["-o", "link"]).contains("rgfedcba"));
    });
}

#[test]
fn both_families_are_served() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let mut both = config(directory.path());
        both.ranges.pods.push("fd00:42::/64".parse().unwrap());
        both.ranges.cluster.push("fd00:42::/56".parse().unwrap());
        both.ranges.services.push("fd00:96::/112".parse().unwrap());
        let network = PodNetwork::open(both).unwrap();
        let (one, _) = pod(&network, "one", vec![]).await;
        let (client, _) = pod(&network, "client", vec![]).await;
        one.enter(|| support::serve("[::]:8080".parse().unwrap(), "one"));
        assert_eq!(client.ask("[fd00:42::2]:8080").unwrap(), "one@fd00:42::3");
        refused(client.ask("[fd00:42::77]:80"));
        refused(client.ask("[fd00:96::5]:80"));
        let service = "metadata: {namespace: d, name: web}\nspec: {clusterIPs: ['fd00:96::5'], ports: [{port: 80, nodePort: 30080}]}\n";
        let slice = "metadata: {name: w}\naddressType: IPv6\nports: [{name: '', port: 8080}]\nendpoints: [{addresses: ['fd00:42::2']}]";
        let node = Node { pods: vec!["fd00:42::/64".parse().unwrap()], ..node() };
        let fragment =
            compile(&serde_saphyr::from_str(service).unwrap(), &[serde_saphyr::from_str(slice).unwrap()], &node);
        network.nft().change(|table| render(table, [&fragment].into_iter())).unwrap();
        assert_eq!(client.ask("[fd00:96::5]:80").unwrap(), "one@fd00:42::3");
        assert_eq!(name(one.ask("[fd00:96::5]:80")), "one");
        assert_eq!(name(ask("[fd00:96::5]:80")), "one");
        assert_eq!(name(client.ask("[fd00:42::1]:30080")), "one");
    });
}

#[test]
fn thousands_of_services_fit_and_a_change_of_one_is_small() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let fragments: Vec<_> = (0..3000u32)
            .map(|number| {
                let (high, low) = (number / 250, number % 250);
                let service = format!(
                    "metadata: {{namespace: d, name: s{number}}}\nspec: {{clusterIP: 10.96.{}.{low}, ports: [{{port: 80}}]}}",
                    high + 1
                );
                let slice = format!(
                    "metadata: {{name: w}}\naddressType: IPv4\nports: [{{name: '', port: 8080}}]\nendpoints: [{{addresses: [10.42.0.2]}}, {{addresses: [10.42.{}.{low}]}}]",
                    high + 1
                );
                compile(&serde_saphyr::from_str(&service).unwrap(), &[serde_saphyr::from_str(&slice).unwrap()], &node())
            })
            .collect();
        let started = std::time::Instant::now();
        network.nft().change(|table| render(table, fragments.iter())).unwrap();
        let all = started.elapsed();
        let started = std::time::Instant::now();
        network.nft().change(|table| render(table, fragments[1..].iter())).unwrap();
        println!("3000 services in {all:?}, one less in {:?}", started.elapsed());
        refused(ask("10.96.1.0:80"));
    });
}
