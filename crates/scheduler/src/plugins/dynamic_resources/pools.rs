//! The devices that nodes have, as drivers publish them in ResourceSlices.

use std::{collections::HashMap, sync::Arc};

use client::Item;
use k8s_openapi::api::{
    core::v1::NodeSelector,
    resource::v1::{Device, ResourceSlice, ResourceSliceSpec},
};

use super::taken::DeviceId;
use crate::{
    node::Node,
    plugins::node_affinity,
    pod::{NodeAffinity, RawNodeAffinity},
};

/// A slice, read once.
pub(super) struct Slice {
    name: Box<str>,
    pub spec: ResourceSliceSpec,
    /// The nodes that the slice's devices, or each of them, can be reached from.
    affinity: Option<NodeAffinity>,
    of_devices: Vec<Option<NodeAffinity>>,
}

/// Node selectors as the other rules know them.
pub(super) fn affinity(selector: &NodeSelector) -> Option<NodeAffinity> {
    let raw = serde_json::json!({"requiredDuringSchedulingIgnoredDuringExecution": selector});
    serde_json::from_value::<RawNodeAffinity>(raw).ok().map(|raw| raw.resolve(Vec::new()))
}

impl Slice {
    pub fn read(item: &Item) -> Option<Self> {
        let spec = item.parse::<ResourceSlice>().ok()?.spec;
        let devices = spec.devices.iter().flatten();
        Some(Self {
            name: item.name().into(),
            affinity: spec.node_selector.as_ref().and_then(affinity),
            of_devices: devices.map(|device| device.node_selector.as_ref().and_then(affinity)).collect(),
            spec,
        })
    }

    fn reaches(&self, device: usize, node: &Node) -> bool {
        let reaches = |all: Option<bool>, name: Option<&String>, affinity: Option<&NodeAffinity>| {
            all == Some(true)
                || name.is_some_and(|name| **name == *node.name)
                || affinity.is_some_and(|affinity| node_affinity::fits(affinity, node))
        };
        let spec = &self.spec;
        if spec.per_device_node_selection != Some(true) {
            return reaches(spec.all_nodes, spec.node_name.as_ref(), self.affinity.as_ref());
        }
        let Some(it) = spec.devices.as_ref().and_then(|devices| devices.get(device)) else { return false };
        reaches(it.all_nodes, it.node_name.as_ref(), self.of_devices[device].as_ref())
    }
}

/// A device that a node can use, if nobody else does.
pub(super) struct Candidate<'a> {
    pub slice: &'a ResourceSliceSpec,
    pub device: &'a Device,
    /// Whether more of its pool may be about to come.
    pub incomplete: bool,
}

impl Candidate<'_> {
    pub fn id(&self) -> DeviceId {
        DeviceId {
            driver: self.slice.driver.clone(),
            pool: self.slice.pool.name.clone(),
            device: self.device.name.clone(),
        }
    }
}

/// All slices, found by the nodes that can reach them.
#[derive(Default)]
pub(super) struct Slices {
    all: Vec<Arc<Slice>>,
    /// By driver and pool: the newest generation, and how many slices of it there are.
    newest: HashMap<(String, String), (i64, i64)>,
    /// Those of one node, by its name.
    of_node: HashMap<String, Vec<usize>>,
    /// Those that several nodes may reach.
    shared: Vec<usize>,
}

impl Slices {
    pub fn new(mut all: Vec<Arc<Slice>>) -> Self {
        all.sort_by(|a, b| {
            let order = |it: &Slice| (it.spec.driver.clone(), it.spec.pool.name.clone(), it.name.clone());
            order(a).cmp(&order(b))
        });
        let mut slices = Self::default();
        for (index, slice) in all.iter().enumerate() {
            let (spec, pool) = (&slice.spec, &slice.spec.pool);
            let newest = slices.newest.entry((spec.driver.clone(), pool.name.clone())).or_insert((pool.generation, 0));
            if newest.0 < pool.generation {
                *newest = (pool.generation, 0);
            }
            newest.1 += i64::from(newest.0 == pool.generation);
            match &spec.node_name {
                Some(name) if spec.per_device_node_selection != Some(true) && spec.all_nodes != Some(true) => {
                    slices.of_node.entry(name.clone()).or_default().push(index);
                }
                _ => slices.shared.push(index),
            }
        }
        slices.all = all;
        slices
    }

    /// The devices of all pools that a node can reach, in the order of driver, pool and slice. Of each pool only the newest
    /// generation counts.
    pub fn candidates(&self, node: &Node) -> Vec<Candidate<'_>> {
        let own = self.of_node.get(&*node.name).into_iter().flatten();
        let mut indexes: Vec<usize> = own.chain(&self.shared).copied().collect();
        indexes.sort_unstable();
        let mut all = Vec::new();
        for slice in indexes.into_iter().map(|index| &self.all[index]) {
            let pool = &slice.spec.pool;
            let newest = self.newest.get(&(slice.spec.driver.clone(), pool.name.clone()));
            let Some((_, count)) = newest.filter(|(generation, _)| *generation == pool.generation) else { continue };
            let incomplete = *count != pool.resource_slice_count;
            let devices = slice.spec.devices.iter().flatten().enumerate();
            let reached = devices.filter(|(index, _)| slice.reaches(*index, node));
            all.extend(reached.map(|(_, device)| Candidate { slice: &slice.spec, device, incomplete }));
        }
        all
    }
}
