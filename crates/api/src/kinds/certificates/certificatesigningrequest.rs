//! `certificates.k8s.io/v1 CertificateSigningRequest`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::kind::{Context, Kind, Strategy, clear_status, keep};
use crate::kinds::access::{at, keep_at, list, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME, duration};
use crate::validation::{Errors, Path};

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
    let has = |name: &str| list(request, "status.conditions").iter().any(|c| text(c, "type") == name);
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

    fn prepare_subresource_update(&self, subresource: &str, old: &Value, new: &mut Value, _context: &Context) {
        keep(old, new, "spec");
        if subresource == "approval" {
            let conditions = at(new, "status.conditions").clone();
            keep(old, new, "status");
            if let (false, Some(status)) = (conditions.is_null(), section(new, "status")) {
                status.insert("conditions".to_owned(), conditions);
            }
            return;
        }
        // Approval and denial go through their own subresource.
        let decided = |c: &&Value| matches!(text(c, "type"), "Approved" | "Denied");
        let before: Vec<Value> = list(old, "status.conditions").iter().filter(decided).cloned().collect();
        let others: Vec<Value> = list(new, "status.conditions").iter().filter(|c| !decided(c)).cloned().collect();
        if before.is_empty() && others.is_empty() {
            keep_at(old, new, "status.conditions");
        } else if let Some(status) = section(new, "status") {
            status.insert("conditions".to_owned(), before.into_iter().chain(others).collect());
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let request = STANDARD.decode(text(spec, "request")).unwrap_or_default();
        if !request.starts_with(b"-----BEGIN CERTIFICATE REQUEST-----") {
            let why = "PEM block type must be CERTIFICATE REQUEST";
            errors.invalid(path.child("request"), at(spec, "request"), why);
        }
        let usages = list(spec, "usages");
        if usages.is_empty() {
            errors.required(path.child("usages"), "usages must contain at least one value");
        }
        let all = path.child("usages");
        for (index, usage) in usages.iter().enumerate() {
            errors.one_of_supported(all.index(index), usage, USAGES);
            if usages[..index].contains(usage) {
                errors.duplicate(all.index(index), usage);
            }
        }
        let signer = text(spec, "signerName");
        if signer.is_empty() {
            errors.required(path.child("signerName"), "");
        } else if !signer.split_once('/').is_some_and(|(domain, name)| domain.contains('.') && !name.is_empty()) {
            errors.invalid(
                path.child("signerName"),
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            );
        }
        if let Some(seconds) = at(spec, "expirationSeconds").as_i64()
            && seconds < 600
        {
            let why = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(path.child("expirationSeconds"), seconds, why);
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        let path = Path::new("status.conditions");
        let has =
            |object: &Value, name: &str| list(object, "status.conditions").iter().any(|c| text(c, "type") == name);
        for name in ["Approved", "Denied", "Failed"] {
            if has(old, name) && !has(new, name) {
                errors.forbidden(path, format!("updates may not remove a condition of type {name:?}"));
            }
        }
        if has(new, "Approved") && has(new, "Denied") {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(path, "Denied", why);
        }
        for (index, condition) in list(new, "status.conditions").iter().enumerate() {
            let path = path.index(index);
            if text(condition, "type").is_empty() {
                errors.required(path.child("type"), "");
            }
            let (kind, status) = (text(condition, "type"), text(condition, "status"));
            if status.is_empty() {
                errors.required(path.child("status"), "");
            } else if matches!(kind, "Approved" | "Denied" | "Failed") && status != "True" {
                errors.not_supported(path.child("status"), status, &["True"]);
            }
        }
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
