//! Services and slices in, elements and chains out.

use super::*;
use crate::nft::{Data, Verdict};

fn node() -> Node {
    Node {
        name: "here".into(),
        zone: None,
        pods: vec!["10.42.0.0/24".parse().unwrap()],
        cluster: vec!["10.42.0.0/16".parse().unwrap()],
        served: vec!["10.96.0.10".parse().unwrap()],
    }
}

/// Each element as `set proto address port -> what`.
fn elements(spec: &str, status: &str, endpoints: &str) -> (Vec<String>, Vec<String>) {
    let service = format!("metadata: {{namespace: d, name: web}}\nspec: {spec}\nstatus: {status}\n");
    let slice = format!(
        "metadata: {{name: web-1, namespace: d}}\naddressType: IPv4\n\
         ports: [{{name: '', port: 8080, protocol: TCP}}, {{name: dns, port: 5353, protocol: UDP}}]\nendpoints: {endpoints}\n"
    );
    let fragment =
        compile(&serde_saphyr::from_str(&service).unwrap(), &[serde_saphyr::from_str(&slice).unwrap()], &node());
    let lines = fragment.elements.iter().map(|(set, key, data)| {
        let words: Vec<String> =
            key.chunks(4).map(|word| word.iter().map(u8::to_string).collect::<Vec<_>>().join(".")).collect();
        let data = match data {
            Data::Verdict(Verdict::Goto(chain)) => chain.clone(),
            Data::Verdict(verdict) => format!("{verdict:?}"),
            Data::Member => "member".into(),
            Data::Value(value) => format!("{value:?}"),
        };
        format!("{set} {} -> {data}", words.join(" "))
    });
    let chains = fragment.chains.iter().map(|(name, chain)| format!("{name} {}", chain.rules.len()));
    (lines.collect(), chains.collect())
}

const HERE: &str = "{addresses: [10.42.0.5], nodeName: here}";
const THERE: &str = "{addresses: [10.42.1.5], nodeName: there}";

#[test]
fn each_kind_of_service_becomes_its_elements() {
    let cluster_ip = "service-addresses-4 6.0.0.0 10.96.0.5 0.80.0.0";
    let node_port = "6.0.0.0 117.48.0.0";
    let (served, unserved) = (format!("{cluster_ip} -> service4/d/web/Tcp/80"), "un".to_string() + cluster_ip);
    let unserved = unserved.replace("service-", "served-");
    let hairpin = "hairpins-4 10.42.0.5 10.42.0.5 -> member".to_string();
    let base = "clusterIP: 10.96.0.5, ports: [{port: 80, nodePort: NP}]";
    let none = base.replace(", nodePort: NP", "");
    let port = base.replace("NP", "30000");
    let both = format!("[{HERE}, {THERE}]");
    let there = format!("[{THERE}]");
    let external = |chain: &str| format!("service-node-ports-4 {node_port} -> {chain}");
    let cases: Vec<(String, &str, Vec<String>)> = vec![
        (format!("{{{none}}}"), &both, vec![served.clone(), hairpin.clone()]),
        (format!("{{{none}}}"), "[]", vec![format!("{unserved} -> reject")]),
        (format!("{{{none}, internalTrafficPolicy: Local}}"), &there, vec![format!("{unserved} -> Drop")]),
        (
            format!("{{{none}, internalTrafficPolicy: Local}}"),
            &both,
            vec![format!("{cluster_ip} -> internal4/d/web/Tcp/80"), hairpin.clone()],
        ),
        (format!("{{{port}, type: NodePort}}"), &there, vec![served.clone(), external("external4/d/web/Tcp/80")]),
        (
            format!("{{{port}, type: NodePort}}"),
            "[]",
            vec![format!("{unserved} -> reject"), format!("unserved-node-ports-4 {node_port} -> reject")],
        ),
        (
            format!("{{{port}, type: NodePort, externalTrafficPolicy: Local}}"),
            &there,
            vec![
                served.clone(),
                external("external4/d/web/Tcp/80"),
                format!("unserved-node-ports-4 {node_port} -> Drop"),
            ],
        ),
        (
            format!("{{{none}, externalIPs: [192.0.2.7]}}"),
            &there,
            vec![served.clone(), "service-addresses-4 6.0.0.0 192.0.2.7 0.80.0.0 -> external4/d/web/Tcp/80".into()],
        ),
        ("{clusterIP: None, ports: [{port: 80}]}".into(), &both, vec![]),
        ("{type: ExternalName, externalName: example.com}".into(), &both, vec![]),
        ("{clusterIP: 10.96.0.10, ports: [{port: 80}]}".into(), "[]", vec![]),
    ];
    for (spec, endpoints, wanted) in cases {
        assert_eq!(elements(&spec, "{}", endpoints).0, wanted, "{spec} {endpoints}");
    }
}

#[test]
fn a_load_balancer_lets_only_its_source_ranges_in_and_proxied_addresses_are_left_alone() {
    let spec =
        "{clusterIP: 10.96.0.5, ports: [{port: 80}], type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24]}";
    let status = "{loadBalancer: {ingress: [{ip: 192.0.2.9}, {ip: 192.0.2.8, ipMode: Proxy}]}}";
    let (lines, chains) = elements(spec, status, &format!("[{THERE}]"));
    assert_eq!(lines[1..], ["service-addresses-4 6.0.0.0 192.0.2.9 0.80.0.0 -> firewall4/d/web/Tcp/80"]);
    assert_eq!(chains, ["external4/d/web/Tcp/80 1", "firewall4/d/web/Tcp/80 2", "service4/d/web/Tcp/80 2"]);
}

#[test]
fn affinity_needs_more_than_one_endpoint() {
    let spec = "{clusterIP: 10.96.0.5, ports: [{port: 80}], sessionAffinity: ClientIP}";
    let chains = |endpoints: &str| elements(spec, "{}", endpoints).1;
    assert_eq!(chains(&format!("[{THERE}]")), ["service4/d/web/Tcp/80 2"]);
    assert_eq!(chains(&format!("[{HERE}, {THERE}]")), ["service4/d/web/Tcp/80 4"]);
}

#[test]
fn of_two_services_that_claim_one_address_the_first_by_name_has_it() {
    let element = |chain: &str| Fragment {
        elements: vec![("service-addresses-4".into(), vec![1], Data::Verdict(Verdict::Goto(chain.into())))],
        ..Fragment::default()
    };
    let ranges = base::Ranges { pods: vec![], cluster: vec![], services: vec![] };
    let mut table = base::table("t", "rg", "rg", &ranges, &base::Served { addresses: vec![], port: base::DNS });
    let before = table.clone();
    let fragments = [element("a/a"), element("b/b")];
    render(&mut table, fragments.iter());
    assert_eq!(table.sets["service-addresses-4"].elements[&vec![1]], Data::Verdict(Verdict::Goto("a/a".into())));
    render(&mut table, [].into_iter());
    assert_eq!(table, before);
}
