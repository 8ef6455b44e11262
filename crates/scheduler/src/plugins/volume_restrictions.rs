//! What may not be mounted twice: disks on one node, and claims that one pod alone may use.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use super::{
    Event, Plugin,
    extension::{Extension, Judge},
    volumes::{Views, claim_names, concerns},
};
use crate::{
    node::Node,
    objects::Kind,
    pod::{Pod, Volume, VolumeSource},
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

const DISK: &str = "node(s) had no available disk";
const ONE_POD: &str = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

pub(crate) struct VolumeRestrictions {
    pub views: Arc<Views>,
}

struct Restricted<'a> {
    pod: &'a Pod,
    /// The claims that only one pod may use, and how many use them.
    single: BTreeSet<&'a str>,
    taken: i64,
}

fn is_disk(volume: &Volume) -> bool {
    !matches!(volume.source, VolumeSource::Claim { .. } | VolumeSource::Csi { .. })
}

/// Whether two pods' volumes are one disk that cannot be mounted for both.
fn conflict(a: &Volume, b: &Volume) -> bool {
    use VolumeSource::{AwsElasticBlockStore as Aws, GcePersistentDisk as Gce, Iscsi, Rbd};
    let shared = a.read_only && b.read_only;
    match (&a.source, &b.source) {
        (Gce { name: a }, Gce { name: b }) => a == b && !shared,
        (Aws { id: a }, Aws { id: b }) => a == b,
        (Iscsi { iqn: a }, Iscsi { iqn: b }) => a == b && !shared,
        (Rbd { monitors: m, pool: p, image: i }, Rbd { monitors, pool, image }) => {
            p == pool && i == image && m.iter().any(|it| monitors.contains(it)) && !shared
        }
        _ => false,
    }
}

/// Whether a pod uses a claim of its namespace.
fn uses(pod: &Pod, namespace: &str, claim: &str) -> bool {
    pod.item.namespace() == namespace && claim_names(pod).any(|(_, name, _)| name == claim)
}

impl Extension for VolumeRestrictions {
    fn plugin(&self) -> Plugin {
        Plugin::VolumeRestrictions
    }

    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &Snapshot) -> Result<Option<Box<dyn Judge + 'a>>, Rejection> {
        let namespace = pod.item.namespace();
        let mut single = BTreeSet::new();
        for (_, name, _) in claim_names(pod) {
            let Some(claim) = self.views.claim(namespace, name) else {
                // VolumeBinding says what is missing.
                return Ok(None);
            };
            if claim.spec.access_modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                single.insert(name);
            }
        }
        let users = |name: &&str| i64::try_from(snapshot.users(namespace, name)).unwrap_or(i64::MAX);
        let taken = single.iter().map(users).sum();
        let relevant = taken > 0 || pod.volumes.iter().any(is_disk);
        Ok(relevant.then(|| Box::new(Restricted { pod, single, taken }) as Box<dyn Judge>))
    }

    fn helps(&self, pod: &Pod, event: Event<'_>) -> bool {
        let same = |other: &Pod| {
            other.volumes.iter().any(|it| pod.volumes.iter().any(|own| conflict(it, own)))
                || claim_names(pod).any(|(_, name, _)| uses(other, pod.item.namespace(), name))
        };
        match event {
            Event::Gone(other) => same(other),
            Event::Node { old, .. } => old.is_none(),
            Event::Object { kind: Kind::PersistentVolumeClaim, .. } => concerns(pod, event),
            _ => false,
        }
    }
}

impl Judge for Restricted<'_> {
    fn filter(&mut self, slot: Slot, _: &Node, snapshot: &Snapshot) -> Option<Rejection> {
        let reject = |text| Some(Rejection::because(Plugin::VolumeRestrictions, false, [Cow::Borrowed(text)]));
        if self.taken > 0 {
            return reject(ONE_POD);
        }
        let there = snapshot.pods_on(slot).iter().flat_map(|pod| pod.volumes.iter());
        let mut clashes = there.filter(|it| self.pod.volumes.iter().any(|own| conflict(it, own)));
        clashes.next().and_then(|_| reject(DISK))
    }

    fn change(&mut self, other: &Pod, _: Slot, sign: i64) {
        let namespace = self.pod.item.namespace();
        let used = self.single.iter().filter(|name| uses(other, namespace, name)).count();
        self.taken += sign * i64::try_from(used).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_mounted_once_unless_all_only_read() {
        let volume = |source: &VolumeSource, read_only| Volume { name: "v".into(), read_only, source: source.clone() };
        let rbd =
            |monitor: &str| VolumeSource::Rbd { monitors: vec![monitor.into()], pool: "p".into(), image: "i".into() };
        let gce = VolumeSource::GcePersistentDisk { name: "d".into() };
        let aws = VolumeSource::AwsElasticBlockStore { id: "d".into() };
        let iscsi = VolumeSource::Iscsi { iqn: "d".into() };
        let table = [
            (&gce, &gce, false, true),
            (&gce, &gce, true, false),
            (&gce, &aws, false, false),
            (&aws, &aws, true, true),
            (&iscsi, &iscsi, true, false),
            (&iscsi, &iscsi, false, true),
            (&rbd("a"), &rbd("a"), false, true),
            (&rbd("a"), &rbd("b"), false, false),
            (&rbd("a"), &rbd("a"), true, false),
        ];
        for (a, b, read_only, expected) in table {
            assert_eq!(conflict(&volume(a, read_only), &volume(b, read_only)), expected, "{a:?} {b:?} {read_only}");
        }
    }
}
