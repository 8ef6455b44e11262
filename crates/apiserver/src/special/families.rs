//! IP families of Services and the ranges that their addresses come from: those of all ServiceCIDR objects. The families that
//! the default one names are what the cluster has; its first is the default.

use std::net::IpAddr;

use api::validation::Errors;
use api::{Status, Value};
use ipnet::IpNet;
use serde_json::json;

use crate::rest::{self, Call, metadata, prefix, store_error};

/// The ServiceCIDR that every cluster has.
const DEFAULT: &str = "kubernetes";

/// Where addresses come from.
pub struct Ranges {
    /// The cluster's families, the default first.
    pub families: Vec<&'static str>,
    all: Vec<IpNet>,
}

/// `IPv4` or `IPv6`.
pub fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

impl Ranges {
    /// The ranges that are there now; one that is being deleted gives no more.
    pub fn read(call: &Call) -> Result<Self, Status> {
        let first = call.server.config.service_cidr;
        let mut ranges = Ranges { families: vec![family(first.addr())], all: vec![first] };
        let catalog = call.server.catalog.load();
        let Some(kind) = catalog.get("networking.k8s.io", "v1", "servicecidrs") else { return Ok(ranges) };
        for entry in call.server.store.snapshot(&prefix(kind, ""), None).map_err(store_error)?.iter() {
            let object = rest::parse(&entry.value)?;
            if metadata::is_deleting(&object) {
                continue;
            }
            let texts = object["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let cidrs: Vec<IpNet> = texts.filter_map(|text| text.parse().ok()).collect();
            for cidr in cidrs {
                let family = family(cidr.addr());
                if metadata::text(&object, "name") == DEFAULT && !ranges.families.contains(&family) {
                    ranges.families.push(family);
                }
                if !ranges.all.contains(&cidr) {
                    ranges.all.push(cidr);
                }
            }
        }
        Ok(ranges)
    }

    /// The ranges of a family, the cluster's first one first.
    pub fn of(&self, wanted: &str) -> impl Iterator<Item = IpNet> {
        self.all.iter().copied().filter(move |range| family(range.addr()) == wanted)
    }
}

/// Fills in `ipFamilyPolicy` and `ipFamilies` as upstream infers them, and takes back the second address of a Service that is
/// dual-stack no more. `had` are the addresses that it had before.
pub fn infer(spec: &mut Value, ranges: &Ranges, had: &[String], errors: &mut Errors) {
    let list = |spec: &Value, field: &str| -> Vec<String> {
        spec[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let headless = spec["clusterIP"] == "None" || list(spec, "clusterIPs").first().is_some_and(|ip| ip == "None");
    let selectorless = headless && spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    if spec["ipFamilyPolicy"].is_null() {
        let default = if selectorless { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = json!(default);
    }
    let policy = spec["ipFamilyPolicy"].as_str().unwrap_or("").to_owned();
    let single = policy == "SingleStack";
    let addresses = list(spec, "clusterIPs");
    if single && addresses.len() == 2 && addresses == had {
        for field in ["clusterIPs", "ipFamilies"] {
            if let Some(values) = spec.get_mut(field).and_then(Value::as_array_mut) {
                values.truncate(1);
            }
        }
    }
    let (addresses, mut families) = (list(spec, "clusterIPs"), list(spec, "ipFamilies"));
    for (field, count) in [("clusterIPs", addresses.len()), ("ipFamilies", families.len())] {
        if single && count == 2 {
            let why = format!("must be RequireDualStack or PreferDualStack when multiple {field} are specified");
            errors.invalid("spec.ipFamilyPolicy", policy.as_str(), why);
        }
    }
    for (index, address) in addresses.iter().enumerate().filter(|(_, address)| *address != "None") {
        let Some(found) = address.parse().ok().map(family) else { continue };
        match families.get(index) {
            None if index == families.len() => families.push(found.to_owned()),
            Some(named) if named != found => {
                let why = format!("expected an {named} value as indicated by `ipFamilies[{index}]`");
                errors.invalid(format!("spec.clusterIPs[{index}]"), address.as_str(), why);
            }
            _ => {}
        }
    }
    if !selectorless {
        if policy == "RequireDualStack" && ranges.families.len() < 2 {
            let why = "this cluster is not configured for dual-stack services";
            errors.invalid("spec.ipFamilyPolicy", policy.as_str(), why);
        }
        for (index, family) in families.iter().enumerate() {
            if !ranges.families.contains(&family.as_str()) {
                let why = "not configured on this cluster";
                errors.invalid(format!("spec.ipFamilies[{index}]"), family.as_str(), why);
            }
        }
    }
    if families.is_empty() {
        families.push(ranges.families[0].to_owned());
    }
    if !single && families.len() == 1 && (selectorless || ranges.families.len() == 2) {
        families.push(other(&families[0]).to_owned());
    }
    spec["ipFamilies"] = json!(families);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inferred(families: &[&'static str], mut spec: Value, had: &[&str]) -> (Value, Vec<String>) {
        let all = vec!["10.0.0.0/16".parse().expect("a range"), "fd00::/112".parse().expect("a range")];
        let ranges = Ranges { families: families.to_vec(), all };
        let had: Vec<String> = had.iter().map(ToString::to_string).collect();
        let mut errors = Errors::default();
        infer(&mut spec, &ranges, &had, &mut errors);
        let why = errors.into_result("", "Service", "s").err().map(|status| status.message);
        (spec, why.into_iter().collect())
    }

    #[test]
    fn families_are_inferred_as_upstream_infers_them() {
        let (one, two) = (&["IPv4"][..], &["IPv4", "IPv6"][..]);
        let table = [
            (one, json!({}), json!(["IPv4"]), "SingleStack"),
            (one, json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["IPv4"]), "PreferDualStack"),
            (two, json!({}), json!(["IPv4"]), "SingleStack"),
            (two, json!({"ipFamilies": ["IPv6"]}), json!(["IPv6"]), "SingleStack"),
            (two, json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["IPv4", "IPv6"]), "PreferDualStack"),
            (
                two,
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                json!(["IPv6", "IPv4"]),
                "RequireDualStack",
            ),
            (two, json!({"clusterIPs": ["fd00::5"]}), json!(["IPv6"]), "SingleStack"),
            (one, json!({"clusterIP": "None"}), json!(["IPv4", "IPv6"]), "RequireDualStack"),
            (one, json!({"clusterIP": "None", "selector": {"a": "b"}}), json!(["IPv4"]), "SingleStack"),
        ];
        for (families, spec, expected, policy) in table {
            let (made, errors) = inferred(families, spec.clone(), &[]);
            assert_eq!((&made["ipFamilies"], &made["ipFamilyPolicy"]), (&expected, &json!(policy)), "{spec}");
            assert!(errors.is_empty(), "{spec}: {errors:?}");
        }
    }

    #[test]
    fn what_the_cluster_or_the_policy_does_not_have_is_refused() {
        let table = [
            (&["IPv4"][..], json!({"ipFamilyPolicy": "RequireDualStack"}), "not configured for dual-stack services"),
            (
                &["IPv4"],
                json!({"ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                &["IPv4", "IPv6"],
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "must be RequireDualStack or PreferDualStack when multiple ipFamilies",
            ),
            (
                &["IPv4", "IPv6"],
                json!({"clusterIPs": ["fd00::1"], "ipFamilies": ["IPv4"]}),
                "expected an IPv4 value as indicated by `ipFamilies[0]`",
            ),
        ];
        for (families, spec, expected) in table {
            let (_, errors) = inferred(families, spec.clone(), &[]);
            assert!(errors.iter().any(|why| why.contains(expected)), "{spec}: {errors:?}");
        }
    }

    #[test]
    fn a_service_that_is_dual_stack_no_more_gives_its_second_address_back() {
        let both = ["10.0.0.5", "fd00::5"];
        let spec = json!({"ipFamilyPolicy": "SingleStack", "clusterIPs": both, "ipFamilies": ["IPv4", "IPv6"]});
        let (made, errors) = inferred(&["IPv4", "IPv6"], spec, &both);
        assert_eq!((&made["clusterIPs"], &made["ipFamilies"]), (&json!(["10.0.0.5"]), &json!(["IPv4"])));
        assert!(errors.is_empty(), "{errors:?}");
    }
}
