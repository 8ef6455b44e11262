//! The documents against the published one.

use std::collections::BTreeSet;

use api::kind::Registry;

use super::*;

/// The kinds that the document is about; metrics are another server's in upstream.
fn kinds() -> Vec<Arc<Kind>> {
    Registry::builtin().iter().filter(|kind| api::table::get(&kind.schema.name).is_some()).cloned().collect()
}

/// Where the values differ, as far as `most` places.
fn differences(is: &Value, wanted: &Value, path: String, out: &mut Vec<String>) {
    match (is, wanted) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let null = Value::Null;
                differences(a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null), format!("{path} {key}"), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(a, b, format!("{path} {i}"), out);
            }
        }
        _ if is == wanted => {}
        _ => out.push(format!("{path}: {is} is not {wanted}")),
    }
}

/// What is said on purpose in another way: no CBOR, no shards, no logs of the server; a list without a mark is atomic, and is said to be;
/// a map without a mark is granular; bytes are no list. Required fields are in the order of their names.
fn normalize(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("type").is_some_and(|ty| ty == "array") && !map.contains_key("x-kubernetes-list-type") {
                map.insert("x-kubernetes-list-type".to_owned(), "atomic".into());
            }
            if map.get("type").is_some_and(|ty| ty == "object")
                && map.get("x-kubernetes-map-type") == Some(&json!("granular"))
            {
                map.remove("x-kubernetes-map-type");
            }
            if map.get("type").is_some_and(|ty| ty == "string") {
                map.remove("x-kubernetes-list-type");
            }
            if let Some(Value::Array(required)) = map.get_mut("required") {
                required.sort_by_key(Value::to_string);
            }
            map.retain(|key, _| !key.starts_with("shardSelector-") && !key.starts_with("logpath-"));
            map.values_mut().for_each(normalize);
        }
        Value::Array(items) => {
            items.retain(|item| {
                item.as_str().is_none_or(|text| !text.contains("cbor"))
                    && item["$ref"].as_str().is_none_or(|text| !text.contains("shardSelector-"))
            });
            items.iter_mut().for_each(normalize);
        }
        _ => {}
    }
}

#[test]
fn version_2_says_what_the_published_document_says() {
    let Ok(folder) = std::env::var("REGATTA_SPEC") else {
        eprintln!("skipped: REGATTA_SPEC is not set");
        return;
    };
    let text = std::fs::read_to_string(format!("{folder}/openapi-v2.json")).expect("the OpenAPI document");
    let mut published: Value = serde_json::from_str(&text).expect("JSON");
    let mut own = v2(&kinds());
    // Versions that upstream does not serve by default; of these one is served here, for groups of pods.
    let groups_of_pods = |path: &str| path.contains("/scheduling.k8s.io/v1alpha2/");
    let served = |path: &str| {
        groups_of_pods(path) || !path.contains("alpha") && !path.contains("beta") && !path.starts_with("/logs/")
    };
    for section in ["paths", "definitions"] {
        let ours: BTreeSet<String> = own[section].as_object().expect("a section").keys().cloned().collect();
        let theirs = published[section].as_object_mut().expect("a section");
        theirs.retain(|name, _| if section == "paths" { served(name) } else { ours.contains(name) });
    }
    // A group is served where one of its versions is.
    let groups: Vec<String> =
        ["internal.apiserver.k8s.io", "storagemigration.k8s.io"].map(|g| format!("/apis/{g}/")).into();
    published["paths"].as_object_mut().expect("paths").retain(|path, _| !groups.contains(path));
    let mut out = Vec::new();
    for section in ["paths", "definitions", "parameters", "security", "securityDefinitions"] {
        normalize(&mut own[section]);
        normalize(&mut published[section]);
        differences(&own[section], &published[section], section.to_owned(), &mut out);
    }
    assert!(out.is_empty(), "{} differences\n{}", out.len(), out[..out.len().min(40)].join("\n"));
}

#[test]
fn every_reference_has_a_definition_in_both_editions() {
    fn references(value: &Value, out: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, out));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, out)),
            _ => {}
        }
    }
    let catalog = Catalog::new(Registry::builtin());
    let documents = parts(&catalog).into_iter().map(|(path, part)| (path, v3(&part)));
    for (name, document) in documents.chain([("v2".to_owned(), v2(&kinds()))]) {
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{name}: {reference}");
        }
    }
}

#[test]
fn a_document_that_the_client_has_is_not_sent_again() {
    let mut headers = HeaderMap::new();
    let first = document(&headers, "X", JSON, Vec::new);
    assert_eq!((first.status(), &first.headers()["etag"]), (StatusCode::OK, &HeaderValue::from_static("\"X\"")));
    headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"X\""));
    assert_eq!(document(&headers, "X", JSON, Vec::new).status(), StatusCode::NOT_MODIFIED);
}
