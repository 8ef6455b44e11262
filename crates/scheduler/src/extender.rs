//! HTTP extenders: services outside that have a say in decisions, by upstream's `extender/v1`.
//!
//! A decision waits for them, since nothing can be decided meanwhile; what they are asked is bounded by their timeout. They need
//! a runtime of several threads.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use client::Item;
use http_body_util::BodyExt;
use kube::client::Body;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    config, duration,
    plugins::{MAX_SCORE, Plugin},
    pod::Pod,
    preempt::Preemption,
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

const TIMEOUT: Duration = Duration::from_secs(5);
/// The best score that an extender gives.
const MAX_EXTENDER_SCORE: i64 = 10;

/// The newest version of a node.
pub(crate) type Nodes<'a> = &'a dyn Fn(&str) -> Option<Arc<Item>>;

pub(crate) struct Extender {
    config: config::Extender,
    timeout: Duration,
    /// Why it cannot be reached at all, if so.
    client: Result<kube::Client, String>,
}

/// What an extender leaves of the nodes.
pub(crate) struct Filtered {
    pub feasible: Vec<Slot>,
    pub rejected: Vec<(Slot, Rejection)>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FilterResult {
    nodes: Option<NodeList>,
    nodenames: Option<Vec<String>>,
    failednodes: Option<BTreeMap<String, String>>,
    failedandunresolvablenodes: Option<BTreeMap<String, String>>,
    error: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NodeList {
    items: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HostPriority {
    host: String,
    score: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PreemptionResult {
    nodenametometavictims: BTreeMap<String, MetaVictims>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MetaVictims {
    pods: Vec<MetaPod>,
    numpdbviolations: usize,
}

#[derive(Deserialize)]
struct MetaPod {
    uid: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct BindingResult {
    error: String,
}

impl Extender {
    /// Must be called within the runtime.
    pub fn new(config: config::Extender) -> Self {
        let timeout = config.http_timeout.as_deref().and_then(duration::parse).filter(|seconds| *seconds > 0.0);
        let timeout = timeout.map_or(TIMEOUT, Duration::from_secs_f64);
        let client = connect(&config).inspect_err(|error| {
            tracing::error!(extender = config.url_prefix, error, "cannot reach an extender");
        });
        Self { config, timeout, client }
    }

    pub fn name(&self) -> &str {
        &self.config.url_prefix
    }

    /// Whether decisions go on without it when it fails.
    pub fn is_ignorable(&self) -> bool {
        self.config.ignorable
    }

    pub fn is_binder(&self) -> bool {
        !self.config.bind_verb.is_empty()
    }

    pub fn is_interested(&self, pod: &Pod) -> bool {
        let managed = &self.config.managed_resources;
        managed.is_empty() || managed.iter().any(|it| pod.needs.request(&it.name) > 0)
    }

    /// Which of the nodes it lets through.
    pub fn filter(
        &self,
        pod: &Pod,
        feasible: Vec<Slot>,
        snapshot: &Snapshot,
        nodes: Nodes<'_>,
    ) -> Result<Filtered, String> {
        if self.config.filter_verb.is_empty() {
            return Ok(Filtered { feasible, rejected: Vec::new() });
        }
        let body = self.arguments(pod, &feasible, snapshot, nodes);
        let result: FilterResult = wait(self.send(&self.config.filter_verb, body))?;
        if !result.error.is_empty() {
            return Err(result.error);
        }
        let names = match (result.nodenames, result.nodes) {
            (Some(names), _) if self.config.node_cache_capable => names,
            (_, Some(list)) => list.items.into_iter().map(|node| node.metadata.name).collect(),
            _ => Vec::new(),
        };
        let slot_of = |name: &str| feasible.iter().copied().find(|&slot| snapshot.node_name(slot) == name);
        let kept = names.iter().map(|name| {
            slot_of(name).ok_or_else(|| {
                let url = self.name();
                format!("extender {url:?} claims a filtered node {name:?} which is not found in the input node list")
            })
        });
        let kept: Vec<Slot> = kept.collect::<Result<_, _>>()?;
        let hopeless = result.failedandunresolvablenodes.unwrap_or_default();
        let failed = result.failednodes.unwrap_or_default();
        let failed = failed.iter().filter(|(name, _)| !hopeless.contains_key(*name)).map(|it| (it, false));
        let failed = hopeless.iter().map(|it| (it, true)).chain(failed);
        let rejection = |((name, why), hopeless): ((&String, &String), bool)| {
            Some((slot_of(name)?, Rejection::because(Plugin::Extender, hopeless, [why.clone().into()])))
        };
        Ok(Filtered { rejected: failed.filter_map(rejection).collect(), feasible: kept })
    }

    /// Weighted scores of the nodes; none when it has no opinion or fails, which does not hinder a decision.
    pub fn prioritize(&self, pod: &Pod, feasible: &[Slot], snapshot: &Snapshot, nodes: Nodes<'_>) -> Option<Vec<i64>> {
        if self.config.prioritize_verb.is_empty() {
            return None;
        }
        let body = self.arguments(pod, feasible, snapshot, nodes);
        let result: Result<Vec<HostPriority>, String> = wait(self.send(&self.config.prioritize_verb, body));
        let list =
            result.inspect_err(|error| tracing::warn!(extender = self.name(), error, "no scores of an extender"));
        let scores: BTreeMap<String, i64> = list.ok()?.into_iter().map(|it| (it.host, it.score)).collect();
        let factor = self.config.weight * (MAX_SCORE / MAX_EXTENDER_SCORE);
        let score = |slot: &Slot| scores.get(snapshot.node_name(*slot)).copied().unwrap_or(0) * factor;
        Some(feasible.iter().map(score).collect())
    }

    /// What it makes of the nodes that could be cleared.
    pub fn preempt(&self, pod: &Pod, found: Vec<Preemption>, snapshot: &Snapshot) -> Result<Vec<Preemption>, String> {
        if self.config.preempt_verb.is_empty() {
            return Ok(found);
        }
        let meta = self.config.node_cache_capable;
        let victims = |it: &Preemption| {
            let pods = it.victims.iter().map(|victim| match meta {
                true => json!({"UID": victim.uid()}),
                false => serde_json::from_slice(&victim.item.bytes).unwrap_or(Value::Null),
            });
            let pods: Vec<Value> = pods.collect();
            (snapshot.node_name(it.slot).to_owned(), json!({"Pods": pods, "NumPDBViolations": it.violations}))
        };
        let victims: serde_json::Map<String, Value> = found.iter().map(victims).collect();
        let (full, meta) = if meta { (Value::Null, victims.into()) } else { (Value::Object(victims), Value::Null) };
        let pod_json: Value = serde_json::from_slice(&pod.item.bytes).unwrap_or(Value::Null);
        let body = json!({"Pod": pod_json, "NodeNameToVictims": full, "NodeNameToMetaVictims": meta}).to_string();
        let result: PreemptionResult = wait(self.send(&self.config.preempt_verb, body))?;
        let mut kept = Vec::new();
        for (node, victims) in result.nodenametometavictims {
            let slot =
                snapshot.slot_of_node(&node).ok_or_else(|| format!("nodeinfo not found for node name {node:?}"))?;
            if victims.pods.is_empty() {
                if self.is_ignorable() {
                    continue;
                }
                return Err(format!("expected at least one victim pod on node {node:?}"));
            }
            let on_node = |it: &MetaPod| {
                snapshot.pods_on(slot).iter().find(|pod| *pod.uid() == *it.uid).cloned().ok_or_else(|| {
                    let (url, uid) = (self.name(), &it.uid);
                    format!(
                        "extender: {url} claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on that node"
                    )
                })
            };
            let pods = victims.pods.iter().map(on_node).collect::<Result<_, _>>()?;
            kept.push(Preemption { slot, victims: pods, violations: victims.numpdbviolations });
        }
        Ok(kept)
    }

    /// Has it bind the pod.
    pub async fn bind(&self, item: &Item, node: &str) -> Result<(), String> {
        let body = json!({"PodName": item.name(), "PodNamespace": item.namespace(), "PodUID": item.uid, "Node": node});
        let result: BindingResult = self.send(&self.config.bind_verb, body.to_string()).await?;
        if result.error.is_empty() { Ok(()) } else { Err(result.error) }
    }

    fn arguments(&self, pod: &Pod, feasible: &[Slot], snapshot: &Snapshot, nodes: Nodes<'_>) -> String {
        let names: Vec<&str> = feasible.iter().map(|slot| snapshot.node_name(*slot)).collect();
        let text = |item: &Item| String::from_utf8_lossy(&item.bytes).into_owned();
        let (list, names) = if self.config.node_cache_capable {
            ("null".to_owned(), json!(names).to_string())
        } else {
            let items: Vec<String> = names.into_iter().filter_map(nodes).map(|item| text(&item)).collect();
            (format!(r#"{{"metadata":{{}},"items":[{}]}}"#, items.join(",")), "null".to_owned())
        };
        format!(r#"{{"Pod":{},"Nodes":{list},"NodeNames":{names}}}"#, text(&pod.item))
    }

    async fn send<T: DeserializeOwned>(&self, verb: &str, body: String) -> Result<T, String> {
        let client = self.client.as_ref().map_err(Clone::clone)?;
        let url = format!("{}/{verb}", self.name().trim_end_matches('/'));
        let request = http::Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.into_bytes()))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = client.send(request).await.map_err(|error| format!("Post {url:?}: {error}"))?;
            if response.status() != http::StatusCode::OK {
                let code = response.status().as_u16();
                return Err(format!("failed {verb} with extender at URL {url}, code {code}"));
            }
            let body = response.into_body().collect().await.map_err(|error| format!("Post {url:?}: {error}"))?;
            let value: Value = serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())?;
            serde_json::from_value(lower_keys(value, 3)).map_err(|error| error.to_string())
        };
        let late =
            || format!("Post {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| Err(late()))
    }
}

/// Go reads the names of fields in any case; names of nodes, which are the keys of maps, are lower-case anyway.
fn lower_keys(value: Value, depth: usize) -> Value {
    match value {
        Value::Object(object) if depth > 0 => {
            let fields =
                object.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), lower_keys(value, depth - 1)));
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| lower_keys(item, depth)).collect()),
        other => other,
    }
}

/// Waits in the middle of a decision.
fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer))
}

fn connect(config: &config::Extender) -> Result<kube::Client, String> {
    let url: http::Uri = config.url_prefix.parse().map_err(|error| format!("{}: {error}", config.url_prefix))?;
    let mut to = kube::Config::new(url);
    to.read_timeout = None;
    if let Some(tls) = &config.tls_config {
        let data = |data: &str, file: &str| -> Result<Option<Vec<u8>>, String> {
            match (data, file) {
                ("", "") => Ok(None),
                ("", file) => std::fs::read(file).map(Some).map_err(|error| format!("{file}: {error}")),
                (data, _) => BASE64.decode(data).map(Some).map_err(|error| error.to_string()),
            }
        };
        to.accept_invalid_certs = tls.insecure;
        to.tls_server_name = (!tls.server_name.is_empty()).then(|| tls.server_name.clone());
        if let Some(pem) = data(&tls.ca_data, &tls.ca_file)? {
            let certificates = CertificateDer::pem_slice_iter(&pem).map(|it| it.map(|it| it.to_vec()));
            to.root_cert = Some(certificates.collect::<Result<_, _>>().map_err(|error| format!("caData: {error}"))?);
        }
        to.auth_info.client_certificate_data = data(&tls.cert_data, &tls.cert_file)?.map(|it| BASE64.encode(it));
        to.auth_info.client_key_data = data(&tls.key_data, &tls.key_file)?.map(|it| BASE64.encode(it).into());
    }
    if config.enable_https && to.root_cert.is_none() {
        to.accept_invalid_certs = true;
    }
    kube::Client::try_from(to).map_err(|error| error.to_string())
}
