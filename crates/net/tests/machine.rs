//! The machine that the network is made on: what others have there is seen, kept, and put back. Needs root, touches no
//! namespace but its own.

mod support;

use net::PodNetwork;
use net::dns::Dns;
use net::pod::foreign::{self, Place};
use support::{config, on_a_node, run};

const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

fn ip(line: &str) {
    run("ip", &line.split(' ').collect::<Vec<_>>());
}

fn found(range: &str) -> Option<Place> {
    let places = foreign::places("abc123xyz").unwrap();
    foreign::overlapping(range.parse().unwrap(), &places).cloned()
}

#[test]
fn addresses_and_routes_of_others_are_found_and_ours_are_not() {
    on_a_node(async || {
        ip("link add lan type veth peer name lan2");
        ip("link set lan2 up");
        ip("addr add 192.168.7.9/24 dev lan");
        ip("link set lan up");
        ip("route add 10.9.0.0/16 dev lan");
        ip("route add default via 192.168.7.1 dev lan");
        ip("route add blackhole 10.66.0.0/16");
        for (range, interface) in [
            ("192.168.0.0/16", Some("lan")),
            ("192.168.7.128/25", Some("lan")),
            ("10.9.3.0/24", Some("lan")),
            ("10.66.0.0/16", Some("")),
            ("127.9.0.0/16", Some("lo")),
            ("10.42.0.0/16", None),
        ] {
            assert_eq!(found(range).map(|place| place.interface).as_deref(), interface, "{range}");
        }
        let directory = tempfile::tempdir().unwrap();
        let _network = PodNetwork::open(config(directory.path())).unwrap();
        assert_eq!(found("10.42.0.0/16"), None);
        let others = foreign::places("fedcba987").unwrap();
        let ours = foreign::overlapping("10.42.0.0/16".parse().unwrap(), &others).unwrap();
        assert!(ours.is_of_a_cluster(), "{ours:?}");
    });
}

#[test]
fn a_route_of_another_program_is_not_replaced() {
    on_a_node(async || {
        ip("link add lan type veth peer name lan2");
        ip("link set lan2 up");
        ip("link set lan up");
        ip("route add 10.42.0.0/16 dev lan");
        let directory = tempfile::tempdir().unwrap();
        let error = PodNetwork::open(config(directory.path())).unwrap_err().to_string();
        assert!(error.contains("10.42.0.0/16") && error.contains("\"lan\""), "{error}");
        assert!(run("ip", &["route"]).contains("10.42.0.0/16 dev lan"));
    });
}

#[test]
fn forwarding_is_set_back_by_the_last_cluster_unless_another_program_needs_it() {
    on_a_node(async || {
        let forwarding = || std::fs::read_to_string(FORWARDING).unwrap().trim().to_owned();
        std::fs::write(FORWARDING, "0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let one = config(directory.path());
        let mut two = one.clone();
        two.id = "fedcba987".into();
        two.directory = directory.path().join("net2");
        two.run = directory.path().join("run/fedcba987");
        two.ranges.pods = vec!["10.52.0.0/24".parse().unwrap()];
        two.ranges.cluster = vec!["10.52.0.0/16".parse().unwrap()];
        two.ranges.services = vec!["10.106.0.0/16".parse().unwrap()];
        two.served.addresses = vec!["10.106.0.10".parse().unwrap()];
        PodNetwork::open(one.clone()).unwrap();
        std::fs::create_dir_all(&two.run).unwrap();
        PodNetwork::open(two.clone()).unwrap();
        assert_eq!(forwarding(), "1");
        PodNetwork::purge(&one.id, &one.directory, &one.run).unwrap();
        assert_eq!(forwarding(), "1", "the second cluster needs it");
        PodNetwork::purge(&two.id, &two.directory, &two.run).unwrap();
        assert_eq!(forwarding(), "0");

        PodNetwork::open(one.clone()).unwrap();
        run("nft", &["add table ip others; add chain ip others f { type filter hook forward priority 0; }"]);
        PodNetwork::purge(&one.id, &one.directory, &one.run).unwrap();
        assert_eq!(forwarding(), "1", "another program forwards");
    });
}

#[test]
fn a_firewall_that_drops_what_is_forwarded_is_told_until_it_knows_our_interfaces() {
    on_a_node(async || {
        let shown = || foreign::firewalls("abc123xyz").unwrap().iter().map(|chain| chain.shown()).collect::<Vec<_>>();
        let directory = tempfile::tempdir().unwrap();
        let _network = PodNetwork::open(config(directory.path())).unwrap();
        run("nft", &["add table ip open; add chain ip open f { type filter hook forward priority 0; policy accept; }"]);
        run("nft", &["add table ip in; add chain ip in i { type filter hook input priority 0; policy drop; }"]);
        assert!(shown().is_empty());
        run(
            "nft",
            &["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"],
        );
        assert_eq!(shown(), ["ip filter FORWARD"]);
        run("nft", &["add rule ip filter FORWARD iifname eth0 accept"]);
        assert_eq!(shown(), ["ip filter FORWARD"]);
        run("nft", &["add rule ip filter FORWARD iifname \"rg*\" accept"]);
        assert!(shown().is_empty());
    });
}

#[test]
fn names_are_answered_beside_a_resolver_that_has_the_port_on_every_address() {
    on_a_node(async || {
        assert_eq!(Dns::free_port(53).unwrap(), 53);
        let _taken = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
        let port = Dns::free_port(53).unwrap();
        assert!(port != 53 && port != 0);
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(directory.path());
        config.served.port = port;
        let network = PodNetwork::open(config).unwrap();
        let (client, _) = support::pod(&network, "client", vec![]).await;
        let address = format!("10.96.0.10:{port}");
        support::serve(address.parse().unwrap(), "names");
        assert!(client.ask("10.96.0.10:53").unwrap().starts_with("names@"));
        assert!(support::ask("10.96.0.10:53").unwrap().starts_with("names@"));
        assert!(client.ask_udp("10.96.0.10:53").unwrap().starts_with("names@"));
    });
}

#[test]
fn this_kernel_has_all_that_the_network_is_made_of_and_looking_leaves_nothing() {
    on_a_node(async || {
        assert_eq!(net::pod::probe::missing(), []);
        assert!(!run("ip", &["-o", "link"]).contains("probe"));
        assert_eq!(run("nft", &["list", "ruleset"]), "");
    });
}
