//! `v1 Service`. Addresses and node ports are given out by the server; here is what may be asked and what is kept.

use serde_json::{Value, json};

use crate::kind::{Context, Kind, Strategy, keep};
use crate::kinds::access::{at, each_mut, fill, fill_text, has, keep_at, list, number, remove, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::labels::labels;
use crate::validation::{Errors, NameRule, Path, names, net};

pub fn kind() -> Kind {
    Builder::new("", "v1", "Service", "services")
        .namespaced()
        .short(&["svc"])
        .category("all")
        .prefix("services/specs")
        .subresource("proxy", ("", "", "ServiceProxyOptions"), &["create", "delete", "get", "patch", "update"])
        .status()
        .selectable(&["spec.clusterIP", "spec.type"])
        .columns(COLUMNS)
        .strategy(Service)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Type", "spec.type"),
    Cell::made("Cluster-IP", |o| match list(o, "spec.clusterIPs").first() {
        Some(first) => first.clone(),
        None => or_none(text(o, "spec.clusterIP").to_owned()),
    }),
    Cell::made("External-IP", external_ip),
    Cell::made("Port(s)", ports_text),
    AGE,
    Cell::made("Selector", |o| print::labels(at(o, "spec.selector")).into()).wide(),
];

fn or_none(text: String) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// The addresses of a load balancer's status, joined.
pub fn ingress_addresses(status: &Value) -> String {
    let mut all: Vec<&str> = list(status, "loadBalancer.ingress")
        .iter()
        .map(|ingress| match text(ingress, "ip") {
            "" => text(ingress, "hostname"),
            ip => ip,
        })
        .filter(|address| !address.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

fn external_ip(service: &Value) -> Value {
    let own: Vec<&str> = list(service, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match text(service, "spec.type") {
        "ClusterIP" | "NodePort" => or_none(own.join(",")),
        "LoadBalancer" => {
            let given = ingress_addresses(at(service, "status"));
            let all: Vec<&str> = [given.as_str()].into_iter().filter(|a| !a.is_empty()).chain(own).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",").into() }
        }
        "ExternalName" => text(service, "spec.externalName").into(),
        _ => "<unknown>".into(),
    }
}

fn ports_text(service: &Value) -> Value {
    let all = list(service, "spec.ports").iter().map(|port| {
        let (number, protocol) = (number(port, "port"), text(port, "protocol"));
        match at(port, "nodePort").as_i64() {
            Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    or_none(all.collect::<Vec<_>>().join(","))
}

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Whether the service has an address in the cluster.
fn has_cluster_ip(spec: &Value) -> bool {
    text(spec, "type") != "ExternalName"
}

fn has_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => at(spec, "allocateLoadBalancerNodePorts") != &Value::Bool(false),
        _ => false,
    }
}

fn externally_accessible(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

fn has_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

struct Service;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        let balanced = text(object, "spec.type") == "LoadBalancer";
        for ingress in object.get_mut("status").into_iter().flat_map(|status| each_mut(status, "loadBalancer.ingress"))
        {
            if balanced && !text(ingress, "ip").is_empty() {
                fill_text(ingress, "ipMode", "VIP");
            }
        }
        let Some(spec) = object.get_mut("spec") else { return };
        fill_text(spec, "sessionAffinity", "None");
        if text(spec, "sessionAffinity") == "None" {
            remove(spec, "sessionAffinityConfig");
        } else if text(spec, "sessionAffinity") == "ClientIP" {
            section(spec, "sessionAffinityConfig.clientIP");
            fill(&mut spec["sessionAffinityConfig"]["clientIP"], "timeoutSeconds", 10800);
        }
        fill_text(spec, "type", "ClusterIP");
        for port in each_mut(spec, "ports") {
            fill_text(port, "protocol", "TCP");
            let target = at(port, "targetPort");
            if target.is_null() || target == "" || target == 0 {
                let number = at(port, "port").clone();
                if let Some(port) = port.as_object_mut() {
                    port.insert("targetPort".to_owned(), number);
                }
            }
        }
        if externally_accessible(spec) {
            fill_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if has_cluster_ip(spec) {
            fill_text(spec, "internalTrafficPolicy", "Cluster");
        }
        if text(spec, "type") == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        let address = text(object, "spec.clusterIP").to_owned();
        if let Some(spec) = object.get_mut("spec")
            && !address.is_empty()
        {
            fill(spec, "clusterIPs", json!([address]));
        }
        object["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "status");
        let old = at(old, "spec");
        if let Some(spec) = new.get_mut("spec") {
            normalize_addresses(old, spec);
            keep_allocated(old, spec);
            drop_of_other_type(old, spec);
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label1035
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let kind = text(spec, "type");
        let headless =
            text(spec, "clusterIP") == "None" || list(spec, "clusterIPs").first().is_some_and(|ip| ip == "None");
        if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
            errors.required(path.child("ports"), "");
        }
        errors.one_of(path.child("type"), at(spec, "type"), TYPES);
        if headless && matches!(kind, "NodePort" | "LoadBalancer") {
            let why = format!("may not be set to 'None' for {kind} services");
            errors.invalid(path.child("clusterIPs").index(0), "None", why);
        }
        if kind == "ExternalName" {
            external_name(spec, &path, errors);
        }
        ports(spec, &path, errors);
        labels(at(spec, "selector"), &path.child("selector"), errors);
        errors.one_of(path.child("sessionAffinity"), at(spec, "sessionAffinity"), &["ClientIP", "None"]);
        let timeout = at(spec, "sessionAffinityConfig.clientIP.timeoutSeconds");
        if timeout.as_i64().is_some_and(|seconds| !(1..=86400).contains(&seconds)) {
            let field = path.child("sessionAffinityConfig.clientIP.timeoutSeconds");
            errors.invalid(field, timeout, "must be greater than 0 and less than 86400");
        }
        addresses(spec, &path, errors);
        policies(spec, &path, errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        let (was, is) = (at(old, "spec"), at(new, "spec"));
        let before = text(was, "clusterIP");
        if has_cluster_ip(was) && has_cluster_ip(is) && !before.is_empty() && before != text(is, "clusterIP") {
            errors.invalid("spec.clusterIPs[0]", at(is, "clusterIP"), "may not change once set");
        }
        if text(was, "type") == "LoadBalancer" && text(is, "type") == "LoadBalancer" {
            let (before, now) = (at(was, "loadBalancerClass"), at(is, "loadBalancerClass"));
            if before != now {
                errors.invalid("spec.loadBalancerClass", now, "may not change once set");
            }
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let status = Path::new("status");
        let all = status.child("loadBalancer.ingress");
        if text(new, "spec.type") != "LoadBalancer" && !list(new, "status.loadBalancer.ingress").is_empty() {
            errors.forbidden(all, "may only be used when `spec.type` is \"LoadBalancer\"");
        }
        for (index, ingress) in list(new, "status.loadBalancer.ingress").iter().enumerate() {
            let path = all.index(index);
            if !text(ingress, "ip").is_empty() {
                net::ip(path.child("ip"), text(ingress, "ip"), errors);
            }
            match (text(ingress, "ip").is_empty(), text(ingress, "ipMode")) {
                (true, "") | (false, "VIP" | "Proxy") => {}
                (true, _) => errors.forbidden(path.child("ipMode"), "may not be specified when `ip` is not set"),
                (false, "") => errors.required(path.child("ipMode"), "must be specified when `ip` is set"),
                (false, mode) => errors.not_supported(path.child("ipMode"), mode, &["Proxy", "VIP"]),
            }
            let host = text(ingress, "hostname");
            if !host.is_empty() {
                errors.all_invalid(path.child("hostname"), host, names::dns1123_subdomain(host));
            }
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        warnings(new)
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// What upstream warns of: what is deprecated, and what does nothing.
fn warnings(service: &Value) -> Vec<String> {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let spec = at(service, "spec");
    let is_external_name = text(spec, "type") == "ExternalName";
    let headless = text(spec, "type") == "ClusterIP" && text(spec, "clusterIP") == "None";
    let external = !list(spec, "externalIPs").is_empty();
    let hints = at(service, "metadata.annotations").get(HINTS).is_some();
    let texts = [
        (
            hints,
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
        ),
        (headless && !text(spec, "loadBalancerIP").is_empty(), "spec.loadBalancerIP is ignored for headless services"),
        (headless && external, "spec.externalIPs is ignored for headless services"),
        (headless && text(spec, "sessionAffinity") != "None", "spec.SessionAffinity is ignored for headless services"),
        (
            external && !headless && !is_external_name,
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
        ),
        (external && is_external_name, "spec.externalIPs is ignored when spec.type is \"ExternalName\""),
        (
            !is_external_name && !text(spec, "externalName").is_empty(),
            "spec.externalName is ignored when spec.type is not \"ExternalName\"",
        ),
        (
            text(spec, "trafficDistribution") == "PreferClose",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ),
    ];
    texts.iter().filter(|(on, _)| *on).map(|(_, text)| (*text).to_owned()).collect()
}

/// The single address and the list agree; a client that knows only the one changes both.
fn normalize_addresses(old: &Value, new: &mut Value) {
    let (single, before) = (text(new, "clusterIP").to_owned(), text(old, "clusterIP"));
    let same_list = at(old, "clusterIPs") == at(new, "clusterIPs");
    if single != before && same_list {
        let list = if single.is_empty() { Value::Null } else { json!([single]) };
        new["clusterIPs"] = list;
        if single.is_empty() {
            remove(new, "clusterIPs");
        }
    } else if !single.is_empty() && !has(new, "clusterIPs") {
        new["clusterIPs"] = if single == before { at(old, "clusterIPs").clone() } else { json!([single]) };
    }
}

/// What was allocated stays allocated where the update does not say otherwise.
fn keep_allocated(old: &Value, new: &mut Value) {
    if has_cluster_ip(old) && has_cluster_ip(new) {
        if text(new, "clusterIP").is_empty() && !text(old, "clusterIP").is_empty() {
            keep_at(old, new, "clusterIP");
            keep_at(old, new, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !has(new, field) {
                keep_at(old, new, field);
            }
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        let mut used: Vec<i64> = list(new, "ports").iter().map(|port| number(port, "nodePort")).collect();
        for port in each_mut(new, "ports").filter(|port| number(port, "nodePort") == 0) {
            let before = list(old, "ports").iter().find(|before| {
                text(before, "protocol") == text(port, "protocol") && number(before, "port") == number(port, "port")
            });
            let Some(node) = before.map(|before| number(before, "nodePort")) else { continue };
            if node != 0 && !used.contains(&node) {
                used.push(node);
                port["nodePort"] = node.into();
            }
        }
    }
    if has_health_port(old) && has_health_port(new) && number(new, "healthCheckNodePort") == 0 {
        keep_at(old, new, "healthCheckNodePort");
    }
}

/// Where the type changed, what belongs to the old type and was not changed with it goes.
fn drop_of_other_type(old: &Value, new: &mut Value) {
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if at(old, field) == at(new, field) {
                remove(new, field);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let before: Vec<i64> = list(old, "ports").iter().map(|port| number(port, "nodePort")).collect();
        for port in each_mut(new, "ports") {
            if before.contains(&number(port, "nodePort")) {
                remove(port, "nodePort");
            }
        }
    }
    if has_health_port(old) && !has_health_port(new) && at(old, "healthCheckNodePort") == at(new, "healthCheckNodePort")
    {
        remove(new, "healthCheckNodePort");
    }
    if text(old, "type") == "LoadBalancer" && text(new, "type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if at(old, field) == at(new, field) {
                remove(new, field);
            }
        }
    }
    if externally_accessible(old) && !externally_accessible(new) {
        remove(new, "externalTrafficPolicy");
    }
}

fn external_name(spec: &Value, path: &Path, errors: &mut Errors) {
    if !list(spec, "clusterIPs").is_empty() {
        errors.forbidden(path.child("clusterIPs"), "may not be set for ExternalName services");
    }
    let name = text(spec, "externalName");
    if name.is_empty() {
        errors.required(path.child("externalName"), "");
    } else {
        let bare = name.strip_suffix('.').unwrap_or(name);
        errors.all_invalid(path.child("externalName"), name, names::dns1123_subdomain(bare));
    }
}

fn ports(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("ports");
    let ports = list(spec, "ports");
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
        net::port_or_name(path.child("targetPort"), at(port, "targetPort"), errors);
        let application = text(port, "appProtocol");
        if !application.is_empty() {
            errors.all_invalid(path.child("appProtocol"), application, names::qualified_name(application));
        }
        let node = number(port, "nodePort");
        if node != 0 && text(spec, "type") == "ClusterIP" {
            errors.forbidden(path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        let same = |other: &Value, field: &str| {
            number(other, field) == number(port, field) && text(other, "protocol") == text(port, "protocol")
        };
        if node != 0 && ports[..index].iter().any(|other| same(other, "nodePort")) {
            errors.duplicate(path.child("nodePort"), node);
        }
        if ports[..index].iter().any(|other| same(other, "port")) {
            let shown = json!({"protocol": text(port, "protocol"), "port": number(port, "port")});
            errors.duplicate(path, &shown);
        }
    }
    errors.unique(spec, "ports", path, |port| text(port, "name"));
}

fn addresses(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("externalIPs");
    for (index, address) in list(spec, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        net::endpoint_ip(all.index(index), address, errors);
    }
    let (single, all) = (text(spec, "clusterIP"), list(spec, "clusterIPs"));
    let at_all = path.child("clusterIPs");
    if has_cluster_ip(spec) {
        match all.first().and_then(Value::as_str) {
            Some(first) if first != single => {
                errors.invalid(at_all, at(spec, "clusterIPs"), "first value must match `clusterIP`");
            }
            None if !single.is_empty() => errors.required(at_all, ""),
            _ => {}
        }
        if all.len() > 2 {
            errors.invalid(at_all, at(spec, "clusterIPs"), "may only hold up to 2 values");
        }
        for (index, address) in all.iter().filter_map(Value::as_str).enumerate().filter(|(_, a)| *a != "None") {
            net::ip(at_all.index(index), address, errors);
        }
    }
    errors.one_of_if_set(
        path.child("ipFamilyPolicy"),
        at(spec, "ipFamilyPolicy"),
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
    );
    let families = path.child("ipFamilies");
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        errors.one_of_supported(families.index(index), family, &["IPv4", "IPv6"]);
    }
}

fn policies(spec: &Value, path: &Path, errors: &mut Errors) {
    let external = at(spec, "externalTrafficPolicy");
    if external.is_null() && externally_accessible(spec) {
        errors.required(path.child("externalTrafficPolicy"), "");
    } else if !external.is_null() && !externally_accessible(spec) {
        let why = "may only be set for externally-accessible services";
        errors.invalid(path.child("externalTrafficPolicy"), external, why);
    } else {
        errors.one_of_if_set(path.child("externalTrafficPolicy"), external, &["Cluster", "Local"]);
    }
    errors.one_of_if_set(path.child("internalTrafficPolicy"), at(spec, "internalTrafficPolicy"), &["Cluster", "Local"]);
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    errors.one_of_if_set(path.child("trafficDistribution"), at(spec, "trafficDistribution"), DISTRIBUTIONS);
    let balanced = text(spec, "type") == "LoadBalancer";
    let why = "may only be used when `type` is 'LoadBalancer'";
    if !list(spec, "loadBalancerSourceRanges").is_empty() && !balanced {
        errors.forbidden(path.child("loadBalancerSourceRanges"), why);
    }
    let ranges = path.child("loadBalancerSourceRanges");
    for (index, range) in list(spec, "loadBalancerSourceRanges").iter().filter_map(Value::as_str).enumerate() {
        net::cidr(ranges.index(index), range.trim(), errors);
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if has(spec, field) && !balanced {
            errors.forbidden(path.child(field), why);
        }
    }
    if number(spec, "healthCheckNodePort") != 0 && !has_health_port(spec) {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(path.child("healthCheckNodePort"), number(spec, "healthCheckNodePort"), why);
    }
}
