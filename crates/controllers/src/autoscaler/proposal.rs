//! What each metric of an autoscaler calls for, and what its status says of it.

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HPAScalingRules,
            HorizontalPodAutoscaler, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget, MetricValueStatus,
            ObjectMetricSource, ObjectMetricStatus, PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
        },
        core::v1::Pod,
    },
    apimachinery::pkg::api::resource::Quantity,
    jiff::Timestamp,
};

use super::{
    metrics,
    replicas::{self, Proposal, Resource, Samples, Target, Tolerance},
    target::Scale,
};
use crate::{discovery::Directory, frame::Env, owner::Named};

/// What a proposal is made from.
pub(super) struct Asked<'a> {
    pub env: &'a Env,
    pub directory: &'a Directory,
    pub scale: &'a Scale,
    /// Those that the target selects.
    pub pods: &'a [Pod],
}

/// What all metrics together call for.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The number, and the metric that wants it; or the reason and message of the first metric that could not be used.
    pub outcome: Result<(i32, String), (&'static str, String)>,
    pub measured: Vec<MetricStatus>,
    /// Reason and message for each metric that could not be used.
    pub events: Vec<(&'static str, String)>,
}

/// One metric's number, its name in events, and its status.
type Measured = (Proposal, String, MetricStatus);

/// A failure with the reason that events and conditions give.
type Failed = (&'static str, String);

fn milli(quantity: Option<&Quantity>) -> Option<i64> {
    replicas::milli(&quantity?.0)
}

fn quantity(milli: i64) -> Quantity {
    Quantity(api::quantity::Quantity::from_milli(milli, api::quantity::Format::DecimalSi).to_string())
}

fn average(proposal: Proposal) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(quantity(proposal.value)),
        value: None,
    }
}

fn value(proposal: Proposal) -> MetricValueStatus {
    MetricValueStatus { value: Some(quantity(proposal.value)), ..MetricValueStatus::default() }
}

/// How `%+v` of Go shows a metric's selector, which events have had ever since.
fn shown(metric: &MetricIdentifier) -> String {
    match metrics::text(metric.selector.as_ref()) {
        Ok(text) if metric.selector.is_some() => format!("external metric {}({text})", metric.name),
        _ => format!("external metric {}(nil)", metric.name),
    }
}

impl Asked<'_> {
    /// Asks for every metric of the autoscaler; the one that wants most replicas counts.
    pub async fn all(&self, autoscaler: &HorizontalPodAutoscaler) -> Verdict {
        let mut verdict = Verdict { outcome: Ok((0, String::new())), measured: Vec::new(), events: Vec::new() };
        let tolerance = tolerance(autoscaler);
        let specs: Vec<&MetricSpec> = autoscaler.spec.metrics.iter().flatten().collect();
        let mut best: Option<(i32, String)> = None;
        for spec in &specs {
            match self.one(autoscaler.namespace(), spec, tolerance).await {
                Ok((proposal, name, status)) => {
                    verdict.measured.push(status);
                    if best.as_ref().is_none_or(|(most, _)| proposal.replicas > *most) {
                        best = Some((proposal.replicas, name));
                    }
                }
                Err(failed) => verdict.events.push(failed),
            }
        }
        // With some metrics unknown it is never right to shrink.
        let shrinks = best.as_ref().is_some_and(|(replicas, _)| *replicas < self.scale.replicas);
        verdict.outcome = match (best, verdict.events.first()) {
            (Some(best), None) => Ok(best),
            (Some(best), Some(_)) if !shrinks => Ok(best),
            (_, Some(first)) => Err(first.clone()),
            (None, None) => Err(("InvalidMetricSourceType", "no metrics are asked for".to_owned())),
        };
        verdict
    }

    async fn one(&self, namespace: &str, spec: &MetricSpec, tolerance: Tolerance) -> Result<Measured, Failed> {
        if let Some(source) = &spec.resource {
            let resource = Resource { name: &source.name, container: "" };
            let (proposal, name) = self.resource(namespace, resource, &source.target, tolerance).await?;
            let status = ResourceMetricStatus { name: source.name.clone(), current: average(proposal) };
            let status = MetricStatus { resource: Some(status), ..of_type(spec) };
            return Ok((proposal, name, status));
        }
        if let Some(source) = &spec.container_resource {
            let resource = Resource { name: &source.name, container: &source.container };
            let (proposal, name) = self.resource(namespace, resource, &source.target, tolerance).await?;
            let status = ContainerResourceMetricStatus {
                container: source.container.clone(),
                name: source.name.clone(),
                current: average(proposal),
            };
            let status = MetricStatus { container_resource: Some(status), ..of_type(spec) };
            return Ok((proposal, name, status));
        }
        if let Some(source) = &spec.pods {
            let made = self.pods(namespace, source, tolerance).await;
            let proposal =
                made.map_err(|why| ("FailedGetPodsMetric", format!("failed to get pods metric value: {why}")))?;
            let status = PodsMetricStatus { metric: source.metric.clone(), current: average(proposal) };
            let status = MetricStatus { pods: Some(status), ..of_type(spec) };
            return Ok((proposal, format!("pods metric {}", source.metric.name), status));
        }
        if let Some(source) = &spec.object {
            let made = self.object(namespace, source, tolerance).await;
            let (proposal, current, name) =
                made.map_err(|why| ("FailedGetObjectMetric", format!("failed to get object metric value: {why}")))?;
            let described_object = source.described_object.clone();
            let status = ObjectMetricStatus { described_object, metric: source.metric.clone(), current };
            return Ok((proposal, name, MetricStatus { object: Some(status), ..of_type(spec) }));
        }
        if let Some(source) = &spec.external {
            let made = self.external(namespace, source, tolerance).await;
            let (proposal, current) = made.map_err(|why| ("FailedGetExternalMetric", why))?;
            let status = ExternalMetricStatus { metric: source.metric.clone(), current };
            return Ok((proposal, shown(&source.metric), MetricStatus { external: Some(status), ..of_type(spec) }));
        }
        Err(("InvalidMetricSourceType", format!("unknown metric source type {:?}", spec.type_)))
    }

    /// A metric that each of the pods has of its own.
    fn of_pods(
        &self,
        samples: &Samples,
        resource: Option<Resource<'_>>,
        target: Target,
        tolerance: Tolerance,
    ) -> Result<Proposal, String> {
        replicas::of_pods(self.pods, samples, resource, target, self.scale.replicas, tolerance, Timestamp::now())
    }

    async fn resource(
        &self,
        namespace: &str,
        resource: Resource<'_>,
        target: &MetricTarget,
        tolerance: Tolerance,
    ) -> Result<(Proposal, String), Failed> {
        let name = resource.name;
        let (reason, place) = match resource.container {
            "" => ("FailedGetResourceMetric", String::new()),
            container => ("FailedGetContainerResourceMetric", format!(" in container {container}")),
        };
        let fail = |why: String| (reason, format!("failed to get {name} utilization: {why}"));
        let (target, name) = match (milli(target.average_value.as_ref()), target.average_utilization) {
            (Some(average), _) => (Target::Average(average), format!("{name} resource")),
            (None, Some(percent)) => {
                (Target::Utilization(percent), format!("{name} resource utilization (percentage of request)"))
            }
            (None, None) => {
                let why = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
                return Err((reason, why.to_owned()));
            }
        };
        let samples = metrics::of_resource(self.env, namespace, &self.scale.selector, resource).await;
        let samples = samples
            .map_err(|why| fail(format!("unable to get metrics for resource {}{place}: {why}", resource.name)))?;
        let proposal = self.of_pods(&samples, Some(resource), target, tolerance).map_err(fail)?;
        Ok((proposal, name))
    }

    async fn pods(&self, namespace: &str, source: &PodsMetricSource, tolerance: Tolerance) -> Result<Proposal, String> {
        let name = &source.metric.name;
        let selector = metrics::text(source.metric.selector.as_ref())?;
        let target = milli(source.target.average_value.as_ref()).ok_or("no average value was set as target")?;
        let samples = metrics::of_pods(self.env, namespace, &self.scale.selector, name, &selector).await;
        let samples = samples.map_err(|why| format!("unable to get metric {name}: {why}"))?;
        self.of_pods(&samples, None, Target::Average(target), tolerance)
    }

    async fn object(
        &self,
        namespace: &str,
        source: &ObjectMetricSource,
        tolerance: Tolerance,
    ) -> Result<(Proposal, MetricValueStatus, String), String> {
        let (object, name) = (&source.described_object, &source.metric.name);
        let fail =
            |why: String| format!("unable to get metric {name}: {} on {namespace} {}/{why}", object.kind, object.name);
        let selector = metrics::text(source.metric.selector.as_ref())?;
        let group =
            object.api_version.as_deref().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
        let kind = self.directory.find(group, &object.kind).await.map_err(|error| fail(error.message()))?;
        let kind = kind.ok_or_else(|| fail(format!("no matches for kind {:?} in group {group:?}", object.kind)))?;
        let resource = if group.is_empty() { kind.plural.clone() } else { kind.qualified() };
        let found = metrics::of_object(self.env, namespace, &resource, &object.name, name, &selector).await;
        let found = found.map_err(fail)?;
        match (milli(source.target.value.as_ref()), milli(source.target.average_value.as_ref())) {
            (Some(target), _) if source.target.type_ == "Value" => {
                let proposal = replicas::of_value(found, target, self.pods, self.scale.replicas, tolerance)?;
                Ok((proposal, value(proposal), format!("{} metric {name}", object.kind)))
            }
            (_, Some(target)) if source.target.type_ == "AverageValue" => {
                let proposal = replicas::of_value_per_pod(found, target, self.scale.status_replicas, tolerance);
                Ok((proposal, average(proposal), shown(&source.metric)))
            }
            _ => {
                Err("invalid object metric source: neither a value target nor an average value target was set"
                    .to_owned())
            }
        }
    }

    async fn external(
        &self,
        namespace: &str,
        source: &ExternalMetricSource,
        tolerance: Tolerance,
    ) -> Result<(Proposal, MetricValueStatus), String> {
        let name = &source.metric.name;
        let (per_pod, whole) = (milli(source.target.average_value.as_ref()), milli(source.target.value.as_ref()));
        let fail = |why: String| match per_pod {
            Some(_) => format!("failed to get {name} external metric: {why}"),
            None => format!("failed to get external metric {name}: {why}"),
        };
        let selector = metrics::text(source.metric.selector.as_ref())?;
        let found = metrics::external(self.env, namespace, name, &selector).await;
        let found =
            found.map_err(|why| fail(format!("unable to get external metric {namespace}/{name}/{selector}: {why}")))?;
        if let Some(target) = per_pod {
            let proposal = replicas::of_value_per_pod(found, target, self.scale.status_replicas, tolerance);
            return Ok((proposal, average(proposal)));
        }
        let Some(target) = whole else {
            let why = "invalid external metric source: neither a value target nor an average value target was set";
            return Err(why.to_owned());
        };
        let made = replicas::of_value(found, target, self.pods, self.scale.replicas, tolerance);
        made.map(|proposal| (proposal, value(proposal))).map_err(fail)
    }
}

fn of_type(spec: &MetricSpec) -> MetricStatus {
    MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() }
}

/// A tenth in either direction, unless the rules say otherwise.
fn tolerance(autoscaler: &HorizontalPodAutoscaler) -> Tolerance {
    let behavior = autoscaler.spec.behavior.as_ref();
    let of = |rules: Option<&HPAScalingRules>| {
        let set = rules.and_then(|rules| milli(rules.tolerance.as_ref()));
        set.map_or(0.1, |thousandths| thousandths as f64 / 1000.0)
    };
    Tolerance {
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
    }
}
