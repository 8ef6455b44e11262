//! Pods as controllers count them, and pods made from templates.

use std::{collections::BTreeMap, ops::Deref, sync::Arc, time::Duration};

use client::Item;
use k8s_openapi::{
    api::core::v1::{Pod, PodTemplateSpec},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
    jiff::{SignedDuration, Timestamp},
};
use serde::Deserialize;

use crate::frame::between;

/// What counting and ranking pods needs, read from a cached pod without building all of it.
#[derive(Clone, Debug)]
pub(crate) struct PodView {
    pub item: Arc<Item>,
    facts: Facts,
}

impl Deref for PodView {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

/// What of a pod is in its JSON alone. It is read once for each version of a pod, so that syncs of a large set cost no more
/// than looking at its pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub created: Timestamp,
    /// Since when the pod has been ready; none if it is not. A ready pod without a time counts as ready for ever.
    pub ready_since: Option<Timestamp>,
    /// `controller.kubernetes.io/pod-deletion-cost`.
    pub deletion_cost: i32,
    /// The most restarts of any container.
    pub restarts: i32,
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    creation_timestamp: Option<Timestamp>,
    annotations: Option<RawAnnotations>,
}

#[derive(Deserialize)]
struct RawAnnotations {
    #[serde(rename = "controller.kubernetes.io/pod-deletion-cost")]
    cost: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus {
    conditions: Option<Vec<RawCondition>>,
    container_statuses: Option<Vec<RawContainer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    r#type: String,
    status: String,
    last_transition_time: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainer {
    #[serde(default)]
    restart_count: i32,
}

impl PodView {
    /// None if the pod cannot be read, which is logged.
    pub fn new(item: Arc<Item>) -> Option<PodView> {
        match item.facts(Facts::read) {
            Ok(facts) => Some(PodView { facts: *facts, item }),
            Err(error) => {
                tracing::error!(pod = %item.key, %error, "unreadable pod in the cache");
                None
            }
        }
    }

    pub fn is_ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// Ready for at least so long.
    pub fn is_available(&self, min_ready_seconds: i32, now: Timestamp) -> bool {
        self.available_in(min_ready_seconds, now) == Some(Duration::ZERO)
    }

    /// How long until a ready pod counts as available.
    pub fn available_in(&self, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
        let at = self.ready_since?.checked_add(SignedDuration::from_secs(min_ready_seconds.into())).ok()?;
        Some(if min_ready_seconds <= 0 { Duration::ZERO } else { between(now, at) })
    }
}

impl Facts {
    fn read(item: &Item) -> Result<Facts, serde_json::Error> {
        let raw: Raw = item.parse()?;
        let mut conditions = raw.status.conditions.into_iter().flatten();
        let ready = conditions.find(|condition| condition.r#type == "Ready" && condition.status == "True");
        let cost = raw.metadata.annotations.and_then(|annotations| annotations.cost?.parse().ok());
        let containers = raw.status.container_statuses.into_iter().flatten();
        Ok(Facts {
            created: raw.metadata.creation_timestamp.unwrap_or(Timestamp::UNIX_EPOCH),
            ready_since: ready.map(|ready| ready.last_transition_time.unwrap_or(Timestamp::UNIX_EPOCH)),
            deletion_cost: cost.unwrap_or(0),
            restarts: containers.map(|container| container.restart_count).max().unwrap_or(0),
        })
    }
}

/// Whether a pod has ended for good.
pub(crate) fn is_finished(item: &Item) -> bool {
    matches!(&*item.phase, "Succeeded" | "Failed")
}

/// Whether a pod counts as a replica: neither ended nor on its way out.
pub(crate) fn is_active(item: &Item) -> bool {
    !is_finished(item) && !item.deleting
}

/// The longest prefix of a generated pod name that leaves room for the random part within 63 characters.
const LONGEST_PREFIX: usize = 57;

/// The prefix for pods of an owner, for `generateName`.
pub(crate) fn name_prefix(owner: &str) -> String {
    let prefix = format!("{owner}-");
    if prefix.len() <= LONGEST_PREFIX + 1 { prefix } else { prefix[..=LONGEST_PREFIX].to_owned() }
}

/// A pod as its template asks for it. The caller sets the name or its prefix.
pub(crate) fn from_template(template: &PodTemplateSpec, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The template's labels, empty if it has none.
pub(crate) fn template_labels(template: Option<&PodTemplateSpec>) -> BTreeMap<String, String> {
    template.and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A cached pod from its JSON, for tables of tests.
    pub(crate) fn item(json: serde_json::Value) -> Arc<Item> {
        Arc::new(Item::from_json(&json.to_string()).expect("a readable pod"))
    }

    #[test]
    fn a_view_has_what_counting_needs() {
        let view = PodView::new(item(serde_json::json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"controller.kubernetes.io/pod-deletion-cost": "-5", "other": "x"}},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "containerStatuses": [{"restartCount": 1}, {"restartCount": 4}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}]},
        })))
        .unwrap();
        assert_eq!((view.deletion_cost, view.restarts, view.is_ready()), (-5, 4, true));
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(view.is_available(0, at("2026-01-01T00:01:00Z")));
        assert!(!view.is_available(30, at("2026-01-01T00:01:20Z")));
        assert_eq!(view.available_in(30, at("2026-01-01T00:01:20Z")), Some(Duration::from_secs(10)));
        assert!(view.is_available(30, at("2026-01-01T00:01:30Z")));
    }

    #[test]
    fn generated_names_keep_within_a_label() {
        assert_eq!(name_prefix("web"), "web-");
        assert_eq!(name_prefix(&"x".repeat(100)).len(), 58);
    }
}
