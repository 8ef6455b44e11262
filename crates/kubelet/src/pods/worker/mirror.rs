//! A static pod's worker and the object by which the API shows the pod: made when it is missing, and never what decides.

use std::sync::Arc;

use k8s_openapi::api::core::v1;

use super::{Done, Worker, as_value};
use crate::labels;
use crate::pods::jobs;

/// What the API has of a static pod.
#[derive(Default)]
pub(super) struct Mirror {
    pub uid: Option<String>,
    busy: bool,
}

impl Mirror {
    /// The making or deleting under way has ended.
    pub fn made(&mut self, _done: bool) {
        self.busy = false;
    }
}

impl Worker {
    /// Takes in how the API shows the pod. What is being deleted, or shows another revision of the file, is taken away.
    pub(super) fn mirrored(&mut self, object: Option<Box<v1::Pod>>) {
        let Some(object) = object else {
            self.mirror.uid = None;
            self.told = as_value(&v1::PodStatus::default());
            return;
        };
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let shows = object.metadata.annotations.as_ref().and_then(|a| a.get(labels::MIRROR)) == Some(&self.pod.uid);
        if object.metadata.deletion_timestamp.is_some() || !shows {
            let (context, pod) = (self.context.clone(), self.pod.clone());
            self.jobs.spawn(async move { Done::Mirrored(jobs::delete(&context, &pod, &uid).await) });
            return;
        }
        let version = object.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        if version >= self.told_at && !self.patching {
            self.told = as_value(&object.status.clone().unwrap_or_default());
        }
        self.mirror.uid = Some(uid);
    }

    /// Sees to it that the API shows the pod; true if it does.
    pub(super) fn show_mirror(&mut self) -> bool {
        if self.mirror.uid.is_none() && !self.mirror.busy && !self.memory.vanished {
            self.mirror.busy = true;
            let (context, pod) = (self.context.clone(), Arc::clone(&self.pod));
            self.jobs.spawn(async move { Done::Mirrored(jobs::create_mirror(context, pod).await) });
        }
        self.mirror.uid.is_some()
    }
}
