//! The use of tokens that Secrets hold. The day on which one was used last is noted on its Secret, since a controller marks
//! those that nobody uses; one that it has marked is not believed.

use std::sync::Arc;

use api::{Status, Value};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Identity;

use super::token::Reference;
use crate::clock;
use crate::rest::{Call, index, parse, update};
use crate::server::Server;

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Who a token says its bearer is, and for which of the wanted audiences; 401 where it is not to be believed.
pub fn authenticate(
    server: &Arc<Server>,
    token: &str,
    audiences: &[String],
) -> Result<(Identity, Vec<String>), Status> {
    let believed = server.tokens.authenticate(&server.store, token, audiences)?;
    if let Some(secret) = &believed.claims.bound.secret {
        note(server, &believed.claims.bound.namespace, secret, token)?;
    }
    Ok((believed.identity, believed.audiences))
}

/// Notes that a Secret's token is used today, once a day.
fn note(server: &Arc<Server>, namespace: &str, secret: &Reference, token: &str) -> Result<(), Status> {
    let Some(kind) = server.catalog.load().get("", "v1", "secrets").cloned() else { return Ok(()) };
    let call = Call::internal(server, kind, namespace, &secret.name);
    let entry = call.entry().map_err(|_| Status::unauthorized())?;
    let labels = index::index(&entry, &call.stored).labels.as_ref();
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).and_then(Value::as_str);
    let today = clock::now().split('T').next().unwrap_or_default().to_owned();
    let is_noted = label(LAST_USED).is_some_and(|last| *last >= *today);
    if is_noted && label(INVALID_SINCE).is_none() || !holds(&parse(&entry.value)?, token) {
        return Ok(());
    }
    if label(INVALID_SINCE).is_some() {
        tracing::warn!(namespace, secret = secret.name, "a token that has been marked invalid was used");
        return Err(Status::unauthorized());
    }
    tokio::spawn(async move {
        let noted = update::rewrite(&call, "", |secret| {
            secret["metadata"]["labels"][LAST_USED] = today.clone().into();
            Ok(())
        });
        if let Err(status) = noted.await {
            tracing::warn!(error = status.message, secret = call.key(), "the use of a token could not be noted");
        }
    });
    Ok(())
}

/// Whether this is the Secret's token: one that was only bound to the Secret is not kept in it.
fn holds(secret: &Value, token: &str) -> bool {
    secret["type"] == "kubernetes.io/service-account-token" && secret["data"]["token"] == STANDARD.encode(token)
}
