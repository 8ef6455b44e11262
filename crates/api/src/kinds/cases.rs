//! Cases of what strategies do, as data: `cases/*.yaml` hold lists of them.
//!
//! A case has a `name`, the object that is created (`create`), and what must come of it: the whole object with its defaults
//! (`becomes`), the errors as `field: message` (`errors`), or the table's cells (`cells`, 300 seconds after 1970). With
//! `update` the created object is then changed to that one, through the subresource `through` if there is one.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use crate::kind::{Context, Kind, Registry};
use crate::validation::Errors;

const FILES: &[(&str, &str)] = &[
    ("apps", include_str!("cases/apps.yaml")),
    ("batch", include_str!("cases/batch.yaml")),
    ("core", include_str!("cases/core.yaml")),
    ("definitions", include_str!("cases/definitions.yaml")),
    ("devices", include_str!("cases/devices.yaml")),
    ("networking", include_str!("cases/networking.yaml")),
    ("others", include_str!("cases/others.yaml")),
    ("pods", include_str!("cases/pods.yaml")),
    ("policy", include_str!("cases/policy.yaml")),
    ("storage", include_str!("cases/storage.yaml")),
    ("workloads", include_str!("cases/workloads.yaml")),
];

fn texts(errors: &Errors) -> Vec<String> {
    errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

fn outcome(kind: &Kind, case: &Value) -> (Value, Vec<String>) {
    let groups = ["system:authenticated".to_owned()];
    let extra = Default::default();
    let context = Context { now: "1970-01-01T00:05:00Z", user: "jane", groups: &groups, uid: "", extra: &extra };
    let strategy = &kind.strategy;
    let mut created = case["create"].clone();
    strategy.default(&mut created);
    strategy.prepare_create(&mut created, &context);
    let mut errors = Errors::default();
    kind.validate_create(&created, &mut errors);
    if case["update"].is_null() {
        return (created, texts(&errors));
    }
    assert_eq!(texts(&errors), [""; 0], "{}: what is updated must be right", case["name"]);
    if let Some(status) = case["create"].get("status") {
        created["status"] = status.clone();
    }
    let mut updated = case["update"].clone();
    strategy.default(&mut updated);
    match case["through"].as_str() {
        None => {
            strategy.prepare_update(&created, &mut updated, &context);
            kind.validate_update(&created, &updated, &mut errors);
        }
        Some(subresource) => {
            strategy.prepare_subresource_update(subresource, &created, &mut updated, &context);
            kind.validate_subresource_update(subresource, &created, &updated, &mut errors);
        }
    }
    (updated, texts(&errors))
}

/// Every case and the file that it is in.
fn cases() -> impl Iterator<Item = (&'static str, Value)> {
    FILES.iter().flat_map(|(file, text)| {
        let cases: Vec<Value> = serde_saphyr::from_str(text).expect("a list of cases in YAML");
        cases.into_iter().map(move |case| (*file, case))
    })
}

fn kind_of(registry: &Registry, case: &Value) -> Arc<Kind> {
    let (api_version, kind) = (&case["create"]["apiVersion"], &case["create"]["kind"]);
    let found = registry.by_kind(api_version.as_str().expect("apiVersion"), kind.as_str().expect("kind"));
    found.unwrap_or_else(|| panic!("{kind} is registered")).clone()
}

/// Kinds that are only read or only asked have neither: nothing of them is kept.
#[test]
fn every_kind_that_is_kept_has_a_case_that_becomes_an_object_and_one_that_becomes_a_status() {
    let registry = Registry::builtin();
    let mut seen = BTreeSet::new();
    for (_, case) in cases() {
        let kind = kind_of(&registry, &case);
        for outcome in ["becomes", "errors"].into_iter().filter(|outcome| case.get(outcome).is_some()) {
            seen.insert((kind.api_version(), kind.kind.to_string(), outcome));
        }
    }
    let kept = registry.iter().filter(|kind| kind.has_verb("create") && kind.has_verb("get"));
    let wanted = kept.flat_map(|kind| ["becomes", "errors"].map(|o| (kind.api_version(), kind.kind.to_string(), o)));
    let missing: Vec<_> = wanted.filter(|case| !seen.contains(case)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_case_comes_out_as_it_says() {
    let registry = Registry::builtin();
    let mut failures = Vec::new();
    for (file, case) in cases() {
        let kind = kind_of(&registry, &case);
        let (object, errors) = outcome(&kind, &case);
        let mut differ = |what: &str, is: Value, wanted: &Value| {
            if is != *wanted {
                failures.push(format!("{file}: {}: {what}:\n  is     {is}\n  wanted {wanted}", case["name"]));
            }
        };
        differ("errors", errors.into(), case.get("errors").unwrap_or(&Value::Array(Vec::new())));
        if let Some(wanted) = case.get("becomes") {
            differ("becomes", object.clone(), wanted);
        }
        if let Some(wanted) = case.get("cells") {
            differ("cells", kind.strategy.cells(&case["create"], 300).into(), wanted);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
