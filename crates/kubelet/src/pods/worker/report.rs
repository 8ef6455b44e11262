//! Bringing a pod's status to the API.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;

use super::{Done, Worker, as_value};
use crate::pods::{conditions, jobs, status, sync};

impl Worker {
    /// Computes the status and sends it if it differs from what the API has.
    pub(super) fn report(&mut self, now: Timestamp) {
        let mut last = self.status.clone();
        let newest = self.pod.status();
        last.conditions = merge_conditions(last.conditions, newest.and_then(|s| s.conditions.as_ref()));
        if newest.is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed"))) {
            // Whoever ended the pod has the last word.
            let newest = newest.cloned().unwrap_or_default();
            (last.phase, last.reason, last.message) = (newest.phase, newest.reason, newest.message);
        }
        self.status = status::compute(&self.pod, &self.seen, &self.memory, &self.context.host, &last, now);
        let wanted = as_value(&self.status);
        if self.pod.is_static() && !self.show_mirror() {
            return;
        }
        let uid = self.mirror.uid.clone().unwrap_or_else(|| self.pod.uid.clone());
        let patch = sync::patch(&uid, &self.told, &wanted);
        let quiet = self.memory.torn_down;
        self.memory.status_settled = patch.is_none() && !self.patching && quiet;
        let Some(patch) = patch.filter(|_| !self.patching && !self.memory.vanished && !self.memory.removing) else {
            self.held = None;
            return;
        };
        if self.holds(&wanted, now) {
            return;
        }
        self.patching = true;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.jobs.spawn(async move {
            let outcome = jobs::patch(context, pod, patch).await;
            Done::Patched { told: wanted, outcome }
        });
    }
}

/// The kubelet's own conditions as it last computed them, and others' as the API shows them.
fn merge_conditions(
    own: Option<Vec<v1::PodCondition>>,
    newest: Option<&Vec<v1::PodCondition>>,
) -> Option<Vec<v1::PodCondition>> {
    let mut all = own.unwrap_or_default();
    let kept = |c: &v1::PodCondition| conditions::OWN.contains(&c.type_.as_str());
    all.retain(kept);
    all.extend(newest.into_iter().flatten().filter(|c| !kept(c)).cloned());
    Some(all)
}
