//! Sets of fields in upstream's `FieldsV1` form: a tree of JSON objects whose keys are path elements, `f:<field>`,
//! `k:{<keys of a list's item>}`, `v:<item of a set>`, `i:<index>`. A node is in the set when it is empty or has the key `.`;
//! a node that is neither and has no children does not exist.

use serde_json::map::Entry;

use crate::{Map, Value};

/// A set of fields; empty when nothing is in it.
pub type Fields = Map<String, Value>;

const SELF: &str = ".";

/// The path element of a field.
pub fn named(key: &str) -> String {
    // Not formatted: this is on the way of every write.
    let mut element = String::with_capacity(key.len() + 2);
    element.push_str("f:");
    element.push_str(key);
    element
}

/// A node that is in the set and has no children.
pub fn leaf() -> Value {
    Value::Object(Map::new())
}

/// The node with these children that is itself in the set or not; nothing where it would not exist.
pub fn node(mut children: Fields, member: bool) -> Option<Value> {
    if member && !children.is_empty() {
        children.insert(SELF.to_owned(), leaf());
    }
    (member || !children.is_empty()).then_some(Value::Object(children))
}

fn is_member(children: &Fields) -> bool {
    children.is_empty() || children.contains_key(SELF)
}

fn children(node: &Value) -> Option<&Fields> {
    node.as_object()
}

/// Puts a node at a path, united with what is there.
pub fn insert(fields: &mut Fields, path: &[String], node: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    let mut addition = node;
    for element in rest.iter().rev() {
        addition = Value::Object(Map::from_iter([(element.clone(), addition)]));
    }
    unite(fields, &Map::from_iter([(first.clone(), addition)]));
}

/// `a ∪= b`
pub fn unite(a: &mut Fields, b: &Fields) {
    for (element, theirs) in b {
        if element == SELF {
            continue;
        }
        match a.entry(element.as_str()) {
            Entry::Vacant(entry) => {
                entry.insert(theirs.clone());
            }
            Entry::Occupied(mut entry) => {
                let (Value::Object(ours), Some(theirs)) = (entry.get_mut(), children(theirs)) else { continue };
                let member = is_member(ours) || is_member(theirs);
                unite(ours, theirs);
                if member && !ours.is_empty() {
                    ours.insert(SELF.to_owned(), leaf());
                }
            }
        }
    }
}

/// `a ∖= b`
pub fn subtract(a: &mut Fields, b: &Fields) {
    a.retain(|element, ours| {
        let (Value::Object(ours), Some(theirs)) = (ours, b.get(element).and_then(children)) else { return true };
        if element == SELF {
            return true;
        }
        let member = is_member(ours) && !is_member(theirs);
        ours.remove(SELF);
        subtract(ours, theirs);
        if member && !ours.is_empty() {
            ours.insert(SELF.to_owned(), leaf());
        }
        member || !ours.is_empty()
    });
}

/// `a ∩ b`
pub fn intersection(a: &Fields, b: &Fields) -> Fields {
    let shared = a.iter().filter(|(element, _)| *element != SELF);
    let common = shared.filter_map(|(element, ours)| {
        let (ours, theirs) = (children(ours)?, children(b.get(element)?)?);
        let member = is_member(ours) && is_member(theirs);
        Some((element.clone(), node(intersection(ours, theirs), member)?))
    });
    common.collect()
}

/// Whether the element below this node is in the set.
pub fn has(fields: &Fields, element: &str) -> bool {
    fields.get(element).and_then(children).is_some_and(is_member)
}

/// What lies below an element, if anything.
pub fn below<'a>(fields: &'a Fields, element: &str) -> Option<&'a Fields> {
    let below = children(fields.get(element)?)?;
    below.keys().any(|key| key != SELF).then_some(below)
}

/// Every field in the set, as upstream's messages write paths: `.spec.containers[name="a"].image`.
pub fn paths(fields: &Fields) -> Vec<String> {
    let mut all = Vec::new();
    collect(fields, "", &mut all);
    all
}

fn collect(fields: &Fields, prefix: &str, all: &mut Vec<String>) {
    for (element, node) in fields.iter().filter(|(element, _)| *element != SELF) {
        let path = format!("{prefix}{}", show(element));
        let Some(below) = children(node) else { continue };
        if is_member(below) {
            all.push(path.clone());
        }
        collect(below, &path, all);
    }
}

/// A path element as messages write it.
pub fn show(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("i", index)) => format!("[{index}]"),
        Some(("k", keys)) => {
            let keys: Fields = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => element.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn map(value: Value) -> Fields {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn sets_unite_differ_and_intersect() {
        let a = map(json!({"f:a": {}, "f:b": {".": {}, "f:c": {}, "f:d": {}}, "f:e": {"f:g": {}}}));
        let b = map(json!({"f:a": {"f:x": {}}, "f:b": {"f:c": {}}, "f:e": {}}));
        let mut united = a.clone();
        unite(&mut united, &b);
        let all =
            json!({"f:a": {".": {}, "f:x": {}}, "f:b": {".": {}, "f:c": {}, "f:d": {}}, "f:e": {".": {}, "f:g": {}}});
        assert_eq!(united, map(all));
        let mut rest = a.clone();
        subtract(&mut rest, &b);
        assert_eq!(rest, map(json!({"f:a": {}, "f:b": {".": {}, "f:d": {}}, "f:e": {"f:g": {}}})));
        subtract(&mut rest, &map(json!({"f:b": {}, "f:e": {"f:g": {}}})));
        assert_eq!(rest, map(json!({"f:a": {}, "f:b": {"f:d": {}}})));
        assert_eq!(intersection(&a, &b), map(json!({"f:b": {"f:c": {}}})));
    }

    #[test]
    fn paths_are_written_as_upstream_writes_them() {
        let fields = map(json!({
            "f:spec": {"f:containers": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}}, "f:x": {"v:\"a\"": {}}}
        }));
        let port = ".spec.containers[containerPort=80,protocol=\"TCP\"]";
        assert_eq!(paths(&fields), [port.to_owned(), format!("{port}.name"), ".spec.x[=\"a\"]".to_owned()]);
    }

    fn tree() -> impl Strategy<Value = Fields> {
        let leaf = Just(leaf());
        let node = leaf.prop_recursive(3, 16, 3, |inner| {
            (prop::collection::btree_map("f:[a-c]", inner, 1..4), any::<bool>())
                .prop_map(|(children, member)| node(children.into_iter().collect(), member).expect("has children"))
        });
        prop::collection::btree_map("f:[a-c]", node, 0..4).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn set_laws_hold(a in tree(), b in tree()) {
            let members = |fields: &Fields| paths(fields).into_iter().collect::<std::collections::BTreeSet<_>>();
            let (mut united, mut rest) = (a.clone(), a.clone());
            unite(&mut united, &b);
            subtract(&mut rest, &b);
            prop_assert_eq!(members(&united), &members(&a) | &members(&b));
            prop_assert_eq!(members(&rest), &members(&a) - &members(&b));
            prop_assert_eq!(members(&intersection(&a, &b)), &members(&a) & &members(&b));
        }
    }
}
