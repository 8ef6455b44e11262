//! `discovery.k8s.io/v1 EndpointSlice`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, each_mut, fill, fill_text, list, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names, net};

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
        let (endpoints, all) = (list(object, "endpoints"), Path::new("endpoints"));
        if endpoints.len() > 1000 {
            errors.too_many(all, endpoints.len(), 1000);
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            addresses(endpoint, text(object, "addressType"), &all.index(index), errors);
        }
        let (ports, all) = (list(object, "ports"), Path::new("ports"));
        if ports.len() > 20_000 {
            errors.too_many(all, ports.len(), 20_000);
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
            if let Some(number) = at(port, "port").as_i64() {
                net::port(path.child("port"), number, errors);
            }
            errors.one_of(path.child("protocol"), at(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        }
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
            "FQDN" => errors.all_invalid(path, address, names::dns1123_subdomain(address)),
            family => match address.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.is_ipv4() == (family == "IPv4") => net::endpoint_ip(path, address, errors),
                _ => errors.invalid(path, address, format!("must be a valid {family} address")),
            },
        }
    }
    let host = text(endpoint, "hostname");
    if !host.is_empty() {
        errors.all_invalid(path.child("hostname"), host, names::dns1123_label(host));
    }
}
