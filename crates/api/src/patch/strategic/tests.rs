use super::*;
use crate::table;
use proptest::prelude::*;
use serde_json::json;

fn pod_spec() -> &'static Struct {
    table::get("io.k8s.api.core.v1.PodSpec").expect("built in")
}

fn run(target: Value, patch: Value) -> Result<Value, Status> {
    strategic(&target, &patch, pod_spec())
}

#[test]
fn lists_merge_by_their_keys_and_maps_by_theirs() {
    for (target, patch, result) in [
        // A new item comes first, as its patch's items do.
        (
            json!({"containers": [{"name": "a", "image": "1"}, {"name": "b"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "2"}, {"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a", "env": [{"name": "x", "value": "1"}, {"name": "y"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "x", "$patch": "delete"}]}]}),
            json!({"containers": [{"name": "a", "env": [{"name": "y"}]}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}),
            json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}]}),
        ),
        (
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"$setElementOrder/containers": [{"name": "a"}, {"name": "c"}, {"name": "b"}], "containers": [{"name": "c", "image": "i"}]}),
            json!({"containers": [{"name": "a"}, {"name": "c", "image": "i"}, {"name": "b"}]}),
        ),
        // Lists without a merge strategy are replaced.
        (
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        (
            json!({"nodeSelector": {"a": "1", "b": "2"}, "nodeName": "n"}),
            json!({"nodeSelector": {"b": null, "c": "3"}, "nodeName": null, "hostname": null}),
            json!({"nodeSelector": {"a": "1", "c": "3"}}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        // Retained keys: one volume source gives way to another.
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w"}]}),
            json!({"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]}),
            json!({"volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "w"}]}),
        ),
        // What the object lacks is taken without nulls and directives.
        (
            json!({}),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": null, "$retainKeys": ["name"]}, {"name": "b", "$patch": "delete"}]}),
            json!({"containers": [{"name": "a"}]}),
        ),
    ] {
        assert_eq!(run(target, patch.clone()).expect("applies"), result, "{patch}");
    }
}

#[test]
fn lists_of_scalars_merge_and_lose_items() {
    let schema = table::get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("built in");
    for (patch, result) in [
        (json!({"finalizers": ["c", "a"]}), json!(["c", "a", "b"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["a", "x"]}), json!(["b"])),
        (json!({"$setElementOrder/finalizers": ["b", "a"]}), json!(["b", "a"])),
        (
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}),
            json!(["c", "b"]),
        ),
    ] {
        let merged = strategic(&json!({"finalizers": ["a", "b"]}), &patch, schema).expect("applies");
        assert_eq!(merged["finalizers"], result, "{patch}");
    }
}

#[test]
fn a_replace_strategy_replaces() {
    let schema = table::get("io.k8s.api.policy.v1.PodDisruptionBudgetSpec").expect("built in");
    let target = json!({"selector": {"matchLabels": {"a": "b"}}});
    let patch = json!({"selector": {"matchLabels": {"c": "d"}}});
    assert_eq!(strategic(&target, &patch, schema).expect("applies"), patch);
}

#[test]
fn patches_that_contradict_themselves_are_refused() {
    let target = json!({"containers": [{"name": "a"}], "nodeSelector": {"a": "b"}, "volumes": [{"name": "v"}]});
    for (patch, why) in [
        (json!([]), "invalid JSON document: a strategic merge patch must be a JSON object"),
        (json!({"containers": [{"image": "x"}]}), "map: {\"image\":\"x\"} does not contain declared merge key: name"),
        (
            json!({"containers": [{"$patch": "delete"}]}),
            "map: {\"$patch\":\"delete\"} does not contain declared merge key: name",
        ),
        (json!({"containers": ["x"]}), "list element types are not identical"),
        (json!({"nodeSelector": {"$patch": "boil"}}), "unknown patch type: \"boil\" in map: {\"$patch\":\"boil\"}"),
        (
            json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}),
            "invalid patch format of retainKeys",
        ),
        (
            json!({"$setElementOrder/containers": [{"name": "x"}], "containers": [{"name": "a"}]}),
            "invalid patch format of setElementOrder list",
        ),
    ] {
        let status = run(target.clone(), patch).expect_err(why);
        assert_eq!((status.code, status.message.as_str()), (400, why));
    }
}

proptest! {
    #[test]
    fn a_patch_applied_twice_changes_nothing_more(
        old in prop::collection::vec(("[a-e]", any::<Option<u8>>()), 0..5),
        new in prop::collection::vec(("[a-e]", any::<Option<u8>>(), any::<bool>()), 0..5),
    ) {
        let mut seen = std::collections::BTreeSet::new();
        let containers: Vec<Value> = old.iter().filter(|(name, _)| seen.insert(name.clone()))
            .map(|(name, image)| json!({"name": name, "image": image.map(|i| i.to_string())})).collect();
        seen.clear();
        let patch: Vec<Value> = new.iter().filter(|(name, ..)| seen.insert(name.clone())).map(|(name, image, delete)| {
            if *delete { json!({"name": name, "$patch": "delete"}) } else { json!({"name": name, "image": image.map(|i| i.to_string())}) }
        }).collect();
        let patch = json!({"containers": patch});
        let once = run(json!({"containers": containers}), patch.clone()).expect("applies");
        let names: Vec<&str> = once["containers"].as_array().expect("a list").iter().filter_map(|c| c["name"].as_str()).collect();
        for (name, _, delete) in new.iter().filter(|(name, ..)| seen.remove(name)) {
            prop_assert_eq!(names.contains(&name.as_str()), !delete);
        }
        prop_assert_eq!(run(once.clone(), patch).expect("applies"), once);
    }
}
