//! The node's lease: the heartbeat by which others see that it lives.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::Context;

const NAMESPACE: &str = "kube-node-lease";
/// How often it is renewed while it lasts.
const TIMES: u32 = 4;
const AGAIN: Duration = Duration::from_millis(500);

/// Renews the lease four times while it lasts, for ever.
pub async fn renew(context: Arc<Context>) {
    let (client, node) = (context.client.clone(), context.node_name.clone());
    let seconds = context.configuration.node_lease_duration_seconds;
    let every = Duration::from_secs(u64::from(seconds)) / TIMES;
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let mut exists = false;
    loop {
        let done = if exists { touch(&leases, &node).await } else { make(&client, &leases, &node, seconds).await };
        match done {
            Ok(()) => exists = true,
            Err(kube::Error::Api(status)) if status.code == 404 => exists = false,
            Err(error) => tracing::debug!(%error, "the node's lease cannot be renewed"),
        }
        tokio::time::sleep(if exists { every } else { AGAIN }).await;
    }
}

async fn touch(leases: &Api<Lease>, node: &str) -> kube::Result<()> {
    let patch = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
    leases.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
}

async fn make(client: &kube::Client, leases: &Api<Lease>, node: &str, seconds: u32) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let owner = nodes.get(node).await?;
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: owner.metadata.uid.unwrap_or_default(),
        ..Default::default()
    };
    let spec = LeaseSpec {
        holder_identity: Some(node.to_owned()),
        lease_duration_seconds: i32::try_from(seconds).ok(),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: Some(spec),
    };
    match leases.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => touch(leases, node).await,
        done => done.map(|_| ()),
    }
}
