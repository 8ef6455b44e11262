use super::*;
use crate::codec::{json, yaml};
use crate::{schema, table};
use proptest::prelude::*;
use serde_json::json;

/// A published object: its name, and it as JSON, YAML and protobuf.
type Vector = (String, Vec<u8>, Vec<u8>, Vec<u8>);

/// The published vectors. None where their folder is not given.
fn vectors() -> Vec<Vector> {
    let Some(spec) = std::env::var_os("REGATTA_SPEC") else {
        eprintln!("skipped: REGATTA_SPEC is not set");
        return Vec::new();
    };
    let folder = std::path::Path::new(&spec).join("wire");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .expect("the specification's wire folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".pb").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 111);
    let read = |name: &str, form: &str| std::fs::read(folder.join(format!("{name}.{form}"))).expect("a vector");
    names.into_iter().map(|n| (n.clone(), read(&n, "json"), read(&n, "yaml"), read(&n, "pb"))).collect()
}

fn lookup(name: &str, api_version: &str, kind: &str) -> Option<&'static Struct> {
    // What has no type in its envelope is known from where it stands.
    let named = || table::get(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{}", name.rsplit('.').next()?));
    table::by_kind(api_version, kind).or_else(named)
}

/// The first place where two values differ.
fn difference(a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => a.keys().chain(b.keys()).find_map(|key| {
            let side = |map: &crate::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            difference(&side(a), &side(b)).map(|rest| format!(".{key}{rest}"))
        }),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).find_map(|(a, b)| difference(a, b).map(|rest| format!("[]{rest}")))
        }
        _ => (a != b).then(|| format!(": {a} is not {b}")),
    }
}

#[test]
fn the_published_objects_are_the_same_in_every_format() {
    for (name, json, yaml, pb) in vectors() {
        let from_json = json::decode(&json).expect(&name);
        assert!(from_json.duplicates.is_empty(), "{name}");
        let from_yaml = yaml::decode(&yaml).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(from_yaml.duplicates.is_empty(), "{name}");
        assert_eq!(difference(&from_yaml.value, &from_json.value), None, "{name}");
        let again = yaml::decode(yaml::encode(&from_json.value).as_bytes()).expect(&name);
        assert_eq!(difference(&again.value, &from_json.value), None, "{name}");
        let from_pb = decode(&pb, |version, kind| lookup(&name, version, kind).map(StructRef::Static))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut expected = from_json.value;
        let text = |key: &str| expected[key].as_str().unwrap_or_default().to_owned();
        let schema =
            lookup(&name, &text("apiVersion"), &text("kind")).unwrap_or_else(|| panic!("{name} has no schema"));
        let found = schema::check(&mut expected, schema).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(found.unknown, Vec::<String>::new(), "{name}");
        assert_eq!(difference(&from_pb, &expected), None, "{name}");
        let again = encode(&from_pb, schema);
        let place = again.iter().zip(&pb).position(|(a, b)| a != b);
        assert!(again == pb, "{name}: {} and {} bytes, differing at {place:?}", again.len(), pb.len());
        let mut stored = from_pb;
        if stored["metadata"].is_object() {
            stored["metadata"]["resourceVersion"] = json!("7");
            let message = message(&crate::codec::stored::encode(&stored), 7, schema).expect(&name);
            let text = |key: &str| stored[key].as_str().unwrap_or_default();
            let direct = envelope(text("apiVersion"), text("kind"), &message);
            assert!(direct == encode(&stored, schema), "{name}: stored bytes give another message");
        }
    }
}

#[test]
fn a_list_is_its_messages_in_one_envelope() {
    let schema = table::by_kind("v1", "PodList").expect("built in");
    let pod = table::by_kind("v1", "Pod").expect("built in");
    let items: Vec<Value> = (0..3).map(|_| POD.clone()).collect();
    let meta = json!({"resourceVersion": "9", "remainingItemCount": 2, "continue": "x"});
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": meta, "items": items});
    let mut pods = items[0].clone();
    pods["metadata"]["resourceVersion"] = json!("1");
    let message = message(&crate::codec::stored::encode(&pods), 1, pod).expect("a message");
    let parts = ListParts::new("v1", "PodList", &meta, [message.len(); 3].into_iter());
    let mut whole = parts.head;
    for _ in 0..3 {
        ListParts::item(&mut whole, message.len());
        whole.extend_from_slice(&message);
    }
    whole.extend_from_slice(&parts.tail);
    let mut expected = list;
    for item in expected["items"].as_array_mut().expect("items") {
        item["metadata"]["resourceVersion"] = json!("1");
    }
    assert_eq!(whole, encode(&expected, schema));
}

#[test]
fn pointers_are_told_from_values() {
    let schema = table::by_kind("apps/v1", "Deployment").expect("built in");
    let read = |bytes: &[u8]| decode(bytes, |_, _| Some(StructRef::Static(schema))).expect("decodes");
    let zero = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 0, "template": {"metadata": {}}}});
    let decoded = read(&encode(&zero, schema));
    assert_eq!(decoded["spec"]["replicas"], 0, "a pointer to zero is not absent");
    assert_eq!(decoded["spec"].get("paused"), None, "a value that is zero is absent");
    assert_eq!(decoded["spec"]["strategy"], json!({}), "an empty struct is always written");
}

#[test]
fn events_are_framed_by_their_length() {
    let frame = event("ADDED", b"k8s\0x");
    assert_eq!(frame, *b"\0\0\0\x10\x0a\x05ADDED\x12\x07\x0a\x05k8s\0x");
}

#[test]
fn broken_messages_are_errors() {
    let read = |bytes: &[u8]| decode(bytes, |_, _| table::by_kind("v1", "Pod").map(StructRef::Static));
    for bytes in [
        &b""[..],
        b"{}",
        b"k8s\0\x0a",
        b"k8s\0\x12\x02\x0a\x05",
        b"k8s\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"k8s\0\x0b",
        b"k8s\0\x12\x02\x08\x01",
    ] {
        assert!(read(bytes).is_err(), "{bytes:?}");
    }
    assert!(decode(b"k8s\0", |_, _| None).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut envelope = MAGIC.to_vec();
        encode::bytes(&mut envelope, RAW, &bytes);
        if let Ok(value) = decode(&envelope, |_, _| table::by_kind("v1", "Pod").map(StructRef::Static)) {
            encode(&value, table::by_kind("v1", "Pod").expect("built in"));
        }
    }

    #[test]
    fn cut_and_flipped_messages_never_panic(cut in 0..3000_usize, flip in 0..3000_usize) {
        let schema = table::by_kind("v1", "Pod").expect("built in");
        let mut bytes = encode(&POD, schema);
        bytes.truncate(cut + 4);
        if let Some(byte) = bytes.get_mut(flip + 4) {
            *byte ^= 0x55;
        }
        let _ = decode(&bytes, |_, _| Some(StructRef::Static(schema)));
    }
}

static POD: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
            "livenessProbe": {"httpGet": {"port": "http", "path": "/"}}}], "hostUsers": false, "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}})
});
