//! Keeps priority and fairness as the objects in the store say, keeps the default objects there, and says of each FlowSchema
//! whether its level exists.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use api::status::Reason;
use api::{Status, Value};
use serde_json::json;
use store::{Store, Watch};

use super::defaults::{self, AUTOUPDATE, Always};
use super::levels::Limits;
use super::schemas::Schemas;
use crate::clock;
use crate::rest::prepare::Change;
use crate::rest::{Call, create, metadata, prefix, store_error, update};
use crate::server::Server;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// Makes the default objects, and follows all objects from then on.
pub async fn start(server: &Arc<Server>) -> Result<(), Status> {
    reconcile(server).await?;
    let (server, stopping) = (Arc::downgrade(server), server.stopping.clone());
    tokio::spawn(async move { stopping.run_until_cancelled(follow(server)).await });
    Ok(())
}

/// Ends when the server is gone or its store is closed.
async fn follow(server: Weak<Server>) {
    loop {
        let Some(mut watches) = server.upgrade().and_then(|server| watch(&server)) else { return };
        // What happened before the watches began.
        if !look(&server).await {
            return;
        }
        loop {
            let [schemas, levels] = &mut watches;
            let news = tokio::select! {
                news = schemas.next() => news,
                news = levels.next() => news,
            };
            match news {
                None => return,
                Some(Err(_)) => break,
                Some(Ok(_)) if !look(&server).await => return,
                Some(Ok(_)) => {}
            }
        }
    }
}

fn watch(server: &Server) -> Option<[Watch; 2]> {
    let store: &Store = &server.store;
    let watch =
        |plural| store.watch(&prefix(server.catalog.load().get(GROUP, "v1", plural)?, ""), store.revision()).ok();
    Some([watch("flowschemas")?, watch("prioritylevelconfigurations")?])
}

/// False when there is no server any more.
async fn look(server: &Weak<Server>) -> bool {
    let Some(server) = server.upgrade() else { return false };
    if let Err(status) = reconcile(&server).await {
        tracing::warn!(error = status.message, "priority and fairness could not be brought up to date");
    }
    true
}

async fn reconcile(server: &Arc<Server>) -> Result<(), Status> {
    for default in defaults::all() {
        keep(server, default).await?;
    }
    let schemas = objects(server, "flowschemas")?;
    let levels = objects(server, "prioritylevelconfigurations")?;
    let levels: HashMap<String, Value> =
        levels.into_iter().map(|level| (metadata::text(&level, "name").to_owned(), level)).collect();
    server.flow.levels.configure(Limits::of(levels.iter()));
    let before = server.flow.schemas.load_full();
    server.flow.schemas.store(Arc::new(Schemas::new(&schemas, &levels, &before)));
    for schema in &schemas {
        tell_dangling(server, schema, &levels).await?;
    }
    Ok(())
}

fn objects(server: &Arc<Server>, plural: &str) -> Result<Vec<Value>, Status> {
    let catalog = server.catalog.load();
    let Some(kind) = catalog.get(GROUP, "v1", plural) else { return Ok(Vec::new()) };
    let call = Call::internal(server, kind.clone(), "", "");
    let all = server.store.snapshot(&prefix(kind, ""), None).map_err(store_error)?;
    all.iter().map(|entry| call.parse(entry)).collect()
}

fn call(server: &Arc<Server>, object: &Value) -> Option<Call> {
    let kind = server.catalog.load().by_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)?.clone();
    Some(Call::internal(server, kind, "", metadata::text(object, "name")))
}

/// Makes a default object that is missing, and takes back a spec that is ours.
async fn keep(server: &Arc<Server>, default: Always) -> Result<(), Status> {
    let mut wanted = default.object;
    let Some(call) = call(server, &wanted) else { return Ok(()) };
    let Some(entry) = server.store.get(&call.key()) else {
        return match create::store(&call, wanted, &Change::new(&call), &mut Vec::new()).await {
            Err(status) if status.reason != Reason::AlreadyExists => Err(status),
            _ => Ok(()),
        };
    };
    let found = call.parse(&entry)?;
    let updated = found["metadata"]["annotations"][AUTOUPDATE] == "true";
    let ours = default.mandatory || updated;
    // What the exempt level lends is the administrator's to say, unless it is left to us.
    let lends = found["spec"].get("exempt").filter(|_| !updated && wanted["kind"] == "PriorityLevelConfiguration");
    if let Some(exempt) = lends {
        wanted["spec"]["exempt"] = exempt.clone();
    }
    if !ours || found["spec"] == wanted["spec"] || metadata::is_deleting(&found) {
        return Ok(());
    }
    gone_is_fine(
        update::rewrite(&call, "", |stored| {
            stored["spec"] = wanted["spec"].clone();
            Ok(())
        })
        .await,
    )
}

fn gone_is_fine(result: Result<u64, Status>) -> Result<(), Status> {
    match result {
        Err(status) if status.reason != Reason::NotFound => Err(status),
        _ => Ok(()),
    }
}

/// The `Dangling` condition.
async fn tell_dangling(server: &Arc<Server>, schema: &Value, levels: &HashMap<String, Value>) -> Result<(), Status> {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or("");
    let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = match levels.contains_key(level) {
        true => ("False", "Found", format!("{about} and it exists")),
        false => ("True", "NotFound", format!("{about} but there is no such object")),
    };
    let conditions = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let known = conditions.iter().find(|condition| condition["type"] == "Dangling");
    if known.is_some_and(|known| known["status"] == status && known["message"] == message.as_str()) {
        return Ok(());
    }
    let Some(call) = call(server, schema) else { return Ok(()) };
    let condition = json!({
        "type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": clock::now(),
    });
    gone_is_fine(
        update::rewrite(&call, "status", |stored| {
            let mut conditions = stored["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|condition| condition["type"] != "Dangling");
            conditions.push(condition.clone());
            stored["status"]["conditions"] = Value::Array(conditions);
            Ok(())
        })
        .await,
    )
}
