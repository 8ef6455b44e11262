//! Repair of what Services hold. Addresses and ports are taken and given back with their Service, but an administrator may delete an
//! `IPAddress`, and a store may come from elsewhere: what a Service has and is recorded nowhere is recorded, and what is recorded
//! for a Service that does not have it is given back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::{Status, Value};
use store::{Entry, Expect, Guard, Op, Txn};

use super::services::{MANAGED_BY, MANAGER, Needs, PORTS, address_key, port_key, port_record, record};
use crate::rest::{Call, metadata, parse, prefix, store_error};
use crate::server::Server;

/// How often it is looked, as upstream.
const EVERY: Duration = Duration::from_secs(180);

/// A Service by namespace and name.
type Owner = (String, String);

/// Repairs now and from time to time, until the server is gone or stops.
pub fn start(server: &Arc<Server>) {
    let (server, stopping) = (Arc::downgrade(server), server.stopping.clone());
    tokio::spawn(async move { stopping.run_until_cancelled(follow(server)).await });
}

async fn follow(server: Weak<Server>) {
    loop {
        let Some(server) = server.upgrade() else { return };
        if let Err(status) = repair(&server).await {
            tracing::warn!(error = status.message, "addresses and ports of services could not be looked through");
        }
        drop(server);
        tokio::time::sleep(EVERY).await;
    }
}

/// What must be changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Addresses and ports that no record takes for their Service.
    unrecorded_addresses: Vec<(IpAddr, Owner)>,
    unrecorded_ports: Vec<(u16, Owner)>,
    /// Records of what their Service does not have.
    stale_addresses: Vec<IpAddr>,
    stale_ports: Vec<u16>,
}

fn plan(
    services: &BTreeMap<Owner, Needs>,
    addresses: &BTreeMap<IpAddr, Option<Owner>>,
    ports: &BTreeMap<u16, Owner>,
) -> Plan {
    let mut plan = Plan::default();
    for (owner, needs) in services {
        let addresses = needs.addresses.iter().filter(|address| !addresses.contains_key(address));
        plan.unrecorded_addresses.extend(addresses.map(|address| (*address, owner.clone())));
        let ports = needs.ports.iter().filter(|port| !ports.contains_key(port));
        plan.unrecorded_ports.extend(ports.map(|port| (*port, owner.clone())));
    }
    // What others than Services hold is none of this.
    let of_services = addresses.iter().filter_map(|(address, owner)| Some((address, owner.as_ref()?)));
    let stale =
        of_services.filter(|(address, owner)| !services.get(*owner).is_some_and(|n| n.addresses.contains(address)));
    plan.stale_addresses.extend(stale.map(|(address, _)| *address));
    let stale = ports.iter().filter(|(port, owner)| !services.get(*owner).is_some_and(|n| n.ports.contains(port)));
    plan.stale_ports.extend(stale.map(|(port, _)| *port));
    plan
}

/// Everything at one revision, and the entries behind it.
async fn repair(server: &Arc<Server>) -> Result<(), Status> {
    let catalog = server.catalog.load_full();
    let kinds = (catalog.get("", "v1", "services"), catalog.get("networking.k8s.io", "v1", "ipaddresses"));
    let (Some(service_kind), Some(address_kind)) = kinds else { return Ok(()) };
    let found = server.store.snapshot(&prefix(service_kind, ""), None).map_err(store_error)?;
    let at = Some(found.revision());
    let (mut services, mut objects) = (BTreeMap::new(), BTreeMap::new());
    for entry in found.iter() {
        let service = parse(&entry.value)?;
        services.insert(owner_of(&service), Needs::of(&service));
        objects.insert(owner_of(&service), (entry.clone(), service));
    }
    let (mut addresses, mut address_entries) = (BTreeMap::new(), BTreeMap::new());
    for entry in server.store.snapshot(&prefix(address_kind, ""), at).map_err(store_error)?.iter() {
        let object = parse(&entry.value)?;
        if let Ok(address) = metadata::text(&object, "name").parse() {
            addresses.insert(address, parent(&object));
            address_entries.insert(address, entry.clone());
        }
    }
    let (mut ports, mut port_entries) = (BTreeMap::new(), BTreeMap::new());
    for entry in server.store.snapshot(PORTS, at).map_err(store_error)?.iter() {
        if let Some(port) = entry.key.strip_prefix(PORTS).and_then(|port| port.parse().ok()) {
            let record = parse(&entry.value)?;
            let text = |field: &str| record[field].as_str().unwrap_or("").to_owned();
            ports.insert(port, (text("namespace"), text("name")));
            port_entries.insert(port, entry.clone());
        }
    }
    let plan = plan(&services, &addresses, &ports);
    for (address, owner) in plan.unrecorded_addresses {
        if let Some((entry, service)) = objects.get(&owner) {
            let call = Call::internal(server, service_kind.clone(), &owner.0, &owner.1);
            let op = Op::put(address_key(&call, &address), record(&call, &address, service));
            put(server, entry, op, &format!("address {address}")).await?;
        }
    }
    for (port, owner) in plan.unrecorded_ports {
        if let Some((entry, _)) = objects.get(&owner) {
            put(server, entry, Op::put(port_key(port), port_record(&owner.0, &owner.1)), &format!("port {port}"))
                .await?;
        }
    }
    let stale = plan.stale_addresses.iter().filter_map(|address| address_entries.get(address));
    for entry in stale.chain(plan.stale_ports.iter().filter_map(|port| port_entries.get(port))) {
        let guards = vec![Guard { key: entry.key.clone(), expect: Expect::Modified(entry.modified) }];
        commit(server, Txn { guards, ops: vec![Op::delete(entry.key.clone())] }).await?;
        tracing::warn!(key = &*entry.key, "released what no service holds");
    }
    Ok(())
}

fn owner_of(object: &Value) -> Owner {
    (metadata::text(object, "namespace").to_owned(), metadata::text(object, "name").to_owned())
}

/// The Service for which the allocator has taken the address; `None` for what others took.
fn parent(address: &Value) -> Option<Owner> {
    let (parent, labels) = (&address["spec"]["parentRef"], &address["metadata"]["labels"]);
    let text = |field: &str| parent[field].as_str().unwrap_or("").to_owned();
    (labels[MANAGED_BY] == MANAGER && text("resource") == "services" && text("group").is_empty())
        .then(|| (text("namespace"), text("name")))
}

/// Records what the Service holds, as long as it is as it was seen and nobody else has recorded it.
async fn put(server: &Server, service: &Entry, op: Op, what: &str) -> Result<(), Status> {
    let guards = vec![
        Guard { key: op.key().clone(), expect: Expect::Absent },
        Guard { key: service.key.clone(), expect: Expect::Modified(service.modified) },
    ];
    commit(server, Txn { guards, ops: vec![op] }).await?;
    tracing::warn!(service = &*service.key, what, "recorded what a service holds");
    Ok(())
}

/// What changed meanwhile is looked at the next time.
async fn commit(server: &Server, txn: Txn) -> Result<(), Status> {
    match server.store.commit(txn).await {
        Ok(_) | Err(store::Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(store_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_recorded_and_what_is_stale_given_back() {
        let owner = |name: &str| ("n".to_owned(), name.to_owned());
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let needs = |addresses: &[&str], ports: &[u16]| Needs {
            addresses: addresses.iter().map(|a| ip(a)).collect(),
            ports: ports.iter().copied().collect(),
        };
        let services = BTreeMap::from([
            (owner("a"), needs(&["10.0.0.1"], &[30001])),
            (owner("b"), needs(&["10.0.0.2"], &[30002])),
        ]);
        let addresses = BTreeMap::from([
            (ip("10.0.0.1"), Some(owner("a"))),
            (ip("10.0.0.3"), Some(owner("b"))),
            (ip("10.0.0.4"), Some(owner("gone"))),
            // Somebody else's.
            (ip("10.0.0.5"), None),
        ]);
        let ports = BTreeMap::from([(30001, owner("a")), (30003, owner("a"))]);
        let expected = Plan {
            unrecorded_addresses: vec![(ip("10.0.0.2"), owner("b"))],
            unrecorded_ports: vec![(30002, owner("b"))],
            stale_addresses: vec![ip("10.0.0.3"), ip("10.0.0.4")],
            stale_ports: vec![30003],
        };
        assert_eq!(plan(&services, &addresses, &ports), expected);
    }
}
