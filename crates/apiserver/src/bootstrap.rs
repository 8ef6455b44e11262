//! The cluster's first objects, made at every start where they are missing.

use std::sync::Arc;

use api::{Status, Value};

use crate::rest::Call;
use crate::rest::create;
use crate::rest::prepare::Change;
use crate::server::Server;

/// Makes what is missing.
pub async fn run(server: &Arc<Server>) -> Result<(), Status> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(server, object).await?;
    }
    Ok(())
}

/// Creates an object unless one of its name is there.
async fn ensure(server: &Arc<Server>, object: Value) -> Result<(), Status> {
    let text = |field: &str| object[field].as_str().unwrap_or("").to_owned();
    let Some(kind) = server.catalog.load().by_kind(&text("apiVersion"), &text("kind")).cloned() else { return Ok(()) };
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("").to_owned();
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
    let call = Call::internal(server, kind, &namespace, &name);
    if server.store.get(&call.key()).is_some() {
        return Ok(());
    }
    match create::store(&call, object, &Change::new(&call), &mut Vec::new()).await {
        Err(status) if status.reason == api::status::Reason::AlreadyExists => Ok(()),
        other => other.map(|_| ()),
    }
}
