//! Repair of node ports. They are taken and given back with their Service in one write, but a store may come from elsewhere: a
//! port that a Service has and that is recorded nowhere is recorded, and a record for a Service that does not have the port
//! goes. Addresses are objects of the API, which a controller looks after.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::Status;
use store::{Expect, Guard, Op, Txn};

use super::services::{Needs, PORTS, port_key, port_record};
use crate::rest::{metadata, parse, prefix, store_error};
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
            tracing::warn!(error = status.message, "ports of services could not be looked through");
        }
        drop(server);
        tokio::time::sleep(EVERY).await;
    }
}

/// What must be changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Ports that no record takes for their Service.
    unrecorded: Vec<(u16, Owner)>,
    /// Records of what their Service does not have.
    stale: Vec<u16>,
}

fn plan(services: &BTreeMap<Owner, Needs>, records: &BTreeMap<u16, Owner>) -> Plan {
    let needed = services.iter().flat_map(|(owner, needs)| needs.ports.iter().map(move |port| (*port, owner.clone())));
    let is_held = |port: &u16, owner: &Owner| services.get(owner).is_some_and(|needs| needs.ports.contains(port));
    let stale = records.iter().filter(|(port, owner)| !is_held(port, owner));
    Plan {
        unrecorded: needed.filter(|(port, _)| !records.contains_key(port)).collect(),
        stale: stale.map(|(port, _)| *port).collect(),
    }
}

/// Everything at one revision, and the entries behind it.
async fn repair(server: &Arc<Server>) -> Result<(), Status> {
    let catalog = server.catalog.load_full();
    let Some(service_kind) = catalog.get("", "v1", "services") else { return Ok(()) };
    let found = server.store.snapshot(&prefix(service_kind, ""), None).map_err(store_error)?;
    let (mut services, mut entries) = (BTreeMap::new(), BTreeMap::new());
    for entry in found.iter() {
        let service = parse(&entry.value)?;
        let owner = (metadata::text(&service, "namespace").to_owned(), metadata::text(&service, "name").to_owned());
        services.insert(owner.clone(), Needs::of(&service));
        entries.insert(owner, entry.clone());
    }
    let (mut records, mut recorded) = (BTreeMap::new(), BTreeMap::new());
    for entry in server.store.snapshot(PORTS, Some(found.revision())).map_err(store_error)?.iter() {
        if let Some(port) = entry.key.strip_prefix(PORTS).and_then(|port| port.parse().ok()) {
            let record = parse(&entry.value)?;
            let text = |field: &str| record[field].as_str().unwrap_or("").to_owned();
            records.insert(port, (text("namespace"), text("name")));
            recorded.insert(port, entry.clone());
        }
    }
    let plan = plan(&services, &records);
    for (port, owner) in plan.unrecorded {
        let Some(service) = entries.get(&owner) else { continue };
        // As long as the Service is as it was seen and nobody else has recorded the port.
        let guards = vec![
            Guard { key: port_key(port).into(), expect: Expect::Absent },
            Guard { key: service.key.clone(), expect: Expect::Modified(service.modified) },
        ];
        commit(server, Txn { guards, ops: vec![Op::put(port_key(port), port_record(&owner.0, &owner.1))] }).await?;
        tracing::warn!(service = &*service.key, port, "recorded a port that a service holds");
    }
    for entry in plan.stale.iter().filter_map(|port| recorded.get(port)) {
        let guards = vec![Guard { key: entry.key.clone(), expect: Expect::Modified(entry.modified) }];
        commit(server, Txn { guards, ops: vec![Op::delete(entry.key.clone())] }).await?;
        tracing::warn!(key = &*entry.key, "released a port that no service holds");
    }
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
        let needs = |ports: &[u16]| {
            let mut needs = Needs::default();
            needs.ports.extend(ports);
            needs
        };
        let services = BTreeMap::from([(owner("a"), needs(&[30001])), (owner("b"), needs(&[30002]))]);
        let records = BTreeMap::from([(30001, owner("a")), (30003, owner("a")), (30004, owner("gone"))]);
        let expected = Plan { unrecorded: vec![(30002, owner("b"))], stale: vec![30003, 30004] };
        assert_eq!(plan(&services, &records), expected);
    }
}
