//! `discovery.k8s.io/v1 EndpointSlice`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, each_mut, fill, fill_text, list, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::labels::labels;
use crate::validation::{Errors, Path, domains, names, net};

pub fn kind() -> Kind {
    Builder::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
        .namespaced()
        .columns(COLUMNS)
        .strategy(EndpointSlice)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("AddressType", "addressType"),
    Cell::made("Ports", |o| {
        let ports = list(o, "ports").iter().map(|port| match number(port, "port") {
            0 => "*".to_owned(),
            port => port.to_string(),
        });
        first_three(ports.collect())
    }),
    Cell::made("Endpoints", |o| {
        let addresses = list(o, "endpoints").iter().flat_map(|endpoint| list(endpoint, "addresses"));
        first_three(addresses.filter_map(|a| a.as_str().map(str::to_owned)).collect())
    }),
    AGE,
];

fn first_three(all: Vec<String>) -> Value {
    match all.len() {
        0 => "<unset>".into(),
        1..=3 => all.join(",").into(),
        count => format!("{} + {} more...", all[..3].join(","), count - 3).into(),
    }
}

struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in each_mut(object, "ports") {
            fill(port, "name", "");
            fill_text(port, "protocol", "TCP");
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        errors.one_of("addressType", at(object, "addressType"), &["FQDN", "IPv4", "IPv6"]);
        endpoints(object, errors);
        ports(list(object, "ports"), errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "addressType");
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn endpoints(slice: &Value, errors: &mut Errors) {
    let (endpoints, all) = (list(slice, "endpoints"), Path::new("endpoints"));
    if endpoints.len() > 1000 {
        return errors.too_many(all, endpoints.len(), 1000);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = all.index(index);
        addresses(endpoint, text(slice, "addressType"), &path, errors);
        if let Some(node) = at(endpoint, "nodeName").as_str() {
            errors.all_invalid(path.child("nodeName"), node, names::dns1123_subdomain(node));
        }
        let (topology, at_topology) = (at(endpoint, "deprecatedTopology"), path.child("deprecatedTopology"));
        let count = topology.as_object().map_or(0, |map| map.len());
        if count > 16 {
            errors.too_many(at_topology, count, 16);
        }
        labels(topology, &at_topology, errors);
        if let Some(host) = at(endpoint, "hostname").as_str() {
            errors.all_invalid(path.child("hostname"), host, names::dns1123_label(host));
        }
        hints(at(endpoint, "hints"), &path.child("hints"), errors);
    }
}

/// An address of the family and of nothing that only one host knows.
fn addresses(endpoint: &Value, family: &str, path: &Path, errors: &mut Errors) {
    let (addresses, all) = (list(endpoint, "addresses"), path.child("addresses"));
    if addresses.is_empty() {
        errors.required(all, "must contain at least 1 address");
    } else if addresses.len() > 100 {
        errors.too_many(all, addresses.len(), 100);
    }
    for (index, address) in addresses.iter().filter_map(Value::as_str).enumerate() {
        let path = all.index(index);
        match family {
            "FQDN" => domains::host(address, &path, errors),
            "IPv4" | "IPv6" => {
                let parsed = address.parse::<std::net::IpAddr>();
                if !parsed.is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4")) {
                    errors.invalid(path, address, format!("must be a valid {family} address"));
                }
                net::endpoint_ip(path, address, errors);
            }
            _ => {}
        }
    }
}

/// For whom an endpoint is: zones, or nodes.
fn hints(hints: &Value, path: &Path, errors: &mut Errors) {
    const MOST: usize = 8;
    type Check = fn(&str) -> Vec<String>;
    const FIELDS: [(&str, Check); 2] = [("forZones", names::label_value), ("forNodes", names::dns1123_subdomain)];
    for (field, check) in FIELDS {
        let (given, all) = (list(hints, field), path.child(field));
        if given.len() > MOST {
            errors.too_many(all, given.len(), MOST);
            continue;
        }
        for (index, hint) in given.iter().enumerate() {
            let name = text(hint, "name");
            let path = all.index(index);
            if given[..index].iter().any(|other| text(other, "name") == name) {
                errors.duplicate(path.child("name"), name);
            }
            errors.all_invalid(path.child("name"), name, check(name));
        }
    }
}

fn ports(ports: &[Value], errors: &mut Errors) {
    let all = Path::new("ports");
    if ports.len() > 20_000 {
        return errors.too_many(all, ports.len(), 20_000);
    }
    for (index, port) in ports.iter().enumerate() {
        let path = all.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            errors.all_invalid(path.child("name"), name, names::dns1123_label(name));
        }
        if ports[..index].iter().any(|other| text(other, "name") == name) {
            errors.duplicate(path.child("name"), name);
        }
        errors.one_of(path.child("protocol"), at(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = at(port, "appProtocol").as_str() {
            errors.all_invalid(path.child("appProtocol"), protocol, names::qualified_name(protocol));
        }
    }
}
