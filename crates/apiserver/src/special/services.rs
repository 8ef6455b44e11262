//! Addresses and node ports of Services. An address is taken by its `IPAddress` object and a port by a record of its own, both made
//! in the transaction that stores the Service, guarded to be absent: whoever commits first has them, whichever server it is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::apply::{self, Ctx};
use api::kind::Kind;
use api::validation::Errors;
use api::{Status, Value};
use ipnet::IpNet;
use rand::Rng;
use serde_json::json;
use store::{Expect, Op};

use super::families::{Ranges, family, infer};
use super::reserve::Reservation;
use crate::clock;
use crate::rest::{self, Call, metadata};

/// Where records of node ports are kept. They are no objects of the API.
pub const PORTS: &str = "/registry/servicenodeports/";
/// The label that says who has made an `IPAddress`, and what it says of those that are made here.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const MANAGER: &str = "ipallocator.k8s.io";
/// Who owns the fields of those that are made here.
const OWNER: &str = "kube-apiserver";
/// How many random addresses or ports are tried before the range is searched from its beginning.
const GUESSES: usize = 32;

/// Fills in what the Service needs, takes it, and gives back what only `old` had. What an update inherits from `old` its strategy
/// has put back already.
pub fn reserve(call: &Call, old: Option<&Value>, new: &mut Value, reservation: &mut Reservation) -> Result<(), Status> {
    let had = Needs::of(old.unwrap_or(&Value::Null));
    let mut errors = Errors::default();
    if new.is_object() {
        let before = old.map_or(&Value::Null, |old| &old["spec"]["clusterIPs"]).as_array().into_iter().flatten();
        let before: Vec<String> = before.filter_map(Value::as_str).map(str::to_owned).collect();
        let taken = Taken { call, had: &had, before: &before, ranges: &Ranges::read(call)? };
        taken.addresses(new, &mut errors);
        if errors.is_empty() {
            taken.ports(new, &mut errors);
        }
    }
    errors.into_result("", "Service", metadata::text(new, "name"))?;
    let needs = Needs::of(new);
    for address in needs.addresses.difference(&had.addresses) {
        reservation.push(Expect::Absent, Op::put(address_key(call, address), record(call, address, new)));
    }
    for port in needs.ports.difference(&had.ports) {
        let record = port_record(metadata::text(new, "namespace"), metadata::text(new, "name"));
        reservation.push(Expect::Absent, Op::put(port_key(*port), record));
    }
    for address in had.addresses.difference(&needs.addresses) {
        let key = address_key(call, address);
        let Some(entry) = call.server.store.get(&key) else { continue };
        // Whoever took the address after its object had been deleted keeps it.
        if is_taken_by(&rest::parse(&entry.value)?, &call.info.namespace, metadata::text(old.unwrap_or(new), "name")) {
            reservation.push(Expect::Modified(entry.modified), Op::delete(key));
        }
    }
    for key in had.ports.difference(&needs.ports).map(|port| port_key(*port)) {
        if let Some(entry) = call.server.store.get(&key) {
            reservation.push(Expect::Modified(entry.modified), Op::delete(key));
        }
    }
    Ok(())
}

/// What a Service holds.
#[derive(Default)]
pub struct Needs {
    addresses: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
}

impl Needs {
    pub fn of(service: &Value) -> Self {
        let spec = &service["spec"];
        if spec["type"] == "ExternalName" {
            return Needs::default();
        }
        let addresses = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]);
        let ports = ports.chain([&spec["healthCheckNodePort"]]).filter_map(Value::as_u64);
        Needs {
            addresses: addresses.filter_map(|a| a.parse().ok()).collect(),
            ports: ports.filter_map(|p| u16::try_from(p).ok()).filter(|p| *p > 0).collect(),
        }
    }
}

fn needs_ports(kind: &str, spec: &Value) -> bool {
    kind == "NodePort" || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != false)
}

fn needs_health_port(kind: &str, spec: &Value) -> bool {
    kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// Looks for what is free.
struct Taken<'c> {
    call: &'c Call,
    had: &'c Needs,
    /// The addresses that the Service had before, in their order.
    before: &'c [String],
    ranges: &'c Ranges,
}

impl Taken<'_> {
    fn addresses(&self, service: &mut Value, errors: &mut Errors) {
        let spec = &mut service["spec"];
        if spec["type"] == "ExternalName" {
            return;
        }
        infer(spec, self.ranges, self.before, errors);
        if !errors.is_empty() {
            return;
        }
        let texts = |spec: &Value, field: &str| -> Vec<String> {
            spec[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let (mut given, families) = (texts(spec, "clusterIPs"), texts(spec, "ipFamilies"));
        if given.first().is_some_and(|first| first == "None") {
            spec["clusterIP"] = Value::from("None");
            return;
        }
        for text in &given {
            self.wanted_address(text, &given, errors);
        }
        for family in families.iter().skip(given.len()) {
            match self.ranges.of(family).find_map(|range| self.free_address(range)) {
                Some(address) => given.push(address.to_string()),
                None => errors.push(
                    "InternalError",
                    "spec.clusterIPs",
                    "Internal error: failed to allocate a serviceIP: range is full".to_owned(),
                ),
            }
        }
        spec["clusterIP"] = given.first().map_or(Value::Null, |first| Value::from(first.as_str()));
        spec["clusterIPs"] = json!(given);
    }

    fn wanted_address(&self, text: &str, all: &[String], errors: &mut Errors) {
        let Ok(address) = text.parse::<IpAddr>() else { return };
        if self.had.addresses.contains(&address) {
            return;
        }
        let mut ranges = self.ranges.of(family(address)).peekable();
        let Some(range) = ranges.peek().copied() else { return };
        let why = if !ranges.any(|range| usable(range, address)) {
            format!("the provided IP ({address}) is not in the valid range. The range of valid IPs is {range}")
        } else if self.call.server.store.get(&address_key(self.call, &address)).is_some() {
            "provided IP is already allocated".to_owned()
        } else {
            return;
        };
        let list = serde_json::to_string(all).unwrap_or_default();
        errors.push(
            "FieldValueInvalid",
            "spec.clusterIPs",
            format!("Invalid value: {list}: failed to allocate IP {address}: {why}"),
        );
    }

    /// An unused address, from the upper part of the range first: the lower is left to those who choose theirs.
    fn free_address(&self, range: IpNet) -> Option<IpAddr> {
        let size = size(range);
        let band = (size / 16).clamp(16, 256).min(size / 2);
        let free = |offset: u64| {
            let address = nth(range, offset)?;
            (usable(range, address) && self.call.server.store.get(&address_key(self.call, &address)).is_none())
                .then_some(address)
        };
        let mut rng = rand::rng();
        (0..GUESSES).find_map(|_| free(rng.random_range(band.max(1)..size.max(band + 2)))).or_else(|| {
            // 65,536 looks take milliseconds; larger ranges are never so full that guessing fails.
            (band..size.min(65_536)).chain(1..band).find_map(free)
        })
    }

    fn ports(&self, service: &mut Value, errors: &mut Errors) {
        let spec = &mut service["spec"];
        let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
        let (uses, health) = (needs_ports(&kind, spec), needs_health_port(&kind, spec));
        let (first, last) = self.call.server.config.node_ports;
        let mut own = BTreeSet::new();
        for (index, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            let Some(wanted) = port["nodePort"].as_u64().filter(|p| *p > 0) else { continue };
            let wanted = u16::try_from(wanted).unwrap_or(0);
            self.wanted_port(&format!("spec.ports[{index}].nodePort"), wanted, first, last, errors);
            own.insert(wanted);
        }
        if let Some(wanted) = spec["healthCheckNodePort"].as_u64().filter(|p| *p > 0) {
            let wanted = u16::try_from(wanted).unwrap_or(0);
            self.wanted_port("spec.healthCheckNodePort", wanted, first, last, errors);
            own.insert(wanted);
        }
        let mut allocate = |field: &str, target: &mut Value| match self.free_port(first, last, &own) {
            Some(port) => {
                own.insert(port);
                *target = Value::from(port);
            }
            None => errors.push(
                "InternalError",
                field,
                "Internal error: failed to allocate a nodePort: range is full".to_owned(),
            ),
        };
        if uses {
            for (index, port) in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
                if port["nodePort"].as_u64().unwrap_or(0) == 0 {
                    allocate(&format!("spec.ports[{index}].nodePort"), &mut port["nodePort"]);
                }
            }
        }
        if health && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
            allocate("spec.healthCheckNodePort", &mut spec["healthCheckNodePort"]);
        }
    }

    fn wanted_port(&self, field: &str, port: u16, first: u16, last: u16, errors: &mut Errors) {
        if self.had.ports.contains(&port) {
            return;
        }
        if port < first || port > last {
            errors.invalid(
                field,
                i64::from(port),
                format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"),
            );
        } else if self.call.server.store.get(&port_key(port)).is_some() {
            errors.invalid(field, i64::from(port), "provided port is already allocated");
        }
    }

    fn free_port(&self, first: u16, last: u16, own: &BTreeSet<u16>) -> Option<u16> {
        let free = |port: &u16| !own.contains(port) && self.call.server.store.get(&port_key(*port)).is_none();
        let mut rng = rand::rng();
        (0..GUESSES).map(|_| rng.random_range(first..=last)).find(free).or_else(|| (first..=last).find(free))
    }
}

fn address_key(call: &Call, address: &IpAddr) -> String {
    match addresses(call) {
        Some(kind) => rest::key(&kind, "", &address.to_string()),
        None => format!("/registry/ipaddresses/{address}"),
    }
}

/// What is kept of a port: whose it is.
pub fn port_record(namespace: &str, name: &str) -> Vec<u8> {
    json!({"namespace": namespace, "name": name}).to_string().into_bytes()
}

pub fn port_key(port: u16) -> String {
    format!("{PORTS}{port}")
}

fn addresses(call: &Call) -> Option<std::sync::Arc<Kind>> {
    call.server.catalog.load().get("networking.k8s.io", "v1", "ipaddresses").cloned()
}

/// The `IPAddress` object that takes an address for a Service.
fn record(call: &Call, address: &IpAddr, service: &Value) -> Vec<u8> {
    let now = clock::now();
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(), "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now, "generation": 1,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                MANAGED_BY: MANAGER,
            },
        },
        "spec": {"parentRef": {
            "resource": "services", "namespace": call.info.namespace, "name": metadata::text(service, "name"),
        }},
    });
    if let Some(kind) = addresses(call) {
        let (schema, api_version) = (&kind.schema, &kind.api_version());
        let context = Ctx { schema, api_version, manager: OWNER, subresource: "", now: &now };
        apply::track_update(None, &mut object, &context);
    }
    api::codec::stored::encode(&object)
}

/// Whether an `IPAddress` is taken by this Service.
fn is_taken_by(address: &Value, namespace: &str, name: &str) -> bool {
    let parent = &address["spec"]["parentRef"];
    let is = |field: &str, wanted: &str| parent[field].as_str().unwrap_or("") == wanted;
    is("group", "") && is("resource", "services") && is("namespace", namespace) && is("name", name)
}

/// How many addresses the range has, as far as it matters.
fn size(range: IpNet) -> u64 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len());
    1u64.checked_shl(bits.min(62)).unwrap_or(u64::MAX)
}

/// The address at an offset from the range's beginning.
pub fn nth(range: IpNet, offset: u64) -> Option<IpAddr> {
    let address: IpAddr = match range.network() {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).checked_add(u32::try_from(offset).ok()?)?.into()),
        IpAddr::V6(base) => IpAddr::V6(u128::from(base).checked_add(u128::from(offset))?.into()),
    };
    range.contains(&address).then_some(address)
}

/// In the range, and neither its network nor its broadcast address.
fn usable(range: IpNet, address: IpAddr) -> bool {
    range.contains(&address) && address != range.network() && !(address.is_ipv4() && address == range.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_gives_back_its_own_addresses_alone() {
        let taken = |group: &str, resource: &str, name: &str| {
            let parent = json!({"group": group, "resource": resource, "namespace": "a", "name": name});
            is_taken_by(&json!({"spec": {"parentRef": parent}}), "a", "web")
        };
        assert!(taken("", "services", "web"));
        assert!(!taken("", "services", "other") && !taken("gateway.networking.k8s.io", "gateways", "web"));
    }

    #[test]
    fn addresses_are_counted_from_the_beginning_of_the_range() {
        let range: IpNet = "10.96.0.0/16".parse().expect("a range");
        assert_eq!(nth(range, 10).map(|a| a.to_string()).as_deref(), Some("10.96.0.10"));
        assert!(nth(range, 65_536).is_none());
        assert!(!usable(range, range.network()) && !usable(range, range.broadcast()));
    }
}
