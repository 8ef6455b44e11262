//! The provisioner of local paths: a volume is a directory on the disk of the node that its first pod goes to.
//!
//! Here volumes are only written down. The node that a volume is on makes the directory when it is mounted, and removes it when
//! the volume is deleted, for which the volume waits by a finalizer; the volumes of a node that is gone do not wait. Growing
//! is a number, since a directory has no limit of its own.

use api::volume::{
    Claim, Class, LOCAL_PATH, LOCAL_PATH_FINALIZER, LOCAL_PATH_ROOT, PROVISIONED_BY, PROVISIONERS, SELECTED_NODE,
    Volume,
};
use client::{
    Cache, Key,
    events::EventType::{Normal, Warning},
};
use k8s_openapi::api::{
    core::v1::{Node, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use serde_json::{Value, json};

use super::{seen, tell_claim, unless_gone, view};
use crate::frame::{Env, Error, Loop, Synced};

const HOSTNAME: &str = "kubernetes.io/hostname";

struct Provisioner {
    env: Env,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
    nodes: Cache<Node>,
}

/// Runs the provisioner.
pub(crate) async fn run(env: Env) {
    let (claims, volumes) = (env.caches.get(), env.caches.get());
    let provisioner = Provisioner { claims, volumes, classes: env.caches.get(), nodes: env.caches.get(), env };
    let Provisioner { env, claims, volumes, classes, nodes } = &provisioner;
    let (waiting, held) = (claims.clone(), volumes.clone());
    let by_class = claims.clone();
    let work = Loop::new()
        .on_self(claims)
        .on_self(volumes)
        .on(classes, move |_, queue| ours(&by_class).for_each(|key| queue.add(key)))
        .on(nodes, move |change, queue| match (&change.old, &change.new) {
            (None, Some(_)) => ours(&waiting).for_each(|key| queue.add(key)),
            (_, None) => held.list().iter().filter(|item| is_held(item)).for_each(|item| queue.add(item.key.clone())),
            // Its root is written once, soon after it came.
            (Some(old), Some(new)) if root(old) != root(new) => ours(&waiting).for_each(|key| queue.add(key)),
            _ => {}
        });
    work.run(env, 2, |key| provisioner.sync(key)).await;
}

/// The claims that wait for a volume of ours.
fn ours(claims: &Cache<PersistentVolumeClaim>) -> impl Iterator<Item = Key> {
    claims.list().into_iter().filter_map(|item| wants(&item.parse().ok()?).then(|| item.key.clone()))
}

fn wants(claim: &Claim) -> bool {
    let by_us =
        PROVISIONERS.iter().any(|name| claim.metadata.annotations.get(*name).is_some_and(|it| it == LOCAL_PATH));
    by_us && claim.spec.volume_name.is_empty() && !claim.metadata.is_deleting()
}

fn is_held(item: &client::Item) -> bool {
    item.finalizers.iter().any(|name| &**name == LOCAL_PATH_FINALIZER)
}

fn root(node: &client::Item) -> Option<String> {
    node.metadata().ok()?.annotations?.remove(LOCAL_PATH_ROOT)
}

impl Provisioner {
    async fn sync(&self, key: Key) -> Synced {
        if key.namespace.is_empty() {
            self.volume(&key.name).await?;
        } else if let Some(claim) = view::<_, Claim>(&self.claims, &key.namespace, &key.name) {
            if wants(&claim) {
                self.provision(&claim).await?;
            } else if claim.status.phase == "Bound" && claim.request() > claim.capacity() {
                self.expand(&claim).await?;
            }
        }
        Ok(None)
    }

    async fn provision(&self, claim: &Claim) -> Result<(), Error> {
        let Some(class) = view::<_, Class>(&self.classes, "", claim.class()) else { return Ok(()) };
        let name = format!("pvc-{}", claim.metadata.uid);
        if class.provisioner != LOCAL_PATH || self.volumes.get("", &name).is_some() {
            return Ok(());
        }
        let failed = |why: &str| {
            let message = format!("failed to provision volume with StorageClass {:?}: {why}", class.metadata.name);
            tell_claim(&self.env, claim, Warning, "ProvisioningFailed", message);
        };
        if let Some(why) = unsupported(claim, &class) {
            failed(why);
            return Ok(());
        }
        if let Some(source) = populated(claim) {
            let message = format!("Assuming an external populator will provision the volume from {source}");
            tell_claim(&self.env, claim, Normal, "Provisioning", message);
            return Ok(());
        }
        let Some(node) = self.node(claim, &class) else {
            if class.is_delayed() && !claim.metadata.has(SELECTED_NODE) {
                // The scheduler has yet to choose.
                return Ok(());
            }
            failed("no node of the allowed topologies keeps local volumes");
            return self.reschedule(claim).await;
        };
        let whose = format!("{}/{}", claim.metadata.namespace, claim.metadata.name);
        let message = format!("External provisioner is provisioning volume for claim {whose:?}");
        tell_claim(&self.env, claim, Normal, "Provisioning", message);
        let volume = serde_json::to_vec(&volume(&name, claim, &class, &node))?;
        match self.env.create::<PersistentVolume>("", volume).await {
            Ok(written) => seen(&self.volumes, &written).await,
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                failed(&error.message());
                return Err(error);
            }
        }
        tell_claim(
            &self.env,
            claim,
            Normal,
            "ProvisioningSucceeded",
            format!("Successfully provisioned volume {name}"),
        );
        Ok(())
    }

    /// The node that the volume is to be on: the chosen one, or, where none waits for a pod, the first that keeps volumes.
    fn node(&self, claim: &Claim, class: &Class) -> Option<Place> {
        let place = |item: &client::Item| {
            let root = root(item).filter(|_| class.allows(|key| item.labels.get(key)))?;
            let host = item.labels.get(HOSTNAME).unwrap_or(item.name()).to_owned();
            Some(Place { root, host })
        };
        match claim.metadata.annotations.get(SELECTED_NODE) {
            Some(name) => place(&*self.nodes.get("", name)?),
            None if class.is_delayed() => None,
            None => self.nodes.list().iter().find_map(|item| place(item)),
        }
    }

    /// Lets the scheduler choose again.
    async fn reschedule(&self, claim: &Claim) -> Result<(), Error> {
        let meta = &claim.metadata;
        if !meta.has(SELECTED_NODE) {
            return Ok(());
        }
        let patch =
            json!({"metadata": {"resourceVersion": meta.resource_version, "annotations": {SELECTED_NODE: null}}});
        unless_gone(self.env.patch::<PersistentVolumeClaim>(&meta.namespace, &meta.name, "", &patch).await)
    }

    /// Gives a claim what it asks for now, where its volume can grow; other volumes have a resizer of their own.
    async fn expand(&self, claim: &Claim) -> Result<(), Error> {
        let Some(volume) = view::<_, Volume>(&self.volumes, "", &claim.spec.volume_name) else { return Ok(()) };
        if volume.metadata.annotations.get(PROVISIONED_BY).is_none_or(|maker| maker != LOCAL_PATH) {
            let message = "waiting for an external controller to expand this PVC";
            tell_claim(&self.env, claim, Normal, "ExternalExpanding", message);
            return Ok(());
        }
        let wanted = json!({"storage": claim.spec.resources.requests.get("storage")});
        if volume.capacity() < claim.request() {
            let patch = json!({"spec": {"capacity": wanted}});
            let answer = self.env.patch::<PersistentVolume>("", &volume.metadata.name, "", &patch).await?;
            seen(&self.volumes, &answer).await;
        }
        let meta = &claim.metadata;
        let status = json!({"status": {"capacity": wanted, "allocatedResources": wanted}});
        let written = self.env.patch::<PersistentVolumeClaim>(&meta.namespace, &meta.name, "status", &status).await?;
        seen(&self.claims, &written).await;
        tell_claim(&self.env, claim, Normal, "VolumeResizeSuccessful", "Resize volume succeeded");
        Ok(())
    }

    /// A deleted volume whose node is gone has nobody to remove its data.
    async fn volume(&self, name: &str) -> Result<(), Error> {
        let Some(item) = self.volumes.get("", name).filter(|item| item.deleting && is_held(item)) else {
            return Ok(());
        };
        let Ok(volume) = item.parse::<Volume>() else { return Ok(()) };
        let alive = self.nodes.list().iter().any(|node| volume.reaches(node.name(), |key: &str| node.labels.get(key)));
        if alive {
            return Ok(());
        }
        let kept: Vec<&str> = item.finalizers.iter().map(|it| &**it).filter(|it| *it != LOCAL_PATH_FINALIZER).collect();
        let patch = json!({"metadata": {"resourceVersion": item.resource_version.to_string(), "finalizers": kept}});
        unless_gone(self.env.patch::<PersistentVolume>("", name, "", &patch).await)
    }
}

/// Where a volume is put.
struct Place {
    root: String,
    /// The node's label by which it is reached.
    host: String,
}

/// Why no volume can be made for a claim.
fn unsupported(claim: &Claim, class: &Class) -> Option<&'static str> {
    let copies = |source: &Option<Value>| {
        source
            .as_ref()
            .is_some_and(|it| matches!(it["kind"].as_str(), Some("PersistentVolumeClaim" | "VolumeSnapshot")))
    };
    let table = [
        (claim.is_block(), "block volumes are not supported"),
        (claim.spec.selector.is_some(), "claim Selector is not supported"),
        (copies(&claim.spec.data_source) || copies(&claim.spec.data_source_ref), "claim DataSource is not supported"),
        (
            claim.spec.volume_attributes_class_name.as_ref().is_some_and(|name| !name.is_empty()),
            "volume attributes are not supported",
        ),
        (!class.mount_options.is_empty(), "mount options are not supported"),
        (!class.parameters.is_empty(), "the class has parameters, of which none is known"),
    ];
    table.into_iter().find(|(is, _)| *is).map(|(_, why)| why)
}

/// What a populator is to fill the volume from.
fn populated(claim: &Claim) -> Option<String> {
    let source = claim.spec.data_source_ref.as_ref()?;
    Some(format!("{} {:?}", source["kind"].as_str()?, source["name"].as_str()?))
}

fn volume(name: &str, claim: &Claim, class: &Class, place: &Place) -> Value {
    let Claim { metadata: meta, spec, .. } = claim;
    let path = format!("{}/{name}_{}_{}", place.root, meta.namespace, meta.name);
    json!({
        "metadata": {
            "name": name,
            "annotations": {PROVISIONED_BY: LOCAL_PATH},
            "finalizers": [LOCAL_PATH_FINALIZER],
        },
        "spec": {
            "capacity": {"storage": spec.resources.requests.get("storage")},
            "accessModes": spec.access_modes,
            "volumeMode": "Filesystem",
            "storageClassName": class.metadata.name,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name,
                "uid": meta.uid, "resourceVersion": meta.resource_version,
            },
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [place.host]}]},
            ]}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_made_is_said() {
        let claim = |spec: Value| -> Claim { serde_json::from_value(json!({ "spec": spec })).unwrap() };
        let class = |more: Value| -> Class { serde_json::from_value(more).unwrap() };
        let plain = || class(json!({}));
        let reference = |kind: &str| json!({"dataSourceRef": {"apiGroup": "a", "kind": kind, "name": "x"}});
        let table = [
            (claim(json!({})), plain(), None),
            (claim(json!({"volumeMode": "Block"})), plain(), Some("block volumes are not supported")),
            (claim(json!({"selector": {}})), plain(), Some("claim Selector is not supported")),
            (claim(reference("VolumeSnapshot")), plain(), Some("claim DataSource is not supported")),
            (claim(reference("Hello")), plain(), None),
            (claim(json!({"volumeAttributesClassName": "fast"})), plain(), Some("volume attributes are not supported")),
            (claim(json!({})), class(json!({"mountOptions": ["ro"]})), Some("mount options are not supported")),
        ];
        for (claim, class, expected) in table {
            assert_eq!(unsupported(&claim, &class), expected, "{claim:?}");
        }
        assert_eq!(populated(&claim(reference("Hello"))).as_deref(), Some("Hello \"x\""));
    }
}
