//! A pod as the scheduler sees it: parsed once into what it needs, which equal pods share.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

mod amount;
mod raw;

use client::{Item, Labels};
use serde::Deserialize;

pub(crate) use amount::Amount;
use raw::RawPod;
pub(crate) use raw::{RawNodeAffinity, RawSpread, is_resized};

use crate::{
    expression::{Expression, Operator, Selector},
    namespaces::Scope,
};

/// A pod that waits for a node or has one.
#[derive(Debug)]
pub(crate) struct Pod {
    pub item: Arc<Item>,
    pub needs: Arc<Needs>,
    pub priority: i32,
    /// Whether it may take the place of pods of lower priority.
    pub preempts: bool,
    pub scheduler: Box<str>,
    pub gated: bool,
    pub generation: i64,
    /// The node that its status nominates.
    pub nominated: Option<Box<str>>,
    /// The PodGroup with which it is scheduled.
    pub group: Option<Box<str>>,
    pub volumes: Box<[Volume]>,
    pub resource_claims: Box<[ClaimReference]>,
}

/// A volume that needs more of a node than a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Volume {
    pub name: Box<str>,
    pub read_only: bool,
    pub source: VolumeSource,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VolumeSource {
    /// Of a claim in the pod's namespace; an ephemeral one must be owned by the pod.
    Claim {
        name: Box<str>,
        ephemeral: bool,
    },
    /// Made by a driver for this pod alone.
    Csi {
        driver: Box<str>,
    },
    GcePersistentDisk {
        name: Box<str>,
    },
    AwsElasticBlockStore {
        id: Box<str>,
    },
    Iscsi {
        iqn: Box<str>,
    },
    Rbd {
        monitors: Vec<Box<str>>,
        pool: Box<str>,
        image: Box<str>,
    },
}

/// An entry of `spec.resourceClaims`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimReference {
    pub name: Box<str>,
    pub claim: Claim,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    Named(Box<str>),
    /// Made from a template for this pod.
    Generated(Box<str>),
    /// Will be made from a template.
    Awaited,
    /// The template asked for none.
    Needless,
}

impl Pod {
    pub fn uid(&self) -> &str {
        &self.item.uid
    }

    /// The pod in a newer version whose specification is the same but for the node; none if what it needs may still differ,
    /// because it is made from labels and those have changed.
    pub fn renewed(&self, item: Arc<Item>) -> Option<Self> {
        let is_made_of_labels = self.needs.has_affinity() || !self.needs.spread.is_empty();
        (!is_made_of_labels || self.labels() == &item.labels).then(|| Self {
            item,
            needs: self.needs.clone(),
            scheduler: self.scheduler.clone(),
            nominated: self.nominated.clone(),
            group: self.group.clone(),
            volumes: self.volumes.clone(),
            resource_claims: self.resource_claims.clone(),
            ..*self
        })
    }

    pub fn labels(&self) -> &Labels {
        &self.item.labels
    }
}

/// Everything in a pod's specification that decides where it can run. Pods with equal needs get equal answers.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Needs {
    /// What is requested of each resource: CPU in thousandths, all else in units. Zeros are left out.
    pub requests: BTreeMap<Box<str>, i64>,
    /// CPU and memory as nodes are scored by.
    pub assumed: [i64; 2],
    pub node_affinity: NodeAffinity,
    pub tolerations: Vec<Toleration>,
    pub ports: Vec<HostPort>,
    pub images: Vec<Box<str>>,
    /// Features that the node must declare.
    pub features: Vec<&'static str>,
    pub spread: Vec<SpreadConstraint>,
    pub affinity: PodAffinity,
    pub anti_affinity: PodAffinity,
}

impl NodeAffinity {
    /// The names of the only nodes that can do, when every term names some.
    pub fn names(&self) -> Option<BTreeSet<&str>> {
        let terms = self.required.as_ref().filter(|terms| !terms.is_empty())?;
        let mut all = BTreeSet::new();
        for term in terms {
            let by_name = |it: &&Expression| &*it.key == "metadata.name" && it.operator == Operator::In;
            let sets = term.match_fields.iter().filter(by_name);
            let sets = sets.map(|it| it.values.iter().map(|name| &**name).collect::<BTreeSet<_>>());
            all.extend(sets.reduce(|a, b| a.intersection(&b).copied().collect())?);
        }
        Some(all)
    }
}

impl Needs {
    pub fn request(&self, resource: &str) -> i64 {
        self.requests.get(resource).copied().unwrap_or(0)
    }

    /// Whether other pods matter to it, or it to them, by their labels.
    pub fn has_affinity(&self) -> bool {
        [&self.affinity, &self.anti_affinity].iter().any(|it| !it.required.is_empty() || !it.preferred.is_empty())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct NodeAffinity {
    /// `nodeSelector`: all must hold.
    pub selector: Vec<Expression>,
    /// One of these must hold, if it is there at all.
    pub required: Option<Vec<NodeTerm>>,
    pub preferred: Vec<(i32, NodeTerm)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct NodeTerm {
    pub match_expressions: Vec<Expression>,
    pub match_fields: Vec<Expression>,
}

#[derive(Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub(crate) struct Toleration {
    pub key: Box<str>,
    pub operator: Box<str>,
    pub value: Box<str>,
    pub effect: Box<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub address: Box<str>,
    pub protocol: Box<str>,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SpreadConstraint {
    pub max_skew: i64,
    pub min_domains: i64,
    pub topology_key: Box<str>,
    pub selector: Option<Selector>,
    /// `DoNotSchedule`, else `ScheduleAnyway`.
    pub hard: bool,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct PodAffinity {
    pub required: Vec<Arc<PodTerm>>,
    pub preferred: Vec<(i32, Arc<PodTerm>)>,
}

/// Which pods, and how near: those in the same domain of a node label.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct PodTerm {
    pub topology_key: Box<str>,
    pub selector: Option<Selector>,
    pub scope: Scope,
}

/// Shares the needs of equal pods.
#[derive(Default)]
pub(crate) struct Parser {
    known: HashSet<Arc<Needs>>,
    forget_at: usize,
}

impl Parser {
    /// Reads a pod of the cache.
    pub fn parse(&mut self, item: Arc<Item>) -> Result<Pod, serde_json::Error> {
        let raw: RawPod = serde_json::from_slice(&item.bytes)?;
        let mut spec = raw.spec;
        let (priority, preempts) = (spec.priority, &*spec.preemption_policy != "Never");
        let (scheduler, gated) = (spec.scheduler_name.clone(), !spec.scheduling_gates.is_empty());
        let volumes = std::mem::take(&mut spec.volumes).into_iter().filter_map(|it| it.resolve(item.name())).collect();
        let claims = std::mem::take(&mut spec.resource_claims).into_iter();
        let resource_claims = claims.map(|it| it.resolve(&raw.status.resource_claim_statuses)).collect();
        let group = spec.scheduling_group.take().and_then(|it| it.pod_group_name).filter(|name| !name.is_empty());
        let nominated = raw.status.nominated_node_name.filter(|node| !node.is_empty());
        let needs = self.share(spec.needs(&item, &raw.status.container_statuses));
        let generation = raw.metadata.generation;
        Ok(Pod {
            item,
            needs,
            priority,
            preempts,
            scheduler,
            gated,
            generation,
            nominated,
            group,
            volumes,
            resource_claims,
        })
    }

    fn share(&mut self, needs: Needs) -> Arc<Needs> {
        if let Some(known) = self.known.get(&needs) {
            return known.clone();
        }
        if self.known.len() >= self.forget_at {
            self.known.retain(|needs| Arc::strong_count(needs) > 1);
            self.forget_at = (self.known.len() * 2).max(256);
        }
        let needs = Arc::new(needs);
        self.known.insert(needs.clone());
        needs
    }
}
