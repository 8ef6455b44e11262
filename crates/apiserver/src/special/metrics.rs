//! `metrics.k8s.io`: what nodes and pods use. It is measured when somebody asks, by asking the kubelets, so that nothing is
//! done while nobody does. CPU usage is the difference of two readings: the one that the last question left, or where that
//! is too old, one made a moment before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::status::Reason;
use api::{Status, Value};
use futures::{StreamExt, stream};
use http::StatusCode;
use http_body_util::BodyExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use store::{Entry, List};

use super::connect::dial;
use super::forward::forward;
use crate::rest::select::Selection;
use crate::rest::{Call, output, parse, prefix, view};
use crate::server::Server;
use crate::wire::{Body, Response, View};
use crate::{clock, rest};

const GROUP: &str = "metrics.k8s.io";
/// A reading that is no older answers the next question too.
const FRESH: Duration = Duration::from_secs(10);
/// A reading that is older says nothing about the present.
const STALE: Duration = Duration::from_secs(120);
/// Between two readings made for one question.
const MOMENT: Duration = Duration::from_secs(1);
/// Kubelets asked at once, for how long, and how much they may say.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: usize = 64 << 20;

/// Whether the request is for measurements.
pub fn serves(call: &Call) -> bool {
    &*call.kind.group == GROUP
}

/// Answers a get or a list.
pub async fn answer(call: &Call) -> Result<Response, Status> {
    if !call.info.subresource.is_empty() || !call.kind.has_verb(call.info.verb) {
        return Err(crate::dispatch::not_allowed());
    }
    let of_pods = &*call.kind.plural == "pods";
    let core = call.server.catalog.load().served("", "v1", &call.kind.plural).cloned();
    let (kind, _) = core.ok_or_else(crate::dispatch::no_such_path)?;
    let subjects = call.of(kind, &call.info.namespace, &call.info.name);
    let entries = if call.info.name.is_empty() { selected(&subjects)? } else { vec![subjects.entry()?] };
    let objects: Vec<Value> = entries.iter().map(|entry| parse(&entry.value)).collect::<Result<_, _>>()?;
    let node_of = |object: &Value| {
        let name = if of_pods { &object["spec"]["nodeName"] } else { &object["metadata"]["name"] };
        name.as_str().unwrap_or("").to_owned()
    };
    let nodes: BTreeSet<String> = objects.iter().map(node_of).filter(|node| !node.is_empty()).collect();
    let usages = call.server.samples.usages(&call.server, nodes).await;
    let measured = objects.iter().filter_map(|object| {
        let usage = usages.get(&node_of(object))?;
        let parts = if of_pods { usage.pod(object)? } else { json!({"usage": usage.node?.amounts()}) };
        Some(describe(call, object, usage, parts))
    });
    if call.info.name.is_empty() {
        let meta = json!({});
        let whole = match call.accept.view {
            View::Table => view::table(call, meta, true, measured)?,
            View::Metadata => view::metadata_list(meta, measured),
            View::Object => json!({
                "kind": call.kind.list_kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": meta,
                "items": measured.collect::<Vec<_>>(),
            }),
        };
        return output::encode(call, StatusCode::OK, &whole, false);
    }
    let found = measured.into_iter().next().ok_or_else(|| {
        let (what, name) = match of_pods {
            true => ("podmetrics", format!("{}/{}", call.info.namespace, call.info.name)),
            false => ("nodemetrics", call.info.name.clone()),
        };
        Status::not_found(GROUP, what, &name)
    })?;
    output::value(call, StatusCode::OK, found)
}

fn selected(subjects: &Call) -> Result<Vec<Arc<Entry>>, Status> {
    let selection = Selection::new(subjects)?;
    let range = prefix(&subjects.kind, &subjects.info.namespace);
    let page = subjects.server.store.list(&range, List::default()).map_err(rest::store_error)?;
    Ok(page.entries.into_iter().filter(|entry| selection.matches(subjects, entry)).collect())
}

fn describe(call: &Call, object: &Value, usage: &Usages, parts: Value) -> Value {
    let mut metadata = json!({"name": object["metadata"]["name"], "creationTimestamp": clock::now()});
    for field in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let mut described = json!({
        "kind": call.kind.kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
        "timestamp": usage.at, "window": format!("{:.3}s", usage.window.as_secs_f64()),
    });
    if let (Value::Object(described), Value::Object(parts)) = (&mut described, parts) {
        described.extend(parts);
    }
    described
}

/// What is used, by CPU in billionths of a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    nanocores: u64,
    bytes: u64,
}

impl Usage {
    fn amounts(self) -> Value {
        json!({"cpu": format!("{}n", self.nanocores), "memory": format!("{}Ki", self.bytes / 1024)})
    }
}

/// What a node and its containers use.
#[derive(Debug)]
struct Usages {
    at: String,
    window: Duration,
    node: Option<Usage>,
    /// By the pod's uid and the container's name.
    containers: BTreeMap<(String, String), Usage>,
}

impl Usages {
    /// The containers of a pod that runs; none unless each of them was measured.
    fn pod(&self, pod: &Value) -> Option<Value> {
        if pod["status"]["phase"] != "Running" {
            return None;
        }
        let uid = pod["metadata"]["uid"].as_str()?;
        let of_pod = self.containers.iter().filter(|((of, _), _)| of == uid);
        let containers: Vec<Value> =
            of_pod.map(|((_, name), usage)| json!({"name": name, "usage": usage.amounts()})).collect();
        (!containers.is_empty()).then(|| json!({"containers": containers}))
    }
}

/// The counters of one moment.
#[derive(Debug)]
struct Reading {
    taken: Instant,
    at: Timestamp,
    node: Option<Counter>,
    containers: BTreeMap<(String, String), Counter>,
}

#[derive(Clone, Copy, Debug)]
struct Counter {
    /// CPU time used so far, in nanoseconds.
    cpu: u64,
    /// What the kubelet says of the rate, in billionths of a core.
    rate: Option<u64>,
    bytes: u64,
}

/// The last two readings of each node, as long as somebody asks for them.
#[derive(Default)]
pub struct Samples(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Pair>>>>);

#[derive(Default)]
struct Pair {
    before: Option<Reading>,
    latest: Option<Reading>,
}

impl Samples {
    /// What these nodes use; those that do not answer are left out.
    async fn usages(&self, server: &Server, nodes: BTreeSet<String>) -> BTreeMap<String, Usages> {
        let asked = nodes.into_iter().map(async |node| {
            let pair = self.0.lock().entry(node.clone()).or_default().clone();
            // Who asks meanwhile waits here, and finds the answer.
            let mut pair = pair.lock().await;
            match pair.bring_up_to_date(server, &node).await {
                Ok(usages) => Some((node, usages)),
                Err(error) => {
                    tracing::debug!(node, error = error.message, "a node cannot be measured");
                    None
                }
            }
        });
        let usages = stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
        // Nodes that nobody has asked about for long, or that are gone, leave nothing behind.
        let is_stale = |pair: &Arc<tokio::sync::Mutex<Pair>>| {
            pair.try_lock().is_ok_and(|pair| pair.latest.as_ref().is_none_or(|latest| latest.taken.elapsed() > STALE))
        };
        self.0.lock().retain(|_, pair| !is_stale(pair));
        usages
    }
}

impl Pair {
    async fn bring_up_to_date(&mut self, server: &Server, node: &str) -> Result<Usages, Status> {
        let age = self.latest.as_ref().map(|latest| latest.taken.elapsed());
        if age.is_none_or(|age| age > STALE) {
            self.before = Some(read(server, node).await?);
            tokio::time::sleep(MOMENT).await;
            self.latest = Some(read(server, node).await?);
        } else if age.is_some_and(|age| age > FRESH) {
            self.before = self.latest.replace(read(server, node).await?);
        }
        match (&self.before, &self.latest) {
            (Some(before), Some(latest)) => Ok(usages(before, latest)),
            _ => Err(Status::internal("no reading was made")),
        }
    }
}

/// What was used between two readings.
fn usages(before: &Reading, latest: &Reading) -> Usages {
    // By our own clock: kubelets tell whole seconds.
    let window = latest.taken.saturating_duration_since(before.taken);
    let usage = |before: Option<&Counter>, latest: &Counter| {
        let used = before.and_then(|before| latest.cpu.checked_sub(before.cpu));
        let measured = used.and_then(|used| (u128::from(used) * 1_000_000_000).checked_div(window.as_nanos()));
        // What was started in between is only known to the kubelet.
        let rate = measured.and_then(|rate| u64::try_from(rate).ok()).or(latest.rate)?;
        Some(Usage { nanocores: rate, bytes: latest.bytes })
    };
    let containers = latest.containers.iter();
    Usages {
        at: clock::format(latest.at.as_second()),
        window,
        node: latest.node.as_ref().and_then(|latest| usage(before.node.as_ref(), latest)),
        containers: containers
            .filter_map(|(key, latest)| Some((key.clone(), usage(before.containers.get(key), latest)?)))
            .collect(),
    }
}

#[derive(Deserialize)]
struct Summary {
    node: Part,
    #[serde(default)]
    pods: Vec<PodPart>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    name: String,
    #[serde(default)]
    cpu: Option<CpuPart>,
    #[serde(default)]
    memory: Option<MemoryPart>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuPart {
    #[serde(default)]
    usage_core_nano_seconds: Option<u64>,
    #[serde(default)]
    usage_nano_cores: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MemoryPart {
    #[serde(default)]
    working_set_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodPart {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<Part>,
}

#[derive(Deserialize)]
struct PodRef {
    uid: String,
}

impl Part {
    fn counter(&self) -> Option<Counter> {
        let cpu = self.cpu.as_ref()?;
        let bytes = self.memory.as_ref()?.working_set_bytes?;
        Some(Counter { cpu: cpu.usage_core_nano_seconds?, rate: cpu.usage_nano_cores, bytes })
    }
}

/// Asks a node's kubelet.
async fn read(server: &Server, node: &str) -> Result<Reading, Status> {
    let silent = |why: String| Status::new(Reason::ServiceUnavailable, format!("node {node:?}: {why}"));
    let ask = async {
        let stream = dial(server, node).await?;
        let request = http::Request::new(Body::empty());
        let response = forward(stream, "/stats/summary?only_cpu_and_memory=true", request).await?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            return Err(silent(format!("the kubelet answered {}", parts.status)));
        }
        let body = http_body_util::Limited::new(body, LONGEST).collect().await;
        Ok(body.map_err(|error| silent(error.to_string()))?.to_bytes())
    };
    let answer = tokio::time::timeout(PATIENCE, ask).await.map_err(|_| silent("no answer in time".to_owned()))??;
    reading(&answer).map_err(|error| silent(error.to_string()))
}

fn reading(summary: &[u8]) -> serde_json::Result<Reading> {
    let Summary { node, pods } = serde_json::from_slice(summary)?;
    let containers = pods.iter().flat_map(|pod| {
        let counter = |part: &Part| Some(((pod.pod_ref.uid.clone(), part.name.clone()), part.counter()?));
        pod.containers.iter().filter_map(counter)
    });
    Ok(Reading { taken: Instant::now(), at: Timestamp::now(), node: node.counter(), containers: containers.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(age: u64, node: u64, container: u64) -> Reading {
        let part = |name: &str, cpu: u64| {
            json!({"name": name, "cpu": {"usageCoreNanoSeconds": cpu, "usageNanoCores": 7},
                "memory": {"workingSetBytes": 4096}})
        };
        let pods =
            json!([{"podRef": {"name": "a", "namespace": "n", "uid": "u"}, "containers": [part("c", container)]}]);
        let reading = reading(json!({"node": part("", node), "pods": pods}).to_string().as_bytes()).expect("a reading");
        let taken = EPOCH.get_or_init(|| Instant::now() + Duration::from_secs(100));
        Reading { taken: *taken - Duration::from_secs(age), ..reading }
    }

    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

    #[test]
    fn usage_is_the_difference_of_two_readings() {
        let (before, latest) = (summary(10, 1_000_000_000, 500), summary(0, 6_000_000_000, 2_500_000_500));
        let used = usages(&before, &latest);
        assert_eq!(used.node, Some(Usage { nanocores: 500_000_000, bytes: 4096 }));
        let pod = json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}});
        let amounts = json!({"cpu": "250000000n", "memory": "4Ki"});
        assert_eq!(used.pod(&pod), Some(json!({"containers": [{"name": "c", "usage": amounts}]})));
        assert_eq!(used.pod(&json!({"metadata": {"uid": "u"}, "status": {"phase": "Pending"}})), None);
        assert_eq!(used.pod(&json!({"metadata": {"uid": "other"}, "status": {"phase": "Running"}})), None);
    }

    #[test]
    fn what_was_started_anew_between_two_readings_is_as_the_kubelet_says() {
        let used = usages(&summary(10, 0, 5_000), &summary(0, 10, 400));
        assert_eq!(used.containers.values().collect::<Vec<_>>(), [&Usage { nanocores: 7, bytes: 4096 }]);
    }
}
