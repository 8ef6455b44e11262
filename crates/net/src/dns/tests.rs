//! Names in, records out.

use super::*;
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};
use std::str::FromStr;

fn zone() -> Zone {
    Zone {
        domain: "cluster.local".into(),
        addresses: vec!["10.96.0.10".parse().unwrap()],
        ranges: vec!["10.96.0.0/16".parse().unwrap(), "10.42.0.0/16".parse().unwrap()],
    }
}

fn index() -> Index {
    let slice = |text: &str| serde_saphyr::from_str(text).unwrap();
    let mut index = Index::default();
    index.set_namespace("d", true);
    let services = [
        (
            "web",
            "{clusterIP: 10.96.0.5, clusterIPs: [10.96.0.5, 'fd00::5'], ports: [{name: http, port: 80}, {port: 81, protocol: UDP}]}",
        ),
        ("db", "{clusterIP: None, ports: [{name: sql, port: 5432}]}"),
        ("empty", "{clusterIP: None}"),
        ("out", "{type: ExternalName, externalName: example.com}"),
        ("in", "{type: ExternalName, externalName: web.d.svc.cluster.local}"),
        ("far", "{type: ExternalName, externalName: out.d.svc.cluster.local}"),
        ("loop", "{type: ExternalName, externalName: loop.d.svc.cluster.local}"),
    ];
    let slices = [slice(
        "metadata: {name: db-1}\naddressType: IPv4\nports: [{name: sql, port: 5432, protocol: TCP}]\nendpoints:\n\
         - {addresses: [10.42.0.7], hostname: db-0}\n- {addresses: [10.42.0.8]}\n\
         - {addresses: [10.42.0.9], conditions: {ready: false}}\n",
    )];
    for (name, spec) in services {
        let service: Service = serde_saphyr::from_str(&format!("metadata: {{}}\nspec: {spec}")).unwrap();
        let slices = if name == "db" { &slices[..] } else { &[] };
        index.set("d", name, Entry::of(&service, slices));
    }
    index
}

/// Code and records as text.
fn ask(name: &str, kind: RecordType) -> String {
    let Some(reply) = zone().reply(&index(), &Name::from_str(name).unwrap(), kind) else { return "elsewhere".into() };
    let mut parts = vec![format!("{:?}", reply.code)];
    parts.extend(reply.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)));
    parts.extend(reply.additionals.iter().map(|record| format!("+{} {}", record.name, record.data)));
    parts.extend(reply.authorities.iter().map(|record| format!("({})", record.record_type())));
    parts.extend(reply.follow.iter().map(|name| format!("follow {name}")));
    parts.join("; ")
}

#[test]
fn names_mean_what_the_specification_says() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let web = "web.d.svc.cluster.local.";
    let cases = [
        (web, A, "NoError; A 10.96.0.5"),
        ("WEB.d.SVC.cluster.local.", A, "NoError; A 10.96.0.5"),
        (web, AAAA, "NoError; AAAA fd00::5"),
        (web, MX, "NoError; (SOA)"),
        (
            web,
            ANY,
            "NoError; A 10.96.0.5; AAAA fd00::5; SRV 0 50 80 web.d.svc.cluster.local.; SRV 0 50 81 web.d.svc.cluster.local.; +web.d.svc.cluster.local. 10.96.0.5; +web.d.svc.cluster.local. fd00::5",
        ),
        (
            "_http._tcp.web.d.svc.cluster.local.",
            SRV,
            "NoError; SRV 0 100 80 web.d.svc.cluster.local.; +web.d.svc.cluster.local. 10.96.0.5; +web.d.svc.cluster.local. fd00::5",
        ),
        ("_http._udp.web.d.svc.cluster.local.", SRV, "NXDomain; (SOA)"),
        ("_tcp.web.d.svc.cluster.local.", A, "NoError; (SOA)"),
        ("db.d.svc.cluster.local.", A, "NoError; A 10.42.0.7; A 10.42.0.8"),
        ("db-0.db.d.svc.cluster.local.", A, "NoError; A 10.42.0.7"),
        ("10-42-0-8.db.d.svc.cluster.local.", A, "NoError; A 10.42.0.8"),
        ("db-1.db.d.svc.cluster.local.", A, "NXDomain; (SOA)"),
        (
            "_sql._tcp.db.d.svc.cluster.local.",
            SRV,
            "NoError; SRV 0 50 5432 10-42-0-8.db.d.svc.cluster.local.; SRV 0 50 5432 db-0.db.d.svc.cluster.local.; +10-42-0-8.db.d.svc.cluster.local. 10.42.0.8; +db-0.db.d.svc.cluster.local. 10.42.0.7",
        ),
        ("empty.d.svc.cluster.local.", A, "NXDomain; (SOA)"),
        ("out.d.svc.cluster.local.", A, "NoError; CNAME example.com.; follow example.com."),
        ("out.d.svc.cluster.local.", CNAME, "NoError; CNAME example.com."),
        ("in.d.svc.cluster.local.", A, "NoError; CNAME web.d.svc.cluster.local.; A 10.96.0.5"),
        (
            "far.d.svc.cluster.local.",
            A,
            "NoError; CNAME out.d.svc.cluster.local.; CNAME example.com.; follow example.com.",
        ),
        ("1-2-3-4.d.pod.cluster.local.", A, "NoError; A 1.2.3.4"),
        ("1-2-3-4.x.pod.cluster.local.", A, "NXDomain; (SOA)"),
        ("fd00--5.d.pod.cluster.local.", AAAA, "NoError; AAAA fd00::5"),
        ("d.svc.cluster.local.", A, "NoError; (SOA)"),
        ("x.svc.cluster.local.", A, "NXDomain; (SOA)"),
        ("cluster.local.", SOA, "NoError; SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"),
        ("cluster.local.", NS, "NoError; NS ns.dns.cluster.local."),
        ("ns.dns.cluster.local.", A, "NoError; A 10.96.0.10"),
        ("dns-version.cluster.local.", TXT, "NoError; TXT 1.1.0"),
        ("5.0.96.10.in-addr.arpa.", PTR, "NoError; PTR web.d.svc.cluster.local."),
        ("7.0.42.10.in-addr.arpa.", PTR, "NoError; PTR db-0.db.d.svc.cluster.local."),
        ("99.0.96.10.in-addr.arpa.", PTR, "NXDomain; (SOA)"),
        ("1.2.0.192.in-addr.arpa.", PTR, "elsewhere"),
        ("example.com.", A, "elsewhere"),
        ("notcluster.local.", A, "elsewhere"),
    ];
    for (name, kind, wanted) in cases {
        assert_eq!(ask(name, kind), wanted, "{name} {kind}");
    }
}

#[test]
fn aliases_in_a_circle_end() {
    assert_eq!(ask("loop.d.svc.cluster.local.", RecordType::A), "NoError; CNAME loop.d.svc.cluster.local.");
}

#[test]
fn an_entry_that_changes_takes_its_reverse_names_along() {
    let mut index = index();
    index.set("d", "web", None);
    assert!(index.names("10.96.0.5".parse().unwrap()).is_empty());
    assert_eq!(index.lookup(&["web", "d", "svc"], &[]), Answer::Nothing);
}

/// A server on loopback.
async fn server(index: Option<Index>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let config = Config { zone: zone(), port: 0, resolv_conf: "/nonexistent/resolv.conf".into() };
    let dns = Dns::bind_to(config, vec![([127, 0, 0, 1], 0).into()]).await;
    // UDP and TCP get different free ports here; only UDP is asked.
    let dns = dns.unwrap();
    let address = dns.sockets[0].0.local_addr().unwrap();
    let running = match index {
        Some(index) => tokio::spawn(dns.run_with(index)),
        None => tokio::spawn(dns.serve()),
    };
    (address, running)
}

async fn exchange(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    socket.send_to(&query.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn a_server_answers_and_says_that_it_is_authoritative() {
    let (address, running) = server(Some(index())).await;
    let reply = exchange(address, "web.d.svc.cluster.local.").await;
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!((reply.answers.len(), reply.answers[0].ttl), (1, 5));
    let reply = exchange(address, "example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "there is no resolver to ask");
    running.abort();
}

#[tokio::test]
async fn before_the_caches_are_in_no_name_is_said_to_be_absent() {
    let (address, running) = server(None).await;
    let reply = exchange(address, "web.d.svc.cluster.local.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    running.abort();
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_cut_off() {
    let mut index = index();
    let hosts =
        (0..100).map(|host| Host { label: format!("h{host}"), address: [10, 42, 1, host].into(), ports: vec![] });
    index.set("d", "many", Some(Entry::Headless(hosts.collect())));
    let (address, running) = server(Some(index)).await;
    let reply = exchange(address, "many.d.svc.cluster.local.").await;
    assert!(reply.metadata.truncation && reply.answers.is_empty());
    running.abort();
}
