//! The proxy and DNS following an API server: objects come and go there, packets and answers follow. Needs root, touches no
//! namespace but its own.

mod support;

use bytes::Bytes;
use client::{Acceptor, Caches, Endpoint, Identity, connect};
use futures::StreamExt;
use futures::channel::mpsc;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use net::PodNetwork;
use net::dns::{Config, Dns, Zone};
use net::proxy::{self, Node};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Namespace, config, on_a_node, pod, refused};

/// Watches by the last part of their path; every list is empty at first.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<HashMap<String, Vec<mpsc::UnboundedSender<String>>>>>);

impl Api {
    fn client(&self) -> kube::Client {
        let api = self.clone();
        let acceptor: Acceptor = Arc::new(move |stream, _: Identity| {
            let api = api.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (sender, receiver) = mpsc::unbounded();
                sender.unbounded_send(SYNCED.to_owned()).unwrap();
                let resource = request.uri().path().rsplit('/').next().unwrap().to_owned();
                api.0.lock().unwrap().entry(resource).or_default().push(sender);
                let frames = receiver.map(|text: String| Ok::<_, Infallible>(Frame::data(Bytes::from(text))));
                async move { Ok::<_, Infallible>(http::Response::new(BodyExt::boxed(StreamBody::new(frames)))) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        });
        connect(&Endpoint::Memory(acceptor), Identity::component("system:kube-proxy"))
    }

    fn send(&self, resource: &str, kind: &str, object: &str) {
        let object: serde_json::Value = serde_saphyr::from_str(object).unwrap();
        let event = serde_json::json!({ "type": kind, "object": object }).to_string() + "\n";
        for watch in self.0.lock().unwrap().get(resource).into_iter().flatten() {
            let _ = watch.unbounded_send(event.clone());
        }
    }
}

const SYNCED: &str = "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"1\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";
const SERVICE: &str = "{metadata: {name: web, namespace: d, uid: u1, resourceVersion: '2'}, spec: {clusterIP: 10.96.0.5, \
                       ports: [{port: 80, protocol: UDP}]}}";

fn slice(revision: u32, address: &str) -> String {
    format!(
        "{{metadata: {{name: web-1, namespace: d, uid: u2, resourceVersion: '{revision}', labels: {{kubernetes.io/service-name: web}}}}, \
         addressType: IPv4, ports: [{{name: '', port: 8080, protocol: UDP}}], endpoints: [{{addresses: [{address}]}}]}}"
    )
}

/// Asks again until the answer is the wanted one; what is waited for is the component, which says nothing when it is done.
async fn until(what: &str, mut ask: impl FnMut() -> Option<String>, wanted: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let got = ask();
        if got.as_deref() == Some(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {got:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const BRIEF: Duration = Duration::from_millis(50);

fn name(client: &Namespace) -> Option<String> {
    client.enter(|| name_from(&std::net::UdpSocket::bind("0.0.0.0:0").unwrap()))
}

fn name_from(socket: &std::net::UdpSocket) -> Option<String> {
    Some(support::ask_briefly(socket, "10.96.0.5:80", BRIEF).ok()?.split('@').next()?.to_owned())
}

#[test]
fn packets_and_names_follow_the_objects() {
    on_a_node(async || {
        let directory = tempfile::tempdir().unwrap();
        let network = PodNetwork::open(config(directory.path())).unwrap();
        let (one, _) = pod(&network, "one", vec![]).await;
        let (two, _) = pod(&network, "two", vec![]).await;
        let (client, _) = pod(&network, "client", vec![]).await;
        one.serve(8080, "one");
        two.serve(8080, "two");
        let api = Api::default();
        let caches = Caches::new(api.client());
        let node = Node { pods: vec!["10.42.0.0/24".parse().unwrap()], ..Node::default() };
        let proxy = tokio::spawn(proxy::run(caches.clone(), network.nft(), node));
        let zone =
            Zone { domain: "cluster.local".into(), addresses: vec!["10.96.0.10".parse().unwrap()], ranges: vec![] };
        let dns = Dns::bind(Config { zone, port: 53, resolv_conf: "/nonexistent".into() }).await.unwrap();
        let dns = tokio::spawn(dns.run(caches.clone()));
        for resource in ["services", "endpointslices", "namespaces"] {
            while !api.0.lock().unwrap().contains_key(resource) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        api.send("services", "ADDED", SERVICE);
        api.send("endpointslices", "ADDED", &slice(3, "10.42.0.2"));
        until("the first endpoint", || name(&client), "one").await;
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        until("a flow", || name_from(&socket), "one").await;
        api.send("endpointslices", "MODIFIED", &slice(4, "10.42.0.3"));
        until("the second endpoint", || name(&client), "two").await;
        until("a flow that goes on", || name_from(&socket), "two").await;
        support::run("nft", &["flush", "ruleset"]);
        until("rules that another program removed", || name(&client), "two").await;
        until("the name", resolve, "10.96.0.5").await;
        api.send("services", "DELETED", SERVICE);
        until("the name that is gone", resolve, "NXDomain").await;
        until("the rule that is gone", || name(&client).is_none().then(|| "none".to_owned()), "none").await;
        refused(client.ask("10.96.0.5:80"));
        proxy.abort();
        dns.abort();
    });
}

fn resolve() -> Option<String> {
    use hickory_proto::op::{Message, Query};
    let mut query = Message::query();
    query.add_query(Query::query("web.d.svc.cluster.local.".parse().unwrap(), hickory_proto::rr::RecordType::A));
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket.send_to(&query.to_vec().unwrap(), "10.96.0.10:53").unwrap();
    let mut buffer = vec![0; 512];
    let length = socket.recv(&mut buffer).ok()?;
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    let first = reply.answers.first().map(|record| record.data.to_string());
    Some(first.unwrap_or_else(|| format!("{:?}", reply.metadata.response_code)))
}
