//! Admission: what the cluster adds to an object before it is stored, and what it refuses. Each plugin is a file; the
//! chain holds them in upstream's order.

mod certificates;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
pub mod pods;
mod priority;
mod runtime_class;
mod service_account;
mod storage;

use api::{Status, Value};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::rest::Call;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// The write that is admitted.
pub struct Attributes<'c> {
    pub call: &'c Call,
    pub operation: Operation,
    pub subresource: &'c str,
    warnings: Mutex<Vec<String>>,
}

impl<'c> Attributes<'c> {
    pub fn new(call: &'c Call, operation: Operation, subresource: &'c str) -> Self {
        Attributes { call, operation, subresource, warnings: Mutex::default() }
    }

    /// Notes a text for a `Warning` header.
    pub fn warn(&self, text: String) {
        self.warnings.lock().push(text);
    }

    /// What the plugins have noted so far.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock())
    }

    /// Whether it is about the main resource of that group and plural.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.call.kind.group == group && self.call.kind.plural == plural && self.subresource.is_empty()
    }

    /// The 403 of a plugin that refuses.
    pub fn forbidden(&self, object: &Value, why: impl std::fmt::Display) -> Status {
        let name = object["metadata"]["name"].as_str().unwrap_or(&self.call.info.name);
        Status::forbidden(&self.call.kind.group, &self.call.kind.plural, name, &why.to_string())
    }
}

/// One plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Whether it has anything to do with the write.
    fn handles(&self, attributes: &Attributes) -> bool;

    /// Changes the object before it is validated.
    async fn mutate(&self, _: &Attributes<'_>, _old: Option<&Value>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the object, which no longer changes. For a delete, `object` is the old one.
    async fn validate(&self, _: &Attributes<'_>, _old: Option<&Value>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins in their order.
pub struct Chain(Vec<Box<dyn Plugin>>);

impl Chain {
    /// What upstream enables by default, as far as it is here.
    pub fn standard() -> Self {
        Chain(vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node_restriction::NodeRestriction),
            Box::new(pods::TaintNodesByCondition),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(pods::DefaultTolerationSeconds),
            Box::new(storage::DefaultStorageClass),
            Box::new(storage::StorageObjectInUseProtection),
            Box::new(storage::PersistentVolumeClaimResize),
            Box::new(storage::LocalVolumeRestriction),
            Box::new(runtime_class::RuntimeClass),
            Box::new(certificates::CertificateApproval),
            Box::new(certificates::CertificateSigning),
            Box::new(certificates::CertificateSubjectRestriction),
            Box::new(storage::DefaultIngressClass),
        ])
    }

    pub async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), Status> {
        for plugin in self.0.iter().filter(|plugin| plugin.handles(attributes)) {
            plugin.mutate(attributes, old, object).await?;
        }
        Ok(())
    }

    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        old: Option<&Value>,
        object: &Value,
    ) -> Result<(), Status> {
        for plugin in self.0.iter().filter(|plugin| plugin.handles(attributes)) {
            plugin.validate(attributes, old, object).await?;
        }
        Ok(())
    }
}
