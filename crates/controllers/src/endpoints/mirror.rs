//! Mirroring: Endpoints that somebody else writes, for Services without a selector, become EndpointSlices.

use std::net::IpAddr;

use client::{Cache, Key};
use k8s_openapi::api::{
    core::v1::{EndpointAddress, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
};

use super::{
    MANAGED_BY_LABEL, SERVICE_LABEL,
    spread::{Group, Set, TRIGGERED, Writes, sorted},
    write::Slices,
};
use crate::{
    frame::{Env, Loop, Synced, UNSEEN},
    owner::{Named, controller_reference},
};

const WORKERS: usize = 2;
const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are no endpoints, but the lock of an election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The most addresses of one subset that are mirrored.
const MOST: usize = 1000;

pub(crate) async fn run(env: Env) {
    let controller = Controller {
        services: env.caches.get(),
        endpoints: env.caches.get(),
        slices: Slices::new(&env, MANAGED_BY),
        env: env.clone(),
    };
    let work = Loop::new()
        .on_self(&controller.endpoints)
        .on_self(&controller.services)
        .on(&controller.slices.cache, Slices::queue_owner(MANAGED_BY));
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

struct Controller {
    env: Env,
    services: Cache<Service>,
    endpoints: Cache<Endpoints>,
    slices: Slices,
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let endpoints = self.endpoints.read(&key.namespace, &key.name);
        let service = self.services.read(&key.namespace, &key.name);
        let Some(endpoints) = endpoints else {
            // The slices follow by garbage collection.
            self.slices.forget(&key);
            return Ok(None);
        };
        let Some(existing) = self.slices.existing(&key, endpoints.uid()) else { return Ok(Some(UNSEEN)) };
        let is_wanted = service.is_some_and(|service| has_no_selector(&service)) && is_mirrored(&endpoints);
        let writes =
            if is_wanted { self.plan(&endpoints, existing) } else { Writes { delete: existing, ..Writes::default() } };
        self.slices.write(&key, &endpoints, writes, "FailedToUpdateEndpointSlices").await.map(|()| None)
    }

    fn plan(&self, endpoints: &Endpoints, existing: Vec<k8s_openapi::api::discovery::v1::EndpointSlice>) -> Writes {
        let (groups, left_out) = groups(endpoints);
        if left_out > 0 {
            let message = format!(
                "A max of {MOST} addresses can be mirrored to EndpointSlices per Endpoints subset. {left_out} addresses were skipped"
            );
            self.env.recorder.warning(endpoints, "TooManyAddressesToMirror", message);
        }
        set(endpoints).plan(groups, existing)
    }
}

fn has_no_selector(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.as_ref().is_none_or(|selector| selector.is_empty()))
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let skipped = endpoints.metadata.labels.iter().flatten().any(|(key, value)| key == SKIP_LABEL && value == "true");
    !skipped && endpoints.annotation(LEADER).is_none() && !endpoints.is_deleting()
}

fn set(endpoints: &Endpoints) -> Set {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), endpoints.name().to_owned());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(APPLIED);
    let triggered = annotations.remove(TRIGGERED);
    Set {
        name: endpoints.name().to_owned(),
        namespace: endpoints.namespace().to_owned(),
        labels,
        annotations,
        owner: controller_reference(endpoints),
        triggered,
    }
}

/// The addresses by family and ports, and how many were left out.
fn groups(endpoints: &Endpoints) -> (Vec<Group>, usize) {
    let mut groups: Vec<Group> = Vec::new();
    let mut left_out = 0;
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        });
        let ports = sorted(ports.collect());
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let all = ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false)));
        let all: Vec<_> = all.collect();
        left_out += all.len().saturating_sub(MOST);
        for (address, ready) in all.into_iter().take(MOST) {
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            let endpoint = endpoint(address, ready);
            match groups.iter_mut().find(|group| group.family == family && group.ports == ports) {
                // The same address twice is one endpoint.
                Some(group) if group.endpoints.iter().any(|known| known.addresses == endpoint.addresses) => {}
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    family: family.to_owned(),
                    ports: ports.clone(),
                    endpoints: vec![endpoint],
                    lasting: false,
                }),
            }
        }
    }
    (groups, left_out)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn subsets_become_slices_by_family_and_ports() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "n", "uid": "u", "labels": {"a": "b"},
                "annotations": {APPLIED: "x", "own": "y"}},
            "subsets": [
                {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                    "ports": [{"port": 80}]},
                {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "b", "port": 81, "protocol": "UDP"}]}]}))
        .unwrap();
        let (groups, left_out) = groups(&endpoints);
        assert_eq!(left_out, 0);
        let made = set(&endpoints).plan(groups, Vec::new()).create;
        let told: Vec<String> = made
            .iter()
            .map(|slice| {
                let port = &slice.ports.as_ref().unwrap()[0];
                let told = |endpoint: &Endpoint| {
                    format!("{}={}", endpoint.addresses[0], endpoint.conditions.as_ref().unwrap().ready.unwrap())
                };
                let endpoints: Vec<_> = slice.endpoints.iter().flatten().map(told).collect();
                format!("{} {} {}", slice.address_type, port.port.unwrap(), endpoints.join(","))
            })
            .collect();
        assert_eq!(told, ["IPv4 80 10.0.0.1=true,10.0.0.2=false", "IPv6 80 fd00::1=true", "IPv4 81 10.0.0.1=true"]);
        assert_eq!(
            serde_json::to_value(&made[0].metadata).unwrap(),
            json!({"generateName": "db-", "namespace": "n", "annotations": {"own": "y"},
                "labels": {"a": "b", SERVICE_LABEL: "db", MANAGED_BY_LABEL: MANAGED_BY},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "db", "uid": "u",
                    "controller": true, "blockOwnerDeletion": true}]})
        );
    }

    #[test]
    fn what_is_no_endpoints_is_not_mirrored() {
        let is =
            |metadata: serde_json::Value| is_mirrored(&serde_json::from_value(json!({"metadata": metadata})).unwrap());
        assert!(is(json!({"name": "a"})));
        assert!(!is(json!({"name": "a", "labels": {SKIP_LABEL: "true"}})));
        assert!(!is(json!({"name": "a", "annotations": {LEADER: "{}"}})));
    }
}
