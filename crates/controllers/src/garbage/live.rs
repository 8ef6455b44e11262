//! The garbage collector's reads and writes of objects of any kind.

use client::{Item, Key, Owner};
use http::{Method, Request, header};
use serde_json::{Value, json};

use crate::{
    discovery::ResourceKind,
    frame::{Env, Error},
};

fn path(kind: &ResourceKind, key: &Key) -> String {
    format!("{}/{}", kind.path_in(&key.namespace), key.name)
}

async fn send(env: &Env, method: Method, path: &str, kind: &str, body: Option<Value>) -> Result<String, Error> {
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
    let request = request.header(header::CONTENT_TYPE, kind);
    let body = body.map(|body| serde_json::to_vec(&body)).transpose()?.unwrap_or_default();
    Ok(env.client.request_text(request.body(body).map_err(kube::Error::HttpError)?).await?)
}

/// The object's metadata as the server has it now.
pub(super) async fn get(env: &Env, kind: &ResourceKind, key: &Key) -> Result<Option<Item>, Error> {
    match send(env, Method::GET, &path(kind, key), "application/json", None).await {
        Ok(text) => Ok(Some(Item::from_json(&text)?)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes the very version that was looked at.
pub(super) async fn delete(env: &Env, kind: &ResourceKind, item: &Item, policy: &str) -> Result<(), Error> {
    let options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy,
        "preconditions": {"uid": item.uid, "resourceVersion": item.resource_version.to_string()},
    });
    gone_is_fine(send(env, Method::DELETE, &path(kind, &item.key), "application/json", Some(options)).await)
}

/// Replaces the object's owners, unless they were changed meanwhile.
pub(super) async fn set_owners(env: &Env, kind: &ResourceKind, item: &Item, owners: Vec<Owner>) -> Result<(), Error> {
    let owners: Vec<Value> = owners
        .iter()
        .map(|owner| {
            let mut reference = json!({
                "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
            });
            for (field, set) in [("controller", owner.controller), ("blockOwnerDeletion", owner.block_owner_deletion)] {
                if set {
                    reference[field] = true.into();
                }
            }
            reference
        })
        .collect();
    patch(env, kind, item, json!({"ownerReferences": owners})).await
}

pub(super) async fn remove_finalizer(env: &Env, kind: &ResourceKind, item: &Item, name: &str) -> Result<(), Error> {
    let finalizers: Vec<&str> =
        item.finalizers.iter().map(|finalizer| &**finalizer).filter(|known| *known != name).collect();
    patch(env, kind, item, json!({"finalizers": finalizers})).await
}

async fn patch(env: &Env, kind: &ResourceKind, item: &Item, mut metadata: Value) -> Result<(), Error> {
    metadata["uid"] = json!(item.uid);
    metadata["resourceVersion"] = json!(item.resource_version.to_string());
    let patch = json!({"metadata": metadata});
    gone_is_fine(send(env, Method::PATCH, &path(kind, &item.key), "application/merge-patch+json", Some(patch)).await)
}

fn gone_is_fine(answer: Result<String, Error>) -> Result<(), Error> {
    match answer {
        Err(error) if error.is_not_found() => Ok(()),
        answer => answer.map(|_| ()),
    }
}
