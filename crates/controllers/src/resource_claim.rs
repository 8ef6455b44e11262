//! ResourceClaims: made for pods from templates, given back when nobody uses them any more.

use std::sync::Arc;

use client::{Cache, Item, Key};
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodResourceClaim, PodResourceClaimStatus},
        resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::api::DeleteParams;
use serde_json::json;

use crate::{
    frame::{Env, Error, Loop, Synced},
    owner::{Named, controller_reference},
    pods,
};

const WORKERS: usize = 10;
/// The name of a claim in the pod that it was made for.
const CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Holds a claim while what it stands for is allocated.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// As many pods may share a claim.
const SHARED_BY: usize = 256;
/// Where a pod asks for claims, or names the one that the scheduler made for it.
const FIELDS: [&str; 2] = ["\"resourceClaims\"", "\"extendedResourceClaimStatus\""];
/// Tells keys of claims from those of pods.
const CLAIM: &str = "claim:";

/// Runs the ResourceClaim controller.
pub(crate) async fn run(env: Env) {
    let controller =
        Controller { pods: env.caches.get(), claims: env.caches.get(), templates: env.caches.get(), env: env.clone() };
    let claim_key = |key: &Key| Key { namespace: key.namespace.clone(), name: format!("{CLAIM}{}", key.name).into() };
    let (pods, all) = (controller.pods.clone(), controller.claims.clone());
    let work = Loop::new()
        .on(&controller.pods, move |change, queue| {
            // Nearly all pods have none, and are not parsed for it.
            let may_use = |item: &&Arc<Item>| FIELDS.iter().any(|field| item.mentions(field));
            let Some(item) = change.item().filter(may_use) else { return };
            let is_any = |pod: &Pod| !claims_of(pod).is_empty() || !used_by(pod).is_empty();
            let Some(pod) = pods.parse(item).filter(is_any) else { return };
            if change.new.is_some() {
                queue.add(change.key.clone());
            }
            // What the pod leaves behind.
            if change.new.is_none() || item.deleting || pods::is_finished(item) {
                for name in used_by(&pod) {
                    queue.add(claim_key(&Key { namespace: change.key.namespace.clone(), name: name.into() }));
                }
                all.owned_by(&item.uid).iter().for_each(|claim| queue.add(claim_key(&claim.key)));
            }
        })
        .on(&controller.claims, move |change, queue| {
            queue.add(claim_key(&change.key));
            // A claim that is allocated may be reserved for a pod that went past the scheduler.
            for owner in change.item().iter().filter_map(|item| item.controller()).filter(|owner| &*owner.kind == "Pod")
            {
                queue.add(Key { namespace: change.key.namespace.clone(), name: (&*owner.name).into() });
            }
        })
        .needs(&controller.templates);
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

fn claims_of(pod: &Pod) -> Vec<PodResourceClaim> {
    pod.spec.as_ref().and_then(|spec| spec.resource_claims.clone()).unwrap_or_default()
}

/// The names of the claims that a pod was given or asks for by their names.
fn used_by(pod: &Pod) -> Vec<String> {
    let status = pod.status.clone().unwrap_or_default();
    let given = status.resource_claim_statuses.into_iter().flatten().filter_map(|status| status.resource_claim_name);
    let extended = status.extended_resource_claim_status.map(|status| status.resource_claim_name);
    claims_of(pod).into_iter().filter_map(|claim| claim.resource_claim_name).chain(given).chain(extended).collect()
}

struct Controller {
    env: Env,
    pods: Cache<Pod>,
    claims: Cache<ResourceClaim>,
    templates: Cache<ResourceClaimTemplate>,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        match key.name.strip_prefix(CLAIM) {
            Some(name) => self.release(&key.namespace, name).await?,
            None => self.provide(&key).await?,
        }
        Ok(None)
    }

    /// Makes the claims that a pod lacks, and reserves them for a pod that is bound already.
    async fn provide(&self, key: &Key) -> Result<(), Error> {
        let Some(pod) = self.pods.read(&key.namespace, &key.name) else { return Ok(()) };
        if pod.is_deleting() || self.pods.get(&key.namespace, &key.name).is_none_or(|item| pods::is_finished(&item)) {
            return Ok(());
        }
        let status = pod.status.clone().unwrap_or_default();
        let mut known: Vec<PodResourceClaimStatus> = status.resource_claim_statuses.unwrap_or_default();
        let before = known.len();
        for wanted in claims_of(&pod) {
            let Some(template) = &wanted.resource_claim_template_name else { continue };
            if known.iter().any(|status| status.name == wanted.name) {
                continue;
            }
            let claim = match self.made_for(&pod, &wanted.name) {
                Some(name) => Some(name),
                None => self.make(&pod, &wanted.name, template).await?,
            };
            known.push(PodResourceClaimStatus { name: wanted.name.clone(), resource_claim_name: claim });
        }
        if known.len() != before {
            let metadata = json!({"uid": pod.uid(), "resourceVersion": pod.metadata.resource_version});
            let patch = json!({"metadata": metadata, "status": {"resourceClaimStatuses": known}});
            self.env.patch::<Pod>(&key.namespace, &key.name, "status", &patch).await?;
        }
        let is_bound =
            pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|node| !node.is_empty()));
        if is_bound {
            for wanted in claims_of(&pod) {
                let made = known.iter().find(|status| status.name == wanted.name);
                let name =
                    wanted.resource_claim_name.or_else(|| made.and_then(|made| made.resource_claim_name.clone()));
                if let Some(claim) = name.and_then(|name| self.claims.read(&key.namespace, &name)) {
                    self.reserve(&pod, claim).await?;
                }
            }
        }
        Ok(())
    }

    /// A claim that was made for a pod, although its status does not say so yet.
    fn made_for(&self, pod: &Pod, name: &str) -> Option<String> {
        let owned = self.claims.owned_by(pod.uid()).into_iter();
        let claim =
            owned.filter_map(|item| self.claims.parse(&item)).find(|claim| claim.annotation(CLAIM_NAME) == Some(name));
        claim.map(|claim| claim.name().to_owned())
    }

    /// None where the template makes no claim.
    async fn make(&self, pod: &Pod, name: &str, template: &str) -> Result<Option<String>, Error> {
        let Some(found) = self.templates.read(pod.namespace(), template) else {
            let message = format!(
                "PodResourceClaim {name}: resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
            );
            self.env.recorder.warning(pod, "FailedResourceClaimCreation", message.clone());
            return Err(Error::Message(message));
        };
        let meta = found.spec.metadata.unwrap_or_default();
        let mut annotations = meta.annotations.unwrap_or_default();
        annotations.insert(CLAIM_NAME.to_owned(), name.to_owned());
        let claim = ResourceClaim {
            metadata: ObjectMeta {
                generate_name: Some(pods::name_prefix(&format!("{}-{name}", pod.name()))),
                labels: meta.labels,
                annotations: Some(annotations),
                owner_references: Some(vec![controller_reference(pod)]),
                ..ObjectMeta::default()
            },
            spec: found.spec.spec,
            status: None,
        };
        match self.env.create::<ResourceClaim>(pod.namespace(), serde_json::to_vec(&claim)?).await {
            Ok(made) => {
                // Not before the cache shows it may another be made.
                self.env.shown(&self.claims, made.revision()).await;
                Ok(Some(made.metadata.name))
            }
            Err(error) => {
                let message = format!("PodResourceClaim {name}: create ResourceClaim: {}", error.message());
                self.env.recorder.warning(pod, "FailedResourceClaimCreation", message);
                Err(error)
            }
        }
    }

    async fn reserve(&self, pod: &Pod, mut claim: ResourceClaim) -> Result<(), Error> {
        let status = claim.status.get_or_insert_default();
        let reserved = status.reserved_for.get_or_insert_default();
        let has_it = reserved.iter().any(|user| user.uid == pod.uid());
        if status.allocation.is_none() || has_it || reserved.len() >= SHARED_BY {
            return Ok(());
        }
        reserved.push(ResourceClaimConsumerReference {
            api_group: None,
            name: pod.name().to_owned(),
            resource: "pods".to_owned(),
            uid: pod.uid().to_owned(),
        });
        self.env.replace_status(&claim).await.map(|_| ())
    }

    /// Takes a claim away from pods that no longer use it, gives it back when none does, and deletes it with its pod's work.
    async fn release(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let Some(mut claim) = self.claims.read(namespace, name) else { return Ok(()) };
        let mut kept = Vec::new();
        for user in reserved_for(&claim) {
            let is_pod = user.resource == "pods" && user.api_group.as_deref().unwrap_or_default().is_empty();
            if !is_pod || self.uses(namespace, &user.name, &user.uid).await? {
                kept.push(user);
            }
        }
        let owner = owning_pod(&claim).map(|owner| (owner.name.clone(), owner.uid.clone()));
        let owner_works = match owner {
            Some((name, uid)) => Some(self.uses(namespace, &name, &uid).await?),
            None => None,
        };
        let Settlement { status, frees, deletes } = settle(&claim, kept, owner_works);
        if status.is_some() {
            claim.status = status;
            claim = self.env.replace_status(&claim).await?;
        }
        if frees {
            let kept: Vec<_> = claim.metadata.finalizers.iter().flatten().filter(|name| *name != FINALIZER).collect();
            let metadata = json!({"resourceVersion": claim.metadata.resource_version, "finalizers": kept});
            self.env.patch::<ResourceClaim>(namespace, name, "", &json!({"metadata": metadata})).await?;
        }
        if deletes {
            self.env.delete::<ResourceClaim>(namespace, name, claim.uid(), DeleteParams::default()).await?;
        }
        Ok(())
    }

    /// Whether a pod is there and has work left to do.
    async fn uses(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, Error> {
        if let Some(item) = self.pods.get(namespace, name).filter(|item| &*item.uid == uid) {
            return Ok(!pods::is_finished(&item));
        }
        // The cache may be behind: only the server knows.
        let live = self.env.api::<Pod>(namespace).get_opt(name).await?;
        let works = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        };
        Ok(live.is_some_and(|pod| pod.uid() == uid && works(&pod)))
    }
}

fn reserved_for(claim: &ResourceClaim) -> Vec<ResourceClaimConsumerReference> {
    claim.status.as_ref().and_then(|status| status.reserved_for.clone()).unwrap_or_default()
}

/// The pod that a claim was made for.
fn owning_pod(claim: &ResourceClaim) -> Option<&OwnerReference> {
    crate::owner::controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod")
}

/// What becomes of a claim.
#[derive(Debug, PartialEq)]
struct Settlement {
    /// The status that is written, if it changes.
    status: Option<ResourceClaimStatus>,
    /// Whether its finalizer goes.
    frees: bool,
    deletes: bool,
}

/// `kept` are the users that still have work to do; `owner_works` says whether the pod has that it was made for, if any.
fn settle(claim: &ResourceClaim, kept: Vec<ResourceClaimConsumerReference>, owner_works: Option<bool>) -> Settlement {
    let before = reserved_for(claim);
    let deleting = claim.is_deleting();
    // One that its pod has yet to be given is not unused, only early.
    let unused = kept.is_empty() && (deleting || (owner_works.is_some() && !before.is_empty()));
    let mut status = claim.status.clone().unwrap_or_default();
    let gives_back = unused && status.allocation.is_some();
    let changes = kept.len() != before.len() || gives_back;
    status.reserved_for = (!kept.is_empty()).then_some(kept);
    if gives_back {
        status.allocation = None;
    }
    let is_held = claim.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER);
    Settlement {
        frees: unused && is_held && status.allocation.is_none(),
        deletes: !deleting && owner_works == Some(false),
        status: changes.then_some(status),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn users(names: &str) -> Vec<ResourceClaimConsumerReference> {
        let user = |name: &str| json!({"resource": "pods", "name": name, "uid": name});
        names.split_whitespace().map(|name| serde_json::from_value(user(name)).unwrap()).collect()
    }

    #[test]
    fn a_pod_uses_the_claims_that_it_names_and_those_that_it_was_given() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "resourceClaims": [
                {"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x"}],
                "extendedResourceClaimStatus": {"requestMappings": [], "resourceClaimName": "p-extended-resources-y"}}});
        assert!(FIELDS.iter().all(|field| pod.to_string().contains(field)));
        assert_eq!(used_by(&serde_json::from_value(pod).unwrap()), ["shared", "p-b-x", "p-extended-resources-y"]);
    }

    #[test]
    fn a_claim_is_given_back_when_nobody_uses_it_and_goes_with_the_pod_that_it_was_made_for() {
        // Allocated, deleting, users before and after, whether its pod works; users and allocation that are written, whether
        // the finalizer goes, and whether the claim does.
        let cases = [
            (true, false, "a", "a", Some(true), None, false, false),
            (true, false, "a b", "a", None, Some(("a", true)), false, false),
            // One that somebody made stays allocated for the next.
            (true, false, "a", "", None, Some(("", true)), false, false),
            (true, false, "a", "", Some(false), Some(("", false)), true, true),
            // Its pod has yet to get it.
            (true, false, "", "", Some(true), None, false, false),
            (false, false, "", "", Some(false), None, false, true),
            (true, true, "a", "a", None, None, false, false),
            (true, true, "a", "", None, Some(("", false)), true, false),
            (false, true, "", "", None, None, true, false),
        ];
        for (allocated, deleting, before, after, owner_works, written, frees, deletes) in cases {
            let mut object = json!({"metadata": {"name": "c", "finalizers": [FINALIZER]}, "spec": {},
                "status": {"reservedFor": users(before)}});
            if allocated {
                object["status"]["allocation"] = json!({});
            }
            if deleting {
                object["metadata"]["deletionTimestamp"] = Value::from("2026-01-01T00:00:00Z");
            }
            let settled = settle(&serde_json::from_value(object).unwrap(), users(after), owner_works);
            let name = format!("{allocated} {deleting} {before:?} {after:?} {owner_works:?}");
            let status =
                settled.status.map(|status| (status.reserved_for.unwrap_or_default(), status.allocation.is_some()));
            assert_eq!(status, written.map(|(kept, allocated)| (users(kept), allocated)), "{name}");
            assert_eq!((settled.frees, settled.deletes), (frees, deletes), "{name}");
        }
    }
}
