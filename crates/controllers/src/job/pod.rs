//! A Job's pods, as far as counting them needs.

use std::{ops::Deref, sync::Arc};

use client::Item;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const INDEX_IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    /// Deleted, but still there.
    Terminating,
    Succeeded,
    Failed,
}

#[derive(Clone, Debug)]
pub(super) struct JobPod {
    pub item: Arc<Item>,
    facts: Arc<Facts>,
}

impl Deref for JobPod {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

/// What there is to know of a pod, read once for each version of it.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub state: State,
    pub ready: bool,
    /// Whether the pod is yet to be counted.
    pub tracked: bool,
    pub index: Option<i32>,
    /// How often this pod's index had failed when it was made, but for failures that are ignored.
    pub index_failures: i32,
    /// How often it had failed in ways that are ignored.
    pub ignored_failures: i32,
    pub created: Timestamp,
    pub finished: Option<Timestamp>,
    pub restarts: i32,
    /// Exit codes by container.
    pub exits: Vec<(String, i32)>,
    /// Types and statuses.
    pub conditions: Vec<(String, String)>,
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
    deletion_timestamp: Option<Timestamp>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    conditions: Vec<RawCondition>,
    init_container_statuses: Vec<RawContainer>,
    container_statuses: Vec<RawContainer>,
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
    name: String,
    #[serde(default)]
    restart_count: i32,
    #[serde(default)]
    state: RawState,
}

#[derive(Default, Deserialize)]
struct RawState {
    terminated: Option<RawTerminated>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTerminated {
    #[serde(default)]
    exit_code: i32,
    finished_at: Option<Timestamp>,
}

impl JobPod {
    /// None if the pod cannot be read.
    pub fn new(item: Arc<Item>) -> Option<JobPod> {
        let facts = item.facts(|item| Facts::read(item).map(Arc::new)).ok()?.clone();
        Some(JobPod { item, facts })
    }

    /// The pod with other facts, for tables of tests.
    #[cfg(test)]
    pub fn with(&self, change: impl FnOnce(&mut Facts)) -> JobPod {
        let mut facts = Facts::clone(&self.facts);
        change(&mut facts);
        JobPod { item: self.item.clone(), facts: Arc::new(facts) }
    }
}

impl Facts {
    /// How many pods of its index came before this one.
    pub fn turn(&self) -> i32 {
        self.index_failures + self.ignored_failures
    }

    fn read(item: &Item) -> Result<Facts, serde_json::Error> {
        let Raw { metadata, status } = item.parse()?;
        let annotation = |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)?.parse::<i32>().ok());
        let state = match &*item.phase {
            "Succeeded" => State::Succeeded,
            "Failed" => State::Failed,
            _ if item.deleting => State::Terminating,
            _ => State::Active,
        };
        let containers = || status.init_container_statuses.iter().chain(&status.container_statuses);
        let ended = |container: &RawContainer| {
            container.state.terminated.as_ref().map(|ended| (container.name.clone(), ended.exit_code))
        };
        let times = containers().filter_map(|container| container.state.terminated.as_ref()?.finished_at);
        let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready");
        let fallback = metadata.deletion_timestamp.or(ready.and_then(|ready| ready.last_transition_time));
        let is_over = matches!(state, State::Succeeded | State::Failed);
        let finished = times.max().or(fallback).or(metadata.creation_timestamp).filter(|_| is_over);
        Ok(Facts {
            state,
            ready: state == State::Active && ready.is_some_and(|ready| ready.status == "True"),
            tracked: item.finalizers.iter().any(|name| &**name == FINALIZER),
            index: annotation(INDEX),
            index_failures: annotation(INDEX_FAILURES).unwrap_or(0),
            ignored_failures: annotation(INDEX_IGNORED_FAILURES).unwrap_or(0),
            created: metadata.creation_timestamp.unwrap_or(Timestamp::UNIX_EPOCH),
            finished,
            restarts: containers().map(|container| container.restart_count).sum(),
            exits: containers().filter_map(ended).collect(),
            conditions: status.conditions.into_iter().map(|condition| (condition.r#type, condition.status)).collect(),
        })
    }
}
