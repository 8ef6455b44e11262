//! Repair of ports that services hold and nobody has recorded, and the other way round.

mod harness;

use std::time::{Duration, Instant};

use harness::{Cluster, send};
use serde_json::json;
use store::{Op, Store, Txn};

const SERVICES: &str = "/api/v1/namespaces/default/services";

#[tokio::test]
async fn a_server_records_the_ports_that_its_services_hold_and_releases_what_none_does() {
    let store = Store::memory();
    let first = Cluster::with(store.clone(), None).await;
    let body = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}}).to_string();
    let (code, service) = send(&first.admin(), "POST", SERVICES, "application/json", &body).await;
    assert_eq!(code, 201, "{service}");
    let held = format!("/registry/servicenodeports/{}", service["spec"]["ports"][0]["nodePort"]);
    let stale = "/registry/servicenodeports/32000";
    let ops = vec![Op::delete(held.as_str()), Op::put(stale, br#"{"namespace":"default","name":"gone"}"#.to_vec())];
    store.commit(Txn { guards: Vec::new(), ops }).await.expect("stored");
    first.server.shutdown().await;
    let _second = Cluster::with(store.clone(), None).await;
    let since = Instant::now();
    while store.get(&held).is_none() || store.get(stale).is_some() {
        assert!(since.elapsed() < Duration::from_secs(30), "nothing was repaired");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
