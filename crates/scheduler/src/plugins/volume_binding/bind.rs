//! From a choice to bound claims: the choice is written to the volumes and claims, and the binder's work is waited for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use api::volume::{BOUND_BY_CONTROLLER, ClaimRef, Meta, SELECTED_NODE};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Assumed, Chosen, VolumeBinding};
use crate::{
    objects::Objects,
    plugins::{
        extension::{Doing, GONE, Reservation},
        volumes::Views,
    },
};

/// What was chosen for one pod. It is assumed as long as this lives.
pub(super) struct Reserved {
    objects: Objects,
    views: Arc<Views>,
    assumed: Arc<Mutex<Assumed>>,
    chosen: Chosen,
    namespace: String,
    node: String,
    /// The revisions at which the nodes of claims were written, by the claims' uid.
    written: BTreeMap<String, u64>,
}

impl Reserved {
    pub fn new(rule: &VolumeBinding, chosen: Chosen, namespace: &str, node: &str) -> Self {
        let mut all = rule.assumed.lock();
        for (claim, volume) in &chosen.matched {
            let meta = &claim.metadata;
            let reference =
                ClaimRef { namespace: meta.namespace.clone(), name: meta.name.clone(), uid: meta.uid.clone() };
            all.claims.insert(volume.metadata.name.clone(), reference);
        }
        for claim in &chosen.made {
            all.nodes.insert(claim.metadata.uid.clone(), node.to_owned());
        }
        drop(all);
        Self {
            objects: rule.objects.clone(),
            views: rule.views.clone(),
            assumed: rule.assumed.clone(),
            chosen,
            namespace: namespace.to_owned(),
            node: node.to_owned(),
            written: BTreeMap::new(),
        }
    }

    async fn write(&mut self, client: &kube::Client) -> Result<(), String> {
        for (claim, volume) in &self.chosen.matched {
            let meta = &claim.metadata;
            if volume.spec.claim_ref.as_ref().is_some_and(|reference| reference.uid == meta.uid) {
                continue;
            }
            let reference = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name,
                "uid": meta.uid, "resourceVersion": meta.resource_version,
            });
            let mut metadata = json!({"resourceVersion": volume.metadata.resource_version});
            if !volume.is_for(claim) {
                metadata["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
            }
            let path = format!("/api/v1/persistentvolumes/{}", volume.metadata.name);
            patch(client, &path, &json!({"metadata": metadata, "spec": {"claimRef": reference}})).await?;
        }
        for claim in &self.chosen.made {
            let meta = &claim.metadata;
            let path = format!("/api/v1/namespaces/{}/persistentvolumeclaims/{}", meta.namespace, meta.name);
            let metadata = json!({"uid": meta.uid, "annotations": {SELECTED_NODE: self.node}});
            let revision = patch(client, &path, &json!({ "metadata": metadata })).await?;
            self.written.insert(meta.uid.clone(), revision);
        }
        Ok(())
    }

    /// Whether all claims are bound; an error when that can no longer come.
    fn is_done(&self) -> Result<bool, String> {
        let claims = self.chosen.matched.iter().map(|(claim, _)| (claim, false));
        let mut done = true;
        for (claim, is_made) in claims.chain(self.chosen.made.iter().map(|claim| (claim, true))) {
            let name = &claim.metadata.name;
            let now = self
                .views
                .claim(&self.namespace, name)
                .filter(|now| now.metadata.uid == claim.metadata.uid)
                .ok_or_else(|| format!("PVC {name:?} is gone"))?;
            if now.is_fully_bound() {
                let volume = self.views.volume(&now.spec.volume_name);
                done &= volume.is_some();
                continue;
            }
            done = false;
            let version = now.metadata.resource_version.parse::<u64>().unwrap_or(0);
            let seen = self.written.get(&claim.metadata.uid).is_some_and(|written| version >= *written);
            if is_made && seen && now.metadata.annotations.get(SELECTED_NODE).is_none_or(|node| *node != self.node) {
                // Whoever makes the volume cannot do so for this node.
                return Err(format!("provisioning failed for PVC {name:?}"));
            }
        }
        Ok(done)
    }

    async fn wait(&self) -> Result<(), String> {
        let (mut claims, mut volumes) = (self.objects.volume_claims.subscribe(), self.objects.volumes.subscribe());
        while !self.is_done()? {
            tokio::select! {
                _ = claims.next() => while claims.try_next().is_some() {},
                _ = volumes.next() => while volumes.try_next().is_some() {},
            }
        }
        Ok(())
    }
}

/// Gives the revision of the write.
async fn patch(client: &kube::Client, path: &str, patch: &Value) -> Result<u64, String> {
    #[derive(Deserialize)]
    struct Written {
        metadata: Meta,
    }
    let request = http::Request::patch(path).header(http::header::CONTENT_TYPE, "application/merge-patch+json");
    let request = request.body(patch.to_string().into_bytes()).map_err(|error| error.to_string())?;
    let written = client.request::<Written>(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    });
    Ok(written?.metadata.resource_version.parse().unwrap_or(0))
}

/// What was chosen, and how long volumes may take to be made and bound.
pub(super) struct Timed {
    pub reserved: Reserved,
    pub limit: Duration,
}

impl Reservation for Timed {
    fn pre_bind<'a>(&'a mut self, client: &'a kube::Client, stop: &'a CancellationToken) -> Doing<'a> {
        Box::pin(async move {
            let work = async {
                self.reserved.write(client).await?;
                stop.run_until_cancelled(self.reserved.wait()).await.ok_or(GONE)?
            };
            let done = tokio::time::timeout(self.limit, work).await;
            let done = done.unwrap_or_else(|_| Err("timed out waiting for the condition".to_owned()));
            done.map_err(|why| format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}"))
        })
    }

    fn unreserve(self: Box<Self>) {}
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut all = self.assumed.lock();
        for (_, volume) in &self.chosen.matched {
            all.claims.remove(&volume.metadata.name);
        }
        for claim in &self.chosen.made {
            all.nodes.remove(&claim.metadata.uid);
        }
    }
}
