//! Reviews: who a token is, who I am, and who may do what.

use api::{Status, Value};
use client::Identity;
use http::StatusCode;
use serde_json::json;

use crate::access::authorization::allowed;
use crate::access::grants;
use crate::access::token::ISSUER;
use crate::admission::{Operation, admit};
use crate::rest::{Call, input, output};
use crate::wire::answer::warn;
use crate::wire::{RequestInfo, Response};

/// `TokenReview`.
pub async fn token(call: &Call) -> Result<Response, Status> {
    let (mut review, warnings) = read(call).await?;
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let token = review["spec"]["token"].as_str().unwrap_or("").to_owned();
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let mut audiences = texts(&review["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    review["status"] = match crate::access::usage::authenticate(&call.server, &token, &audiences) {
        Ok((mut identity, audiences)) => {
            identity.groups.push(crate::access::AUTHENTICATED.to_owned());
            json!({"authenticated": true, "user": user_info(&identity), "audiences": audiences})
        }
        Err(_) => json!({"user": {}, "error": "[invalid bearer token]"}),
    };
    answer(call, review, &warnings)
}

/// `SelfSubjectReview`.
pub async fn oneself(call: &Call) -> Result<Response, Status> {
    let (mut review, warnings) = read(call).await?;
    review["status"] = json!({"userInfo": user_info(&call.user)});
    answer(call, review, &warnings)
}

/// `SelfSubjectRulesReview`.
pub async fn rules(call: &Call) -> Result<Response, Status> {
    let (mut review, warnings) = read(call).await?;
    if review["spec"]["namespace"].as_str().is_none_or(str::is_empty) {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (resources, paths) = grants::rules(&call.user);
    review["status"] = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    answer(call, review, &warnings)
}

/// The three access reviews.
pub async fn access(call: &Call) -> Result<Response, Status> {
    let (mut review, warnings) = read(call).await?;
    let spec = &review["spec"];
    let oneself = call.info.resource == "selfsubjectaccessreviews";
    let user = if oneself { Identity::clone(&call.user) } else { subject(spec) };
    let mut errors = api::validation::Errors::default();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == path.is_object() {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        errors.invalid("spec.resourceAttributes", spec["resourceAttributes"].to_string().as_str(), why);
    }
    if !oneself && user.name.is_empty() && user.groups.is_empty() {
        errors.invalid("spec.user", "", "at least one of user or group must be specified");
    }
    if call.info.resource == "localsubjectaccessreviews"
        && resource["namespace"].as_str().unwrap_or("") != call.info.namespace
    {
        errors.invalid(
            "spec.resourceAttributes.namespace",
            resource["namespace"].as_str().unwrap_or(""),
            "must match metadata.namespace",
        );
    }
    errors.into_result("authorization.k8s.io", &call.kind.kind, "")?;
    let info = if resource.is_object() { attributes(resource) } else { path_attributes(path) };
    let mut status = json!({"allowed": allowed(&call.server, &user, &info)});
    if status["allowed"] == true {
        status["reason"] = Value::from("");
    }
    review["status"] = status;
    answer(call, review, &warnings)
}

/// The review that is sent, admitted, and what its sender is warned of.
async fn read(call: &Call) -> Result<(Value, Vec<String>), Status> {
    let input::Input { mut object, mut warnings } = input::read(call)?;
    warnings.extend(admit(call, Operation::Create, &mut object).await?);
    Ok((object, warnings))
}

fn answer(call: &Call, mut review: Value, warnings: &[String]) -> Result<Response, Status> {
    if let Some(metadata) = crate::rest::metadata::metadata_mut(&mut review) {
        metadata.entry("creationTimestamp").or_insert(Value::Null);
    }
    let mut response = output::encode(call, StatusCode::CREATED, &review, true)?;
    warn(&mut response, warnings);
    Ok(response)
}

fn user_info(user: &Identity) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = Value::from(user.uid.as_str());
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

fn subject(spec: &Value) -> Identity {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra = spec["extra"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), texts(value)));
    Identity {
        name: spec["user"].as_str().unwrap_or("").to_owned(),
        uid: spec["uid"].as_str().unwrap_or("").to_owned(),
        groups: texts(&spec["groups"]),
        extra: extra.collect(),
    }
}

/// The verbs that may be asked for; what is none of them nobody may do.
const VERBS: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
    "approve",
    "sign",
    "use",
    "proxy",
    "attest",
    "*",
];
const PLAIN_VERBS: &[&str] = &["get", "head", "post", "put", "patch", "delete", "options", "*"];

fn known(verbs: &[&'static str], verb: &Value) -> &'static str {
    let verb = verb.as_str().unwrap_or("");
    verbs.iter().find(|v| **v == verb).copied().unwrap_or("other")
}

fn attributes(resource: &Value) -> RequestInfo {
    let text = |field: &str| resource[field].as_str().unwrap_or("").to_owned();
    RequestInfo {
        resource_request: true,
        verb: known(VERBS, &resource["verb"]),
        group: text("group"),
        version: text("version"),
        namespace: text("namespace"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        ..RequestInfo::default()
    }
}

fn path_attributes(path: &Value) -> RequestInfo {
    RequestInfo {
        verb: known(PLAIN_VERBS, &path["verb"]),
        path: path["path"].as_str().unwrap_or("").to_owned(),
        ..RequestInfo::default()
    }
}
