//! Where metrics come from: the APIs `metrics.k8s.io`, `custom.metrics.k8s.io` and `external.metrics.k8s.io`.

use std::time::Duration;

use http::{Request, header::ACCEPT};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::LabelSelector,
    jiff::{SignedDuration, Timestamp},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::replicas::{Resource, Sample, Samples, milli};
use crate::frame::{Env, Error};

const RESOURCES: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// The window of values of which nobody says over how long they were measured.
const WINDOW: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Name,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Default, Deserialize)]
struct Name {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Value {
    #[serde(default)]
    described_object: Name,
    value: String,
    #[serde(default)]
    timestamp: Option<Timestamp>,
    #[serde(default)]
    window_seconds: Option<u64>,
}

/// The wanted part of a path or query, with everything escaped that has a meaning of its own there.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

async fn get<T: DeserializeOwned>(env: &Env, path: String) -> Result<T, Error> {
    let request = Request::get(path).header(ACCEPT, "application/json");
    Ok(env.client.request(request.body(Vec::new()).map_err(kube::Error::HttpError)?).await?)
}

/// What pods use of a resource.
pub(super) async fn of_resource(
    env: &Env,
    namespace: &str,
    selector: &str,
    resource: Resource<'_>,
) -> Result<Samples, String> {
    let path = format!("{RESOURCES}/namespaces/{}/pods?labelSelector={}", escape(namespace), escape(selector));
    let list: List<PodMetrics> = get(env, path)
        .await
        .map_err(|error| format!("unable to fetch metrics from resource metrics API: {}", error.message()))?;
    if list.items.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    Ok(list.items.into_iter().filter_map(|pod| sample(pod, resource)).collect())
}

/// None where a container that counts was not measured.
fn sample(pod: PodMetrics, resource: Resource<'_>) -> Option<(String, Sample)> {
    let counts = |one: &&ContainerMetrics| resource.container.is_empty() || one.name == resource.container;
    let mut values = pod.containers.iter().filter(counts).map(|one| milli(one.usage.get(resource.name)?)).peekable();
    values.peek()?;
    let value = values.sum::<Option<i64>>()?;
    let window = pod.window.parse::<SignedDuration>().ok().and_then(|window| Duration::try_from(window).ok());
    Some((pod.metadata.name, Sample { value, at: pod.timestamp, window: window.unwrap_or(WINDOW) }))
}

/// A selector as the query of a request has it.
pub(super) fn text(selector: Option<&LabelSelector>) -> Result<String, String> {
    let Some(selector) = selector else { return Ok(String::new()) };
    let value = serde_json::to_value(selector).map_err(|error| error.to_string())?;
    api::selector::LabelSelector::from_object(&value).map(|parsed| parsed.to_string()).map_err(|status| status.message)
}

/// A metric that pods have.
pub(super) async fn of_pods(
    env: &Env,
    namespace: &str,
    selector: &str,
    metric: &str,
    metric_selector: &str,
) -> Result<Samples, String> {
    let path = format!(
        "{CUSTOM}/namespaces/{}/pods/*/{}?labelSelector={}&metricLabelSelector={}",
        escape(namespace),
        escape(metric),
        escape(selector),
        escape(metric_selector)
    );
    let list: List<Value> = get(env, path)
        .await
        .map_err(|error| format!("unable to fetch metrics from custom metrics API: {}", error.message()))?;
    if list.items.is_empty() {
        return Err("no metrics returned from custom metrics API".to_owned());
    }
    let sample = |value: Value| {
        let at = value.timestamp.unwrap_or_else(Timestamp::now);
        let window = value.window_seconds.map_or(WINDOW, Duration::from_secs);
        Some((value.described_object.name, Sample { value: milli(&value.value)?, at, window }))
    };
    Ok(list.items.into_iter().filter_map(sample).collect())
}

/// A metric of one object, of the resource `ingresses.networking.k8s.io`.
pub(super) async fn of_object(
    env: &Env,
    namespace: &str,
    resource: &str,
    name: &str,
    metric: &str,
    metric_selector: &str,
) -> Result<i64, String> {
    let object = if resource == "namespaces" {
        format!("namespaces/{}/metrics", escape(name))
    } else {
        format!("namespaces/{}/{}/{}", escape(namespace), escape(resource), escape(name))
    };
    let path = format!("{CUSTOM}/{object}/{}?metricLabelSelector={}", escape(metric), escape(metric_selector));
    let list: List<Value> = get(env, path)
        .await
        .map_err(|error| format!("unable to fetch metrics from custom metrics API: {}", error.message()))?;
    let value = list.items.first().and_then(|value| milli(&value.value));
    value.ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
}

/// The sum of a metric that is not of this cluster.
pub(super) async fn external(env: &Env, namespace: &str, metric: &str, selector: &str) -> Result<i64, String> {
    let (namespace, metric, selector) = (escape(namespace), escape(metric), escape(selector));
    let path = format!("{EXTERNAL}/namespaces/{namespace}/{metric}?labelSelector={selector}");
    let list: List<Value> = get(env, path)
        .await
        .map_err(|error| format!("unable to fetch metrics from external metrics API: {}", error.message()))?;
    if list.items.is_empty() {
        return Err("no metrics returned from external metrics API".to_owned());
    }
    Ok(list.items.iter().filter_map(|value| milli(&value.value)).sum())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_counts_only_when_all_that_counts_was_measured() {
        let pod = || -> PodMetrics {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15.5s",
                "containers": [{"name": "x", "usage": {"cpu": "250m", "memory": "1Mi"}}, {"name": "y", "usage": {"cpu": "1"}}]}))
            .unwrap()
        };
        let value = |name, container| sample(pod(), Resource { name, container }).map(|(_, sample)| sample.value);
        assert_eq!(value("cpu", ""), Some(1250));
        assert_eq!(value("cpu", "y"), Some(1000));
        assert_eq!(value("memory", ""), None);
        assert_eq!(value("cpu", "z"), None);
        let (_, sample) = sample(pod(), Resource { name: "cpu", container: "" }).unwrap();
        assert_eq!(sample.window, Duration::from_millis(15_500));
    }

    #[test]
    fn selectors_are_escaped() {
        assert_eq!(escape("a=b,c in (d)"), "a%3Db%2Cc%20in%20%28d%29");
    }
}
