//! Requests made of valid ones by chance: whatever comes, the answer is a correct `Status` or success, and never a 500, a panic
//! or a hang. `REGATTA_FUZZ_REQUESTS` and `REGATTA_FUZZ_SEED` say how many and which.

mod harness;

use std::collections::BTreeMap;
use std::mem::discriminant;

use api::{Value, codec};
use harness::{Cluster, ask, complaint, get, send};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use serde_json::json;

/// What discovery says of a resource or a subresource.
#[derive(Clone)]
struct Resource {
    /// `/apis/apps/v1`.
    base: String,
    api_version: String,
    plural: String,
    subresource: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

/// Subresources that are streams from kubelets, which nobody serves here.
const STREAMS: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

async fn json(client: &kube::Client, path: &str) -> Value {
    let (code, body) = get(client, path).await;
    assert_eq!(code, 200, "{path}: {body}");
    serde_json::from_str(&body).expect("JSON")
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

async fn resources(client: &kube::Client) -> Vec<Resource> {
    let mut bases = vec!["/api/v1".to_owned()];
    for group in json(client, "/apis").await["groups"].as_array().expect("groups") {
        let versions = group["versions"].as_array().expect("versions");
        bases.extend(versions.iter().map(|version| format!("/apis/{}", text(version, "groupVersion"))));
    }
    let mut all = Vec::new();
    for base in bases {
        let api_version = base.trim_start_matches("/apis/").trim_start_matches("/api/").to_owned();
        for resource in json(client, &base).await["resources"].as_array().expect("resources") {
            let name = text(resource, "name");
            let (plural, subresource) = name.split_once('/').unwrap_or((&name, ""));
            if STREAMS.contains(&subresource) {
                continue;
            }
            let verbs = resource["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            all.push(Resource {
                base: base.clone(),
                api_version: api_version.clone(),
                plural: plural.to_owned(),
                subresource: subresource.to_owned(),
                kind: text(resource, "kind"),
                namespaced: resource["namespaced"] == true,
                verbs: verbs.filter(|verb| *verb != "watch").map(Into::into).collect(),
            });
        }
    }
    all
}

/// Objects by version and kind: those of the tables of cases, and the published ones where they are there.
fn samples() -> BTreeMap<(String, String), Vec<Value>> {
    let mut all: BTreeMap<_, Vec<Value>> = BTreeMap::new();
    let mut add =
        |object: Value| all.entry((text(&object, "apiVersion"), text(&object, "kind"))).or_default().push(object);
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/../api/src/kinds/cases");
    for file in std::fs::read_dir(cases).expect("cases") {
        let path = file.expect("file").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let decoded = codec::yaml::decode(&std::fs::read(path).expect("a file")).expect("YAML");
            for case in decoded.value.as_array().expect("a list") {
                ["create", "update"]
                    .into_iter()
                    .filter(|step| case[step].is_object())
                    .for_each(|step| add(case[step].clone()));
            }
        }
    }
    if let Some(specification) = std::env::var_os("REGATTA_SPEC") {
        for file in std::fs::read_dir(std::path::Path::new(&specification).join("wire")).expect("objects") {
            let path = file.expect("file").path();
            if path.extension().is_some_and(|extension| extension == "json") {
                add(serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON"));
            }
        }
    }
    all
}

/// Makes an object of elsewhere one of this server.
fn place(resource: &Resource, object: &mut Value) {
    if let Some(meta) = object["metadata"].as_object_mut() {
        for field in ["resourceVersion", "namespace", "managedFields"] {
            meta.remove(field);
        }
        if resource.namespaced {
            meta.insert("namespace".to_owned(), json!("default"));
        }
    }
}

/// Values that programs trip over.
fn odd(rng: &mut StdRng) -> Value {
    let odd = [
        Value::Null,
        json!(""),
        json!("a"),
        json!("-1"),
        json!("1Gi"),
        json!("5%"),
        json!("0x10"),
        json!("..//%2f"),
        json!("\u{0}\u{ffff}é日"),
        json!("a".repeat(300)),
        json!("10.0.0.0/8"),
        json!("::ffff:1.2.3.4"),
        json!("2026-02-30T25:00:00Z"),
        json!("*/0 * * * *"),
        json!("a in (b,"),
        json!("9".repeat(40)),
        json!(0),
        json!(-1),
        json!(65536),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(0.5),
        json!(true),
        json!([]),
        json!({}),
        json!([null]),
        json!([{}, {}]),
        json!([[]]),
        json!({"": ""}),
        json!({"a": null}),
        json!({"$patch": "delete"}),
        json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "In"}]}),
    ];
    odd.choose(rng).cloned().expect("some")
}

/// Every place in a value, as pointers.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
            all.push(at.clone());
            places(value, &at, all);
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| {
            let at = format!("{at}/{index}");
            all.push(at.clone());
            places(value, &at, all);
        }),
        _ => {}
    }
}

fn mutate(rng: &mut StdRng, object: &mut Value) {
    for _ in 0..rng.random_range(1..4) {
        let mut all = Vec::new();
        places(object, "", &mut all);
        let Some(at) = all.choose(rng).cloned() else { return };
        let other = all.choose(rng).and_then(|at| object.pointer(at)).cloned().unwrap_or_default();
        let Some((parent, last)) = at.rsplit_once('/') else { continue };
        match rng.random_range(0..6) {
            0 => match object.pointer_mut(parent) {
                Some(Value::Object(fields)) => drop(fields.remove(&last.replace("~1", "/").replace("~0", "~"))),
                Some(Value::Array(items)) => drop(items.pop()),
                _ => {}
            },
            1 => {
                if let Some(Value::Array(items)) = object.pointer_mut(parent) {
                    items.extend(items.clone());
                }
            }
            2 => drop(object.pointer_mut(&at).map(|value| *value = other)),
            3 => drop(object.pointer_mut(&at).map(|value| *value = json!([value.clone()]))),
            _ => {
                let Some(value) = object.pointer_mut(&at) else { continue };
                // Of the same type, most of the time, so that it is not refused at once.
                let mut other = odd(rng);
                for _ in 0..rng.random_range(0..20) {
                    if discriminant(&other) == discriminant(value) {
                        break;
                    }
                    other = odd(rng);
                }
                *value = other;
            }
        }
    }
}

/// Bytes with some of them changed, lost or doubled.
fn damage(rng: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.random_range(0..4) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..4) {
            0 => bytes.truncate(at),
            1 => bytes[at] = rng.random(),
            2 => drop(bytes.remove(at)),
            _ => {
                let piece = bytes[at..bytes.len().min(at + 40)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

const QUERIES: [&str; 22] = [
    "dryRun=All",
    "dryRun=None",
    "fieldManager=m",
    "fieldManager=",
    "fieldValidation=Strict",
    "fieldValidation=Warn",
    "force=true",
    "force=x",
    "limit=2",
    "limit=0",
    "continue=e30",
    "continue=%00",
    "resourceVersion=0",
    "resourceVersion=1",
    "resourceVersionMatch=Exact",
    "resourceVersionMatch=NotOlderThan",
    "labelSelector=a",
    "labelSelector=a%20notin%20(b)",
    "fieldSelector=metadata.name%21%3Da",
    "propagationPolicy=Foreground",
    "gracePeriodSeconds=-1",
    "orphanDependents=maybe",
];

const ACCEPTS: [&str; 4] = [
    "application/json",
    "application/yaml",
    "application/json;as=Table;g=meta.k8s.io;v=v1",
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
];

struct Fuzz {
    rng: StdRng,
    client: kube::Client,
    resources: Vec<Resource>,
    samples: BTreeMap<(String, String), Vec<Value>>,
}

impl Fuzz {
    fn sample(&mut self, resource: &Resource) -> Value {
        let kind = (resource.api_version.clone(), resource.kind.clone());
        let known = self.samples.get(&kind).and_then(|all| all.choose(&mut self.rng)).cloned();
        known.unwrap_or_else(|| json!({"apiVersion": kind.0, "kind": kind.1, "metadata": {"name": "x"}}))
    }

    fn collection(&mut self, resource: &Resource) -> String {
        let namespace = match resource.namespaced {
            true if self.rng.random_ratio(1, 40) => "/namespaces/none",
            true => "/namespaces/default",
            false => "",
        };
        format!("{}{namespace}/{}", resource.base, resource.plural)
    }

    /// The name of an object that is there, most of the time.
    async fn existing(&mut self, collection: &str) -> String {
        let (_, body) = get(&self.client, &format!("{collection}?limit=20")).await;
        let list: Value = serde_json::from_str(&body).unwrap_or_default();
        let names = list["items"].as_array().into_iter().flatten().map(|item| text(&item["metadata"], "name"));
        names.choose(&mut self.rng).unwrap_or_else(|| "none".to_owned())
    }

    /// What is wrong with the answer to some request.
    async fn turn(&mut self) -> Option<String> {
        let resource = self.resources.choose(&mut self.rng).cloned().expect("resources");
        let verb = resource.verbs.choose(&mut self.rng).cloned().expect("verbs");
        let collection = self.collection(&resource);
        let mut path = collection.clone();
        let named = !(resource.subresource.is_empty() && matches!(&*verb, "create" | "list" | "deletecollection"));
        let mut current = Value::Null;
        if named {
            let name = self.existing(&collection).await;
            path = format!("{path}/{name}");
            if !resource.subresource.is_empty() {
                path = format!("{path}/{}", resource.subresource);
            }
            current = serde_json::from_str(&get(&self.client, &path).await.1).unwrap_or_default();
        }
        let mut query: Vec<&str> =
            (0..self.rng.random_range(0..3)).filter_map(|_| QUERIES.choose(&mut self.rng).copied()).collect();
        let mut object = self.sample(&resource);
        if current["metadata"].is_object() && self.rng.random_ratio(1, 2) {
            object = current;
        } else {
            place(&resource, &mut object);
        }
        let mut content = "application/json";
        let method = match &*verb {
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" | "deletecollection" => "DELETE",
            _ => "GET",
        };
        let mut body = match method {
            "GET" => Vec::new(),
            // Nothing may go that the rest needs.
            "DELETE" => {
                query.push("dryRun=All");
                object = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "dryRun": ["All"],
                    "preconditions": {"uid": "a", "resourceVersion": "1"}, "propagationPolicy": "Orphan"});
                mutate(&mut self.rng, &mut object);
                object.to_string().into_bytes()
            }
            "PATCH" => {
                let forms = [
                    "application/merge-patch+json",
                    "application/strategic-merge-patch+json",
                    "application/apply-patch+yaml",
                    "application/json-patch+json",
                ];
                content = forms.choose(&mut self.rng).copied().expect("forms");
                mutate(&mut self.rng, &mut object);
                if content == "application/json-patch+json" {
                    let mut all = Vec::new();
                    places(&object, "", &mut all);
                    let operations = (0..self.rng.random_range(1..5)).map(|_| {
                        let op =
                            ["add", "remove", "replace", "move", "copy", "test", "none"].choose(&mut self.rng).copied();
                        let (path, from) = (all.choose(&mut self.rng).cloned(), all.choose(&mut self.rng).cloned());
                        json!({"op": op, "path": path, "from": from, "value": odd(&mut self.rng)})
                    });
                    object = Value::Array(operations.collect());
                } else if content == "application/apply-patch+yaml" {
                    query.push("fieldManager=fuzz");
                    object["metadata"].as_object_mut().into_iter().for_each(|meta| drop(meta.remove("managedFields")));
                }
                object.to_string().into_bytes()
            }
            _ => {
                mutate(&mut self.rng, &mut object);
                if self.rng.random_ratio(1, 3) {
                    content = "application/yaml";
                    codec::yaml::encode(&object).into_bytes()
                } else {
                    object.to_string().into_bytes()
                }
            }
        };
        if self.rng.random_ratio(1, 8) {
            damage(&mut self.rng, &mut body);
        }
        path = format!("{path}?{}", query.join("&"));
        let (code, answer) = ask(&self.client, method, &path, content, &body).await;
        let accept = ACCEPTS.choose(&mut self.rng).copied().expect("forms");
        let reread = http::Request::get(path.split('?').next().unwrap_or_default()).header("accept", accept);
        let (code_read, _, read) = harness::raw(&self.client, reread.body(Vec::new()).expect("a request")).await;
        let why = complaint(code, &answer)
            .map(|why| format!("{method} {path} {content} {:.1500}: {why}", String::from_utf8_lossy(&body)));
        why.or_else(|| {
            (code_read >= 500).then(|| {
                format!(
                    "after {method} {path} {:.1500}: GET as {accept}: {code_read} {read:.300}",
                    String::from_utf8_lossy(&body)
                )
            })
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_made_by_chance_are_answered() {
    let number = |name: &str, usual: u64| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (requests, seed) = (number("REGATTA_FUZZ_REQUESTS", 3000), number("REGATTA_FUZZ_SEED", 1));
    let cluster = Cluster::start().await;
    let client = cluster.admin();
    let resources = resources(&client).await;
    let account = json!({"metadata": {"name": "default"}});
    send(&client, "POST", "/api/v1/namespaces/default/serviceaccounts", "application/json", &account.to_string()).await;
    let mut fuzz = Fuzz { rng: StdRng::seed_from_u64(seed), client: client.clone(), resources, samples: samples() };
    let mut made = 0;
    for resource in fuzz.resources.clone().iter().filter(|resource| resource.subresource.is_empty()) {
        let kind = (resource.api_version.clone(), resource.kind.clone());
        for (index, mut object) in fuzz.samples.get(&kind).cloned().unwrap_or_default().into_iter().enumerate() {
            place(resource, &mut object);
            if index > 0 {
                object["metadata"]["name"] = json!(format!("{}-{index}", text(&object["metadata"], "name")));
            }
            let path = fuzz.collection(resource);
            let (code, _) = ask(&client, "POST", &path, "application/json", object.to_string().as_bytes()).await;
            made += usize::from(code == 201);
        }
    }
    assert!(made > 40, "only {made} objects could be made");
    let mut wrong = Vec::new();
    for turn in 0..requests {
        if let Some(why) = fuzz.turn().await {
            wrong.push(format!("{turn}: {why}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "seed {seed}: {} of {requests}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    let (code, body) = get(&client, "/livez?verbose").await;
    assert_eq!(code, 200, "{body}");
}
