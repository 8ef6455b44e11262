//! A node as the scheduler sees it: what of it decides which pods can run there.

use std::collections::{BTreeMap, BTreeSet};

use client::{Item, Labels};
use serde::Deserialize;

use crate::pod::Amount;

/// A node. Equal nodes before and after a change mean that nothing changed for the scheduler.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub name: Box<str>,
    pub labels: Labels,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    /// CPU in thousandths, all else in units.
    pub allocatable: BTreeMap<Box<str>, i64>,
    /// Bytes of each image that is there, by name.
    pub images: BTreeMap<Box<str>, i64>,
    pub features: BTreeSet<Box<str>>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Taint {
    pub key: Box<str>,
    #[serde(default)]
    pub value: Box<str>,
    pub effect: Box<str>,
}

impl Node {
    pub fn parse(item: &Item) -> Result<Self, serde_json::Error> {
        let RawNode { spec, status } = serde_json::from_slice(&item.bytes)?;
        let amount = |(name, amount): (Box<str>, Amount)| {
            let amount = amount.of(&name);
            (name, amount)
        };
        let images = status.images.into_iter();
        Ok(Self {
            name: item.name().into(),
            labels: item.labels.clone(),
            unschedulable: spec.unschedulable,
            taints: spec.taints,
            allocatable: status.allocatable.into_iter().map(amount).collect(),
            features: status.declared_features,
            images: images.flat_map(|it| it.names.into_iter().map(move |name| (name, it.size_bytes))).collect(),
        })
    }

    pub fn allocatable(&self, resource: &str) -> i64 {
        self.allocatable.get(resource).copied().unwrap_or(0)
    }

    /// Region and zone, which nodes are taken from in turn.
    pub fn zone(&self) -> (&str, &str) {
        let label = |name| self.labels.get(name).unwrap_or_default();
        (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawNode {
    spec: RawSpec,
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawSpec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawStatus {
    declared_features: BTreeSet<Box<str>>,
    allocatable: BTreeMap<Box<str>, Amount>,
    images: Vec<RawImage>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawImage {
    names: Vec<Box<str>>,
    size_bytes: i64,
}
