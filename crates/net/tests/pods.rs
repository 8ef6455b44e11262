//! The pod network in the kernel: real packets between namespaces. Needs root, touches no namespace but its own.

mod support;

use net::{AttachRequest, PodNetwork, PortMapping, Protocol};
use std::collections::HashSet;
use std::io::ErrorKind;
use support::{ask, ask_udp, config, on_a_node, pod, refused, run, serve};

#[test]
fn pods_and_the_node_reach_each_other_untranslated_and_what_nobody_serves_is_refused() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let (one, first) = pod(&network, "one", vec![]).await;
        let (two, second) = pod(&network, "two", vec![]).await;
        assert_eq!((first.to_string(), second.to_string()), ("10.42.0.2".to_string(), "10.42.0.3".to_string()));
        one.serve(80, "one");
        assert_eq!(two.ask("10.42.0.2:80").unwrap(), "one@10.42.0.3");
        assert_eq!(two.ask_udp("10.42.0.2:80").unwrap(), "one@10.42.0.3");
        assert_eq!(ask("10.42.0.2:80").unwrap(), "one@10.42.0.1");
        assert_eq!(one.ask("10.42.0.2:80").unwrap(), "one@10.42.0.2");
        serve("0.0.0.0:8080".parse().unwrap(), "node");
        assert_eq!(two.ask("10.42.0.1:8080").unwrap(), "node@10.42.0.3");
        for nobody in ["10.42.0.77:80", "10.42.9.9:80", "10.96.0.1:443", "10.96.0.10:8080"] {
            refused(two.ask(nobody));
            refused(ask(nobody));
            refused(two.ask_udp(nobody));
            // A sender on the node is told by the system call, or by the answer if that is quicker.
            let told = ask_udp(nobody).unwrap_err().kind();
            assert!(matches!(told, ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused), "{told:?}");
        }
        let rules = run("nft", &["list", "ruleset"]);
        assert!(rules.contains("table inet regatta-abc123xyz"), "{rules}");
        assert!(rules.contains("oifname \"rgabc123\" goto reject"), "{rules}");
    });
}

#[test]
fn attaching_again_answers_the_same_and_a_restart_adopts_what_is_there() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let (one, _) = pod(&network, "one", vec![]).await;
        let (two, _) = pod(&network, "two", vec![]).await;
        one.serve(80, "one");
        drop(network);
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let request = AttachRequest {
            sandbox_id: "one".into(),
            namespace: "default".into(),
            name: "one".into(),
            netns: one.path(),
            port_mappings: vec![],
        };
        assert_eq!(network.attach(request).await.unwrap()[0].to_string(), "10.42.0.2");
        assert_eq!(two.ask("10.42.0.2:80").unwrap(), "one@10.42.0.3");
        network.gc(HashSet::from(["two".to_string()])).await.unwrap();
        refused(two.ask("10.42.0.2:80"));
        network.detach("two").await.unwrap();
        network.detach("two").await.unwrap();
        let links = run("ip", &["-o", "link"]);
        assert_eq!(links.matches("rgabc123").count(), 1, "{links}");
        let (_three, address) = pod(&network, "three", vec![]).await;
        assert_eq!(address.to_string(), "10.42.0.4");
        PodNetwork::purge("abc123xyz", &directory.path().join("net"), &directory.path().join("run")).unwrap();
        PodNetwork::purge("abc123xyz", &directory.path().join("net"), &directory.path().join("run")).unwrap();
        assert!(!run("ip", &["-o", "link"]).contains("rgabc123"));
        assert_eq!(run("nft", &["list", "ruleset"]), "");
        assert!(!run("ip", &["route"]).contains("10."));
    });
}

#[test]
fn host_ports_lead_to_the_pod_from_the_node_from_loopback_and_from_the_pod_itself() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let mapping = |protocol, host_ip: Option<&str>, host_port| PortMapping {
            protocol,
            container_port: 80,
            host_port,
            host_ip: host_ip.map(|address| address.parse().unwrap()),
        };
        let any = mapping(Protocol::Tcp, None, 8080);
        let one_address = mapping(Protocol::Tcp, Some("10.42.0.1"), 8081);
        let (one, _) = pod(&network, "one", vec![any.clone(), one_address, mapping(Protocol::Udp, None, 8080)]).await;
        let (two, _) = pod(&network, "two", vec![]).await;
        one.serve(80, "one");
        assert_eq!(ask("10.42.0.1:8080").unwrap(), "one@10.42.0.1");
        assert!(ask("127.0.0.1:8080").unwrap().starts_with("one@"));
        assert!(ask_udp("127.0.0.1:8080").unwrap().starts_with("one@"));
        assert_eq!(two.ask("10.42.0.1:8080").unwrap(), "one@10.42.0.3");
        assert_eq!(two.ask("10.42.0.1:8081").unwrap(), "one@10.42.0.3");
        assert!(one.ask("10.42.0.1:8080").unwrap().starts_with("one@"));
        refused(ask("127.0.0.1:8081"));
        let request = AttachRequest {
            sandbox_id: "three".into(),
            namespace: "default".into(),
            name: "three".into(),
            netns: two.path(),
            port_mappings: vec![any],
        };
        let error = network.attach(request).await.unwrap_err();
        assert_eq!(error.to_string(), "the host port 8080 is taken by pod default/one");
        network.detach("one").await.unwrap();
        refused(ask("10.42.0.1:8080"));
    });
}

#[test]
fn no_pod_reaches_the_loopback_address_of_the_node() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let (one, _) = pod(&network, "one", vec![]).await;
        serve("127.0.0.1:7000".parse().unwrap(), "secret");
        assert_eq!(ask("127.0.0.1:7000").unwrap(), "secret@127.0.0.1");
        let stolen = one.enter(|| {
            run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            run("ip", &["route", "add", "127.0.0.0/8", "via", "10.42.0.1", "dev", "eth0", "onlink"]);
            let target = "127.0.0.1:7000".parse().unwrap();
            std::net::TcpStream::connect_timeout(&target, std::time::Duration::from_millis(300)).is_ok()
        });
        assert!(!stolen);
    });
}

#[test]
fn many_pods_are_attached_at_once_without_an_nftables_transaction_each() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let namespaces: Vec<_> = (0..50).map(|_| support::Namespace::new()).collect();
        let before = run("nft", &["--handle", "list", "ruleset"]);
        let started = std::time::Instant::now();
        let mut attaching = tokio::task::JoinSet::new();
        for (number, namespace) in namespaces.iter().enumerate() {
            let request = AttachRequest {
                sandbox_id: format!("pod-{number}"),
                namespace: "default".into(),
                name: format!("pod-{number}"),
                netns: namespace.path(),
                port_mappings: vec![],
            };
            let network = network.clone();
            attaching.spawn(async move { network.attach(request).await.unwrap()[0] });
        }
        let addresses: HashSet<_> = attaching.join_all().await.into_iter().collect();
        println!("50 pods attached in {:?}", started.elapsed());
        assert_eq!(addresses.len(), 50);
        assert_eq!(run("nft", &["--handle", "list", "ruleset"]), before);
        let started = std::time::Instant::now();
        network.gc(HashSet::new()).await.unwrap();
        println!("50 pods detached in {:?}", started.elapsed());
        assert_eq!(run("ip", &["-o", "link"]).matches("rgabc123").count(), 1);
    });
}

#[test]
fn a_namespace_that_is_not_there_is_told_and_keeps_no_address() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        for wrong in ["/nonexistent/netns", "/proc/self/status"] {
            let request = AttachRequest {
                sandbox_id: "one".into(),
                namespace: "default".into(),
                name: "one".into(),
                netns: wrong.into(),
                port_mappings: vec![],
            };
            assert!(network.attach(request).await.is_err(), "{wrong}");
        }
        let records: Vec<_> =
            std::fs::read_dir(directory.path().join("net")).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(records.iter().all(|name| name == "last"), "{records:?}");
    });
}
