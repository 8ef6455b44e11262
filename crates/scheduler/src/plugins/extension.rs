//! Rules that know more of the cluster than its nodes and pods: volumes, devices, groups of pods.
//!
//! Such a rule is an [`Extension`], made once, with caches of the kinds that it reads ([`Objects`]). For each pod that
//! concerns it a decision gets a [`Judge`], which keeps what the rule has found out about the pod (upstream's cycle state)
//! while it filters, scores and finally reserves. A [`Reservation`] is held until the pod is bound: it writes what must be
//! in the API before (`PreBind`), and takes everything back if the pod is not bound after all (`Unreserve`).
//!
//! Decisions are made one after another by one task, so what [`Judge::reserve`] notes in the extension is seen by the next
//! decision; bindings run beside, so what is noted needs a lock.

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc, time::Duration};

use client::Change;
use tokio_util::sync::CancellationToken;

use super::{
    Event, Plugin,
    dynamic_resources::{DynamicResources, Freed},
    node_volume_limits::NodeVolumeLimits,
    volume_binding::VolumeBinding,
    volume_restrictions::VolumeRestrictions,
    volume_zone::VolumeZone,
    volumes::Views,
};
use crate::{
    node::Node,
    objects::{Kind, Objects},
    pod::Pod,
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

/// A reason in upstream's words.
pub(crate) type Text = Cow<'static, str>;

/// A rule with knowledge of its own.
pub(crate) trait Extension: Send + Sync {
    fn plugin(&self) -> Plugin;

    /// What the rule has to say of a pod (upstream's `PreFilter`): `Ok(None)` is nothing, and it is not asked again in this
    /// decision; an error rejects all nodes at once. Must be cheap for the many pods that do not concern it.
    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &Snapshot) -> Result<Option<Box<dyn Judge + 'a>>, Rejection>;

    /// Why the pod should not even be tried (upstream's `PreEnqueue`); it waits for an event that [helps](Self::helps).
    fn hold(&self, _pod: &Pod) -> Option<Text> {
        None
    }

    /// An object has come, changed or gone. All that are there at the start come too.
    fn observe(&self, _kind: Kind, _change: &Change) {}

    /// Whether the event may turn this rule's rejection of the pod.
    fn helps(&self, pod: &Pod, event: Event<'_>) -> bool;
}

/// What a rule knows of one pod during one decision.
pub(crate) trait Judge {
    /// What speaks against a node.
    fn filter(&mut self, slot: Slot, node: &Node, snapshot: &Snapshot) -> Option<Rejection>;

    /// A pod has been taken off a node (-1) to see what would be without it, or put back. What the snapshot keeps of the
    /// node itself follows it; what the judge has found out of all nodes must be made to.
    fn change(&mut self, _other: &Pod, _slot: Slot, _sign: i64) {}

    /// The scores of the feasible nodes from 0 to 100, if the rule prefers any.
    fn score(&mut self, _feasible: &[Slot]) -> Option<Vec<i64>> {
        None
    }

    /// No node would do: what can be given back so that another one will (upstream's `PostFilter`).
    fn relieve(&mut self) -> Option<Freed> {
        None
    }

    /// The pod goes to this node: notes in the extension what is now taken. An error sends the pod back to the queue.
    fn reserve(&mut self, _slot: Slot, _node: &Node) -> Result<Option<Box<dyn Reservation>>, Text> {
        Ok(None)
    }
}

/// Why a preparation stops.
pub(crate) const GONE: &str = "the pod is gone";

/// Work on the way to a binding.
pub(crate) type Doing<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// What was taken for a pod that is being bound. Dropped when the pod is bound, which confirms it.
pub(crate) trait Reservation: Send {
    /// Writes and waits for what the pod needs before it is bound. Bounded in time. When the pod is gone it is told to `stop`:
    /// it waits no longer and begins no other write. A write that is under way is brought to its end, since only its answer
    /// tells what has become of it.
    fn pre_bind<'a>(&'a mut self, client: &'a kube::Client, stop: &'a CancellationToken) -> Doing<'a>;

    /// The pod is not bound after all: gives back what was taken. Also called when `pre_bind` was never called, failed or was
    /// stopped.
    fn unreserve(self: Box<Self>);
}

/// Makes all extensions. A new one is added here; its place decides when it filters and reserves. Volumes may take so long to
/// be made and bound.
pub(crate) fn all(objects: &Objects, volumes: Duration) -> Arc<[Arc<dyn Extension>]> {
    let views = Arc::new(Views::new(objects));
    Arc::new([
        Arc::new(VolumeRestrictions { views: views.clone() }),
        Arc::new(NodeVolumeLimits { views: views.clone() }),
        Arc::new(VolumeBinding::new(objects.clone(), views.clone(), volumes)),
        Arc::new(VolumeZone { views }),
        Arc::new(DynamicResources::new(objects.clone())),
    ])
}
