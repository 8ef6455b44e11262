//! A pod goes where the devices are that its ResourceClaims ask for: those that are allocated already by their nodes, the others
//! are allocated from what the nodes' drivers publish, by structured parameters.

mod allocate;
mod bind;
mod extended;
mod pools;
mod selectors;
mod taken;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use client::{Change, Item, Key};
use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, DeviceRequest, ResourceClaim};
use parking_lot::Mutex;

use super::{
    Event, Plugin,
    extension::{Extension, Judge, Reservation, Text},
    node_affinity,
    node_resources_fit::is_scalar,
    normalize,
};
use crate::{
    node::Node,
    objects::{Kind, Objects},
    pod::{Claim, NodeAffinity, Pod},
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};
use allocate::Asked;
pub(crate) use bind::Freed;
use bind::{Made, Reserved, Wanted};
use extended::Extended;
use pools::{Slice, Slices};
use selectors::Selectors;
use taken::{Allocations, Taken};

/// Alternatives that a request may name.
const ALTERNATIVES: usize = 8;
/// Users that a claim may have.
const USERS: usize = 256;

/// Allocations that the caches do not show yet, by the claims' uid.
type Assumed = HashMap<String, Pending>;

struct Pending {
    namespace: String,
    name: String,
    allocation: AllocationResult,
    /// The version of the claim with which it was written.
    written: Option<u64>,
}

/// The slices that there are, each read once a version.
#[derive(Default)]
struct Published {
    slices: HashMap<Key, Arc<Slice>>,
    /// None if they have changed since they were last asked for.
    known: Option<Arc<Slices>>,
}

pub(crate) struct DynamicResources {
    objects: Objects,
    selectors: Selectors,
    assumed: Arc<Mutex<Assumed>>,
    known: Mutex<Allocations>,
    published: Mutex<Published>,
}

impl DynamicResources {
    pub fn new(objects: Objects) -> Self {
        let (assumed, known, published) = Default::default();
        Self { objects, selectors: Selectors::new(), assumed, known, published }
    }

    /// The pod's claims, or why it cannot be tried now.
    fn claims(&self, pod: &Pod) -> Result<Vec<ResourceClaim>, Text> {
        let (namespace, pod_name) = (pod.item.namespace(), pod.item.name());
        let mut claims = Vec::new();
        for reference in &pod.resource_claims {
            let (name, generated) = match &reference.claim {
                Claim::Named(name) => (name, false),
                Claim::Generated(name) => (name, true),
                Claim::Needless => continue,
                Claim::Awaited => {
                    return Err(format!("pod \"{namespace}/{pod_name}\": ResourceClaim not created yet").into());
                }
            };
            let missing = || format!("resourceclaim.resource.k8s.io \"{name}\" not found");
            let item = self.objects.resource_claims.get(namespace, name).ok_or_else(missing)?;
            if item.deleting {
                return Err(format!("resourceclaim \"{name}\" is being deleted").into());
            }
            if generated && item.controller().is_none_or(|owner| *owner.uid != *pod.uid()) {
                let text = format!(
                    "ResourceClaim {namespace}/{name} was not created for pod {namespace}/{pod_name} (pod is not owner)"
                );
                return Err(text.into());
            }
            claims.extend(self.objects.resource_claims.parse(&item));
        }
        Ok(claims)
    }

    /// The slices as of the changes that were observed.
    fn slices(&self) -> Arc<Slices> {
        let Published { slices, known } = &mut *self.published.lock();
        known.get_or_insert_with(|| Arc::new(Slices::new(slices.values().cloned().collect()))).clone()
    }

    /// What all claims have, those included that are being written.
    fn taken(&self) -> Taken {
        let (known, mut assumed) = (self.known.lock(), self.assumed.lock());
        bind::settle(&mut assumed, &known, &self.objects.resource_claims);
        let pending = assumed.iter();
        known.taken(pending.map(|(uid, it)| (&**uid, &*it.namespace, &*it.name, &it.allocation)))
    }
}

fn rejection(text: impl Into<Text>) -> Rejection {
    Rejection::because(Plugin::DynamicResources, true, [text.into()])
}

impl Extension for DynamicResources {
    fn plugin(&self) -> Plugin {
        Plugin::DynamicResources
    }

    fn hold(&self, pod: &Pod) -> Option<Text> {
        if pod.resource_claims.is_empty() { None } else { self.claims(pod).err() }
    }

    fn prepare<'a>(&'a self, pod: &'a Pod, snapshot: &Snapshot) -> Result<Option<Box<dyn Judge + 'a>>, Rejection> {
        let extended = Extended::of(pod, snapshot);
        if pod.resource_claims.is_empty() && extended.is_none() {
            return Ok(None);
        }
        let claims = self.claims(pod).map_err(rejection)?;
        if claims.is_empty() && extended.is_none() {
            return Ok(None);
        }
        let left_over = extended.as_ref().and_then(|_| extended::left_over(&self.objects.resource_claims, pod));
        let taken = self.taken();
        let (mut reach, mut allocated) = (Vec::new(), Vec::new());
        let of_extended = extended.iter().flat_map(|it| it.classes().map(str::to_owned));
        let class = |name: String| Some((name.clone(), self.objects.device_classes.read("", &name)?));
        let mut classes: HashMap<String, DeviceClass> = of_extended.filter_map(class).collect();
        for claim in &claims {
            let uid = claim.metadata.uid.as_deref().unwrap_or_default();
            let status = claim.status.as_ref();
            let Some(allocation) = status.and_then(|status| status.allocation.as_ref()) else {
                if self.assumed.lock().contains_key(uid) {
                    let name = claim.metadata.name.as_deref().unwrap_or_default();
                    let namespace = pod.item.namespace();
                    let text = format!("resource claim {namespace}/{name} is in the process of being allocated");
                    return Err(rejection(text));
                }
                classes.extend(class_names(claim).filter_map(|name| class(name.to_owned())));
                continue;
            };
            let users = status.and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
            if users.len() >= USERS && !users.iter().any(|user| *user.uid == *pod.uid()) {
                return Err(rejection("resourceclaim in use"));
            }
            reach.extend(allocation.node_selector.as_ref().and_then(pools::affinity));
            if users.iter().all(|user| *user.uid == *pod.uid()) {
                let selector = allocation.node_selector.as_ref().and_then(pools::affinity);
                let freed = Freed::new(&claim.metadata);
                allocated.extend(selector.map(|selector| Unused { selector, freed, is_in_the_way: false }));
            }
        }
        let (slices, found) = (self.slices(), HashMap::new());
        let left_over = left_over.map(|claim| Freed::made_here(&claim.metadata));
        let judge =
            Devices { rule: self, pod, claims, extended, left_over, classes, reach, allocated, taken, slices, found };
        judge.asked(None).map_err(rejection)?;
        Ok(Some(Box::new(judge)))
    }

    fn observe(&self, kind: Kind, change: &Change) {
        match kind {
            Kind::ResourceClaim => self.known.lock().observe(change),
            Kind::ResourceSlice => {
                let mut published = self.published.lock();
                published.known = None;
                match change.new.as_deref().and_then(Slice::read) {
                    Some(slice) => _ = published.slices.insert(change.key.clone(), Arc::new(slice)),
                    None => _ = published.slices.remove(&change.key),
                }
            }
            _ => {}
        }
    }

    fn helps(&self, pod: &Pod, event: Event<'_>) -> bool {
        let allocated = |item: &Item| {
            let claim = self.objects.resource_claims.parse(item);
            claim.and_then(|claim| claim.status).is_some_and(|status| status.allocation.is_some())
        };
        let is_own = |item: &Item| {
            item.namespace() == pod.item.namespace()
                && pod.resource_claims.iter().any(|it| match &it.claim {
                    Claim::Named(name) | Claim::Generated(name) => **name == *item.name(),
                    Claim::Awaited | Claim::Needless => false,
                })
                || item.controller().is_some_and(|owner| *owner.uid == *pod.uid())
        };
        match event {
            Event::Object { kind: Kind::ResourceClaim, old, new } => {
                let is_own = new.or(old).is_some_and(is_own);
                is_own || old.is_some_and(allocated) && !new.is_some_and(allocated)
            }
            Event::Object { kind: Kind::ResourceSlice | Kind::DeviceClass, new, .. } => new.is_some(),
            // A node may come to have itself what only devices could have given.
            Event::Node { old, new } => old.is_none_or(|old| {
                let mut scalars = pod.needs.requests.keys().filter(|name| is_scalar(name));
                old.labels != new.labels || scalars.any(|name| new.allocatable(name) > old.allocatable(name))
            }),
            _ => false,
        }
    }
}

fn class_names(claim: &ResourceClaim) -> impl Iterator<Item = &str> {
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    requests.flat_map(|request| {
        let own = request.exactly.iter().map(|it| &*it.device_class_name);
        own.chain(request.first_available.iter().flatten().map(|it| &*it.device_class_name))
    })
}

/// How high the alternatives stand that an allocation has of those that a claim's requests name.
fn ranks(claim: &ResourceClaim, allocation: &AllocationResult) -> i64 {
    let requests = claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten());
    let results = || allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    let rank = |request: &DeviceRequest| {
        let names = request.first_available.iter().flatten().map(|it| format!("{}/{}", request.name, it.name));
        let at = names.into_iter().position(|name| results().any(|result| result.request == name));
        at.map_or(0, |at| i64::try_from(ALTERNATIVES.saturating_sub(at)).unwrap_or(0))
    };
    requests.map(rank).sum()
}

/// An allocated claim that nobody uses but, perhaps, the pod.
struct Unused {
    selector: NodeAffinity,
    freed: Freed,
    /// Whether it keeps the pod off a node.
    is_in_the_way: bool,
}

/// The claims of one pod, and what nodes have for them.
struct Devices<'a> {
    rule: &'a DynamicResources,
    pod: &'a Pod,
    claims: Vec<ResourceClaim>,
    extended: Option<Extended>,
    /// The claim of an earlier attempt for the extended resources. Before it is gone there is no other.
    left_over: Option<Freed>,
    classes: HashMap<String, DeviceClass>,
    /// The nodes of claims that are allocated.
    reach: Vec<NodeAffinity>,
    /// Those of them that nobody else uses.
    allocated: Vec<Unused>,
    taken: Taken,
    slices: Arc<Slices>,
    /// What was found for each feasible node, in the order of the claims that are not allocated; for extended resources last.
    found: HashMap<Slot, Vec<AllocationResult>>,
}

impl Devices<'_> {
    fn open(&self) -> impl Iterator<Item = &ResourceClaim> {
        let is_open = |claim: &&ResourceClaim| claim.status.as_ref().is_none_or(|status| status.allocation.is_none());
        self.claims.iter().filter(is_open)
    }

    fn asked<'a>(&'a self, more: Option<&'a ResourceClaim>) -> Result<Vec<Asked<'a>>, String> {
        self.open().chain(more).map(|claim| Asked::new(claim, |name| self.classes.get(name))).collect()
    }

    /// The claim for the extended resources that the node does not have itself.
    fn of_extended(&self, node: &Node) -> Option<ResourceClaim> {
        self.extended.as_ref()?.claim(&self.pod.item, node)
    }
}

impl Judge for Devices<'_> {
    fn filter(&mut self, slot: Slot, node: &Node, _: &Snapshot) -> Option<Rejection> {
        if self.left_over.is_some() {
            return Some(rejection("cannot schedule extended resource claim"));
        }
        if !self.reach.iter().all(|affinity| node_affinity::fits(affinity, node)) {
            for it in &mut self.allocated {
                it.is_in_the_way |= !node_affinity::fits(&it.selector, node);
            }
            return Some(rejection("resourceclaim not available on the node"));
        }
        let of_extended = self.of_extended(node);
        let asked = match self.asked(of_extended.as_ref()) {
            Ok(asked) => asked,
            Err(error) => return Some(rejection(error)),
        };
        if asked.is_empty() {
            return None;
        }
        let candidates = self.slices.candidates(node);
        match allocate::allocate(&asked, &candidates, &self.taken, &self.rule.selectors, &node.name) {
            Ok(Some(found)) => {
                self.found.insert(slot, found);
                None
            }
            Ok(None) => Some(rejection("cannot allocate all claims")),
            Err(error) => Some(rejection(error)),
        }
    }

    /// The earlier a node has an alternative among those that would do, the better.
    fn score(&mut self, feasible: &[Slot]) -> Option<Vec<i64>> {
        let open: Vec<&ResourceClaim> = self.open().collect();
        let rank = |slot: &Slot| {
            let found = self.found.get(slot).map(Vec::as_slice).unwrap_or_default();
            open.iter().zip(found).map(|(claim, allocation)| ranks(claim, allocation)).sum()
        };
        let mut scores: Vec<i64> = feasible.iter().map(rank).collect();
        normalize(&mut scores, false);
        scores.iter().any(|score| *score > 0).then_some(scores)
    }

    fn relieve(&mut self) -> Option<Freed> {
        let in_the_way = self.allocated.iter().find(|it| it.is_in_the_way).map(|it| it.freed.clone());
        in_the_way.or_else(|| self.left_over.clone())
    }

    fn reserve(&mut self, slot: Slot, node: &Node) -> Result<Option<Box<dyn Reservation>>, Text> {
        let mut found = self.found.remove(&slot).unwrap_or_default().into_iter();
        let mut wanted = Vec::new();
        let assume = |uid: &str, name: &str, allocation: AllocationResult| {
            let (namespace, name) = (self.pod.item.namespace().to_owned(), name.to_owned());
            self.rule.assumed.lock().insert(uid.to_owned(), Pending { namespace, name, allocation, written: None });
        };
        for claim in &self.claims {
            let is_open = claim.status.as_ref().is_none_or(|status| status.allocation.is_none());
            let allocation =
                if is_open { Some(found.next().ok_or(Cow::Borrowed("no allocation for the node"))?) } else { None };
            let name = claim.metadata.name.clone().unwrap_or_default();
            let uid = claim.metadata.uid.clone().unwrap_or_default();
            if let Some(allocation) = allocation.clone() {
                assume(&uid, &name, allocation);
            }
            wanted.push(Wanted { name, uid, allocation, made: None });
        }
        if let (Some(claim), Some(extended)) = (self.of_extended(node), &self.extended) {
            let allocation = found.next().ok_or("no allocation for the node")?;
            let (name, uid) = (extended::UNMADE.to_owned(), format!("{}{}", self.pod.uid(), extended::UNMADE));
            assume(&uid, &name, allocation.clone());
            let mappings = extended.mappings(&claim);
            wanted.push(Wanted { name, uid, allocation: Some(allocation), made: Some(Made { claim, mappings }) });
        }
        Ok(Some(Box::new(Reserved {
            claims: self.rule.objects.resource_claims.clone(),
            assumed: self.rule.assumed.clone(),
            pod: self.pod.item.clone(),
            wanted,
            written: 0,
            client: None,
        })))
    }
}
