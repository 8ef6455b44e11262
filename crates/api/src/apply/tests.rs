use super::*;
use crate::table;
use proptest::prelude::*;
use serde_json::json;

fn ctx<'a>(kind: &str, manager: &'a str, now: &'a str) -> Ctx<'a> {
    let api_version = if kind == "Deployment" { "apps/v1" } else { "v1" };
    Ctx { schema: table::by_kind(api_version, kind).expect("built in"), api_version, manager, subresource: "", now }
}

const T1: &str = "2026-01-01T00:00:01Z";
const T2: &str = "2026-01-01T00:00:02Z";
const T3: &str = "2026-01-01T00:00:03Z";

fn deployment(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "d"}, "spec": spec})
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

/// `manager operation fields` of every entry.
fn owners(object: &Value) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.map(|e| (text(&e["manager"]), text(&e["operation"]), e["fieldsV1"].clone())).collect()
}

fn owner(manager: &str, operation: &str, fields: Value) -> (String, String, Value) {
    (manager.to_owned(), operation.to_owned(), fields)
}

fn write(old: Option<&Value>, mut new: Value, ctx: &Ctx) -> Value {
    track_update(old, &mut new, ctx);
    new
}

/// The next write of a client that read the object: with its managed fields.
fn with(object: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut new = object.clone();
    change(&mut new);
    new
}

#[test]
fn a_creator_owns_what_it_sent_and_what_was_defaulted() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "a", "namespace": "d", "uid": "u", "creationTimestamp": T1, "labels": {"app": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "o", "uid": "1", "controller": true}],
            "finalizers": ["f"],
        },
        "spec": {
            "containers": [{
                "name": "c", "image": "i", "resources": {},
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "E", "value": "v"}],
                "livenessProbe": {"httpGet": {"path": "/", "port": 80}, "periodSeconds": 10},
            }],
            "nodeSelector": {"a": "b"}, "restartPolicy": "Always", "securityContext": {},
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
        "status": {"phase": "Pending"},
    });
    let made = write(None, pod, &ctx("Pod", "kubectl-create", T1));
    let entry = &made["metadata"]["managedFields"][0];
    let about = json!([entry["manager"], entry["operation"], entry["apiVersion"], entry["time"], entry["fieldsType"]]);
    assert_eq!(about, json!(["kubectl-create", "Update", "v1", T1, "FieldsV1"]));
    assert_eq!(
        entry["fieldsV1"],
        json!({
            "f:metadata": {
                "f:finalizers": {".": {}, "v:\"f\"": {}},
                "f:labels": {".": {}, "f:app": {}},
                "f:ownerReferences": {".": {}, "k:{\"uid\":\"1\"}": {}},
            },
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                    "f:env": {".": {}, "k:{\"name\":\"E\"}": {".": {}, "f:name": {}, "f:value": {}}},
                    "f:ports": {
                        ".": {},
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}},
                    },
                    "f:livenessProbe": {".": {}, "f:httpGet": {".": {}, "f:path": {}, "f:port": {}}, "f:periodSeconds": {}},
                }},
                "f:nodeSelector": {}, "f:restartPolicy": {}, "f:securityContext": {},
                "f:volumes": {".": {}, "k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}},
            },
        })
    );
}

#[test]
fn an_update_takes_what_it_changes_and_nothing_else() {
    let first = write(None, map(json!({"a": "1", "b": "1"})), &ctx("ConfigMap", "one", T1));
    let changed = with(&first, |new| {
        new["data"]["b"] = json!("2");
        new["data"]["c"] = json!("3");
    });
    let second = write(Some(&first), changed, &ctx("ConfigMap", "two", T2));
    let one = |fields| owner("one", "Update", json!({"f:data": fields}));
    let two = |fields| owner("two", "Update", json!({"f:data": fields}));
    assert_eq!(owners(&second), [one(json!({".": {}, "f:a": {}})), two(json!({"f:b": {}, "f:c": {}}))]);

    // Removing takes from everyone; who owns nothing goes.
    let removed = with(&second, |new| new["data"] = json!({"a": "1", "b": "2"}));
    let third = write(Some(&second), removed, &ctx("ConfigMap", "one", T3));
    assert_eq!(owners(&third), [one(json!({".": {}, "f:a": {}})), two(json!({"f:b": {}}))]);
    assert_eq!(third["metadata"]["managedFields"][0]["time"], T1, "it took nothing");
    let gone = with(&third, |new| drop(new.as_object_mut().expect("an object").remove("data")));
    let fourth = write(Some(&third), gone, &ctx("ConfigMap", "two", T3));
    assert_eq!(owners(&fourth), []);
}

#[test]
fn an_update_that_changes_nothing_keeps_the_entries_as_they_are() {
    let first = write(None, map(json!({"a": "1"})), &ctx("ConfigMap", "one", T1));
    assert_eq!(write(Some(&first), first.clone(), &ctx("ConfigMap", "two", T2)), first);
    let bare = map(json!({"a": "1"}));
    assert_eq!(write(Some(&first), bare, &ctx("ConfigMap", "two", T2)), first, "a client that does not know them");
}

#[test]
fn managed_fields_can_be_reset_and_then_nothing_is_tracked() {
    let first = write(None, map(json!({"a": "1"})), &ctx("ConfigMap", "one", T1));
    let reset = with(&first, |new| new["metadata"]["managedFields"] = json!([{}]));
    let second = write(Some(&first), reset, &ctx("ConfigMap", "one", T2));
    assert_eq!(owners(&second), []);
    let third = write(Some(&second), map(json!({"a": "2"})), &ctx("ConfigMap", "one", T3));
    assert_eq!(owners(&third), []);
}

#[test]
fn status_and_the_rest_have_entries_of_their_own() {
    let first = write(None, deployment(json!({"replicas": 1, "paused": true})), &ctx("Deployment", "user", T1));
    let changed = with(&first, |new| {
        new["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
        new["spec"]["replicas"] = json!(9);
    });
    let status = Ctx { subresource: "status", ..ctx("Deployment", "controller", T2) };
    let second = write(Some(&first), changed, &status);
    let entry = &second["metadata"]["managedFields"][1];
    assert_eq!(entry["subresource"], "status");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {
            "f:conditions": {".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:status": {}, "f:type": {}}}, "f:replicas": {}}})
    );
}

#[test]
fn list_items_are_told_apart_by_their_keys() {
    let container = |name: &str, image: &str| json!({"name": name, "image": image});
    let template = |list: Value| deployment(json!({"template": {"spec": {"containers": list}}}));
    let fields = |list: Value| json!({"f:spec": {"f:template": {"f:spec": {"f:containers": list}}}});
    let first = write(None, template(json!([container("a", "1"), container("b", "1")])), &ctx("Deployment", "one", T1));
    let moved = with(&first, |new| {
        new["spec"]["template"]["spec"]["containers"] =
            json!([container("b", "1"), container("a", "2"), container("c", "1")]);
    });
    let second = write(Some(&first), moved, &ctx("Deployment", "two", T2));
    let whole = json!({".": {}, "f:image": {}, "f:name": {}});
    assert_eq!(
        owners(&second),
        [
            owner(
                "one",
                "Update",
                fields(json!({"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}, "k:{\"name\":\"b\"}": whole}))
            ),
            owner("two", "Update", fields(json!({"k:{\"name\":\"a\"}": {"f:image": {}}, "k:{\"name\":\"c\"}": whole}))),
        ]
    );
}

#[test]
fn the_oldest_updaters_are_merged_when_there_are_too_many() {
    let mut object = write(None, map(json!({"k": "v"})), &ctx("ConfigMap", "m00", "2026-01-01T00:00:00Z"));
    for i in 1..13 {
        let next = with(&object, |new| new["data"][format!("k{i}")] = json!("v"));
        object =
            write(Some(&object), next, &ctx("ConfigMap", &format!("m{i:02}"), &format!("2026-01-01T00:00:{i:02}Z")));
    }
    let names: Vec<String> = owners(&object).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names.len(), 10);
    assert_eq!((names[0].as_str(), names[1].as_str(), names[9].as_str()), ("ancient-changes", "m04", "m12"));
}

fn applied(live: Option<&Value>, config: Value, manager: &str, now: &str) -> Result<Value, Status> {
    let kind = config["kind"].as_str().expect("typed").to_owned();
    apply(live, &config, &ctx(&kind, manager, now), false)
}

#[test]
fn applying_creates_merges_and_takes_away_what_is_no_longer_applied() {
    let spec = |list: Value| deployment(json!({"replicas": 1, "template": {"spec": {"containers": list}}}));
    let first = applied(None, spec(json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}])), "me", T1)
        .expect("creates");
    assert_eq!(
        owners(&first),
        [owner(
            "me",
            "Apply",
            json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}}}}}})
        )]
    );
    // The server defaults; another manager adds a container and a label.
    let defaulted = with(&first, |new| {
        let template = &mut new["spec"]["template"]["spec"];
        template["restartPolicy"] = json!("Always");
        template["containers"][0]["imagePullPolicy"] = json!("Always");
        template["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    });
    let other = with(&defaulted, |new| {
        new["spec"]["template"]["spec"]["containers"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": "side", "image": "s"}));
        new["metadata"]["labels"] = json!({"by": "other"});
    });
    let second = write(Some(&defaulted), other, &ctx("Deployment", "other", T2));
    // Renaming the container removes the old one with its defaults, and leaves the other's.
    let third = applied(Some(&second), spec(json!([{"name": "b", "image": "1"}])), "me", T3).expect("no conflict");
    assert_eq!(
        third["spec"],
        json!({"replicas": 1, "strategy": {}, "template": {"metadata": {}, "spec": {"restartPolicy": "Always", "containers": [
            {"name": "side", "image": "s", "resources": {}}, {"name": "b", "image": "1", "resources": {}}]}}})
    );
    assert_eq!(third["metadata"]["labels"], json!({"by": "other"}));
    let times: Vec<&Value> =
        third["metadata"]["managedFields"].as_array().expect("entries").iter().map(|e| &e["time"]).collect();
    assert_eq!(times, [T3, T2]);
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let config = deployment(json!({"replicas": 1, "paused": false, "template": {"metadata": {"labels": {"a": "b"}}}}));
    let first = applied(None, config.clone(), "me", T1).expect("creates");
    assert_eq!(applied(Some(&first), config, "me", T2).expect("no conflict"), first);
}

#[test]
fn conflicts_name_every_field_and_owner_and_force_takes_them() {
    let first = write(
        None,
        deployment(json!({"replicas": 1, "minReadySeconds": 5, "paused": true})),
        &ctx("Deployment", "one", T1),
    );
    let config = deployment(json!({"replicas": 2, "paused": true}));
    let status = applied(Some(&first), config.clone(), "me", T2).expect_err("a conflict");
    assert_eq!(status.code, 409);
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\" using apps/v1: .spec.replicas");
    let cause = &status.details.expect("details").causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.replicas"));
    assert_eq!(cause.message, "conflict with \"one\" using apps/v1");

    let both = deployment(json!({"replicas": 2, "minReadySeconds": 6}));
    assert_eq!(
        applied(Some(&first), both, "me", T2).expect_err("conflicts").message,
        "Apply failed with 2 conflicts: conflicts with \"one\" using apps/v1:\n- .spec.minReadySeconds\n- .spec.replicas"
    );

    // Forced: the other loses what differs and shares what does not.
    let forced = apply(Some(&first), &config, &ctx("Deployment", "me", T2), true).expect("forced");
    assert_eq!(forced["spec"], json!({"replicas": 2, "minReadySeconds": 5, "paused": true, "strategy": {}}));
    assert_eq!(
        owners(&forced),
        [
            owner("me", "Apply", json!({"f:spec": {"f:paused": {}, "f:replicas": {}}})),
            owner("one", "Update", json!({"f:spec": {"f:minReadySeconds": {}, "f:paused": {}}})),
        ]
    );
    // What two own stays when one of them drops it.
    let nothing =
        with(&deployment(json!({})), |config| drop(config.as_object_mut().expect("an object").remove("spec")));
    let dropped = apply(Some(&forced), &nothing, &ctx("Deployment", "me", T3), false).expect("no conflict");
    assert_eq!(dropped["spec"], json!({"minReadySeconds": 5, "paused": true, "strategy": {}}));
    assert_eq!(
        owners(&dropped),
        [owner("one", "Update", json!({"f:spec": {"f:minReadySeconds": {}, "f:paused": {}}}))]
    );
}

#[test]
fn an_applied_zero_is_a_value() {
    let pod = |host: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"hostNetwork": host}});
    let first = write(None, pod(json!(true)), &ctx("Pod", "one", T1));
    let status = applied(Some(&first), pod(json!(false)), "me", T2).expect_err("a conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\" using v1: .spec.hostNetwork");
    let forced = apply(Some(&first), &pod(json!(false)), &ctx("Pod", "me", T2), true).expect("forced");
    assert_eq!(forced["spec"], json!({}));
    assert_eq!(applied(Some(&forced), pod(json!(false)), "me", T3).expect("no conflict"), forced);
}

#[test]
fn the_first_apply_gives_what_was_there_to_a_manager_of_its_own() {
    let live = map(json!({"a": "1"}));
    let status = applied(Some(&live), map(json!({"a": "2"})), "me", T1).expect_err("a conflict");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.a");
    let result = applied(Some(&live), map(json!({"b": "2"})), "me", T1).expect("no conflict");
    assert_eq!(result["data"], json!({"a": "1", "b": "2"}));
    let names: Vec<String> = owners(&result).into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["me", "before-first-apply"]);
}

#[test]
fn sets_and_atomic_values_are_applied_as_such() {
    let meta = |finalizers: Value, data: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "finalizers": finalizers}, "spec": {"selector": data}});
    let first = applied(None, meta(json!(["a"]), json!({"x": "1"})), "one", T1).expect("creates");
    let second = applied(Some(&first), meta(json!(["b"]), json!({"x": "1"})), "two", T2).expect("no conflict");
    assert_eq!(second["metadata"]["finalizers"], json!(["a", "b"]));
    let third = applied(Some(&second), meta(json!([]), json!({"x": "1"})), "one", T3).expect("no conflict");
    assert_eq!(third["metadata"]["finalizers"], json!(["b"]));
    let status = applied(Some(&third), meta(json!([]), json!({"x": "1", "y": "2"})), "one", T3).expect_err("atomic");
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"two\": .spec.selector");
}

#[test]
fn configurations_that_cannot_be_applied_are_refused() {
    let prefix = "failed to create typed patch object (d/a; apps/v1, Kind=Deployment): ";
    for (config, why) in [
        (deployment(json!({"bad": 1})), format!("{prefix}.spec.bad: field not declared in schema")),
        (
            deployment(json!({"template": {"spec": {"containers": [{"name": "x"}, {"name": "x"}]}}})),
            format!("{prefix}.spec.template.spec.containers: duplicate entries for key [name=\"x\"]"),
        ),
        (
            deployment(json!({"template": {"spec": {"containers": [{"image": "x"}]}}})),
            format!(
                "{prefix}.spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default value)"
            ),
        ),
        (
            with(&deployment(json!({})), |new| new["metadata"]["managedFields"] = json!([{"manager": "x"}])),
            "metadata.managedFields must be nil".to_owned(),
        ),
        (
            with(&deployment(json!({})), |new| new["apiVersion"] = json!("apps/v2")),
            "Incorrect version specified in apply patch. Specified patch version: apps/v2, expected: apps/v1"
                .to_owned(),
        ),
    ] {
        let status = applied(None, config, "me", T1).expect_err(&why);
        assert_eq!((status.code, status.message), (400, why));
    }
}

/// Containers by name with their images, and of each who applied it and whose its image is.
#[derive(Default)]
struct Containers {
    live: std::collections::BTreeMap<String, Option<String>>,
    owners: std::collections::BTreeSet<(usize, String)>,
    imaged: std::collections::BTreeSet<(usize, String)>,
}

impl Containers {
    fn apply(&mut self, who: usize, wanted: &std::collections::BTreeMap<String, String>) {
        for (name, image) in wanted {
            if self.live.insert(name.clone(), Some(image.clone())).flatten().as_ref() != Some(image) {
                self.imaged.retain(|(_, other)| other != name);
            }
        }
        let dropped = |(owner, name): &(usize, String)| *owner == who && !wanted.contains_key(name);
        let gone: Vec<String> =
            self.owners.iter().filter(|owned| dropped(owned)).map(|(_, name)| name.clone()).collect();
        self.owners.retain(|owned| !dropped(owned));
        let had_image: Vec<String> =
            self.imaged.iter().filter(|owned| dropped(owned)).map(|(_, name)| name.clone()).collect();
        self.imaged.retain(|owned| !dropped(owned));
        for name in had_image {
            if !self.imaged.iter().any(|(_, other)| *other == name) {
                self.live.insert(name, None);
            }
        }
        for name in gone {
            if !self.owners.iter().any(|(_, other)| *other == name) {
                self.live.remove(&name);
            }
        }
        for name in wanted.keys() {
            self.owners.insert((who, name.clone()));
            self.imaged.insert((who, name.clone()));
        }
    }
}

fn data() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    prop::collection::btree_map("[a-d]", "[xy]", 0..4)
}

proptest! {
    /// Whatever is updated and applied, every applier's fields have its values, and nobody owns what is not there.
    #[test]
    fn owned_fields_exist_and_have_the_last_appliers_values(steps in prop::collection::vec((0..3_usize, any::<bool>(), data()), 1..8)) {
        let mut live: Option<Value> = None;
        for (who, is_apply, data) in steps {
            let manager = ["m0", "m1", "m2"][who];
            // As the server would have it: an empty map is absent.
            let sent = if data.is_empty() { json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}) } else { map(json!(data)) };
            let next = if is_apply {
                let next = apply(live.as_ref(), &sent, &ctx("ConfigMap", manager, T1), true).expect("forced");
                for (key, value) in &data {
                    prop_assert_eq!(&next["data"][key], &json!(value));
                }
                let again = apply(Some(&next), &sent, &ctx("ConfigMap", manager, T1), false).expect("it owns all of it");
                prop_assert_eq!(&again, &next);
                next
            } else {
                write(live.as_ref(), sent, &ctx("ConfigMap", manager, T1))
            };
            for (_, _, fields) in owners(&next) {
                for element in fields["f:data"].as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != ".") {
                    prop_assert!(next["data"].get(&element[2..]).is_some(), "{element} of {next}");
                }
            }
            live = Some(next);
        }
    }

    /// Appliers of containers, against a model that knows for every container who has it and who has its image.
    #[test]
    fn a_keyed_list_holds_what_its_appliers_say(
        steps in prop::collection::vec((0..3_usize, prop::collection::btree_map("[a-c]", "[xy]", 0..4)), 1..8),
    ) {
        let mut live: Option<Value> = None;
        let mut model = Containers::default();
        for (who, wanted) in steps {
            let manager = ["m0", "m1", "m2"][who];
            let list: Vec<Value> = wanted.iter().map(|(name, image)| json!({"name": name, "image": image})).collect();
            let mut sent = deployment(json!({"replicas": 1}));
            if !list.is_empty() {
                sent["spec"]["template"] = json!({"spec": {"containers": list}});
            }
            let next = apply(live.as_ref(), &sent, &ctx("Deployment", manager, T1), true).expect("forced");
            model.apply(who, &wanted);
            let containers = next["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
            let is: Vec<(String, Option<String>)> = containers.iter().map(|container| {
                (container["name"].as_str().expect("a name").to_owned(), container["image"].as_str().map(str::to_owned))
            }).collect();
            let names: std::collections::BTreeMap<_, _> = is.iter().cloned().collect();
            prop_assert_eq!(names.len(), is.len(), "each name once: {:?}", is);
            prop_assert_eq!(&names, &model.live);
            let again = apply(Some(&next), &sent, &ctx("Deployment", manager, T1), false).expect("it owns all of it");
            prop_assert_eq!(&again, &next);
            live = Some(next);
        }
    }

    #[test]
    fn tracking_never_panics_on_odd_entries(list in prop::collection::vec("[{}a-z\":,]{0,20}", 0..3)) {
        let odd: Vec<Value> = list.iter().map(|text| serde_json::from_str(text).unwrap_or(json!({"manager": text, "operation": "Update"}))).collect();
        let old = with(&map(json!({"a": "1"})), |o| o["metadata"]["managedFields"] = json!(odd));
        write(Some(&old), map(json!({"a": "2"})), &ctx("ConfigMap", "m", T1));
    }
}
