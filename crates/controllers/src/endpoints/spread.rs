//! From groups of endpoints to slices, with the fewest writes that get there. Functions of values.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use crate::owner::controller_of;

/// The most endpoints in one slice.
const CAPACITY: usize = 100;
/// When what made a slice change happened, for those who measure how long programming the network takes.
pub(super) const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Endpoints of one family with the same ports.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub family: String,
    /// In the order of [`sorted`].
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
    /// Whether there is a slice even without endpoints, so that a Service without any can be told from one that nobody
    /// looked at.
    pub lasting: bool,
}

/// What all slices of one set have in common.
pub(super) struct Set {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub owner: OwnerReference,
    /// The value of [`TRIGGERED`] for slices that are written.
    pub triggered: Option<String>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<EndpointSlice>,
}

impl Set {
    fn has_metadata(&self, slice: &EndpointSlice) -> bool {
        let owned = controller_of(&slice.metadata).is_some_and(|owner| owner.uid == self.owner.uid);
        let annotations = slice.metadata.annotations.iter().flatten().filter(|(key, _)| *key != TRIGGERED);
        owned && slice.metadata.labels.as_ref() == Some(&self.labels) && annotations.eq(&self.annotations)
    }

    fn with_metadata(&self, mut slice: EndpointSlice) -> EndpointSlice {
        let mut annotations = self.annotations.clone();
        annotations.extend(self.triggered.clone().map(|at| (TRIGGERED.to_owned(), at)));
        slice.metadata.labels = Some(self.labels.clone());
        slice.metadata.annotations = (!annotations.is_empty()).then_some(annotations);
        slice.metadata.owner_references = Some(vec![self.owner.clone()]);
        slice
    }

    /// The writes that turn the slices that are into those that should be.
    pub fn plan(&self, groups: Vec<Group>, existing: Vec<EndpointSlice>) -> Writes {
        let mut writes = Writes::default();
        let mut rest = existing;
        for group in groups {
            let is_ours = |slice: &EndpointSlice| {
                slice.address_type == group.family && sorted(slice.ports.clone().unwrap_or_default()) == group.ports
            };
            let (mine, others) = rest.into_iter().partition(is_ours);
            rest = others;
            self.fill(group, mine, &mut writes);
        }
        // A slice that nobody needs any more takes the content of one that would be created.
        for stale in rest {
            match writes.create.iter().position(|new| new.address_type == stale.address_type) {
                Some(at) => {
                    let new = writes.create.swap_remove(at);
                    let reused = EndpointSlice { endpoints: new.endpoints, ports: new.ports, ..stale };
                    writes.update.push(self.with_metadata(reused));
                }
                None => writes.delete.push(stale),
            }
        }
        writes
    }

    /// Spreads a group's endpoints over its slices, changing as few of them as possible.
    fn fill(&self, group: Group, existing: Vec<EndpointSlice>, writes: &mut Writes) {
        let identity = |endpoint: &Endpoint| {
            let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
            (endpoint.addresses.clone(), uid)
        };
        let order: Vec<_> = group.endpoints.iter().map(identity).collect();
        let mut missing: HashMap<_, _> = order.iter().cloned().zip(group.endpoints).collect();
        let mut slices: Vec<(EndpointSlice, Vec<Endpoint>, bool)> = Vec::new();
        for slice in existing {
            let before = slice.endpoints.clone().unwrap_or_default();
            let kept: Vec<_> = before.iter().filter_map(|endpoint| missing.remove(&identity(endpoint))).collect();
            let changed = kept != before || !self.has_metadata(&slice);
            slices.push((slice, kept, changed));
        }
        let mut missing: Vec<Endpoint> = order.iter().filter_map(|identity| missing.remove(identity)).collect();
        // First into slices that are written anyhow, then into the fullest that takes all the rest, then into new ones.
        for (_, kept, changed) in &mut slices {
            if *changed && !kept.is_empty() {
                let room = CAPACITY.saturating_sub(kept.len()).min(missing.len());
                kept.extend(missing.drain(..room));
            }
        }
        let fits = |kept: &[Endpoint]| kept.len() + missing.len() <= CAPACITY;
        let fitting = slices.iter_mut().filter(|(_, kept, _)| fits(kept)).max_by_key(|(_, kept, _)| kept.len());
        if let Some((_, kept, changed)) = fitting.filter(|_| !missing.is_empty()) {
            kept.append(&mut missing);
            *changed = true;
        }
        let mut fresh: Vec<Vec<Endpoint>> = missing.chunks(CAPACITY).map(<[Endpoint]>::to_vec).collect();
        let mut keep_empty = group.lasting && fresh.is_empty() && slices.iter().all(|(_, kept, _)| kept.is_empty());
        if slices.is_empty() && keep_empty {
            fresh.push(Vec::new());
        }
        for (slice, endpoints, changed) in slices {
            if endpoints.is_empty() && !std::mem::take(&mut keep_empty) {
                writes.delete.push(slice);
            } else if changed {
                writes.update.push(self.with_metadata(EndpointSlice { endpoints: Some(endpoints), ..slice }));
            }
        }
        for endpoints in fresh {
            writes.create.push(self.with_metadata(EndpointSlice {
                address_type: group.family.clone(),
                ports: Some(group.ports.clone()),
                endpoints: Some(endpoints),
                metadata: ObjectMeta {
                    generate_name: Some(format!("{}-", self.name)),
                    namespace: Some(self.namespace.clone()),
                    ..ObjectMeta::default()
                },
            }));
        }
    }
}

/// Ports in an order by which equal sets are found.
pub(super) fn sorted(mut ports: Vec<EndpointPort>) -> Vec<EndpointPort> {
    ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    ports
}
