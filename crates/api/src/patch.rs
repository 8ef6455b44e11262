//! Patches: what a client sends to change a part of an object. All are functions of the object and the patch; the result is
//! a whole object that is then treated as an update.

mod json;
mod order;
mod strategic;

use crate::status::{Cause, Details, Reason};
use crate::{Status, Value};

pub use json::json;
pub use strategic::strategic;

/// Applies a JSON merge patch (RFC 7386), which must be an object: nulls delete, objects merge, all else replaces.
pub fn merge(target: &Value, patch: &Value) -> Result<Value, Status> {
    if !patch.is_object() {
        return Err(Status::bad_request("a merge patch must be a JSON object"));
    }
    let mut merged = target.clone();
    merge_into(&mut merged, patch);
    Ok(merged)
}

fn merge_into(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(crate::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge_into(target.entry(key.as_str()).or_insert(Value::Null), value);
        }
    }
}

/// A patch that is well formed and does not fit the object: upstream's 422, with the reason as its cause.
fn unprocessable(why: String) -> Status {
    let causes = vec![Cause { reason: "UnexpectedServerResponse".to_owned(), message: why, field: String::new() }];
    let details = Some(Box::new(Details { causes, ..Details::default() }));
    Status { details, ..Status::new(Reason::Invalid, "the server rejected our request due to an error in our request") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn merge_patches_do_what_their_standard_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            assert_eq!(merge(&target, &patch).expect("an object"), result);
        }
        assert_eq!(merge(&json!({}), &json!([])).expect_err("a list").code, 400);
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), any::<u8>().prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(target in tree(), patch in tree()) {
            if let Ok(once) = merge(&target, &patch) {
                prop_assert_eq!(merge(&once, &patch).expect("an object"), once);
            }
        }
    }
}
