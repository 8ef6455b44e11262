//! `networking.k8s.io/v1 Ingress`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, has, list, number, text};
use crate::kinds::builder::Builder;
use crate::kinds::core::service::ingress_addresses;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path, names, net};

pub fn kind() -> Kind {
    Builder::new("networking.k8s.io", "v1", "Ingress", "ingresses")
        .namespaced()
        .short(&["ing"])
        .prefix("ingress")
        .status()
        .columns(COLUMNS)
        .strategy(Ingress)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Class", |o| at(o, "spec.ingressClassName").as_str().unwrap_or("<none>").into()),
    Cell::made("Hosts", hosts),
    Cell::made("Address", |o| ingress_addresses(at(o, "status")).into()),
    Cell::made("Ports", |o| if list(o, "spec.tls").is_empty() { "80".into() } else { "80, 443".into() }),
    AGE,
];

fn hosts(ingress: &Value) -> Value {
    let rules = list(ingress, "spec.rules");
    let hosts: Vec<&str> = rules.iter().map(|rule| text(rule, "host")).filter(|host| !host.is_empty()).collect();
    match hosts.len() {
        0 => "*".into(),
        1..=3 => hosts.join(",").into(),
        _ => format!("{} + {} more...", hosts[..3].join(","), rules.len() - 3).into(),
    }
}

const CLASS: &str = "kubernetes.io/ingress.class";

struct Ingress;

impl Strategy for Ingress {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        if list(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
            errors.invalid(path, spec, "either `defaultBackend` or `rules` must be specified");
        }
        if has(spec, "defaultBackend") {
            backend(at(spec, "defaultBackend"), &path.child("defaultBackend"), errors);
        }
        let class = text(spec, "ingressClassName");
        if has(spec, "ingressClassName") {
            errors.all_invalid(path.child("ingressClassName"), class, names::dns1123_subdomain(class));
        }
        let all = path.child("tls");
        for (index, tls) in list(spec, "tls").iter().enumerate() {
            let path = all.index(index);
            let all = path.child("hosts");
            for (index, name) in list(tls, "hosts").iter().filter_map(Value::as_str).enumerate() {
                host(name, &all.index(index), errors);
            }
        }
        let all = path.child("rules");
        for (index, rule) in list(spec, "rules").iter().enumerate() {
            let path = all.index(index);
            let name = text(rule, "host");
            if name.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(path.child("host"), name, "must be a DNS name, not an IP address");
            } else if !name.is_empty() {
                host(name, &path.child("host"), errors);
            }
            if has(rule, "http") {
                paths(at(rule, "http"), &path.child("http"), errors);
            }
        }
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        if let Some(class) = at(object, "metadata.annotations").get(CLASS)
            && has(object, "spec.ingressClassName")
        {
            let field = "metadata.annotations.kubernetes.io/ingress.class";
            errors.invalid(field, class, "can not be set when the class field is also set");
        }
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        if at(new, "metadata.annotations").get(CLASS).is_none() {
            return Vec::new();
        }
        vec![format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead")]
    }

    fn hint(&self, unknown: &str) -> Option<&'static str> {
        let retired = ["backend.serviceName\"", "backend.servicePort\""];
        retired.iter().any(|field| unknown.ends_with(field)).then_some(
            "in networking.k8s.io/v1 write `backend: {service: {name: NAME, port: {number: PORT}}}` (or `port: {name: NAME}`) \
             for serviceName and servicePort",
        )
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let all = Path::new("status.loadBalancer.ingress");
        for (index, ingress) in list(new, "status.loadBalancer.ingress").iter().enumerate() {
            if !text(ingress, "ip").is_empty() {
                net::ip(all.index(index).child("ip"), text(ingress, "ip"), errors);
            }
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn host(name: &str, path: &Path, errors: &mut Errors) {
    let check = if name.contains('*') { names::wildcard_subdomain } else { names::dns1123_subdomain };
    errors.all_invalid(path, name, check(name));
}

fn paths(http: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("paths");
    if list(http, "paths").is_empty() {
        errors.required(all, "");
    }
    for (index, item) in list(http, "paths").iter().enumerate() {
        let at_item = all.index(index);
        let (route, kind) = (text(item, "path"), at(item, "pathType"));
        let path = at_item.child("path");
        match kind.as_str() {
            None => errors.required(at_item.child("pathType"), "pathType must be specified"),
            Some("Exact" | "Prefix") => {
                if !route.starts_with('/') {
                    errors.invalid(path, route, "must be an absolute path");
                }
                for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| route.contains(bad)) {
                    errors.invalid(path, route, format!("must not contain '{bad}'"));
                }
                for bad in ["/..", "/."].into_iter().filter(|bad| route.ends_with(bad)) {
                    errors.invalid(path, route, format!("cannot end with '{bad}'"));
                }
            }
            Some("ImplementationSpecific") => {
                if !route.is_empty() && !route.starts_with('/') {
                    errors.invalid(path, route, "must be an absolute path");
                }
            }
            Some(other) => {
                errors.not_supported(at_item.child("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]);
            }
        }
        backend(at(item, "backend"), &at_item.child("backend"), errors);
    }
}

fn backend(backend: &Value, path: &Path, errors: &mut Errors) {
    match (has(backend, "resource"), has(backend, "service")) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (true, false) => {
            for field in ["kind", "name"] {
                if text(at(backend, "resource"), field).is_empty() {
                    errors.required(path.child("resource").child(field), "");
                }
            }
        }
        (false, false) => errors.required(path, "resource or service backend is required"),
        (false, true) => {
            let (service, path) = (at(backend, "service"), path.child("service"));
            let name = text(service, "name");
            if name.is_empty() {
                errors.required(path.child("name"), "");
            } else {
                errors.all_invalid(path.child("name"), name, names::dns1035_label(name));
            }
            let (name, number) = (text(service, "port.name"), number(service, "port.number"));
            match (name, number) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => net::port(path.child("port").child("number"), number, errors),
                (name, 0) => errors.all_invalid(path.child("port").child("name"), name, names::port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}
