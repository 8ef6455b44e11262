//! Admission: what the cluster adds to an object before it is stored, and what it refuses. Each plugin is a file; the
//! chain holds them in upstream's order.

mod attributes;
mod certificates;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod pods;
mod priority;
mod runtime_class;
mod service_account;
mod storage;

use api::{Status, Value};
use async_trait::async_trait;

pub use attributes::{Attributes, Operation};

use crate::rest::Call;

/// One plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Whether it has anything to do with the write.
    fn handles(&self, attributes: &Attributes) -> bool;

    /// Changes the object before it is validated. For a delete there is none: `object` is null.
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
            Box::new(pods::PodTopologyLabels),
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

    /// Admits a delete of the object.
    pub async fn delete(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
        self.mutate(attributes, Some(object), &mut Value::Null).await?;
        self.validate(attributes, Some(object), object).await
    }
}

/// Admits what is posted to a subresource or to a kind that is never stored, and the options of a stream. Gives the warnings.
pub async fn admit(call: &Call, operation: Operation, object: &mut Value) -> Result<Vec<String>, Status> {
    let attributes = Attributes::new(call, operation, &call.info.subresource);
    call.server.admission.mutate(&attributes, None, object).await?;
    call.server.admission.validate(&attributes, None, object).await?;
    Ok(attributes.take_warnings())
}
