//! The rules of placing pods, one a file. All are functions of values.
//!
//! A rule may *filter* (a node will not do), *score* (how well it does, 0 to 100), and says which event may *help* a pod that
//! it had rejected. Rules that look at the pod's needs and the node alone are worked out once for all equal pods
//! ([`crate::class`]).
//!
//! Rules about other kinds than nodes and pods are [extensions](extension::Extension), for example
//!
//! ```text
//! pub(crate) struct VolumeZone { objects: Objects }
//! impl Extension for VolumeZone {
//!     fn plugin(&self) -> Plugin { Plugin::VolumeZone }
//!     fn prepare(..) -> Result<Option<Box<dyn Judge>>, Rejection>   // pod.volumes.is_empty() => Ok(None)
//!     fn helps(..) -> bool                                          // Event::Object { kind: Kind::.., old, new }
//! }
//! ```
//!
//! To add one: write it in a file of its own here, add it to [`extension::all`], name it in [`Plugin`] (before the variants
//! that only score) and in `Plugin::ALL`. What it reads is an
//! [`Objects`](crate::objects::Objects) cache; what it needs of the pod is parsed in `pod.rs` (volumes of the pod are there
//! as [`Pod::volumes`]). Rejections: [`Rejection::because`](crate::verdict::Rejection::because) with upstream's words, `hopeless`
//! where upstream says `UnschedulableAndUnresolvable`.

pub(crate) mod dynamic_resources;
pub(crate) mod extension;
pub(crate) mod image_locality;
pub(crate) mod inter_pod_affinity;
pub(crate) mod node_affinity;
pub(crate) mod node_declared_features;
pub(crate) mod node_ports;
pub(crate) mod node_resources_balanced_allocation;
pub(crate) mod node_resources_fit;
pub(crate) mod node_unschedulable;
pub(crate) mod node_volume_limits;
pub(crate) mod pod_topology_spread;
pub(crate) mod taint_toleration;
pub(crate) mod volume_binding;
pub(crate) mod volume_restrictions;
pub(crate) mod volume_zone;
mod volumes;

use std::sync::Arc;

use client::Item;

use crate::{node::Node, objects::Kind, pod::Pod};

/// The best score of a node.
pub(crate) const MAX_SCORE: i64 = 100;

/// The rules that filter, in the order in which they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plugin {
    NodeUnschedulable,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
    NodeDeclaredFeatures,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    /// No rule about nodes: all of a group or none ([`crate::gangs`]).
    GangScheduling,
    /// Not a rule of its own: some HTTP extender.
    Extender,
}

/// Something happened that may let a pod fit that did not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A node came, or changed from what it was.
    Node { old: Option<&'a Node>, new: &'a Node },
    /// A node is gone.
    NodeGone(&'a Node),
    /// A pod is now on a node.
    Placed(&'a Pod),
    /// A pod on a node has other labels or needs than before, or is being deleted.
    Changed { old: &'a Pod, new: &'a Pod },
    /// A pod has left its node.
    Gone(&'a Pod),
    /// An object of another kind came, changed or (without `new`) went.
    Object { kind: Kind, old: Option<&'a Item>, new: Option<&'a Item> },
}

impl Plugin {
    pub const ALL: [Self; 17] = [
        Self::NodeUnschedulable,
        Self::TaintToleration,
        Self::NodeAffinity,
        Self::NodePorts,
        Self::NodeResourcesFit,
        Self::VolumeRestrictions,
        Self::NodeVolumeLimits,
        Self::VolumeBinding,
        Self::VolumeZone,
        Self::PodTopologySpread,
        Self::InterPodAffinity,
        Self::DynamicResources,
        Self::NodeDeclaredFeatures,
        Self::NodeResourcesBalancedAllocation,
        Self::ImageLocality,
        Self::GangScheduling,
        Self::Extender,
    ];

    /// The name in configurations and messages.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// Whether it rejects nodes.
    pub fn filters(self) -> bool {
        !matches!(
            self,
            Self::NodeResourcesBalancedAllocation | Self::ImageLocality | Self::GangScheduling | Self::Extender
        )
    }

    /// The weight of its score, if it has one.
    pub fn weight(self) -> Option<i64> {
        match self {
            Self::TaintToleration => Some(3),
            Self::NodeAffinity | Self::PodTopologySpread | Self::InterPodAffinity | Self::DynamicResources => Some(2),
            Self::NodeResourcesFit
            | Self::VolumeBinding
            | Self::NodeResourcesBalancedAllocation
            | Self::ImageLocality => Some(1),
            _ => None,
        }
    }

    pub fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether the event may turn this rule's rejection of the pod. Extensions speak for themselves.
    fn helps(self, pod: &Pod, event: Event<'_>) -> bool {
        match self {
            Self::VolumeRestrictions
            | Self::NodeVolumeLimits
            | Self::VolumeBinding
            | Self::VolumeZone
            | Self::DynamicResources
            | Self::NodeResourcesBalancedAllocation
            | Self::GangScheduling
            | Self::ImageLocality => false,
            // It says nothing about what could help.
            Self::Extender => true,
            Self::NodeDeclaredFeatures => node_declared_features::helps(event),
            Self::NodeUnschedulable => node_unschedulable::helps(pod, event),
            Self::TaintToleration => taint_toleration::helps(pod, event),
            Self::NodeAffinity => node_affinity::helps(pod, event),
            Self::NodePorts => node_ports::helps(pod, event),
            Self::NodeResourcesFit => node_resources_fit::helps(pod, event),
            Self::PodTopologySpread => pod_topology_spread::helps(pod, event),
            Self::InterPodAffinity => inter_pod_affinity::helps(pod, event),
        }
    }
}

impl Event<'_> {
    /// The plugins that such an event may concern, so that pods that others rejected are not asked for. Extensions are asked
    /// of all but nodes that are gone and pods that came, which help none of them.
    pub fn concerned(self) -> u32 {
        use Plugin::{
            DynamicResources, Extender, InterPodAffinity, NodePorts, NodeResourcesFit, NodeVolumeLimits,
            PodTopologySpread, VolumeBinding, VolumeRestrictions, VolumeZone,
        };
        let bits = |plugins: &[Plugin]| plugins.iter().fold(Extender.bit(), |bits, plugin| bits | plugin.bit());
        match self {
            Self::Node { .. } => u32::MAX,
            Self::NodeGone(_) | Self::Placed(_) => bits(&[PodTopologySpread, InterPodAffinity]),
            Self::Changed { .. } => bits(&[PodTopologySpread, InterPodAffinity, NodeResourcesFit]),
            Self::Gone(_) => bits(&[
                PodTopologySpread,
                InterPodAffinity,
                NodeResourcesFit,
                NodePorts,
                VolumeRestrictions,
                NodeVolumeLimits,
                VolumeBinding,
                DynamicResources,
            ]),
            Self::Object { kind: Kind::DeviceClass, .. } => bits(&[NodeResourcesFit, DynamicResources]),
            Self::Object { .. } => bits(&[
                InterPodAffinity,
                VolumeRestrictions,
                NodeVolumeLimits,
                VolumeBinding,
                VolumeZone,
                DynamicResources,
            ]),
        }
    }
}

/// Whether the event may help a pod that these plugins (bits) rejected; one that no plugin rejected found no node at all.
pub(crate) fn helps(plugins: u32, extensions: &[Arc<dyn extension::Extension>], pod: &Pod, event: Event<'_>) -> bool {
    let rejected = |plugin: Plugin| plugins & plugin.bit() != 0;
    match plugins {
        0 => matches!(event, Event::Node { .. }),
        _ => {
            Plugin::ALL.iter().any(|plugin| rejected(*plugin) && plugin.helps(pod, event))
                || extensions.iter().any(|it| rejected(it.plugin()) && it.helps(pod, event))
        }
    }
}

/// Stretches scores so that the highest becomes [`MAX_SCORE`]; reversed, so that the lowest counts most.
pub(crate) fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        if reverse {
            *score = MAX_SCORE - *score;
        }
    }
}
