//! `serviceaccounts/token`: a token for an account, bound to what the request names.

use api::validation::Errors;
use api::{Status, Value};
use http::StatusCode;
use serde_json::json;

use crate::access::token::{Bound, Claims, ISSUER, Reference};
use crate::admission::{Operation, admit};
use crate::clock;
use crate::rest::{Call, index, input, metadata, output};
use crate::wire::{Response, answer};

/// The shortest and the longest life of a token, in seconds.
const SHORTEST: i64 = 600;
const LONGEST: i64 = 1 << 32;
/// The life of one that asks for none.
const DEFAULT: i64 = 3600;

/// Signs a token as the body's TokenRequest wants it.
pub async fn request(call: &Call) -> Result<Response, Status> {
    let versions = ["authentication.k8s.io/v1"];
    let input::Input { object: mut request, mut warnings } = input::read_as(call, &versions, "TokenRequest")?;
    place(call, &mut request)?;
    if request["spec"]["expirationSeconds"].is_null() {
        request["spec"]["expirationSeconds"] = Value::from(DEFAULT);
    }
    let account = call.parse(&*call.entry()?)?;
    warnings.extend(admit(call, Operation::Create, &mut request).await?);
    let spec = &request["spec"];
    let life = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT);
    let mut errors = Errors::default();
    if life < SHORTEST {
        errors.invalid("spec.expirationSeconds", life, "may not specify a duration less than 10 minutes");
    } else if life > LONGEST {
        errors.invalid("spec.expirationSeconds", life, "may not specify a duration larger than 2^32 seconds");
    }
    errors.into_result("authentication.k8s.io", "TokenRequest", &call.info.name)?;
    let mut audiences: Vec<String> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let mut bound =
        Bound { namespace: call.info.namespace.clone(), serviceaccount: reference(&account), ..Bound::default() };
    let target = &spec["boundObjectRef"];
    if target.is_object() {
        bind(call, target, &mut bound)?;
    }
    let now = clock::seconds();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + life,
        iat: now,
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound,
        nbf: now,
        sub: format!("system:serviceaccount:{}:{}", call.info.namespace, call.info.name),
    };
    let token = call.server.tokens.sign(&claims)?;
    metadata::set(&mut request, "creationTimestamp", clock::now());
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = Value::from(life);
    request["status"] = json!({"token": token, "expirationTimestamp": clock::format(claims.exp)});
    let mut response = output::encode(call, StatusCode::CREATED, &request, false)?;
    answer::warn(&mut response, &warnings);
    Ok(response)
}

/// The request is for the account that the path names.
fn place(call: &Call, request: &mut Value) -> Result<(), Status> {
    for (field, own) in [("name", &call.info.name), ("namespace", &call.info.namespace)] {
        let sent = metadata::text(request, field);
        if !sent.is_empty() && sent != own {
            let what = if field == "name" { "name" } else { "namespace" };
            return Err(Status::bad_request(format!(
                "the {what} of the provided object does not match the {what} sent on the request"
            )));
        }
        metadata::set(request, field, own.as_str());
    }
    Ok(())
}

fn reference(object: &Value) -> Reference {
    Reference { name: metadata::text(object, "name").to_owned(), uid: metadata::text(object, "uid").to_owned() }
}

/// Binds the token to a pod of the account, a secret or a node.
fn bind(call: &Call, target: &Value, bound: &mut Bound) -> Result<(), Status> {
    let text = |field: &str| target[field].as_str().unwrap_or("");
    let (kind, name, namespace) = (text("kind"), text("name"), call.info.namespace.as_str());
    let (prefix, plural) = match (text("apiVersion"), kind) {
        ("v1", "Pod") => ("pods", "pods"),
        ("v1", "Secret") => ("secrets", "secrets"),
        ("v1", "Node") => ("minions", "nodes"),
        (version, _) => {
            return Err(Status::bad_request(format!(
                "cannot bind token for serviceaccount to kind {version}, Kind={kind}"
            )));
        }
    };
    let key = if kind == "Node" {
        format!("/registry/{prefix}/{name}")
    } else {
        format!("/registry/{prefix}/{namespace}/{name}")
    };
    let entry = call.server.store.get(&key).ok_or_else(|| Status::not_found("", plural, name))?;
    let uid = index::meta(&entry.value).uid().to_owned();
    let asked = text("uid");
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", plural, name, &why));
    }
    let found = Reference { name: name.to_owned(), uid };
    match kind {
        "Pod" => {
            let pod = crate::rest::parse(&entry.value)?;
            let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("");
            if account != call.info.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    call.info.name
                )));
            }
            if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
                let entry = call.server.store.get(&format!("/registry/minions/{node}"));
                let uid = entry.map(|e| index::meta(&e.value).uid().to_owned()).unwrap_or_default();
                bound.node = Some(Reference { name: node.to_owned(), uid });
            }
            bound.pod = Some(found);
        }
        "Secret" => bound.secret = Some(found),
        _ => bound.node = Some(found),
    }
    Ok(())
}
