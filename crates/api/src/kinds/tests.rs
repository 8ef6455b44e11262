//! The registry against the published OpenAPI document.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kind::Registry;

/// What the document says of a resource.
#[derive(Default, Debug, PartialEq, Eq)]
struct Resource {
    kind: String,
    namespaced: bool,
    verbs: BTreeSet<String>,
    /// Name to kind and verbs.
    subresources: BTreeMap<String, (String, BTreeSet<String>)>,
}

type Resources = BTreeMap<(String, String, String), Resource>;

fn gvk(value: &Value) -> (String, String, String) {
    let part = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    (part("group"), part("version"), part("kind"))
}

/// Served though it is alpha: pods are scheduled in groups only where there are PodGroups.
const ALPHA: (&str, &str) = ("scheduling.k8s.io", "v1alpha2");

/// The document's resources in the versions that upstream serves by default, which are those that are neither alpha nor beta,
/// and in [`ALPHA`].
fn published(document: &Value) -> Resources {
    let mut resources = Resources::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty() && *s != "watch").collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => continue,
        };
        if (version.contains("alpha") || version.contains("beta")) && (group, version) != ALPHA {
            continue;
        }
        let (namespaced, rest) = match rest {
            ["namespaces", "{namespace}", rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (plural, subresource) = match rest {
            [plural] | [plural, "{name}"] => (*plural, None),
            [plural, "{name}", sub, ..] => (*plural, Some(*sub)),
            _ => continue,
        };
        for (method, operation) in item.as_object().expect("a path item") {
            let Some(action) = operation["x-kubernetes-action"].as_str() else { continue };
            let of = gvk(&operation["x-kubernetes-group-version-kind"]);
            let resource = resources.entry((group.to_owned(), version.to_owned(), plural.to_owned())).or_default();
            resource.namespaced |= namespaced;
            let verb = match (action, method.as_str()) {
                ("connect", "head" | "options") => continue,
                ("post", _) | ("connect", "post") => "create",
                ("put", _) | ("connect", "put") => "update",
                ("connect", method) => method,
                ("watchlist", _) => "watch",
                (action, _) => action,
            };
            match subresource {
                None => {
                    resource.kind = of.2;
                    resource.verbs.insert(verb.to_owned());
                }
                Some(name) => {
                    let entry = resource.subresources.entry(name.to_owned()).or_default();
                    entry.0 = format!("{}/{}/{}", of.0, of.1, of.2);
                    entry.1.insert(verb.to_owned());
                }
            }
        }
    }
    resources
}

fn registered() -> Resources {
    let words = |list: &[crate::kind::Text]| list.iter().map(|v| v.to_string()).collect::<BTreeSet<_>>();
    let mut resources = Resources::new();
    // Measurements are no part of the published document.
    for kind in Registry::builtin().iter().filter(|kind| kind.group != "metrics.k8s.io") {
        let mut resource = Resource {
            kind: kind.kind.to_string(),
            namespaced: kind.namespaced,
            verbs: words(&kind.verbs),
            ..Resource::default()
        };
        for sub in kind.subresources.iter() {
            let (group, version) =
                if sub.version.is_empty() { (&kind.group, &kind.version) } else { (&sub.group, &sub.version) };
            let of = format!("{group}/{version}/{}", sub.kind);
            resource.subresources.insert(sub.name.to_string(), (of, words(&sub.verbs)));
        }
        resources.insert((kind.group.to_string(), kind.version.to_string(), kind.plural.to_string()), resource);
    }
    resources
}

#[test]
fn the_registry_has_exactly_the_published_resources_verbs_and_subresources() {
    let Ok(folder) = std::env::var("REGATTA_SPEC") else {
        eprintln!("skipped: REGATTA_SPEC is not set");
        return;
    };
    let text = std::fs::read_to_string(format!("{folder}/openapi-v2.json")).expect("the OpenAPI document");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let (published, registered) = (published(&document), registered());
    for (key, resource) in &published {
        assert_eq!(registered.get(key), Some(resource), "{key:?}");
    }
    assert_eq!(published.keys().collect::<Vec<_>>(), registered.keys().collect::<Vec<_>>());
}

#[test]
fn kinds_that_share_a_storage_agree_on_its_version() {
    let mut storages = BTreeMap::new();
    for kind in Registry::builtin().iter().filter(|kind| kind.has_verb("get")) {
        let storage = storages.entry(kind.storage.prefix.clone()).or_insert_with(|| kind.storage.clone());
        assert_eq!(*storage, kind.storage);
    }
}

#[test]
fn every_row_has_as_many_cells_as_the_table_has_columns() {
    let empty = serde_json::json!({"metadata": {"name": "a"}});
    for kind in Registry::builtin().iter() {
        let cells = kind.strategy.cells(&empty, 0);
        assert_eq!(cells.len(), kind.columns.len(), "{}", kind.plural);
    }
}

/// Every object of the specification that has every field set, with the kind that it is of.
fn full_objects() -> Vec<(std::sync::Arc<crate::kind::Kind>, Value)> {
    let Ok(folder) = std::env::var("REGATTA_SPEC") else {
        eprintln!("skipped: REGATTA_SPEC is not set");
        return Vec::new();
    };
    let registry = Registry::builtin();
    let files = std::fs::read_dir(format!("{folder}/wire")).expect("the wire files");
    let objects: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| {
            let object: Value = serde_json::from_slice(&std::fs::read(path).expect("read")).expect("JSON");
            let kind = registry.by_kind(object["apiVersion"].as_str()?, object["kind"].as_str()?)?;
            Some((kind.clone(), object))
        })
        .collect();
    assert!(objects.len() > 60, "only {} objects are of kinds that are served", objects.len());
    objects
}

#[test]
fn defaults_are_idempotent_and_known_to_the_schema() {
    for (kind, object) in full_objects() {
        for object in [object, serde_json::json!({"metadata": {"name": "a"}, "spec": {}})] {
            let mut once = object.clone();
            kind.strategy.default(&mut once);
            let mut twice = once.clone();
            kind.strategy.default(&mut twice);
            assert_eq!(once, twice, "{}", kind.kind);
            let before = crate::schema::check(&mut object.clone(), &kind.schema).expect("well typed");
            let checked = crate::schema::check(&mut once, &kind.schema).expect("well typed");
            let new: Vec<_> = checked.unknown.iter().filter(|path| !before.unknown.contains(path)).collect();
            assert!(new.is_empty(), "{}: {new:?}", kind.kind);
        }
    }
}

/// Of somebody of whom no more is known than the name.
fn context() -> crate::kind::Context<'static> {
    static NOTHING: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    crate::kind::Context { now: "2026-01-01T00:00:00Z", user: "u", groups: &[], uid: "", extra: &NOTHING }
}

#[test]
fn a_full_object_or_an_empty_one_is_validated_and_printed_without_a_panic() {
    let context = context();
    for (kind, object) in full_objects() {
        for object in [object, serde_json::json!({}), serde_json::json!({"metadata": {"name": "a"}, "spec": {}})] {
            let mut created = object.clone();
            kind.strategy.default(&mut created);
            kind.strategy.prepare_create(&mut created, &context);
            let mut errors = crate::validation::Errors::default();
            kind.validate_create(&created, &mut errors);
            for subresource in kind.subresources.iter() {
                let mut updated = created.clone();
                kind.strategy.prepare_subresource_update(&subresource.name, &created, &mut updated, &context);
                kind.validate_subresource_update(&subresource.name, &created, &updated, &mut errors);
            }
            assert_eq!(kind.strategy.cells(&created, 0).len(), kind.columns.len());
            kind.strategy.warnings(None, &created);
        }
    }
}

#[test]
fn an_update_that_changes_nothing_breaks_no_rule_of_updates() {
    let context = context();
    for (kind, mut object) in full_objects() {
        kind.strategy.default(&mut object);
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("deletionTimestamp");
        }
        let mut updated = object.clone();
        kind.strategy.prepare_update(&object, &mut updated, &context);
        let mut errors = crate::validation::Errors::default();
        kind.strategy.validate_update(&object, &updated, &mut errors);
        let texts: Vec<_> = errors.causes().iter().filter(|c| !c.field.starts_with("status.storedVersions")).collect();
        assert!(texts.is_empty(), "{}: {texts:?}", kind.kind);
    }
}

#[test]
fn a_kind_goes_through_its_stored_version_unchanged() {
    for (kind, mut object) in full_objects() {
        let own = object.clone();
        kind.strategy.to_storage(&mut object);
        assert_eq!(object["apiVersion"], kind.storage.api_version.as_ref(), "{}", kind.kind);
        kind.strategy.from_storage(&mut object);
        assert_eq!(object, own, "{}", kind.kind);
    }
}

/// The object without one of its fields, for up to about `most` of them, evenly spread.
fn without_each(object: &Value, most: usize) -> Vec<Value> {
    fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect(),
            Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
            _ => Vec::new(),
        };
        for (key, child) in children {
            out.push(format!("{at}/{key}"));
            pointers(child, format!("{at}/{key}"), out);
        }
    }
    let mut all = Vec::new();
    pointers(object, String::new(), &mut all);
    all.iter()
        .step_by(all.len() / most + 1)
        .map(|pointer| {
            let mut copy = object.clone();
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a parent");
            match copy.pointer_mut(parent).expect("the parent is there") {
                Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
                Value::Array(list) => drop(list.remove(key.parse().expect("an index"))),
                _ => {}
            }
            copy
        })
        .collect()
}

#[test]
fn whatever_field_is_missing_no_strategy_panics() {
    let context = context();
    for (kind, object) in full_objects() {
        // The largest kinds are the same few structures over and over.
        for mut changed in without_each(&object, 40) {
            kind.strategy.default(&mut changed);
            let mut errors = crate::validation::Errors::default();
            kind.validate_create(&changed, &mut errors);
            let mut updated = changed.clone();
            kind.strategy.prepare_update(&object, &mut updated, &context);
            kind.validate_update(&object, &updated, &mut errors);
            kind.validate_update(&updated, &object, &mut errors);
            kind.strategy.cells(&changed, 0);
            let mut stored = changed.clone();
            kind.strategy.to_storage(&mut stored);
            kind.strategy.from_storage(&mut stored);
            kind.strategy.prepare_create(&mut changed, &context);
        }
    }
}
