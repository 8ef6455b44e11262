//! Tokens for nodes: only for a pod of theirs, known by its uid, and for an audience that the pod's volumes ask for.

use api::{Status, Value};

use super::Decision;
use crate::admission::Attributes;
use crate::rest::parse;
use crate::server::Server;

/// Whether the node may have the token that a TokenRequest asks for.
pub fn token(attributes: &Attributes, node: &str, request: &Value) -> Result<Decision, Status> {
    let spec = &request["spec"];
    let target = &spec["boundObjectRef"];
    let text = |field: &str| target[field].as_str().unwrap_or("");
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || text("name").is_empty() {
        return Ok(Err("node requested token not bound to a pod".to_owned()));
    }
    if text("uid").is_empty() {
        return Ok(Err("node requested token with a pod binding without a uid".to_owned()));
    }
    let server = &attributes.call.server;
    let (namespace, name) = (attributes.namespace(), text("name"));
    let Some(pod) = read(server, &format!("/registry/pods/{namespace}/{name}"))? else {
        return Err(Status::not_found("", "pods", name));
    };
    let uid = text("uid");
    if pod["metadata"]["uid"] != uid {
        return Ok(Err(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    if pod["spec"]["nodeName"] != node {
        return Ok(Err("node requested token bound to a pod scheduled on a different node".to_owned()));
    }
    let audience = match spec["audiences"].as_array().map(Vec::as_slice).unwrap_or_default() {
        [] => "",
        [one] => one.as_str().unwrap_or(""),
        _ => return Ok(Err("node may only request 0 or 1 audiences".to_owned())),
    };
    if wants(server, namespace, &pod, audience)? {
        return Ok(Ok(()));
    }
    Ok(Err(format!("audience {audience:?} not found in pod spec volume")))
}

fn read(server: &Server, key: &str) -> Result<Option<Value>, Status> {
    server.store.get(key).map(|entry| parse(&entry.value)).transpose()
}

fn each<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value[field].as_array().into_iter().flatten()
}

/// Whether a volume of the pod is given tokens of that audience: a projected one, or one whose CSI driver asks for them.
fn wants(server: &Server, namespace: &str, pod: &Value, audience: &str) -> Result<bool, Status> {
    let is = |value: &Value| value.as_str().unwrap_or("") == audience;
    for volume in each(&pod["spec"], "volumes") {
        let mut projected = each(&volume["projected"], "sources").map(|source| &source["serviceAccountToken"]);
        if projected.any(|token| token.is_object() && is(&token["audience"])) {
            return Ok(true);
        }
        let Some(driver) = driver(server, namespace, pod, volume)? else { continue };
        let driver = read(server, &format!("/registry/csidrivers/{driver}"))?.unwrap_or_default();
        if each(&driver["spec"], "tokenRequests").any(|request| is(&request["audience"])) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The CSI driver behind a volume: its own, or its claim's.
fn driver(server: &Server, namespace: &str, pod: &Value, volume: &Value) -> Result<Option<String>, Status> {
    if let Some(driver) = volume["csi"]["driver"].as_str() {
        return Ok(Some(driver.to_owned()));
    }
    let claim = match volume["persistentVolumeClaim"]["claimName"].as_str() {
        Some(name) => name.to_owned(),
        None if volume["ephemeral"].is_object() => {
            let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
            format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]))
        }
        None => return Ok(None),
    };
    let claim = read(server, &format!("/registry/persistentvolumeclaims/{namespace}/{claim}"))?.unwrap_or_default();
    let Some(name) = claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty()) else { return Ok(None) };
    let volume = read(server, &format!("/registry/persistentvolumes/{name}"))?.unwrap_or_default();
    Ok(volume["spec"]["csi"]["driver"].as_str().map(str::to_owned))
}
