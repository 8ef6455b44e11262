//! A worker's part of probing: which containers are probed, and what a new kubelet takes over of its predecessor's findings.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;

use super::{Input, Worker};
use crate::pods::memory::Findings;
use crate::pods::pod::Role;
use crate::probes::{Probing, Subject};

impl Worker {
    /// Starts the probes of containers that began to run, and ends those of containers that do not any more.
    pub(super) fn track(&mut self) {
        let running: Vec<_> = self.seen.containers.iter().filter(|c| c.running()).cloned().collect();
        self.probing.retain(|_, probing| running.iter().any(|c| c.id == probing.id));
        let pod_ip = self.addresses().pod_ips.first().cloned().unwrap_or_default();
        for container in running {
            let Some(member) = self.pod.member(&container.name).filter(|m| m.role != Role::Ephemeral) else { continue };
            if self.memory.of(&container.name).findings.id == container.id
                || self.memory.of(&container.name).starting
                || self.memory.stopping.contains_key(&container.id)
            {
                continue;
            }
            let adopted = self.adopted(&container.name, &container.id);
            let spec = member.spec.clone();
            let started = spec.startup_probe.is_none() || adopted.0;
            let findings = Findings {
                id: container.id.clone(),
                started,
                ready: spec.readiness_probe.is_none() || adopted.1,
                failed: None,
            };
            self.memory.starts(&container.name).findings = findings;
            let subject = Subject {
                context: self.context.clone(),
                pod: self.pod.clone(),
                container: spec,
                id: container.id.clone(),
                pod_ip: pod_ip.clone(),
                started,
                since: container.started_at.unwrap_or_else(Timestamp::now),
            };
            let sender = self.sender.clone();
            let report = move |finding| {
                if let Some(sender) = sender.upgrade() {
                    let _ = sender.send(Input::Probe(finding));
                }
            };
            let probing = Probing::start(subject, report);
            if !probing.is_idle() {
                self.probing.insert(container.name, probing);
            }
        }
    }

    /// Whether the API shows this very container as started and as ready, from before the kubelet's own start.
    fn adopted(&self, name: &str, id: &str) -> (bool, bool) {
        let Some(status) = self.pod.status() else { return (false, false) };
        let lists = [&status.init_container_statuses, &status.container_statuses];
        let told = lists.into_iter().flatten().flatten().find(|s| s.name == name);
        let same = |s: &&v1::ContainerStatus| s.container_id.as_deref().is_some_and(|full| full.ends_with(id));
        told.filter(same).map_or((false, false), |s| (s.started.unwrap_or(false), s.ready))
    }
}
