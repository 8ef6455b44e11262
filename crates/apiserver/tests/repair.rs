//! Repair of what services hold and nobody has recorded, and the other way round.

mod harness;

use std::time::{Duration, Instant};

use harness::{Cluster, get, send};
use serde_json::{Value, json};
use store::{Op, Store, Txn};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

#[tokio::test]
async fn a_server_records_what_its_services_hold_and_releases_what_none_does() {
    let store = Store::memory();
    let first = Cluster::with(store.clone(), None).await;
    let body = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}).to_string();
    let (code, service) = send(&first.admin(), "POST", SERVICES, "application/json", &body).await;
    assert_eq!(code, 201, "{service}");
    let address = service["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let port = format!("/registry/servicenodeports/{}", service["spec"]["ports"][0]["nodePort"]);
    let (held, stale) = (format!("/registry/ipaddresses/{address}"), "/registry/ipaddresses/10.96.77.77");
    let mut copy: Value = serde_json::from_slice(&store.get(&held).expect("recorded").value).expect("JSON");
    copy["metadata"]["name"] = "10.96.77.77".into();
    copy["spec"]["parentRef"]["name"] = "gone".into();
    let ops = vec![
        Op::delete(held.as_str()),
        Op::delete(port.as_str()),
        Op::put(stale, copy.to_string().into_bytes()),
        Op::put("/registry/servicenodeports/32000", br#"{"namespace":"default","name":"gone"}"#.to_vec()),
    ];
    store.commit(Txn { guards: Vec::new(), ops }).await.expect("stored");
    first.server.shutdown().await;
    let second = Cluster::with(store.clone(), None).await;
    let since = Instant::now();
    let repaired = || {
        let there = |key: &str| store.get(key).is_some();
        there(&held) && there(&port) && !there(stale) && !there("/registry/servicenodeports/32000")
    };
    while !repaired() {
        assert!(since.elapsed() < Duration::from_secs(30), "nothing was repaired");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (code, record) = get(&second.admin(), &format!("{ADDRESSES}/{address}")).await;
    assert_eq!(code, 200, "{record}");
    let record: Value = serde_json::from_str(&record).expect("JSON");
    assert_eq!(record["spec"]["parentRef"]["name"], "s");
}
