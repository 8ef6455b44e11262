//! Why a pod fits nowhere, in upstream's words.

use std::collections::BTreeMap;

use crate::{
    plugins::{Plugin, extension::Text},
    preempt::Outcome,
    snapshot::Snapshot,
};

/// A reason for which a node is no place for a pod. Those from `INSUFFICIENT` on are resources by their column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reason(u8);

/// The most columns that have a reason of their own.
const RESOURCES: u8 = 48;

impl Reason {
    pub const UNSCHEDULABLE: Self = Self(0);
    pub const TAINT: Self = Self(1);
    pub const NODE_AFFINITY: Self = Self(2);
    pub const PORTS: Self = Self(3);
    pub const TOO_MANY_PODS: Self = Self(4);
    pub const SPREAD: Self = Self(5);
    pub const SPREAD_LABEL: Self = Self(6);
    pub const AFFINITY: Self = Self(7);
    pub const ANTI_AFFINITY: Self = Self(8);
    pub const EXISTING_ANTI_AFFINITY: Self = Self(9);
    pub const FEATURES: Self = Self(10);
    pub const ADDED_AFFINITY: Self = Self(11);
    const INSUFFICIENT: u8 = 16;

    pub fn insufficient(resource: usize) -> Self {
        Self(Self::INSUFFICIENT + u8::try_from(resource).unwrap_or(RESOURCES).min(RESOURCES - 1))
    }

    fn text(self, snapshot: &Snapshot) -> String {
        let text = match self {
            Self::UNSCHEDULABLE => "node(s) were unschedulable",
            Self::TAINT => "node(s) had untolerated taint(s)",
            Self::NODE_AFFINITY => "node(s) didn't match Pod's node affinity/selector",
            Self::PORTS => "node(s) didn't have free ports for the requested pod ports",
            Self::TOO_MANY_PODS => "Too many pods",
            Self::SPREAD => "node(s) didn't match pod topology spread constraints",
            Self::SPREAD_LABEL => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::AFFINITY => "node(s) didn't match pod affinity rules",
            Self::ANTI_AFFINITY => "node(s) didn't match pod anti-affinity rules",
            Self::EXISTING_ANTI_AFFINITY => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::ADDED_AFFINITY => "node(s) didn't match scheduler-enforced node affinity",
            Self::FEATURES => "node(s) didn't match Pod's required features",
            Self(resource) => {
                return format!("Insufficient {}", snapshot.resource_name(usize::from(resource - Self::INSUFFICIENT)));
            }
        };
        text.into()
    }
}

/// What one plugin has against one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub plugin: Plugin,
    /// One bit a [`Reason`].
    reasons: u64,
    /// Reasons in words of the plugin's own.
    own: Vec<Text>,
    /// Also without any of the pods that are there the node would not do.
    pub hopeless: bool,
}

impl Rejection {
    /// The node would do if pods were gone from it.
    pub fn resolvable(plugin: Plugin, reason: Reason) -> Self {
        Self { plugin, reasons: 1 << reason.0, own: Vec::new(), hopeless: false }
    }

    /// The node would not do even if it were empty.
    pub fn hopeless(plugin: Plugin, reason: Reason) -> Self {
        Self { hopeless: true, ..Self::resolvable(plugin, reason) }
    }

    /// For reasons in the plugin's own words. `hopeless` as for the field.
    pub fn because(plugin: Plugin, hopeless: bool, own: impl IntoIterator<Item = Text>) -> Self {
        Self { plugin, reasons: 0, own: own.into_iter().collect(), hopeless }
    }

    pub fn and(mut self, other: Self) -> Self {
        self.own.extend(other.own);
        Self { reasons: self.reasons | other.reasons, hopeless: self.hopeless || other.hopeless, ..self }
    }
}

/// The outcome of looking at every node in vain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    nodes: usize,
    reasons: BTreeMap<u8, usize>,
    own: BTreeMap<Text, usize>,
    /// Why no node was even looked at.
    everywhere: Option<String>,
    /// The plugins that rejected a node, as bits of [`Plugin::bit`].
    pub plugins: u32,
}

impl Diagnosis {
    /// Nothing about nodes: the pod cannot be placed as things are.
    pub fn everywhere(nodes: usize, rejection: &Rejection) -> Self {
        let text = rejection.own.join(", ");
        Self { nodes, everywhere: Some(text), plugins: rejection.plugin.bit(), ..Self::default() }
    }

    pub fn new<'a>(nodes: usize, rejections: impl Iterator<Item = &'a Rejection>) -> Self {
        let mut diagnosis = Self { nodes, ..Self::default() };
        rejections.for_each(|rejection| diagnosis.add(1, rejection));
        diagnosis
    }

    /// So many nodes were rejected in one way.
    pub fn add(&mut self, nodes: usize, rejection: &Rejection) {
        self.plugins |= rejection.plugin.bit();
        for reason in (0..64).filter(|reason| rejection.reasons & (1 << reason) != 0) {
            *self.reasons.entry(reason).or_default() += nodes;
        }
        for text in &rejection.own {
            *self.own.entry(text.clone()).or_default() += nodes;
        }
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 ...`
    fn available(&self, snapshot: &Snapshot) -> String {
        let reasons = self.reasons.iter().map(|(reason, count)| (*count, Reason(*reason).text(snapshot)));
        let own = self.own.iter().map(|(text, count)| (*count, text.to_string()));
        summary(self.nodes, reasons.chain(own))
    }

    /// `0/3 nodes are available: 1 Insufficient cpu, 2 ... no new claims to deallocate, preemption: 0/3 nodes are available: ...`.
    /// `freed` is what is said of a claim that is given back so that the pod may get other devices.
    pub fn message(&self, snapshot: &Snapshot, preemption: &Outcome, freed: Option<&'static str>) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let available = match &self.everywhere {
            Some(text) => format!("0/{} nodes are available: {text}.", self.nodes),
            None => self.available(snapshot),
        };
        let claims = freed.unwrap_or(NO_CLAIMS);
        let preemption = match preemption {
            Outcome::Nominated(_) => return available,
            Outcome::Never => "not eligible due to preemptionPolicy=Never.".into(),
            Outcome::Terminating => "not eligible due to a terminating pod on the nominated node.".into(),
            Outcome::Refused(why) => why.clone(),
            Outcome::Off => return format!("{available} {claims}"),
            Outcome::Nowhere(diagnosis) => diagnosis.available(snapshot),
        };
        format!("{available} {claims}, preemption: {preemption}")
    }
}

/// What upstream's device allocation says before preemption does, since it comes first.
const NO_CLAIMS: &str = "no new claims to deallocate";

fn summary(nodes: usize, reasons: impl Iterator<Item = (usize, String)>) -> String {
    let mut reasons: Vec<_> = reasons.map(|(count, text)| format!("{count} {text}")).collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
}
