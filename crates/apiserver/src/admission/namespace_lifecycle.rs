//! NamespaceLifecycle: nothing is made in a namespace that is missing or going, and the first namespaces stay.

use api::status::Cause;
use api::{Status, Value};
use async_trait::async_trait;

use super::{Attributes, Operation, Plugin};
use crate::rest::index;

/// Namespaces that cannot be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn handles(&self, attributes: &Attributes) -> bool {
        match attributes.operation {
            // Questions of access are answered anywhere.
            Operation::Create => {
                attributes.call.kind.namespaced && !attributes.is("authorization.k8s.io", "localsubjectaccessreviews")
            }
            Operation::Delete => attributes.is("", "namespaces"),
            Operation::Update | Operation::Connect => false,
        }
    }

    async fn mutate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &mut Value) -> Result<(), Status> {
        if attributes.operation != Operation::Create {
            return Ok(());
        }
        let namespace = &attributes.call.info.namespace;
        let entry = attributes.call.server.store.get(&format!("/registry/namespaces/{namespace}"));
        let entry = entry.ok_or_else(|| Status::not_found("", "namespaces", namespace))?;
        if index::meta(&entry.value).deleted().is_none() {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut status = attributes.forbidden(object, why);
        status.details.get_or_insert_default().causes.push(Cause {
            reason: "NamespaceTerminating".to_owned(),
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        });
        Err(status)
    }

    async fn validate(&self, attributes: &Attributes<'_>, _: Option<&Value>, object: &Value) -> Result<(), Status> {
        let name = object["metadata"]["name"].as_str().unwrap_or("");
        if attributes.operation == Operation::Delete && IMMORTAL.contains(&name) {
            return Err(attributes.forbidden(object, "this namespace may not be deleted"));
        }
        Ok(())
    }
}
