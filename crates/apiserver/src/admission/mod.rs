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

use std::fmt::Write;
use std::time::Instant;

use api::{Status, Value};
use async_trait::async_trait;
use client::metrics::Histogram;

pub use attributes::{Attributes, Operation};

use crate::rest::Call;

/// Upper bounds of what a step takes, in seconds.
const BOUNDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];

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
pub struct Chain {
    plugins: Vec<Member>,
    mutating: Steps,
    validating: Steps,
}

struct Member {
    name: &'static str,
    plugin: Box<dyn Plugin>,
    mutating: Steps,
    validating: Steps,
}

/// How long a step took, by operation and by whether it refused.
type Steps = [[Histogram<{ BOUNDS.len() }>; 2]; 4];

fn steps() -> Steps {
    std::array::from_fn(|_| std::array::from_fn(|_| Histogram::new(&BOUNDS)))
}

fn record(steps: &Steps, operation: Operation, started: Instant, outcome: &Result<(), Status>) {
    steps[operation as usize][usize::from(outcome.is_err())].record(started.elapsed().as_secs_f64());
}

impl Chain {
    /// What upstream enables by default, as far as it is here.
    pub fn standard() -> Self {
        let plugins: Vec<(_, Box<dyn Plugin>)> = vec![
            ("NamespaceLifecycle", Box::new(namespace_lifecycle::NamespaceLifecycle)),
            ("LimitRanger", Box::new(limit_ranger::LimitRanger)),
            ("ServiceAccount", Box::new(service_account::ServiceAccount)),
            ("NodeRestriction", Box::new(node_restriction::NodeRestriction)),
            ("TaintNodesByCondition", Box::new(pods::TaintNodesByCondition)),
            ("PodSecurity", Box::new(pod_security::PodSecurity)),
            ("Priority", Box::new(priority::Priority)),
            ("DefaultTolerationSeconds", Box::new(pods::DefaultTolerationSeconds)),
            ("DefaultStorageClass", Box::new(storage::DefaultStorageClass)),
            ("StorageObjectInUseProtection", Box::new(storage::StorageObjectInUseProtection)),
            ("PersistentVolumeClaimResize", Box::new(storage::PersistentVolumeClaimResize)),
            ("LocalVolumeRestriction", Box::new(storage::LocalVolumeRestriction)),
            ("RuntimeClass", Box::new(runtime_class::RuntimeClass)),
            ("CertificateApproval", Box::new(certificates::CertificateApproval)),
            ("CertificateSigning", Box::new(certificates::CertificateSigning)),
            ("CertificateSubjectRestriction", Box::new(certificates::CertificateSubjectRestriction)),
            ("DefaultIngressClass", Box::new(storage::DefaultIngressClass)),
            ("PodTopologyLabels", Box::new(pods::PodTopologyLabels)),
        ];
        let member = |(name, plugin)| Member { name, plugin, mutating: steps(), validating: steps() };
        Chain { plugins: plugins.into_iter().map(member).collect(), mutating: steps(), validating: steps() }
    }

    pub async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        old: Option<&Value>,
        object: &mut Value,
    ) -> Result<(), Status> {
        let began = Instant::now();
        let mut outcome = Ok(());
        for member in self.plugins.iter().filter(|member| member.plugin.handles(attributes)) {
            let started = Instant::now();
            outcome = member.plugin.mutate(attributes, old, object).await;
            record(&member.mutating, attributes.operation, started, &outcome);
            if outcome.is_err() {
                break;
            }
        }
        record(&self.mutating, attributes.operation, began, &outcome);
        outcome
    }

    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        old: Option<&Value>,
        object: &Value,
    ) -> Result<(), Status> {
        let began = Instant::now();
        let mut outcome = Ok(());
        for member in self.plugins.iter().filter(|member| member.plugin.handles(attributes)) {
            let started = Instant::now();
            outcome = member.plugin.validate(attributes, old, object).await;
            record(&member.validating, attributes.operation, started, &outcome);
            if outcome.is_err() {
                break;
            }
        }
        record(&self.validating, attributes.operation, began, &outcome);
        outcome
    }

    /// Writes how long the steps took, in Prometheus' text format.
    pub fn report(&self, out: &mut String) {
        let name = "apiserver_admission_step_admission_duration_seconds";
        let help = "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (kind, steps) in [("admit", &self.mutating), ("validate", &self.validating)] {
            write(out, name, &format!("type=\"{kind}\""), steps);
        }
        let name = "apiserver_admission_controller_admission_duration_seconds";
        let help = "Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for member in &self.plugins {
            for (kind, steps) in [("admit", &member.mutating), ("validate", &member.validating)] {
                write(out, name, &format!("name=\"{}\",type=\"{kind}\"", member.name), steps);
            }
        }
    }

    /// Admits a delete of the object.
    pub async fn delete(&self, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
        self.mutate(attributes, Some(object), &mut Value::Null).await?;
        self.validate(attributes, Some(object), object).await
    }
}

fn write(out: &mut String, name: &str, labels: &str, steps: &Steps) {
    let operations = [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];
    for (operation, outcomes) in operations.into_iter().zip(steps) {
        for (rejected, histogram) in [false, true].into_iter().zip(outcomes).filter(|(_, h)| h.count() > 0) {
            let labels = format!("{labels},operation=\"{}\",rejected=\"{rejected}\"", operation.as_str());
            histogram.write(out, name, &labels);
        }
    }
}

/// Admits what is posted to a subresource or to a kind that is never stored, and the options of a stream. Gives the warnings.
pub async fn admit(call: &Call, operation: Operation, object: &mut Value) -> Result<Vec<String>, Status> {
    let attributes = Attributes::new(call, operation, &call.info.subresource);
    call.server.admission.mutate(&attributes, None, object).await?;
    call.server.admission.validate(&attributes, None, object).await?;
    Ok(attributes.take_warnings())
}
