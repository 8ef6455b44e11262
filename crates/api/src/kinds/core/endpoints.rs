//! `v1 Endpoints`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, each_mut, fill_text, list, number, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names, net};

pub fn kind() -> Kind {
    Builder::new("", "v1", "Endpoints", "endpoints")
        .namespaced()
        .short(&["ep"])
        .prefix("services/endpoints")
        .columns(COLUMNS)
        .strategy(Endpoints)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("Endpoints", endpoints), AGE];

/// The first three, and how many more there are.
fn endpoints(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(object, "subsets") {
        let addresses = || list(subset, "addresses").iter().map(|address| text(address, "ip"));
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let number = number(port, "port");
            all.extend(
                addresses()
                    .map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }),
            );
        }
    }
    match all.len() {
        0 => "<none>".into(),
        1..=3 => all.join(",").into(),
        count => format!("{} + {} more...", all[..3].join(","), count - 3).into(),
    }
}

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in each_mut(object, "subsets") {
            for port in each_mut(subset, "ports") {
                fill_text(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let root = Path::new("subsets");
        for (index, subset) in list(object, "subsets").iter().enumerate() {
            let path = root.index(index);
            if list(subset, "addresses").is_empty() && list(subset, "notReadyAddresses").is_empty() {
                errors.required(path, "must specify `addresses` or `notReadyAddresses`");
            }
            for name in ["addresses", "notReadyAddresses"] {
                let all = path.child(name);
                for (index, address) in list(subset, name).iter().enumerate() {
                    let path = all.index(index);
                    net::endpoint_ip(path.child("ip"), text(address, "ip"), errors);
                    let host = text(address, "hostname");
                    if !host.is_empty() {
                        errors.all_invalid(path.child("hostname"), host, names::dns1123_label(host));
                    }
                }
            }
            let all = path.child("ports");
            let ports = list(subset, "ports");
            for (index, port) in ports.iter().enumerate() {
                let path = all.index(index);
                let name = text(port, "name");
                if !name.is_empty() {
                    errors.all_invalid(path.child("name"), name, names::dns1123_label(name));
                } else if ports.len() > 1 {
                    errors.required(path.child("name"), "");
                }
                net::port(path.child("port"), number(port, "port"), errors);
                errors.one_of(path.child("protocol"), at(port, "protocol"), &["SCTP", "TCP", "UDP"]);
            }
        }
    }

    fn deprecation(&self) -> Option<&'static str> {
        Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
