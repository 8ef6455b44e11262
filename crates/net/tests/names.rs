//! Cluster DNS at its address on the node: over UDP and TCP, from pods, with a resolver of the node behind it. Needs root,
//! touches no namespace but its own.

mod support;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use net::PodNetwork;
use net::dns::{Config, Dns, Entry, Index, Zone};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;
use support::{config, on_a_node, pod, refused, run};

fn question(name: &str) -> Message {
    let mut query = Message::query();
    query.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
    query
}

fn over_udp(name: &str) -> Message {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let query = question(name).to_vec().unwrap();
    let mut buffer = vec![0; 4096];
    // As every resolver does: a link whose carrier has just come may lose a first packet while the kernel activates it.
    let answer = (0..6).find_map(|_| {
        socket.send_to(&query, "10.96.0.10:53").unwrap();
        socket.recv_from(&mut buffer).ok()
    });
    let (length, from) = answer.expect("an answer to one of six questions");
    assert_eq!(from.to_string(), "10.96.0.10:53");
    Message::from_vec(&buffer[..length]).unwrap()
}

fn over_tcp(name: &str) -> Message {
    let mut stream = TcpStream::connect("10.96.0.10:53").unwrap();
    stream.write_all(&framed(&question(name))).unwrap();
    read_framed(&mut stream)
}

fn framed(message: &Message) -> Vec<u8> {
    let bytes = message.to_vec().unwrap();
    [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()
}

fn read_framed(stream: &mut TcpStream) -> Message {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut buffer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut buffer).unwrap();
    Message::from_vec(&buffer).unwrap()
}

/// A resolver that answers 192.0.2.1, over UDP only that it must be asked over TCP, and counts questions over TCP by ports.
fn resolver() -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let reply = |query: &Message| {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.add_queries(query.queries.iter().cloned());
        reply
    };
    let udp = UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 4096];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let mut reply = reply(&Message::from_vec(&buffer[..length]).unwrap());
            reply.metadata.truncation = true;
            udp.send_to(&reply.to_vec().unwrap(), peer).unwrap();
        }
    });
    let tcp = TcpListener::bind("127.0.0.1:53").unwrap();
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let query = read_framed(&mut stream);
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut reply = reply(&query);
            let name = query.queries[0].name().clone();
            reply.add_answer(Record::from_rdata(name, 60, RData::A(A([192, 0, 2, 1].into()))));
            stream.write_all(&framed(&reply)).unwrap();
        }
    });
    count
}

#[test]
fn pods_and_the_node_resolve_names_of_the_cluster_and_others_at_the_service_address() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(&directory.path().join("network"))).unwrap();
        let (client, _) = pod(&network, "client", vec![]).await;
        let asked = resolver();
        let resolv_conf = directory.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 10.96.0.10\nnameserver 127.0.0.1\n").unwrap();
        let zone = Zone {
            domain: "cluster.local".into(),
            addresses: vec!["10.96.0.10".parse().unwrap()],
            ranges: vec!["10.96.0.0/16".parse().unwrap()],
        };
        let mut index = Index::default();
        let service: Service = serde_saphyr::from_str("metadata: {}\nspec: {clusterIP: 10.96.0.5}").unwrap();
        index.set("d", "web", Entry::of(&service, &[]));
        let service = "metadata: {}\nspec: {type: ExternalName, externalName: example.com}";
        index.set("d", "out", Entry::of(&serde_saphyr::from_str::<Service>(service).unwrap(), &[]));
        let dns = Dns::bind(Config { zone, port: 53, resolv_conf }).await.unwrap();
        let serving = tokio::spawn(dns.run_with(index));
        let checks = move || {
            for ask in [over_udp, over_tcp] {
                let reply = ask("web.d.svc.cluster.local.");
                assert_eq!(reply.answers[0].data.to_string(), "10.96.0.5");
                assert_eq!(ask("nobody.d.svc.cluster.local.").metadata.response_code, ResponseCode::NXDomain);
                assert_eq!(ask("example.com.").answers[0].data.to_string(), "192.0.2.1");
                let reply = ask("out.d.svc.cluster.local.");
                let data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
                assert_eq!(data, ["example.com.", "192.0.2.1"]);
            }
        };
        let inside = tokio::task::spawn_blocking(move || {
            client.enter(checks);
            client
        });
        let client = inside.await.unwrap();
        tokio::task::spawn_blocking(checks).await.unwrap();
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 1, "the rest is remembered");
        refused(client.ask("10.96.0.10:54"));
        serving.abort();
        assert!(run("nft", &["list", "ruleset"]).contains("regatta-abc123xyz"));
    });
}
