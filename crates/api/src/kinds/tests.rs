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

/// The document's resources in the versions that upstream serves by default, which are those that are neither alpha nor beta.
fn published(document: &Value) -> Resources {
    let mut resources = Resources::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty() && *s != "watch").collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => continue,
        };
        if version.contains("alpha") || version.contains("beta") {
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
    for kind in Registry::builtin().iter() {
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
