//! `networking.k8s.io/v1 Ingress`.

use std::net::IpAddr;

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
            errors.invalid(path, at(spec, "rules"), "either `defaultBackend` or `rules` must be specified");
        }
        if has(spec, "defaultBackend") {
            backend(at(spec, "defaultBackend"), &path.child("defaultBackend"), errors);
        }
        let all = path.child("rules");
        for (index, rule) in list(spec, "rules").iter().enumerate() {
            let path = all.index(index);
            let name = text(rule, "host");
            if name.parse::<IpAddr>().is_ok() {
                errors.invalid(path.child("host"), name, NO_ADDRESS);
            }
            if !name.is_empty() {
                host(name, &path.child("host"), errors);
            }
            if has(rule, "http") {
                paths(at(rule, "http"), &path.child("http"), errors);
            }
        }
        let all = path.child("tls");
        for (index, tls) in list(spec, "tls").iter().enumerate() {
            let path = all.index(index);
            let all = path.child("hosts");
            for (index, name) in list(tls, "hosts").iter().filter_map(Value::as_str).enumerate() {
                host(name, &all.index(index), errors);
            }
        }
        if let Some(class) = at(spec, "ingressClassName").as_str() {
            errors.all_invalid(path.child("ingressClassName"), class, names::dns1123_subdomain(class));
        }
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        secrets(object, errors);
        if let Some(annotation) = at(object, "metadata.annotations").get(CLASS)
            && has(object, "spec.ingressClassName")
            && annotation != at(object, "spec.ingressClassName")
        {
            let why = "must match `ingressClassName` when both are specified";
            errors.invalid(Path::new("annotations").child(CLASS), annotation, why);
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        let mut before = Errors::default();
        secrets(old, &mut before);
        if before.is_empty() {
            secrets(new, errors);
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
            let path = all.index(index);
            if !text(ingress, "ip").is_empty() {
                net::ip(path.child("ip"), text(ingress, "ip"), errors);
            }
            let name = text(ingress, "hostname");
            if !name.is_empty() {
                errors.all_invalid(path.child("hostname"), name, names::dns1123_subdomain(name));
            }
            if name.parse::<IpAddr>().is_ok() {
                errors.invalid(path.child("hostname"), name, NO_ADDRESS);
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

const NO_ADDRESS: &str = "must be a DNS name, not an IP address";

/// Names of the secrets that hold certificates.
fn secrets(ingress: &Value, errors: &mut Errors) {
    let all = Path::new("spec.tls");
    for (index, tls) in list(ingress, "spec.tls").iter().enumerate() {
        let name = text(tls, "secretName");
        if !name.is_empty() {
            errors.all_invalid(all.index(index).child("secretName"), name, names::dns1123_subdomain(name));
        }
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
            None => {
                errors.required(at_item.child("pathType"), "pathType must be specified");
                continue;
            }
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
        (true, false) => reference(at(backend, "resource"), &path.child("resource"), errors),
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
        (false, true) => {
            let (service, at_service) = (at(backend, "service"), path.child("service"));
            match text(service, "name") {
                "" => errors.required(at_service.child("name"), ""),
                name => errors.all_invalid(at_service.child("name"), name, names::dns1035_label(name)),
            }
            let (name, number, at_port) =
                (text(service, "port.name"), number(service, "port.number"), at_service.child("port"));
            match (name, number) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => net::port(at_port.child("number"), number, errors),
                (name, 0) => errors.all_invalid(at_port.child("name"), name, names::port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}

/// A reference to an object of the same namespace.
pub fn reference(reference: &Value, path: &Path, errors: &mut Errors) {
    if let Some(group) = at(reference, "apiGroup").as_str() {
        errors.all_invalid(path.child("apiGroup"), group, names::dns1123_subdomain(group));
    }
    for field in ["kind", "name"] {
        match text(reference, field) {
            "" => errors.required(path.child(field), format!("{field} is required")),
            name => errors.all_invalid(path.child(field), name, names::path_segment(name, false)),
        }
    }
}
