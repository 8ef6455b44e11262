//! What becomes of a claim before its pod is bound: the allocation is written, and the pod becomes one of its users.

use std::{sync::Arc, time::Duration};

use client::{Cache, Item};
use k8s_openapi::{
    api::resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus},
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;
use serde_json::json;

use super::{Assumed, Pending, taken::Allocations};
use crate::plugins::extension::{Doing, Reservation};

/// Keeps a claim as long as it is allocated.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a write is tried again that another one came before.
const TRIES: usize = 5;
/// How long devices may take to be ready.
const READY: Duration = Duration::from_secs(600);

/// The claims of one pod.
pub(super) struct Reserved {
    pub claims: Cache<ResourceClaim>,
    pub assumed: Arc<Mutex<Assumed>>,
    pub pod: Arc<Item>,
    /// Their names and uids, and the allocations of those that have none yet.
    pub wanted: Vec<Wanted>,
    /// How many of them were written.
    pub written: usize,
    pub client: Option<kube::Client>,
}

#[derive(Clone)]
pub(super) struct Wanted {
    pub name: String,
    pub uid: String,
    pub allocation: Option<AllocationResult>,
}

impl Reserved {
    fn user(&self) -> ResourceClaimConsumerReference {
        ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".into(),
            name: self.pod.name().into(),
            uid: self.pod.uid.to_string(),
        }
    }

    async fn write(&self, api: &Api<ResourceClaim>, wanted: &Wanted) -> Result<(), kube::Error> {
        let mut tries = 0;
        loop {
            match self.try_write(api, wanted).await {
                Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_write(&self, api: &Api<ResourceClaim>, wanted: &Wanted) -> Result<(), kube::Error> {
        let mut claim = api.get(&wanted.name).await?;
        let conflict = |message: &str| {
            let status = kube::core::Status::failure(message, "Conflict").with_code(410);
            kube::Error::Api(status.boxed())
        };
        if claim.metadata.uid.as_deref() != Some(&*wanted.uid) {
            return Err(conflict("the claim was replaced"));
        }
        let status = claim.status.clone().unwrap_or_default();
        if let (Some(_), None) = (&wanted.allocation, &status.allocation)
            && !claim.metadata.finalizers.iter().flatten().any(|it| it == FINALIZER)
        {
            claim.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
            claim = api.replace(&wanted.name, &PostParams::default(), &claim).await?;
        }
        let allocation = match (status.allocation, &wanted.allocation) {
            (Some(theirs), None) => theirs,
            (None, Some(ours)) => ours.clone(),
            (Some(_), Some(_)) => return Err(conflict("the claim was allocated by somebody else")),
            (None, None) => return Err(conflict("the claim was deallocated")),
        };
        let mut users = status.reserved_for.unwrap_or_default();
        if !users.iter().any(|user| *user.uid == *self.pod.uid) {
            users.push(self.user());
        }
        claim.status = Some(ResourceClaimStatus {
            allocation: Some(allocation),
            reserved_for: Some(users),
            devices: status.devices,
        });
        let written = api.replace_status(&wanted.name, &PostParams::default(), &claim).await?;
        if wanted.allocation.is_some() {
            let version = written.metadata.resource_version.and_then(|it| it.parse().ok()).unwrap_or(0);
            if let Some(pending) = self.assumed.lock().get_mut(&wanted.uid) {
                pending.written = Some(version);
            }
        }
        Ok(())
    }

    /// Waits until the devices' drivers say that they are ready, for those that have to.
    async fn ready(&self, api: &Api<ResourceClaim>) -> Result<(), String> {
        let mut changes = self.claims.subscribe();
        for wanted in self.wanted.iter() {
            loop {
                let claim = api.get(&wanted.name).await.map_err(|error| error.to_string())?;
                let status = claim.status.unwrap_or_default();
                if is_ready(&status)? {
                    break;
                }
                while changes.next().await.key.name.as_ref() != wanted.name {}
            }
        }
        Ok(())
    }
}

/// Whether all binding conditions hold; an error if one says that it never will.
fn is_ready(status: &ResourceClaimStatus) -> Result<bool, String> {
    let results = status.allocation.iter().flat_map(|it| &it.devices).flat_map(|it| it.results.iter().flatten());
    let mut ready = true;
    for it in results {
        let own = status
            .devices
            .iter()
            .flatten()
            .find(|device| (&device.driver, &device.pool, &device.device) == (&it.driver, &it.pool, &it.device));
        let conditions: &[Condition] = own.and_then(|device| device.conditions.as_deref()).unwrap_or_default();
        let is_true = |kind: &String| conditions.iter().any(|it| it.type_ == *kind && it.status == "True");
        if let Some(failed) = it.binding_failure_conditions.iter().flatten().find(|kind| is_true(kind)) {
            return Err(format!("device {} of claim: binding failure condition {failed} is true", it.device));
        }
        ready &= it.binding_conditions.iter().flatten().all(is_true);
    }
    Ok(ready)
}

impl Reservation for Reserved {
    fn pre_bind<'a>(&'a mut self, client: &'a kube::Client) -> Doing<'a> {
        Box::pin(async move {
            self.client = Some(client.clone());
            let api = Api::namespaced(client.clone(), self.pod.namespace());
            for index in 0..self.wanted.len() {
                let wanted = self.wanted[index].clone();
                let outcome = self.write(&api, &wanted).await;
                let (namespace, name) = (self.pod.namespace(), &wanted.name);
                outcome.map_err(|error| {
                    format!("running PreBind plugin \"DynamicResources\": claim {namespace}/{name}: {error}")
                })?;
                self.written = index + 1;
            }
            let waits =
                self.wanted.iter().any(|it| it.allocation.as_ref().is_some_and(|it| it.allocation_timestamp.is_some()));
            if waits {
                let ready = tokio::time::timeout(READY, self.ready(&api)).await;
                let ready = ready.unwrap_or_else(|_| Err("device binding timeout".into()));
                ready.map_err(|why| format!("running PreBind plugin \"DynamicResources\": {why}"))?;
            }
            Ok(())
        })
    }

    fn unreserve(mut self: Box<Self>) {
        let mut assumed = self.assumed.lock();
        for wanted in &self.wanted {
            assumed.remove(&wanted.uid);
        }
        drop(assumed);
        let Some(client) = self.client.take() else { return };
        let written: Vec<Wanted> = self.wanted.drain(..self.written).collect();
        tokio::spawn(async move {
            let api: Api<ResourceClaim> = Api::namespaced(client, self.pod.namespace());
            for wanted in written {
                // The pod uses it no more; the allocation stays for the next one, or goes with the claim's owner.
                let gone = json!({"metadata": {"uid": wanted.uid}, "status": {"reservedFor": [
                    {"$patch": "delete", "uid": self.pod.uid}]}});
                let params = PatchParams::default();
                if let Err(error) = api.patch_status(&wanted.name, &params, &Patch::Strategic(gone)).await {
                    tracing::debug!(claim = wanted.name, %error, "a claim keeps a user that it has not");
                }
            }
        });
    }
}

/// An allocated claim that is given back, because its devices are where its pod cannot go.
#[derive(Debug, Clone)]
pub(crate) struct Freed {
    namespace: String,
    name: String,
    uid: String,
    version: String,
}

impl Freed {
    pub(super) fn new(metadata: &ObjectMeta) -> Self {
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        Self {
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
            uid: text(&metadata.uid),
            version: text(&metadata.resource_version),
        }
    }

    /// Gives it back if it is still as it was seen.
    pub async fn deallocate(&self, client: &kube::Client) {
        let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &self.namespace);
        let patch = json!({
            "metadata": {"uid": self.uid, "resourceVersion": self.version},
            "status": {"allocation": null, "reservedFor": null, "devices": null},
        });
        if let Err(error) = api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            tracing::debug!(claim = self.name, %error, "a claim keeps its devices");
        }
    }
}

/// Forgets what is known from the API by now.
pub(super) fn settle(assumed: &mut Assumed, known: &Allocations, claims: &Cache<ResourceClaim>) {
    assumed.retain(|_, Pending { namespace, name, written, .. }| {
        let Some(written) = *written else { return true };
        match known.version(namespace, name) {
            Some(version) => version < written,
            None => claims.get(namespace, name).is_some(),
        }
    });
}
