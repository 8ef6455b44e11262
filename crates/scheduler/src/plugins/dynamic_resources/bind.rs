//! What becomes of a claim before its pod is bound: the allocation is written, and the pod becomes one of its users.

use std::{sync::Arc, time::Duration};

use client::{Cache, Item};
use k8s_openapi::{
    api::{
        core::v1::{ContainerExtendedResourceRequest, Pod as ApiPod},
        resource::v1::{AllocationResult, ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Assumed, Pending, extended::UNMADE, taken::Allocations};
use crate::plugins::extension::{Doing, GONE, Reservation};

/// Keeps a claim as long as it is allocated.
pub(super) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
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
    /// For extended resources, whose claim is made here and named then.
    pub made: Option<Made>,
}

#[derive(Clone)]
pub(super) struct Made {
    pub claim: ResourceClaim,
    pub mappings: Vec<ContainerExtendedResourceRequest>,
}

impl Wanted {
    fn is_unmade(&self) -> bool {
        self.made.is_some() && self.name == UNMADE
    }
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

    /// Makes the claim for extended resources. What was assumed for it is assumed under its name from then on.
    async fn make(&mut self, api: &Api<ResourceClaim>, index: usize) -> Result<(), kube::Error> {
        let wanted = &mut self.wanted[index];
        let Some(made) = wanted.made.as_ref().filter(|_| wanted.is_unmade()) else { return Ok(()) };
        let metadata = api.create(&PostParams::default(), &made.claim).await?.metadata;
        let mut assumed = self.assumed.lock();
        let pending = assumed.remove(&wanted.uid);
        (wanted.name, wanted.uid) = (metadata.name.unwrap_or_default(), metadata.uid.unwrap_or_default());
        assumed.extend(pending.map(|it| (wanted.uid.clone(), Pending { name: wanted.name.clone(), ..it })));
        Ok(())
    }

    /// Tells by the pod's status which claim has its extended resources.
    async fn tell(&self, client: &kube::Client, wanted: &Wanted) -> Result<(), kube::Error> {
        let Some(made) = &wanted.made else { return Ok(()) };
        let status = json!({"extendedResourceClaimStatus": {
            "requestMappings": made.mappings, "resourceClaimName": wanted.name}});
        let patch = Patch::Strategic(json!({"metadata": {"uid": self.pod.uid}, "status": status}));
        let pods: Api<ApiPod> = Api::namespaced(client.clone(), self.pod.namespace());
        pods.patch_status(self.pod.name(), &PatchParams::default(), &patch).await.map(drop)
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
    fn pre_bind<'a>(&'a mut self, client: &'a kube::Client, stop: &'a CancellationToken) -> Doing<'a> {
        Box::pin(async move {
            self.client = Some(client.clone());
            let pod = self.pod.clone();
            let api = Api::namespaced(client.clone(), pod.namespace());
            for index in 0..self.wanted.len() {
                if stop.is_cancelled() {
                    return Err(GONE.to_owned());
                }
                let failed = |name: &str, error| {
                    let namespace = pod.namespace();
                    format!("running PreBind plugin \"DynamicResources\": claim {namespace}/{name}: {error}")
                };
                self.make(&api, index).await.map_err(|error| failed(UNMADE, error))?;
                let wanted = self.wanted[index].clone();
                self.write(&api, &wanted).await.map_err(|error| failed(&wanted.name, error))?;
                self.written = index + 1;
                self.tell(client, &wanted).await.map_err(|error| failed(&wanted.name, error))?;
            }
            let waits =
                self.wanted.iter().any(|it| it.allocation.as_ref().is_some_and(|it| it.allocation_timestamp.is_some()));
            if waits {
                let ready = stop.run_until_cancelled(tokio::time::timeout(READY, self.ready(&api))).await;
                let ready = ready.ok_or(GONE)?.unwrap_or_else(|_| Err("device binding timeout".into()));
                ready.map_err(|why| format!("running PreBind plugin \"DynamicResources\": {why}"))?;
            }
            Ok(())
        })
    }

    fn unreserve(mut self: Box<Self>) {
        let mut assumed = self.assumed.lock();
        // What was written is taken until the claim is seen to say otherwise; see [`settle`]. What was not asked for here is
        // of another pod that shares the claim.
        for wanted in self.wanted[self.written..].iter().filter(|wanted| wanted.allocation.is_some()) {
            if assumed.get(&wanted.uid).is_some_and(|pending| pending.written.is_none()) {
                assumed.remove(&wanted.uid);
            }
        }
        drop(assumed);
        let Some(client) = self.client.take() else { return };
        let (made, others): (Vec<_>, Vec<_>) =
            self.wanted.drain(..).enumerate().partition(|(_, wanted)| wanted.made.is_some() && !wanted.is_unmade());
        let written: Vec<Wanted> =
            others.into_iter().filter(|(index, _)| *index < self.written).map(|(_, wanted)| wanted).collect();
        tokio::spawn(async move {
            let api: Api<ResourceClaim> = Api::namespaced(client, self.pod.namespace());
            for (_, wanted) in made {
                if let Err(error) = delete(&api, &wanted.name, &wanted.uid).await {
                    tracing::debug!(claim = wanted.name, %error, "a claim for extended resources is left over");
                }
            }
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

/// Deletes a claim that was made here, although it is allocated.
async fn delete(api: &Api<ResourceClaim>, name: &str, uid: &str) -> Result<(), kube::Error> {
    let finalizer = json!({"$deleteFromPrimitiveList/finalizers": [FINALIZER], "uid": uid});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(json!({"metadata": finalizer}))).await?;
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    api.delete(name, &params).await.map(drop)
}

/// An allocated claim that is given back, because its devices are where its pod cannot go, or one that is left over.
#[derive(Debug, Clone)]
pub(crate) struct Freed {
    namespace: String,
    name: String,
    uid: String,
    version: String,
    /// It was made for extended resources, and is deleted.
    is_made_here: bool,
}

impl Freed {
    pub(super) fn made_here(metadata: &ObjectMeta) -> Self {
        Self { is_made_here: true, ..Self::new(metadata) }
    }

    /// What is said of the pod meanwhile.
    pub fn says(&self) -> &'static str {
        if self.is_made_here {
            "deletion of ResourceClaim completed"
        } else {
            "deallocation of ResourceClaim completed"
        }
    }

    pub(super) fn new(metadata: &ObjectMeta) -> Self {
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        Self {
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
            uid: text(&metadata.uid),
            version: text(&metadata.resource_version),
            is_made_here: false,
        }
    }

    /// Gives it back if it is still as it was seen.
    pub async fn deallocate(&self, client: &kube::Client) {
        let api: Api<ResourceClaim> = Api::namespaced(client.clone(), &self.namespace);
        let patch = json!({
            "metadata": {"uid": self.uid, "resourceVersion": self.version},
            "status": {"allocation": null, "reservedFor": null, "devices": null},
        });
        let outcome = match self.is_made_here {
            true => delete(&api, &self.name, &self.uid).await,
            false => api.patch_status(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop),
        };
        if let Err(error) = outcome {
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
            // One that was made here may not have come yet.
            None => claims.get(namespace, name).is_some() || claims.revision() < written,
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, future::pending};

    use client::Caches;
    use kube::client::Body;
    use serde_json::Value;
    use tokio::sync::mpsc;
    use tower::{BoxError, service_fn};

    use super::*;

    fn silent() -> kube::Client {
        kube::Client::new(service_fn(|_: http::Request<Body>| pending::<Result<http::Response<Body>, BoxError>>()), "")
    }

    fn allocation(device: &str) -> AllocationResult {
        let result = json!({"request": "r", "driver": "d", "pool": "p", "device": device});
        serde_json::from_value(json!({"devices": {"results": [result]}})).unwrap()
    }

    fn assumed(entries: &[(&str, Option<u64>)]) -> Arc<Mutex<Assumed>> {
        let entry = |(uid, written): &(&str, Option<u64>)| {
            let (namespace, name) = ("n".to_owned(), (*uid).to_owned());
            ((*uid).to_owned(), Pending { namespace, name, allocation: allocation(uid), written: *written })
        };
        Arc::new(Mutex::new(entries.iter().map(entry).collect::<HashMap<_, _>>()))
    }

    /// The reservation of a pod for these claims, which are allocated by it or not.
    fn reserved(assumed: &Arc<Mutex<Assumed>>, wanted: &[(&str, bool)]) -> Reserved {
        let pod = json!({"metadata": {"name": "pod", "namespace": "n", "uid": "pod"}});
        let wanted = wanted.iter().map(|(name, is_made)| Wanted {
            name: (*name).to_owned(),
            uid: (*name).to_owned(),
            allocation: is_made.then(|| allocation(name)),
            made: None,
        });
        Reserved {
            claims: Caches::new(silent()).get(),
            assumed: assumed.clone(),
            pod: Arc::new(Item::from_json(&pod.to_string()).unwrap()),
            wanted: wanted.collect(),
            written: 0,
            client: None,
        }
    }

    fn left(assumed: &Mutex<Assumed>) -> Vec<String> {
        let mut left: Vec<String> = assumed.lock().keys().cloned().collect();
        left.sort();
        left
    }

    #[tokio::test]
    async fn a_pod_that_is_not_bound_gives_back_what_it_has_not_written_and_nothing_of_others() {
        // What is assumed, the claims of the pod, how many of them were written, and what is assumed still.
        type Case<'a> = (&'a [(&'a str, Option<u64>)], &'a [(&'a str, bool)], usize, &'a [&'a str]);
        let cases: [Case<'_>; 5] = [
            (&[("a", None)], &[("a", true)], 0, &[]),
            (&[("a", Some(7))], &[("a", true)], 1, &["a"]),
            (&[("a", Some(7)), ("b", None)], &[("a", true), ("b", true)], 1, &["a"]),
            // Another pod allocates a claim that both use.
            (&[("a", None), ("b", None)], &[("a", false), ("b", true)], 0, &["a"]),
            // It was allocated and given back, and another pod allocates it anew.
            (&[("a", None)], &[("a", true)], 1, &["a"]),
        ];
        for (entries, wanted, written, expected) in cases {
            let all = assumed(entries);
            Box::new(Reserved { written, ..reserved(&all, wanted) }).unreserve();
            assert_eq!(left(&all), expected, "{entries:?} {wanted:?} {written}");
        }
    }

    /// An API whose claims have no allocation. Each write of a status says that it has come, and is answered when told so.
    fn slow(came: mpsc::UnboundedSender<()>, answer: Arc<tokio::sync::Semaphore>) -> kube::Client {
        let service = service_fn(move |request: http::Request<Body>| {
            let (came, answer) = (came.clone(), answer.clone());
            async move {
                let name = request.uri().path().split('/').nth(7).unwrap_or_default().to_owned();
                if request.method() == http::Method::PUT {
                    came.send(())?;
                    answer.acquire().await?.forget();
                }
                let claim: Value = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "spec": {},
                    "metadata": {"name": name, "uid": name, "resourceVersion": "7", "finalizers": [FINALIZER]}});
                Ok::<_, BoxError>(http::Response::new(Body::from(claim.to_string().into_bytes())))
            }
        });
        kube::Client::new(service, "n")
    }

    #[tokio::test]
    async fn a_write_that_is_under_way_is_brought_to_its_end_when_the_pod_goes() {
        let (came, mut comes) = mpsc::unbounded_channel();
        let (answer, stop) = (Arc::new(tokio::sync::Semaphore::new(0)), CancellationToken::new());
        let all = assumed(&[("a", None), ("b", None)]);
        let mut reserved = reserved(&all, &[("a", true), ("b", true)]);
        let (client, stopped) = (slow(came, answer.clone()), stop.clone());
        let binding = tokio::spawn(async move {
            let outcome = reserved.pre_bind(&client, &stopped).await;
            reserved.client = None;
            Box::new(reserved).unreserve();
            outcome
        });
        comes.recv().await.unwrap();
        stop.cancel();
        answer.add_permits(2);
        assert_eq!(binding.await.unwrap(), Err(GONE.to_owned()));
        assert_eq!(left(&all), ["a"]);
        assert_eq!(all.lock()["a"].written, Some(7));
        assert!(comes.recv().await.is_none(), "no other write was begun");
    }
}
