//! Allocations as tables: what a node has, what is taken, what is asked for, and which devices it gets.

use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim};
use serde_json::{Value, json};

use super::{
    allocate::{Asked, allocate},
    pools::{Slice, Slices},
    selectors::Selectors,
    taken::Taken,
};
use crate::node::Node;

fn node() -> Node {
    let json = json!({"metadata": {"name": "n", "labels": {"zone": "a"}}, "spec": {}, "status": {}});
    Node::parse(&client::Item::from_json(&json.to_string()).unwrap()).unwrap()
}

fn slice(name: &str, spec: Value) -> std::sync::Arc<Slice> {
    let mut json = json!({"metadata": {"name": name, "resourceVersion": "1"}, "spec": {
        "driver": "gpu.example", "nodeName": "n", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1}}});
    json["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    std::sync::Arc::new(Slice::read(&client::Item::from_json(&json.to_string()).unwrap()).unwrap())
}

/// The names of the devices for each request, or why there are none.
fn devices(slices: Value, taken: &[&str], claim: Value) -> Result<Vec<(String, String)>, String> {
    let class: DeviceClass = serde_json::from_value(json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [
        {"cel": {"expression": "device.driver == 'gpu.example'"}}]}}))
    .unwrap();
    let claim: ResourceClaim =
        serde_json::from_value(json!({"metadata": {"name": "c"}, "spec": {"devices": claim}})).unwrap();
    let slices = slices.as_array().unwrap().iter().enumerate();
    let slices: Vec<_> = slices.map(|(index, spec)| slice(&format!("s{index}"), spec.clone())).collect();
    let mut used = Taken::default();
    for device in taken {
        let results = json!({"devices": {"results": [
            {"request": "r", "driver": "gpu.example", "pool": "n", "device": device}]}});
        used.add(&serde_json::from_value(results).unwrap());
    }
    let asked = [Asked::new(&claim, |name| (name == "gpu").then_some(&class))?];
    let node = node();
    let slices = Slices::new(slices);
    let found = allocate(&asked, &slices.candidates(&node), &used, &Selectors::new(), "n")?;
    let found = found.ok_or("none")?.remove(0).devices.unwrap().results.unwrap();
    Ok(found.into_iter().map(|it| (it.request, it.device)).collect())
}

fn gpus(names: &[&str], more: &[Value]) -> Value {
    let device = |(index, name): (usize, &&str)| {
        let mut device = json!({"name": name, "attributes": {"index": {"int": index}}});
        device.as_object_mut().unwrap().extend(more.get(index).and_then(Value::as_object).cloned().unwrap_or_default());
        device
    };
    json!([{"devices": names.iter().enumerate().map(device).collect::<Vec<_>>()}])
}

fn exactly(more: Value) -> Value {
    let mut exactly = json!({"deviceClassName": "gpu"});
    exactly.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"requests": [{"name": "r", "exactly": exactly}]})
}

#[test]
fn claims_get_the_devices_that_they_ask_for() {
    let all = || gpus(&["a", "b", "c"], &[]);
    let of_model = |model: &str| json!({"attributes": {"model": {"string": model}}});
    let models = || gpus(&["a", "b", "c"], &[of_model("x"), of_model("y"), of_model("y")]);
    let two = json!([
        {"name": "r", "exactly": {"deviceClassName": "gpu"}}, {"name": "s", "exactly": {"deviceClassName": "gpu"}}]);
    let selector = |expression: &str| json!([{"cel": {"expression": expression}}]);
    let choice = json!({"requests": [{"name": "r", "firstAvailable": [
        {"name": "big", "deviceClassName": "gpu", "count": 4}, {"name": "small", "deviceClassName": "gpu", "count": 2}]}]});
    let taint = json!({"taints": [{"key": "sick", "effect": "NoSchedule"}]});
    let shared = |used: &str| json!({"allowMultipleAllocations": true, "capacity": {"memory": {"value": used}}});
    let counters = json!({"consumesCounters": [{"counterSet": "s", "counters": {"slots": {"value": "2"}}}]});
    let mut partitions = gpus(&["a", "b", "c"], &[counters.clone(), counters.clone(), counters]);
    partitions[0]["sharedCounters"] = json!([{"name": "s", "counters": {"slots": {"value": "4"}}}]);
    let of_count = |count: i64| exactly(json!({"count": count}));
    let capacity = |amount: &str| exactly(json!({"capacity": {"requests": {"memory": amount}}}));
    type Row<'a> = (&'a str, Value, &'a [&'a str], Value, Result<&'a str, &'a str>);
    let table: [Row<'_>; 20] = [
        ("the first", all(), &[], exactly(json!({})), Ok("r=a")),
        ("the first that is free", all(), &["a"], exactly(json!({})), Ok("r=b")),
        ("none is free", all(), &["a", "b", "c"], exactly(json!({})), Err("none")),
        ("a count", all(), &["a"], of_count(2), Ok("r=b r=c")),
        ("more than there are", all(), &["a"], of_count(3), Err("none")),
        ("all", all(), &[], exactly(json!({"allocationMode": "All"})), Ok("r=a r=b r=c")),
        ("all, but one is taken", all(), &["b"], exactly(json!({"allocationMode": "All"})), Err("none")),
        ("one that is taken, to watch it", all(), &["a", "b", "c"], exactly(json!({"adminAccess": true})), Ok("r=a")),
        (
            "by attribute",
            all(),
            &[],
            exactly(json!({"selectors": selector("device.attributes['gpu.example'].index == 2")})),
            Ok("r=c"),
        ),
        (
            "an attribute that is not there",
            all(),
            &[],
            exactly(json!({"selectors": selector("device.attributes['gpu.example'].speed == 2")})),
            Err("CEL runtime error: No such key: speed"),
        ),
        (
            "of one model, for which the first must be left",
            models(),
            &[],
            json!({"requests": two, "constraints": [{"matchAttribute": "gpu.example/model"}]}),
            Ok("r=b s=c"),
        ),
        (
            "of different models",
            models(),
            &["a"],
            json!({"requests": two, "constraints": [{"distinctAttribute": "gpu.example/model"}]}),
            Err("none"),
        ),
        ("the second choice", all(), &[], choice.clone(), Ok("r/small=a r/small=b")),
        ("not even the second choice", all(), &["a", "b"], choice, Err("none")),
        ("tainted", gpus(&["a", "b"], std::slice::from_ref(&taint)), &[], exactly(json!({})), Ok("r=b")),
        (
            "tolerated",
            gpus(&["a", "b"], &[taint]),
            &[],
            exactly(json!({"tolerations": [{"key": "sick", "operator": "Exists"}]})),
            Ok("r=a"),
        ),
        ("some of the capacity", gpus(&["a"], &[shared("10Gi")]), &["a"], capacity("4Gi"), Ok("r=a")),
        ("too much of the capacity", gpus(&["a"], &[shared("10Gi")]), &[], capacity("11Gi"), Err("none")),
        ("as many as what they share allows", partitions.clone(), &["a"], exactly(json!({})), Ok("r=b")),
        ("more than what they share allows", partitions, &["a"], of_count(2), Err("none")),
    ];
    for (what, slices, taken, claim, expected) in table {
        let found = devices(slices, taken, claim);
        let text = |found: Vec<(String, String)>| {
            found.iter().map(|(request, device)| format!("{request}={device}")).collect::<Vec<_>>().join(" ")
        };
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(found.map(text), expected, "{what}");
    }
}

#[test]
fn devices_of_pools_that_are_not_whole_or_elsewhere_are_not_given() {
    let of = |spec: Value| {
        let mut slice = gpus(&["a"], &[])[0].clone();
        slice.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        slice
    };
    let pool =
        |generation: i64, count: i64| json!({"name": "n", "generation": generation, "resourceSliceCount": count});
    let in_zone = |zone: &str| {
        json!({"nodeName": null, "nodeSelector": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}})
    };
    let table = [
        ("whole", json!([of(json!({}))]), true),
        ("a slice is missing", json!([of(json!({"pool": pool(1, 2)}))]), false),
        ("an old generation", json!([of(json!({})), of(json!({"pool": pool(2, 2), "devices": []}))]), false),
        ("of another node", json!([of(json!({"nodeName": "m"}))]), false),
        ("of all nodes", json!([of(json!({"nodeName": null, "allNodes": true}))]), true),
        ("of the node's zone", json!([of(in_zone("a"))]), true),
        ("of another zone", json!([of(in_zone("b"))]), false),
    ];
    for (what, slices, found) in table {
        assert_eq!(devices(slices, &[], exactly(json!({}))).is_ok(), found, "{what}");
    }
    let unfinished = json!([of(json!({"pool": pool(1, 2)}))]);
    assert_eq!(
        devices(unfinished, &[], exactly(json!({"allocationMode": "All"}))),
        Err("claim c, request r: asks for all devices, but resource pool gpu.example/n is currently being updated"
            .into())
    );
    let unknown = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "tpu"}}]});
    assert_eq!(devices(json!([]), &[], unknown), Err("request r: device class tpu does not exist".into()));
}
