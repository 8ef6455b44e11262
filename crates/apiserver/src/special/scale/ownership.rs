//! Who owns the replicas, as a writer of the scale and as a writer of the object see it: the managed fields of each are made of the
//! other's.

use api::Value;
use serde_json::json;

use super::VERSION;

fn entries(fields: &Value) -> impl Iterator<Item = &Value> {
    fields.as_array().into_iter().flatten()
}

fn owns(entry: &Value) -> bool {
    entry["fieldsV1"]["f:spec"].get("f:replicas").is_some()
}

/// The same entry as one of another version that owns the replicas alone.
fn as_version(entry: &Value, version: &str) -> Value {
    let mut entry = entry.clone();
    entry["apiVersion"] = version.into();
    entry["fieldsV1"] = json!({"f:spec": {"f:replicas": {}}});
    entry
}

fn same(one: &Value, other: &Value) -> bool {
    ["manager", "operation", "subresource"].iter().all(|field| one.get(*field) == other.get(*field))
}

/// The scale's managed fields: those of the object that own its replicas.
pub fn of_scale(object: &Value) -> Value {
    entries(object).filter(|entry| owns(entry)).map(|entry| as_version(entry, VERSION)).collect()
}

/// The object's managed fields after the scale's have changed to those given.
pub fn of_parent(object: &Value, scale: &Value, version: &str) -> Value {
    let holders: Vec<&Value> = entries(scale).filter(|entry| owns(entry)).collect();
    let mut all: Vec<Value> = Vec::new();
    for entry in entries(object) {
        let holder = holders.iter().find(|holder| same(holder, entry));
        let mut entry = entry.clone();
        match holder {
            Some(holder) if owns(&entry) => entry["time"] = holder["time"].clone(),
            Some(holder) => {
                entry["fieldsV1"]["f:spec"]["f:replicas"] = json!({});
                entry["time"] = holder["time"].clone();
            }
            None if owns(&entry) => {
                disown(&mut entry);
                if entry["fieldsV1"].as_object().is_none_or(|fields| fields.is_empty()) {
                    continue;
                }
            }
            None => {}
        }
        all.push(entry);
    }
    for holder in holders {
        if !entries(object).any(|entry| same(holder, entry)) {
            all.push(as_version(holder, version));
        }
    }
    Value::Array(all)
}

/// Takes the replicas out of what the entry owns.
fn disown(entry: &mut Value) {
    let Some(fields) = entry["fieldsV1"].as_object_mut() else { return };
    let left = fields.get_mut("f:spec").and_then(Value::as_object_mut).map(|spec| {
        spec.remove("f:replicas");
        spec.keys().any(|key| key != ".")
    });
    if left == Some(false) {
        fields.remove("f:spec");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, subresource: &str, version: &str, fields: Value) -> Value {
        let mut entry = json!({"manager": manager, "operation": "Update", "apiVersion": version, "time": "t",
            "fieldsType": "FieldsV1", "fieldsV1": fields});
        if !subresource.is_empty() {
            entry["subresource"] = subresource.into();
        }
        entry
    }

    #[test]
    fn replicas_change_hands_between_object_and_scale() {
        let replicas = || json!({"f:spec": {"f:replicas": {}}});
        let both = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let object = json!([
            entry("creator", "", "apps/v1", both),
            entry("only", "", "apps/v1", replicas()),
            entry("other", "", "apps/v1", json!({"f:metadata": {}})),
        ]);
        let scale = of_scale(&object);
        assert_eq!(scale, json!([entry("creator", "", VERSION, replicas()), entry("only", "", VERSION, replicas())]));
        // Nobody took them: everything stays.
        assert_eq!(of_parent(&object, &scale, "apps/v1"), object);
        let taken = json!([entry("scaler", "scale", VERSION, replicas())]);
        assert_eq!(
            of_parent(&object, &taken, "apps/v1"),
            json!([
                entry("creator", "", "apps/v1", json!({"f:spec": {"f:paused": {}}})),
                entry("other", "", "apps/v1", json!({"f:metadata": {}})),
                entry("scaler", "scale", "apps/v1", replicas()),
            ])
        );
    }
}
