//! Attaching and detaching of CSI drivers' volumes: a VolumeAttachment says that a volume is to be on a node, the driver's own
//! controller does it, and the node's status shows what is done.

use std::collections::{BTreeMap, HashMap};

use api::volume::{Claim, Volume};
use client::{
    Cache, Item, Key, WorkQueue,
    events::EventType::{Normal, Warning},
};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSIDriver, VolumeAttachment},
};
use kube::api::DeleteParams;
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{fmt::Write, sync::Arc, time::Duration};
use tokio::time::Instant;

use super::view;
use crate::{
    condition,
    frame::{Env, Error, Loop, Synced, sooner},
    pods, protection,
};

/// How soon a volume that another node has is looked at again, besides every change of it.
const TAKEN: Duration = Duration::from_secs(10);
/// How long a node that is not ready may keep a volume that no pod on it wants any more.
const LONGEST_UNMOUNT: Duration = Duration::from_secs(6 * 60);
/// Set on a node by an administrator who knows that it is down.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

struct Attacher {
    env: Env,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    drivers: Cache<CSIDriver>,
    attachments: Cache<VolumeAttachment>,
    /// Since when attachments have not been wanted, by their names.
    unwanted: Mutex<HashMap<String, Instant>>,
}

/// A volume that pods of a node use, and those pods.
struct Wanted {
    volume: Volume,
    driver: String,
    users: Vec<Arc<Item>>,
}

/// Runs attach and detach.
pub(crate) async fn run(env: Env) {
    let attacher = Attacher {
        pods: env.caches.get(),
        nodes: env.caches.get(),
        claims: env.caches.get(),
        volumes: env.caches.get(),
        drivers: env.caches.get(),
        attachments: env.caches.get(),
        unwanted: Mutex::default(),
        env,
    };
    let node = |name: &str, queue: &WorkQueue<Key>| {
        if !name.is_empty() {
            queue.add(Key::new("", name));
        }
    };
    let (users, all) = (attacher.pods.clone(), attacher.nodes.clone());
    let work = Loop::new()
        .on_self(&attacher.nodes)
        .on(&attacher.pods, move |change, queue| {
            let claims =
                |item: &&Arc<Item>| item.mentions("\"persistentVolumeClaim\":") || item.mentions("\"ephemeral\":");
            for item in [&change.old, &change.new].into_iter().flatten().filter(claims) {
                node(&item.node_name, queue);
            }
        })
        .on(&attacher.attachments, move |change, queue| {
            for item in [&change.old, &change.new].into_iter().flatten() {
                if let Ok(attachment) = item.parse::<VolumeAttachment>() {
                    node(&attachment.spec.node_name, queue);
                }
            }
        })
        .on(&attacher.drivers, move |_, queue| all.list().iter().for_each(|item| queue.add(item.key.clone())))
        // A pod may have been given its node before its claim had a volume.
        .on(&attacher.claims, move |change, queue| {
            let placed = users.list_ns(&change.key.namespace).into_iter().filter(|pod| !pod.node_name.is_empty());
            let uses = |pod: &Arc<Item>| protection::claims_on(pod).iter().any(|claim| **claim == *change.key.name);
            placed.filter(uses).for_each(|pod| node(&pod.node_name, queue));
        })
        .needs(&attacher.volumes);
    work.run(&attacher.env, 2, |key| attacher.sync(key)).await;
}

/// The name of an attachment, as CSI sidecars know it.
fn name(handle: &str, driver: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    digest.iter().fold("csi-".to_owned(), |mut name, byte| {
        // Writing to a text cannot fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

/// A volume's name in a node's status.
fn unique(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

impl Attacher {
    async fn sync(&self, key: Key) -> Synced {
        let node = self.nodes.read("", &key.name);
        let wanted = self.wanted(&key.name);
        let present = self.attached_to(&key.name);
        let mut again = None;
        for (name, wanted) in &wanted {
            if present.contains_key(name) || node.is_none() {
                continue;
            }
            match self.holder(wanted, &key.name) {
                Some(_) => {
                    let why = "Volume is already exclusively attached to one node and can't be attached to another";
                    let message = format!("Multi-Attach error for volume {:?} {why}", wanted.volume.metadata.name);
                    self.tell(wanted, false, "FailedAttachVolume", &message);
                    again = Some(TAKEN);
                }
                None => self.attach(name, wanted, &key.name).await?,
            }
        }
        let status = node.as_ref().and_then(|node| node.status.clone()).unwrap_or_default();
        let down = node.as_ref().is_none_or(|node| {
            node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
        });
        let ready = condition::is_true(&status.conditions, "Ready");
        for (name, (item, attachment)) in &present {
            let spec = &attachment.spec;
            let volume = spec.source.persistent_volume_name.as_deref().unwrap_or_default();
            let Some((handle, ours)) = self.handle(volume, &spec.attacher, &key.name) else { continue };
            let in_use = status.volumes_in_use.iter().flatten().any(|used| *used == unique(&spec.attacher, &handle));
            if wanted.contains_key(name) || ours != *name || item.deleting {
                self.unwanted.lock().remove(name);
                continue;
            }
            let since = *self.unwanted.lock().entry(name.clone()).or_insert_with(Instant::now);
            match detach_in(Holding { down, in_use, ready, unwanted: since.elapsed() }) {
                Some(Duration::ZERO) => {
                    self.env.delete::<VolumeAttachment>("", name, &item.uid, DeleteParams::default()).await?;
                }
                wait => again = sooner(again, wait),
            }
        }
        self.unwanted.lock().retain(|name, _| self.attachments.get("", name).is_some());
        if node.is_some() {
            let shown = status.volumes_attached.iter().flatten().map(|it| it.name.clone()).collect();
            self.show(&key.name, &wanted, &present, shown).await?;
        }
        Ok(again)
    }

    /// What the pods of a node use of drivers that attach, by the name of the attachment.
    fn wanted(&self, node: &str) -> BTreeMap<String, Wanted> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for item in self.pods.on_node(node).into_iter().filter(|pod| !pods::is_finished(pod)) {
            for claim in protection::claims_on(&item) {
                let claim = view::<_, Claim>(&self.claims, item.namespace(), claim);
                let Some(claim) = claim.filter(Claim::is_fully_bound) else { continue };
                let Some(volume) = view::<_, Volume>(&self.volumes, "", &claim.spec.volume_name) else { continue };
                let Some((driver, handle)) = csi(&volume).filter(|(driver, _)| self.attaches(driver)) else { continue };
                let entry = wanted.entry(name(&handle, &driver, node));
                let users = &mut entry.or_insert(Wanted { volume, driver, users: Vec::new() }).users;
                users.push(item.clone());
            }
        }
        wanted
    }

    fn attaches(&self, driver: &str) -> bool {
        let driver = self.drivers.read("", driver);
        driver.is_none_or(|driver| driver.spec.attach_required.unwrap_or(true))
    }

    fn attached_to(&self, node: &str) -> BTreeMap<String, (Arc<Item>, VolumeAttachment)> {
        let all =
            self.attachments.list().into_iter().filter_map(|item| Some((item.clone(), self.attachments.parse(&item)?)));
        let here = all.filter(|(_, attachment)| attachment.spec.node_name == node);
        here.map(|(item, attachment)| (item.name().to_owned(), (item, attachment))).collect()
    }

    /// The handle of a volume and the name that its attachment would have. A volume that is gone was its driver's.
    fn handle(&self, volume: &str, driver: &str, node: &str) -> Option<(String, String)> {
        let (of, handle) = csi(&view::<_, Volume>(&self.volumes, "", volume)?)?;
        (of == driver).then(|| (handle.clone(), name(&handle, driver, node)))
    }

    /// The other node that has a volume which only one may have.
    fn holder(&self, wanted: &Wanted, node: &str) -> Option<String> {
        let single = |mode: &String| matches!(&**mode, "ReadWriteOnce" | "ReadWriteOncePod");
        if !wanted.volume.spec.access_modes.iter().all(single) {
            return None;
        }
        let all = self.attachments.list().into_iter().filter_map(|item| self.attachments.parse(&item));
        let mut others = all.filter(|it| {
            it.spec.node_name != node
                && it.spec.source.persistent_volume_name.as_deref() == Some(&*wanted.volume.metadata.name)
        });
        others.next().map(|it| it.spec.node_name)
    }

    async fn attach(&self, name: &str, wanted: &Wanted, node: &str) -> Result<(), Error> {
        let attachment = json!({
            "metadata": {"name": name},
            "spec": {
                "attacher": wanted.driver, "nodeName": node,
                "source": {"persistentVolumeName": wanted.volume.metadata.name},
            },
        });
        match self.env.create::<VolumeAttachment>("", serde_json::to_vec(&attachment)?).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    /// Brings the node's status up to what is attached, and tells the pods of what has come.
    async fn show(
        &self,
        node: &str,
        wanted: &BTreeMap<String, Wanted>,
        present: &BTreeMap<String, (Arc<Item>, VolumeAttachment)>,
        shown: Vec<String>,
    ) -> Result<(), Error> {
        let mut attached = Vec::new();
        for (name, (_, attachment)) in present {
            let status = attachment.status.clone().unwrap_or_default();
            let wanted = wanted.get(name);
            if let (Some(wanted), Some(error)) = (wanted, status.attach_error.and_then(|error| error.message)) {
                let message =
                    format!("AttachVolume.Attach failed for volume {:?} : {error}", wanted.volume.metadata.name);
                self.tell(wanted, false, "FailedAttachVolume", &message);
            }
            let volume = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
            let handle = self.handle(volume, &attachment.spec.attacher, node).map(|(handle, _)| handle);
            let Some(handle) = handle.filter(|_| status.attached) else { continue };
            let unique = unique(&attachment.spec.attacher, &handle);
            if let Some(wanted) = wanted.filter(|_| !shown.contains(&unique)) {
                let message = format!("AttachVolume.Attach succeeded for volume {:?}", wanted.volume.metadata.name);
                self.tell(wanted, true, "SuccessfulAttachVolume", &message);
            }
            attached.push(unique);
        }
        if attached == shown {
            return Ok(());
        }
        let list: Vec<_> = attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
        let patch = json!({"status": {"volumesAttached": list}});
        super::unless_gone(self.env.patch::<Node>("", node, "status", &patch).await)
    }

    fn tell(&self, wanted: &Wanted, well: bool, reason: &str, message: &str) {
        for pod in wanted.users.iter().filter_map(|item| self.pods.parse(item)) {
            let kind = if well { Normal } else { Warning };
            self.env.recorder.record(client::events::reference(&pod), kind, reason, message);
        }
    }
}

/// How a node stands to a volume that no pod on it wants any more.
struct Holding {
    /// Whether the node is gone, or known to be down.
    down: bool,
    /// Whether its kubelet says that the volume is mounted.
    in_use: bool,
    ready: bool,
    unwanted: Duration,
}

/// In how long the volume is taken from the node; none as long as its kubelet is at work on that. A kubelet that is silent is
/// waited for, but not for ever: the volume may be needed elsewhere.
fn detach_in(Holding { down, in_use, ready, unwanted }: Holding) -> Option<Duration> {
    match (down || !in_use, ready) {
        (true, _) => Some(Duration::ZERO),
        (false, true) => None,
        (false, false) => Some(LONGEST_UNMOUNT.saturating_sub(unwanted)),
    }
}

/// The driver and handle of a CSI driver's volume.
fn csi(volume: &Volume) -> Option<(String, String)> {
    let csi = volume.spec.source.get("csi")?;
    Some((csi["driver"].as_str()?.to_owned(), csi["volumeHandle"].as_str()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_taken_from_a_node_that_is_done_with_it_or_does_not_answer() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        // Down, in use, ready, for how long unwanted; in how long.
        let cases = [
            (false, false, true, 0, Some(0)),
            (false, true, true, 60, None),
            (false, true, false, 1, Some(5)),
            (false, true, false, 6, Some(0)),
            (false, true, false, 9, Some(0)),
            (true, true, false, 0, Some(0)),
        ];
        for (down, in_use, ready, unwanted, expected) in cases {
            let holding = Holding { down, in_use, ready, unwanted: minutes(unwanted) };
            assert_eq!(detach_in(holding), expected.map(minutes), "{down} {in_use} {ready} {unwanted}");
        }
    }

    #[test]
    fn an_attachment_is_named_as_sidecars_expect() {
        // sha256 of "handledrivernode".
        let expected = "csi-fdef298eb16db6fa42906ef1ff09a93a7f3028f8290cc9d71628ff91c237bfa7";
        assert_eq!(name("handle", "driver", "node"), expected);
    }
}
