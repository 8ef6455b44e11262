//! What the scheduler says to the API: bindings, conditions and events.

use std::time::Duration;

use client::{Backoff, Item, Recorder, events::EventType};
use k8s_openapi::api::core::v1::ObjectReference;
use serde::Deserialize;
use serde_json::json;

/// The media type of patches.
const PATCH: &str = "application/strategic-merge-patch+json";

/// Writes in the scheduler's name.
#[derive(Clone)]
pub(crate) struct Writer {
    pub client: kube::Client,
    pub recorder: Recorder,
    pub scheduler: Box<str>,
}

/// How it stands with a pod that has no node.
pub(crate) struct Standing {
    pub reason: &'static str,
    pub message: String,
    /// The node that is being cleared for it.
    pub nominated: Option<String>,
}

/// How it stands with a group of pods.
pub(crate) struct GroupStanding {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

fn path(item: &Item, subresource: &str) -> String {
    format!("/api/v1/namespaces/{}/pods/{}/{subresource}", item.namespace(), item.name())
}

impl Writer {
    /// Gives a pod to a node. An error means that the pod has none: where an answer does not tell, it is asked for.
    pub async fn bind(&self, item: &Item, node: &str) -> kube::Result<()> {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": item.name(), "namespace": item.namespace(), "uid": item.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let answer = self.send(http::Method::POST, &path(item, "binding"), "application/json", &binding).await;
        if let Err(error) = answer
            && !self.is_bound(item).await
        {
            return Err(error);
        }
        let message = format!("Successfully assigned {}/{} to {node}", item.namespace(), item.name());
        self.event(item, EventType::Normal, "Scheduled", message);
        Ok(())
    }

    /// Whether a pod has a node, once the API says so or not. As long as it cannot be asked, its room must be kept.
    pub async fn is_bound(&self, item: &Item) -> bool {
        #[derive(Deserialize)]
        struct Now {
            metadata: Meta,
            spec: Spec,
        }
        #[derive(Deserialize)]
        struct Meta {
            uid: Box<str>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            node_name: Option<Box<str>>,
        }
        let path = format!("/api/v1/namespaces/{}/pods/{}", item.namespace(), item.name());
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let request = http::Request::get(&path).body(Vec::new());
            let Ok(request) = request else { return false };
            match self.client.request::<Now>(request).await {
                Ok(now) => {
                    return now.metadata.uid == item.uid && now.spec.node_name.is_some_and(|node| !node.is_empty());
                }
                Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                    return false;
                }
                Err(error) => {
                    tracing::debug!(pod = %item.key, %error, "cannot ask whether a pod was bound");
                    backoff.wait().await;
                }
            }
        }
    }

    /// Tells why a pod has no node yet, as an event.
    pub fn failed(&self, item: &Item, message: &str) {
        self.event(item, EventType::Warning, "FailedScheduling", message.to_owned());
    }

    /// Tells it as the pod's condition too.
    pub async fn set_unscheduled(&self, item: &Item, generation: i64, standing: &Standing) {
        let Standing { reason, message, nominated } = standing;
        let since = unscheduled_since(item).unwrap_or_else(now);
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "lastTransitionTime": since, "observedGeneration": generation,
        });
        self.patch_status(item, &json!({"conditions": [condition], "nominatedNodeName": nominated})).await;
    }

    /// Tells by a PodGroup's condition how it stands, if that is news. That it was scheduled once is not taken back.
    pub async fn set_group(&self, group: &Item, standing: &GroupStanding) {
        let GroupStanding { status, reason, message } = standing;
        let (generation, conditions) = head(group);
        let old = conditions.into_iter().find(|it| it.kind == "PodGroupScheduled");
        let is_same = |it: &Condition| {
            it.status == *status
                && it.reason == *reason
                && it.message == *message
                && it.observed_generation == generation
        };
        if old.as_ref().is_some_and(|it| is_same(it) || it.status == "True" && *status != "True") {
            return;
        }
        let since = old.filter(|it| it.status == *status).and_then(|it| it.last_transition_time).unwrap_or_else(now);
        let condition = json!({
            "type": "PodGroupScheduled", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since, "observedGeneration": generation,
        });
        let (namespace, name) = (group.namespace(), group.name());
        let path = format!("/apis/scheduling.k8s.io/v1alpha2/namespaces/{namespace}/podgroups/{name}/status");
        let patch = json!({"metadata": {"uid": group.uid}, "status": {"conditions": [condition]}});
        match self.send(http::Method::PATCH, &path, PATCH, &patch).await {
            Ok(()) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => tracing::warn!(group = %group.key, %error, "cannot write a pod group's status"),
        }
    }

    /// Tells that a pod may have a node that is being cleared, or none.
    pub async fn set_nominated(&self, item: &Item, node: Option<&str>) {
        self.patch_status(item, &json!({"nominatedNodeName": node})).await;
    }

    /// Deletes a pod that another one takes the place of. False if it may still be there.
    pub async fn evict(&self, victim: &Item, by: &Item, node: &str) -> bool {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{}: preempting to accommodate a higher priority pod", self.scheduler),
            "lastProbeTime": null, "lastTransitionTime": now(),
        });
        self.patch_status(victim, &json!({"conditions": [condition]})).await;
        let path = format!("/api/v1/namespaces/{}/pods/{}", victim.namespace(), victim.name());
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": victim.uid}});
        match self.send(http::Method::DELETE, &path, "application/json", &options).await {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {node}", by.uid);
                self.event(victim, EventType::Normal, "Preempted", message);
                true
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => true,
            Err(error) => {
                tracing::warn!(pod = %victim.key, %error, "cannot delete a pod that was to make room");
                false
            }
        }
    }

    async fn patch_status(&self, item: &Item, status: &serde_json::Value) {
        let patch = json!({"metadata": {"uid": item.uid}, "status": status});
        match self.send(http::Method::PATCH, &path(item, "status"), PATCH, &patch).await {
            Ok(()) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => tracing::warn!(pod = %item.key, %error, "cannot write a pod's status"),
        }
    }

    fn event(&self, item: &Item, kind: EventType, reason: &str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(item.namespace().into()),
            name: Some(item.name().into()),
            uid: Some(item.uid.to_string()),
            resource_version: Some(item.resource_version.to_string()),
            ..ObjectReference::default()
        };
        self.recorder.record(about, kind, reason, message);
    }

    async fn send(&self, method: http::Method, path: &str, media: &str, body: &serde_json::Value) -> kube::Result<()> {
        let request = http::Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, media);
        let request = request.body(body.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: Option<String>,
    observed_generation: i64,
}

/// An object's generation and conditions.
fn head(item: &Item) -> (i64, Vec<Condition>) {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Head {
        metadata: Meta,
        status: Status,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Meta {
        generation: i64,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Status {
        conditions: Vec<Condition>,
    }
    let head: Head = serde_json::from_slice(&item.bytes).unwrap_or_default();
    (head.metadata.generation, head.status.conditions)
}

/// Since when the pod's condition says that it has no node.
fn unscheduled_since(item: &Item) -> Option<String> {
    let (_, conditions) = head(item);
    conditions.into_iter().find(|it| it.kind == "PodScheduled" && it.status == "False")?.last_transition_time
}
