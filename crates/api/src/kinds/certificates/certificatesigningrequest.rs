//! `certificates.k8s.io/v1 CertificateSigningRequest`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::pem;
use crate::kind::{Context, Kind, Strategy, clear_status, keep};
use crate::kinds::access::{at, each_mut, fill, has, keep_at, list, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME, duration};
use crate::validation::{Errors, NameRule, Path, domains};

pub fn kind() -> Kind {
    Builder::new("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
        .short(&["csr"])
        .view("approval")
        .status()
        .selectable(&["spec.signerName"])
        .columns(COLUMNS)
        .strategy(CertificateSigningRequest)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    AGE,
    Cell::text("SignerName", "spec.signerName"),
    Cell::text("Requestor", "spec.username"),
    Cell::made("RequestedDuration", |o| match at(o, "spec.expirationSeconds").as_i64() {
        Some(seconds) => duration(seconds).into(),
        None => "<none>".into(),
    }),
    Cell::made("Condition", condition),
];

fn condition(request: &Value) -> Value {
    let has = |name: &str| !of(request, name).is_empty();
    let mut words = Vec::new();
    match (has("Denied"), has("Approved")) {
        (true, _) => words.push("Denied"),
        (_, true) => words.push("Approved"),
        _ => words.push("Pending"),
    }
    if has("Failed") {
        words.push("Failed");
    }
    if !text(request, "status.certificate").is_empty() {
        words.push("Issued");
    }
    words.join(",").into()
}

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    /// Who asks is what the server knows of the caller, never what the object says.
    fn prepare_create(&self, object: &mut Value, context: &Context) {
        clear_status(object);
        if let Some(spec) = section(object, "spec") {
            for field in ["uid", "extra"] {
                spec.remove(field);
            }
            spec.insert("username".to_owned(), context.user.into());
            spec.insert("groups".to_owned(), context.groups.to_vec().into());
            if !context.uid.is_empty() {
                spec.insert("uid".to_owned(), context.uid.into());
            }
            if !context.extra.is_empty() {
                let extra = context.extra.iter().map(|(name, values)| (name.clone(), Value::from(values.clone())));
                spec.insert("extra".to_owned(), Value::Object(extra.collect()));
            }
        }
    }

    fn prepare_update(&self, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "spec");
        keep(old, new, "status");
    }

    fn prepare_subresource_update(&self, subresource: &str, old: &Value, new: &mut Value, context: &Context) {
        keep(old, new, "spec");
        if subresource == "approval" {
            keep_at(old, new, "status.certificate");
        } else {
            keep_decision(old, new);
        }
        let before = list(old, "status.conditions");
        for condition in each_mut(new, "status.conditions") {
            fill(condition, "lastUpdateTime", context.now);
            let same = before.iter().find(|other| {
                ["type", "status"].iter().all(|field| text(other, field) == text(condition, field))
                    && has(other, "lastTransitionTime")
            });
            let since = same.map_or(context.now.into(), |other| at(other, "lastTransitionTime").clone());
            fill(condition, "lastTransitionTime", since);
        }
    }

    /// Nobody cares what requests are called.
    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        if let Err(why) = pem::request(&STANDARD.decode(text(spec, "request")).unwrap_or_default()) {
            errors.invalid(path.child("request"), at(spec, "request"), why);
        }
        let (usages, all) = (list(spec, "usages"), path.child("usages"));
        if usages.is_empty() {
            errors.required(all, "");
        }
        for (index, usage) in usages.iter().enumerate() {
            errors.one_of_supported(all.index(index), usage, USAGES);
        }
        for (index, usage) in usages.iter().enumerate() {
            if usages[..index].contains(usage) {
                errors.duplicate(all.index(index), usage);
            }
        }
        let signer = text(spec, "signerName");
        if signer == "kubernetes.io/legacy-unknown" {
            let why = "the legacy signerName is not allowed via this API version";
            errors.invalid(path.child("signerName"), signer, why);
        } else {
            domains::signer(signer, &path.child("signerName"), errors);
        }
        if let Some(seconds) = at(spec, "expirationSeconds").as_i64()
            && seconds < 600
        {
            let why = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(path.child("expirationSeconds"), seconds, why);
        }
    }

    fn validate_subresource_update(&self, subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        conditions(old, new, errors);
        let path = Path::new("status.conditions");
        for kind in ["Approved", "Denied", "Failed"] {
            if of(new, kind).len() < of(old, kind).len() {
                errors.forbidden(path, format!("updates may not remove a condition of type {kind:?}"));
            }
        }
        for kind in ["Approved", "Denied"].into_iter().filter(|_| subresource != "approval") {
            let (before, after) = (of(old, kind), of(new, kind));
            if after.len() > before.len() {
                errors.forbidden(path, format!("updates may not add a condition of type {kind:?}"));
            } else if after.len() == before.len() && before != after {
                errors.forbidden(path, format!("updates may not modify a condition of type {kind:?}"));
            }
        }
        let (was, is) = (text(old, "status.certificate"), text(new, "status.certificate"));
        if was == is {
            return;
        }
        let decoded = |text: &str| STANDARD.decode(text).unwrap_or_default();
        let wrong = |text: &str| if text.is_empty() { None } else { pem::certificates(&decoded(text)).err() };
        if let Some(why) = wrong(is).filter(|_| wrong(was).is_none()) {
            errors.invalid("status.certificate", "<certificate data>", why);
        }
        if subresource == "approval" {
            errors.forbidden("status.certificate", "updates may not set certificate content");
        } else if !was.is_empty() {
            errors.forbidden("status.certificate", "updates may not modify existing certificate content");
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// The conditions of one type.
fn of<'v>(request: &'v Value, kind: &str) -> Vec<&'v Value> {
    list(request, "status.conditions").iter().filter(|condition| text(condition, "type") == kind).collect()
}

/// Approval and denial go through their own subresource: who brings others through the status changes no condition.
fn keep_decision(old: &Value, new: &mut Value) {
    for kind in ["Approved", "Denied"] {
        let before: Vec<Value> = of(old, kind).into_iter().cloned().collect();
        if of(new, kind).len() != before.len() {
            keep_at(old, new, "status.conditions");
            return;
        }
        let mut before = before.into_iter();
        for condition in each_mut(new, "status.conditions").filter(|condition| text(condition, "type") == kind) {
            *condition = before.next().unwrap_or_default();
        }
    }
}

/// Errors of the conditions; what is wrong already may stay so.
fn conditions(old: &Value, new: &Value, errors: &mut Errors) {
    let path = Path::new("status.conditions");
    let (before, conditions) = (list(old, "status.conditions"), list(new, "status.conditions"));
    let kinds = |conditions: &[Value]| conditions.iter().map(|c| text(c, "type").to_owned()).collect::<Vec<_>>();
    let (was, is) = (kinds(before), kinds(conditions));
    let both = ["Approved", "Denied"].iter().all(|kind| was.iter().any(|other| other == kind));
    let repeats = was.iter().enumerate().any(|(index, kind)| was[..index].contains(kind));
    let empty = was.iter().any(String::is_empty);
    for (index, (condition, kind)) in conditions.iter().zip(&is).enumerate() {
        let path = path.index(index);
        if kind.is_empty() && !empty {
            errors.required(path.child("type"), "");
        }
        let statuses: &[&str] = match kind.as_str() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        errors.one_of(path.child("status"), at(condition, "status"), statuses);
        let opposite = match kind.as_str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !both && !opposite.is_empty() && is[..index].iter().any(|other| other == opposite) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(path.child("type"), kind.as_str(), why);
        }
        if !repeats && is[..index].contains(kind) {
            errors.duplicate(path.child("type"), kind.as_str());
        }
    }
}
