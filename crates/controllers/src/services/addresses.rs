//! IPAddresses of Services: made again where one is lost, taken away where its Service is.
//!
//! The caches of Services and of addresses are not of the same moment, so whatever they seem to disagree about is asked of the
//! server before anything is done.

use std::{net::IpAddr, time::Duration};

use client::{Cache, Key};
use ipnet::IpNet;
use k8s_openapi::{
    api::{
        core::v1::Service,
        networking::v1::{IPAddress, ServiceCIDR},
    },
    jiff::{SignedDuration, Timestamp},
};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use super::{ALLOCATOR, FAMILY, MANAGED_BY, family, holds, ranges_of};
use crate::{
    frame::{Env, Error, Loop, Synced, between},
    owner::Named,
};

/// How long an address may be without its Service, which may be on its way.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Runs the repair of Services' addresses.
pub(crate) async fn run(env: Env) {
    let repair =
        Repair { services: env.caches.get(), addresses: env.caches.get(), ranges: env.caches.get(), env: env.clone() };
    let (parents, mine) = (repair.addresses.clone(), repair.addresses.clone());
    let of_services = Loop::new()
        .on(&repair.services, |change, queue| {
            if change.new.is_some() {
                queue.add(change.key.clone());
            }
        })
        .on(&repair.addresses, move |change, queue| {
            for item in [&change.old, &change.new].into_iter().flatten() {
                if let Some((namespace, name)) = parents.parse(item).as_ref().and_then(service) {
                    queue.add(Key::new(&namespace, &name));
                }
            }
        })
        .needs(&repair.ranges);
    let of_addresses = Loop::new().on_self(&repair.addresses).on(&repair.services, move |change, queue| {
        // Its addresses have its name, as far as it is known.
        for address in change.old.iter().filter_map(|old| old.parse::<Service>().ok()).flat_map(|old| addresses(&old)) {
            if mine.get("", &address.to_string()).is_some() {
                queue.add(Key::new("", &address.to_string()));
            }
        }
    });
    tokio::join!(
        of_services.run(&env, 1, |key| repair.sync_service(key)),
        of_addresses.run(&env, 1, |key| repair.sync_address(key)),
    );
}

/// What is wrong with a Service's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// No range has it any more.
    OutOfRange,
    /// Nobody has it.
    Lost,
    /// It is taken by what is no Service, or by one that has it no more.
    WrongReference,
    /// Another Service has it too.
    Shared,
    /// It does not say that it is the allocator's.
    Unlabelled,
}

/// Compares a Service's address with the IPAddress of that name. `holder` are the addresses of the other Service that it is
/// taken by, if there is such a one.
fn fault(
    service_key: (&str, &str),
    address: IpAddr,
    taken: Option<&IPAddress>,
    ranges: &[IpNet],
    holder: impl FnOnce(&str, &str) -> Option<Vec<IpAddr>>,
) -> Option<Fault> {
    if !ranges.iter().any(|range| holds(range, address)) {
        return Some(Fault::OutOfRange);
    }
    let Some(taken) = taken else { return Some(Fault::Lost) };
    let Some((namespace, name)) = service(taken) else { return Some(Fault::WrongReference) };
    if (&*namespace, &*name) != service_key {
        match holder(&namespace, &name) {
            None => return Some(Fault::WrongReference),
            Some(held) if held.contains(&address) => return Some(Fault::Shared),
            Some(_) => return Some(Fault::WrongReference),
        }
    }
    let labels = taken.metadata.labels.clone().unwrap_or_default();
    let label = |name: &str| labels.get(name).map(String::as_str);
    let is_ours = label(FAMILY) == Some(family(address)) && label(MANAGED_BY) == Some(ALLOCATOR);
    (!is_ours).then_some(Fault::Unlabelled)
}

/// The fault that `check` finds by the ranges. A range that the cache has yet to show is in those of the server, which are
/// `asked` for before an address is said to be in none.
async fn fault_by_ranges(
    check: impl Fn(&[IpNet]) -> Option<Fault>,
    seen: &[IpNet],
    asked: impl AsyncFnOnce() -> Result<Vec<IpNet>, Error>,
) -> Result<Option<Fault>, Error> {
    match check(seen) {
        Some(Fault::OutOfRange) => Ok(check(&asked().await?)),
        found => Ok(found),
    }
}

/// What becomes of an address of the allocator's.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stray {
    Stays,
    /// Its Service may be on its way.
    LookAgain(Duration),
    /// It goes, for this reason.
    Goes(&'static str, String),
}

/// `held` are the addresses of the Service that it is taken by, if that is there.
fn stray(address: &IPAddress, held: Option<&[IpAddr]>, now: Timestamp) -> Stray {
    let name = address.name();
    let labels = address.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get(MANAGED_BY)).map(String::as_str) != Some(ALLOCATOR) {
        return Stray::Stays;
    }
    let Some((namespace, service)) = service(address) else {
        let message = format!("IPAddress {name} appears to have been modified, not referencing a Service: cleaning up");
        return Stray::Goes("IPAddressNotAllocated", message);
    };
    match held {
        Some(held) if held.iter().any(|held| held.to_string() == name) => Stray::Stays,
        Some(_) => {
            let message =
                format!("IPAddress: {name} for Service {namespace}/{service} has a wrong reference; cleaning up");
            Stray::Goes("IPAddressWrongReference", message)
        }
        None => {
            let until = address.metadata.creation_timestamp.as_ref().and_then(|at| at.0.checked_add(GRACE).ok());
            let wait = until.map_or(Duration::ZERO, |until| between(now, until));
            if !wait.is_zero() {
                return Stray::LookAgain(wait);
            }
            let message =
                format!("IPAddress: {name} for Service {namespace}/{service} appears to have leaked: cleaning up");
            Stray::Goes("IPAddressNotAllocated", message)
        }
    }
}

/// The namespace and name of the Service that an address is taken by.
fn service(address: &IPAddress) -> Option<(String, String)> {
    let parent = &address.spec.parent_ref;
    let is_service = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
    is_service.then(|| (parent.namespace.clone().unwrap_or_default(), parent.name.clone()))
}

/// The addresses that a Service has.
fn addresses(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName")) else {
        return Vec::new();
    };
    spec.cluster_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

fn object(service: &Service, address: IpAddr) -> Value {
    json!({
        "metadata": {"name": address.to_string(), "labels": {FAMILY: family(address), MANAGED_BY: ALLOCATOR}},
        "spec": {"parentRef": {
            "resource": "services", "namespace": service.namespace(), "name": service.name(),
        }},
    })
}

struct Repair {
    env: Env,
    services: Cache<Service>,
    addresses: Cache<IPAddress>,
    ranges: Cache<ServiceCIDR>,
}

impl Repair {
    async fn sync_service(&self, key: Key) -> Synced {
        let Some(cached) = self.services.read(&key.namespace, &key.name) else { return Ok(None) };
        let ranges: Vec<IpNet> = self
            .ranges
            .list()
            .iter()
            .filter_map(|item| self.ranges.parse(item))
            .flat_map(|range| ranges_of(&range))
            .collect();
        let own = (&*key.namespace, &*key.name);
        for address in addresses(&cached) {
            let seen = self.addresses.read("", &address.to_string());
            let held = |namespace: &str, name: &str| self.services.read(namespace, name).map(|other| addresses(&other));
            if fault(own, address, seen.as_ref(), &ranges, held).is_none() {
                continue;
            }
            // Only the server knows whether that is so, and still so.
            let taken = self.env.cluster::<IPAddress>().get_opt(&address.to_string()).await?;
            let Some(service) = self.live(own).await?.filter(|live| addresses(live).contains(&address)) else {
                continue;
            };
            let holder = match taken.as_ref().and_then(self::service) {
                Some((namespace, name)) => self.live((&namespace, &name)).await?.map(|other| addresses(&other)),
                None => None,
            };
            let check = |ranges: &[IpNet]| fault(own, address, taken.as_ref(), ranges, |_, _| holder.clone());
            if let Some(fault) = fault_by_ranges(check, &ranges, async || self.live_ranges().await).await? {
                self.mend(&service, address, taken.as_ref(), fault).await?;
            }
        }
        Ok(None)
    }

    async fn live(&self, (namespace, name): (&str, &str)) -> Result<Option<Service>, Error> {
        Ok(self.env.api::<Service>(namespace).get_opt(name).await?)
    }

    async fn live_ranges(&self) -> Result<Vec<IpNet>, Error> {
        let all = self.env.cluster::<ServiceCIDR>().list(&ListParams::default()).await?;
        Ok(all.items.iter().flat_map(ranges_of).collect())
    }

    async fn mend(
        &self,
        service: &Service,
        address: IpAddr,
        taken: Option<&IPAddress>,
        fault: Fault,
    ) -> Result<(), Error> {
        let family = family(address);
        let of = format!("{}/{}", service.namespace(), service.name());
        let told = match fault {
            Fault::OutOfRange => Some((
                "ClusterIPOutOfRange",
                format!(
                    "Cluster IP [{family}]: {address} is not within any configured Service CIDR; please recreate service"
                ),
            )),
            Fault::Lost => {
                Some(("ClusterIPNotAllocated", format!("Cluster IP [{family}]: {address} is not allocated; repairing")))
            }
            Fault::WrongReference => Some((
                "ClusterIPNotAllocated",
                format!("the ClusterIP [{family}]: {address} for Service {of} has a wrong reference; repairing"),
            )),
            Fault::Shared => Some((
                "ClusterIPAlreadyAllocated",
                format!("Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service"),
            )),
            Fault::Unlabelled => None,
        };
        if let Some((reason, message)) = told {
            self.env.recorder.warning(service, reason, message);
        }
        if matches!(fault, Fault::OutOfRange | Fault::Shared) {
            return Ok(());
        }
        if let Some(taken) = taken {
            self.env.delete::<IPAddress>("", taken.name(), taken.uid(), DeleteParams::default()).await?;
        }
        match self.env.create::<IPAddress>("", serde_json::to_vec(&object(service, address))?).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }

    async fn sync_address(&self, key: Key) -> Synced {
        let Some(address) = self.addresses.read("", &key.name) else { return Ok(None) };
        let held = service(&address)
            .and_then(|(namespace, name)| self.services.read(&namespace, &name))
            .map(|service| addresses(&service));
        match stray(&address, held.as_deref(), Timestamp::now()) {
            Stray::Stays => return Ok(None),
            Stray::LookAgain(wait) => return Ok(Some(wait)),
            Stray::Goes(..) => {}
        }
        let held = match service(&address) {
            Some((namespace, name)) => self.live((&namespace, &name)).await?.map(|service| addresses(&service)),
            None => None,
        };
        if let Stray::Goes(reason, message) = stray(&address, held.as_deref(), Timestamp::now()) {
            self.env.recorder.warning(&address, reason, message);
            self.env.delete::<IPAddress>("", &key.name, address.uid(), DeleteParams::default()).await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address taken by `services/a/web`, labelled unless the text ends with `!`, made at 00:10.
    fn taken(by: &str) -> IPAddress {
        let parts: Vec<&str> = by.trim_end_matches('!').split('/').collect();
        let labels = if by.ends_with('!') { json!({}) } else { json!({FAMILY: "IPv4", MANAGED_BY: ALLOCATOR}) };
        serde_json::from_value(json!({
            "metadata": {"name": "10.0.0.5", "labels": labels, "creationTimestamp": "2026-01-01T00:10:00Z"},
            "spec": {"parentRef": {"group": "", "resource": parts[0], "namespace": parts[1], "name": parts[2]}}}))
        .unwrap()
    }

    #[test]
    fn each_address_of_a_service_is_taken_by_it_alone() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let ranges: Vec<IpNet> = vec!["10.0.0.0/24".parse().unwrap()];
        let cases = [
            // Address, by what it is taken, addresses of the other Service.
            ("10.0.0.5", Some("services/a/web"), None, None),
            ("10.0.9.5", Some("services/a/web"), None, Some(Fault::OutOfRange)),
            ("10.0.0.255", Some("services/a/web"), None, Some(Fault::OutOfRange)),
            ("10.0.0.5", None, None, Some(Fault::Lost)),
            ("10.0.0.5", Some("gateways/a/web"), None, Some(Fault::WrongReference)),
            ("10.0.0.5", Some("services/a/other"), None, Some(Fault::WrongReference)),
            ("10.0.0.5", Some("services/a/other"), Some("10.0.0.6"), Some(Fault::WrongReference)),
            ("10.0.0.5", Some("services/a/other"), Some("10.0.0.5"), Some(Fault::Shared)),
            ("10.0.0.5", Some("services/a/web!"), None, Some(Fault::Unlabelled)),
        ];
        for (address, by, other, expected) in cases {
            let taken = by.map(taken);
            let found = fault(("a", "web"), ip(address), taken.as_ref(), &ranges, |_, _| other.map(|o| vec![ip(o)]));
            assert_eq!(found, expected, "{address} {by:?} {other:?}");
        }
    }

    #[tokio::test]
    async fn an_address_is_out_of_range_only_if_the_server_says_so() {
        let address = "10.0.0.5".parse().unwrap();
        let cases = [
            // The ranges of the cache and, if they are asked for, of the server; what is found.
            ("10.0.0.0/24", None, None),
            ("10.9.0.0/24", Some("10.9.0.0/24 10.0.0.0/24"), None),
            ("10.9.0.0/24", Some("10.9.0.0/24"), Some(Fault::OutOfRange)),
        ];
        let ranges = |text: &str| text.split_whitespace().map(|range| range.parse().unwrap()).collect::<Vec<IpNet>>();
        let taken = taken("services/a/web");
        for (seen, live, expected) in cases {
            let check = |ranges: &[IpNet]| fault(("a", "web"), address, Some(&taken), ranges, |_, _| None);
            let asked = async || Ok(ranges(live.expect("they are not asked for")));
            let found = fault_by_ranges(check, &ranges(seen), asked).await.unwrap();
            assert_eq!(found, expected, "{seen} {live:?}");
        }
    }

    #[test]
    fn an_address_without_its_service_goes_after_a_while() {
        let at = |text: &str| format!("2026-01-01T00:{text}Z").parse::<Timestamp>().unwrap();
        let cases = [
            // By what it is taken, that Service's address, the time; why it goes, or in how many seconds it may.
            ("services/a/web", Some("10.0.0.5"), "20:00", "stays"),
            ("services/a/web", None, "10:20", "40"),
            ("services/a/web", None, "11:00", "IPAddressNotAllocated"),
            ("services/a/web", Some("10.0.0.6"), "10:20", "IPAddressWrongReference"),
            ("gateways/a/web", None, "10:20", "IPAddressNotAllocated"),
            ("gateways/a/web!", None, "20:00", "stays"),
            ("services/a/web!", None, "20:00", "stays"),
        ];
        for (by, held, now, expected) in cases {
            let held = held.map(|held| vec![held.parse().unwrap()]);
            let told = match stray(&taken(by), held.as_deref(), at(now)) {
                Stray::Stays => "stays".to_owned(),
                Stray::LookAgain(wait) => wait.as_secs().to_string(),
                Stray::Goes(reason, _) => reason.to_owned(),
            };
            assert_eq!(told, expected, "{by} {held:?} {now}");
        }
    }
}
