//! The scheduler: it gives each pod a node.
//!
//! ```text
//!   caches ─▶ Queue (active, backing off, unschedulable) ─▶ decide(snapshot, pod) ─▶ assume ─▶ pods/binding
//!      └────▶ Snapshot (columns, changed in place)  ──────────▲      └─▶ why not: event, condition, back to the queue
//! ```
//!
//! - Deciding is a function of values ([`decide`], [`plugins`]); [`run`] is the only place that reads, waits and writes.
//! - A pod is parsed once, into what it *needs*; pods with equal needs share it, and what rules say of a node by needs and
//!   node alone is worked out once for all of them ([`class`]).
//! - What a pod asks of other pods, and they of it, is counted as pods come and go ([`groups`], [`terms`]), and what needs only
//!   the columns of nodes is found out for 64 nodes at once ([`candidates`]): a decision costs as much as the nodes that it
//!   looks at, not as much as the cluster is large.
//! - A decision is assumed at once and written in the background, so that the next one can follow. The API's word replaces
//!   what was assumed.
//! - A pod that fits nowhere is tried again when something happens that may help it, by the rules that had rejected it. Nothing
//!   is polled, and nothing sleeps between a pod's creation and its binding.
//!
//! - A pod of high priority may take the place of lower ones ([`preempt`]): they are deleted, and the room is kept for it.
//!
//! - Pods of a PodGroup are decided on together ([`gangs`]): all that the group needs get nodes, or none does.
//!
//! - Rules about other kinds than nodes and pods are extensions with caches of their own ([`plugins::extension`]).
//! - Profiles say which rules take part, by `KubeSchedulerConfiguration` ([`config`], [`profile`]); HTTP services may have a
//!   say too ([`extender`]).

mod candidates;
mod class;
mod config;
mod counts;
mod decide;
mod device_classes;
mod duration;
mod expression;
mod extender;
mod gangs;
mod groups;
mod handle;
mod namespaces;
mod node;
mod objects;
mod owners;
mod plugins;
mod pod;
mod preempt;
mod profile;
mod queue;
mod run;
mod snapshot;
mod terms;
mod topology;
mod verdict;
mod writer;

#[cfg(test)]
mod random;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

pub use config::ConfigError;
use config::Configuration;
use profile::Profile;
use queue::Delays;
pub use run::run;

/// How the scheduler is set up; the default is one profile, `default-scheduler`, with upstream's defaults.
#[derive(Debug, Clone, Default)]
pub struct Options(Configuration);

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {0}: {1}")]
    Read(std::path::PathBuf, std::io::Error),
    #[error("{0}: {1}")]
    Config(std::path::PathBuf, ConfigError),
}

impl Options {
    /// Reads a `KubeSchedulerConfiguration` in YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Configuration::parse(text).map(Self)
    }

    /// Reads a file with a `KubeSchedulerConfiguration`.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        let text = std::fs::read_to_string(file).map_err(|error| LoadError::Read(file.into(), error))?;
        Self::parse(&text).map_err(|error| LoadError::Config(file.into(), error))
    }

    fn profiles(&self) -> Vec<Arc<Profile>> {
        let Configuration { profiles, percentage_of_nodes_to_score, extenders, .. } = &self.0;
        let managed = extenders.iter().flat_map(|it| &it.managed_resources);
        let ignored: Vec<Box<str>> =
            managed.filter(|it| it.ignored_by_scheduler).map(|it| it.name.as_str().into()).collect();
        let profile = |it| Arc::new(Profile::new(it, *percentage_of_nodes_to_score, &ignored));
        profiles.iter().map(profile).collect()
    }

    fn extenders(&self) -> impl Iterator<Item = config::Extender> {
        self.0.extenders.clone().into_iter()
    }

    fn backoff(&self) -> Delays {
        let seconds = |it: i64| Duration::from_secs(u64::try_from(it).unwrap_or(1));
        Delays { first: seconds(self.0.pod_initial_backoff_seconds), longest: seconds(self.0.pod_max_backoff_seconds) }
    }
}
