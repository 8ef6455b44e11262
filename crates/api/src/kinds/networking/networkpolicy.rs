//! `networking.k8s.io/v1 NetworkPolicy`.

use serde_json::{Value, json};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, each_mut, fill, fill_text, has, list, number, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::cells;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, label_selector, net};

pub fn kind() -> Kind {
    Builder::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
        .namespaced()
        .short(&["netpol"])
        .columns(COLUMNS)
        .strategy(NetworkPolicy)
        .build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::made("Pod-Selector", |o| cells::selector(at(o, "spec.podSelector"))), AGE];

struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        if list(spec, "policyTypes").is_empty() {
            let types = if list(spec, "egress").is_empty() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
            spec["policyTypes"] = types;
        }
        fill(spec, "podSelector", json!({}));
        for direction in ["ingress", "egress"] {
            for rule in each_mut(spec, direction) {
                for port in each_mut(rule, "ports") {
                    fill_text(port, "protocol", "TCP");
                }
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        label_selector(at(spec, "podSelector"), &path.child("podSelector"), errors);
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            let all = path.child(direction);
            for (index, rule) in list(spec, direction).iter().enumerate() {
                let path = all.index(index);
                let all = path.child("ports");
                for (index, port) in list(rule, "ports").iter().enumerate() {
                    rule_port(port, &all.index(index), errors);
                }
                let all = path.child(peers);
                for (index, item) in list(rule, peers).iter().enumerate() {
                    peer(item, &all.index(index), errors);
                }
            }
        }
        let (types, all) = (list(spec, "policyTypes"), path.child("policyTypes"));
        if types.len() > 2 {
            errors.invalid(all, at(spec, "policyTypes"), "may not specify more than two policyTypes");
        }
        for (index, kind) in types.iter().enumerate() {
            errors.one_of_supported(all.index(index), kind, &["Egress", "Ingress"]);
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn rule_port(port: &Value, path: &Path, errors: &mut Errors) {
    errors.one_of_supported(path.child("protocol"), at(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    let first = at(port, "port");
    if !first.is_null() {
        net::port_or_name(path.child("port"), first, errors);
    }
    if has(port, "endPort") {
        let end = number(port, "endPort");
        match first.as_i64() {
            None if first.is_null() => {
                errors.required(path.child("port"), "must be specified when `endPort` is specified")
            }
            None => errors.invalid(path.child("endPort"), end, "may not be specified when `port` is non-numeric"),
            Some(first) if end < first => {
                errors.invalid(path.child("endPort"), end, "must be greater than or equal to `port`");
            }
            Some(_) => net::port(path.child("endPort"), end, errors),
        }
    }
}

fn peer(peer: &Value, path: &Path, errors: &mut Errors) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if has(peer, field) {
            count += 1;
            label_selector(at(peer, field), &path.child(field), errors);
        }
    }
    if !has(peer, "ipBlock") {
        if count == 0 {
            errors.required(path, "must specify a peer");
        }
        return;
    }
    if count > 0 {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
    let (block, path) = (at(peer, "ipBlock"), path.child("ipBlock"));
    let range = text(block, "cidr");
    if range.is_empty() {
        errors.required(path.child("cidr"), "");
        return;
    }
    let Some(range) = net::cidr(path.child("cidr"), range, errors) else { return };
    let all = path.child("except");
    for (index, except) in list(block, "except").iter().filter_map(Value::as_str).enumerate() {
        let path = all.index(index);
        let Some(inner) = net::cidr(path, except, errors) else { continue };
        if !range.contains(&inner) || inner.prefix_len() == range.prefix_len() {
            errors.invalid(path, except, "must be a strict subset of `cidr`");
        }
    }
}
