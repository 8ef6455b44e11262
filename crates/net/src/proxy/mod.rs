//! Services by nftables maps: constant work a packet, one transaction a burst of changes.
//!
//! [`service::compile`] makes a fragment of each service, [`render`] puts the fragments into the node's table, and the
//! difference to what the kernel has becomes one transaction.

mod conntrack;
mod endpoints;
mod service;

pub use service::{Datagrams, Fragment, cluster_addresses, compile};

pub(crate) use conntrack::forget;
pub use conntrack::sweep;

use crate::nft::{self, Family, Nft, Table};
use crate::pod::base;
use crate::slices::Slices;
use client::{Caches, Key};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Changes that come so close together become one transaction.
const COALESCE: Duration = Duration::from_millis(20);
/// The least time between two transactions under lasting change.
const PERIOD: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_secs(2);
/// The standing sets whose elements come from services.
const SETS: [&str; 5] =
    ["service-addresses", "service-node-ports", "unserved-addresses", "unserved-node-ports", "hairpins"];

/// The node as far as services depend on it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub zone: Option<String>,
    /// The addresses of this node's pods.
    pub pods: Vec<IpNet>,
    /// The addresses of all pods.
    pub cluster: Vec<IpNet>,
    /// Service addresses that the node serves itself.
    pub served: Vec<IpAddr>,
}

/// Puts exactly these fragments into the table. Where two claim the same address and port, the first by name has it.
pub fn render<'a>(table: &mut Table, fragments: impl Iterator<Item = &'a Fragment>) {
    // Only what services add has a slash in its name.
    table.chains.retain(|name, _| !name.contains('/'));
    table.sets.retain(|name, _| !name.contains('/'));
    for family in Family::ALL {
        for set in SETS {
            if let Some(set) = table.sets.get_mut(&base::set(set, family)) {
                set.elements.clear();
            }
        }
    }
    for fragment in fragments {
        table.chains.extend(fragment.chains.iter().map(|(name, chain)| (name.clone(), chain.clone())));
        table.sets.extend(fragment.sets.iter().map(|(name, set)| (name.clone(), set.clone())));
        for (set, key, data) in &fragment.elements {
            if let Some(set) = table.sets.get_mut(set) {
                set.elements.entry(key.clone()).or_insert_with(|| data.clone());
            }
        }
    }
}

/// Keeps the node's table equal to what the API says of services, and in the kernel whoever removes it, until the task is
/// dropped.
pub async fn run(caches: Caches, nft: Nft, node: Node) {
    tokio::join!(guard(nft.clone()), follow(caches, nft, node));
}

/// Restores the table when another program has removed it.
async fn guard(nft: Nft) {
    let watched = async {
        let guard = nft::Guard::new()?;
        loop {
            guard.changed().await?;
            let nft = nft.clone();
            match tokio::task::spawn_blocking(move || nft.restore()).await {
                Ok(Err(error)) => tracing::error!(%error, "the nftables table could not be restored"),
                _ => tokio::time::sleep(PERIOD).await,
            }
        }
    };
    let ended: std::io::Result<()> = watched.await;
    if let Err(error) = ended {
        tracing::warn!(%error, "changes to nftables by other programs are not noticed");
    }
}

async fn follow(caches: Caches, nft: Nft, node: Node) {
    let services = caches.get::<Service>();
    let slices = caches.get::<EndpointSlice>();
    tokio::join!(services.synced(), slices.synced());
    let (mut service_changes, mut slice_changes) = (services.subscribe(), slices.subscribe());
    let mut proxy =
        Proxy { nft, node, fragments: BTreeMap::new(), slices: Slices::default(), datagrams: BTreeSet::new() };
    let mut dirty: BTreeSet<Key> = BTreeSet::new();
    let mut first = true;
    loop {
        if dirty.is_empty() && !first {
            tokio::select! {
                change = service_changes.next() => dirty.extend([change.key]),
                change = slice_changes.next() => dirty.extend(proxy.slices.note(&change)),
            }
            tokio::time::sleep(COALESCE).await;
        }
        while let Some(change) = service_changes.try_next() {
            dirty.insert(change.key);
        }
        while let Some(change) = slice_changes.try_next() {
            dirty.extend(proxy.slices.note(&change));
        }
        let mut changed = first;
        for key in std::mem::take(&mut dirty) {
            changed |= proxy.refresh(&key, &services, &slices);
        }
        first = false;
        if !changed {
            continue;
        }
        let started = Instant::now();
        let applying = tokio::task::spawn_blocking(move || {
            let result = proxy.apply();
            (proxy, result)
        });
        // The task cannot be cancelled once it runs; it fails only with the whole runtime or by a panic.
        let Ok((returned, result)) = applying.await else { return };
        proxy = returned;
        match result {
            Ok(()) => tokio::time::sleep_until(started + PERIOD).await,
            Err(error) => {
                tracing::error!(%error, "service rules could not be loaded, trying again");
                tokio::time::sleep(RETRY).await;
                first = true;
            }
        }
    }
}

struct Proxy {
    nft: Nft,
    node: Node,
    fragments: BTreeMap<Key, Fragment>,
    slices: Slices,
    datagrams: BTreeSet<Datagrams>,
}

impl Proxy {
    /// Compiles a service anew; whether that changed anything.
    fn refresh(&mut self, key: &Key, services: &client::Cache<Service>, slices: &client::Cache<EndpointSlice>) -> bool {
        let fragment = services
            .read(&key.namespace, &key.name)
            .map(|service| compile(&service, &self.slices.of(key, slices), &self.node));
        match fragment {
            Some(fragment) if fragment == Fragment::default() => self.fragments.remove(key).is_some(),
            Some(fragment) if self.fragments.get(key) == Some(&fragment) => false,
            Some(fragment) => {
                self.fragments.insert(key.clone(), fragment);
                true
            }
            None => self.fragments.remove(key).is_some(),
        }
    }

    /// One transaction, then UDP flows that lead where nobody serves any more are forgotten.
    fn apply(&mut self) -> Result<(), nft::Error> {
        let (nft, fragments) = (&self.nft, &self.fragments);
        nft.change(|table| render(table, fragments.values()))?;
        let now: BTreeSet<Datagrams> =
            self.fragments.values().flat_map(|fragment| fragment.datagrams.clone()).collect();
        if now != self.datagrams {
            let gone = |old: &&Datagrams| !now.iter().any(|new| (new.address, new.port) == (old.address, old.port));
            let silent = self.datagrams.iter().filter(gone).map(|old| Datagrams { endpoints: vec![], ..old.clone() });
            let known: Vec<Datagrams> = now.iter().cloned().chain(silent).collect();
            if let Err(error) = conntrack::sweep(&known) {
                tracing::warn!(%error, "stale UDP connection tracking entries could not be removed");
            }
            self.datagrams = now;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
