//! JSON patch (RFC 6902).

use super::unprocessable;
use crate::codec::MAX_DEPTH;
use crate::status::Reason;
use crate::{Status, Value};

/// As many operations as upstream takes.
const MAX_OPERATIONS: usize = 10_000;

/// How much `copy` may copy in all, so that a small patch makes no huge object.
const MAX_COPIED: usize = 3 << 20;

/// Applies a list of operations; all of them or none.
pub fn json(target: &Value, patch: &Value) -> Result<Value, Status> {
    let Value::Array(operations) = patch else {
        return Err(Status::bad_request("json: cannot unmarshal a JSON patch that is not an array of operations"));
    };
    if operations.len() > MAX_OPERATIONS {
        let count = operations.len();
        let message = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}");
        return Err(Status::new(Reason::RequestEntityTooLarge, message));
    }
    let mut document = target.clone();
    let mut copied = 0;
    for operation in operations {
        apply(&mut document, operation, &mut copied)?;
    }
    Ok(document)
}

fn apply(document: &mut Value, operation: &Value, copied: &mut usize) -> Result<(), Status> {
    let text = |key: &str| operation[key].as_str();
    let op = text("op").ok_or_else(|| Status::bad_request("a JSON patch operation has no \"op\""))?;
    let path = pointer(text("path"), op, "path")?;
    let value =
        || operation.get("value").ok_or_else(|| Status::bad_request(format!("{op} operation has no \"value\"")));
    let result = match op {
        "add" => add(document, &path, value()?.clone()),
        "remove" => remove(document, &path).map(drop),
        "replace" => replace(document, &path, value()?.clone()),
        "test" => test(document, &path, operation.get("value").unwrap_or(&Value::Null)),
        "move" => {
            let from = pointer(text("from"), op, "from")?;
            if path.len() > from.len() && path.starts_with(&from) {
                return Err(unprocessable(format!(
                    "move operation does not apply: {} is inside its source",
                    show(&path)
                )));
            }
            remove(document, &from).and_then(|value| add(document, &path, value))
        }
        "copy" => {
            let from = pointer(text("from"), op, "from")?;
            find(document, &from).cloned().and_then(|value| {
                *copied += value.to_string().len();
                if *copied > MAX_COPIED {
                    return Err(format!("accumulated size of copied values exceeds the limit of {MAX_COPIED} bytes"));
                }
                add(document, &path, value)
            })
        }
        other => return Err(Status::bad_request(format!("unexpected kind: {other}"))),
    };
    result.map_err(|why| match op {
        "test" => unprocessable(why),
        _ => unprocessable(format!("{op} operation does not apply: {why}")),
    })
}

/// A JSON pointer's parts (RFC 6901).
fn pointer(text: Option<&str>, op: &str, field: &str) -> Result<Vec<String>, Status> {
    let text = text.ok_or_else(|| Status::bad_request(format!("{op} operation has no {field:?}")))?;
    match text.strip_prefix('/') {
        Some(parts) => Ok(parts.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect()),
        None if text.is_empty() => Ok(Vec::new()),
        None => Err(Status::bad_request(format!("{op} operation's {field:?} does not begin with '/': {text:?}"))),
    }
}

fn show(path: &[String]) -> String {
    path.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

/// The place of a list's item; `-1` is the last one, as upstream's library has it.
fn index(part: &str, length: usize) -> Result<usize, String> {
    let wrong = || format!("invalid index: {part:?}");
    let canonical = part == "0" || !part.trim_start_matches('-').starts_with(['0', '+']);
    let at: i64 = if canonical { part.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
    let at = if at < 0 { at + length as i64 } else { at };
    usize::try_from(at).map_err(|_| wrong())
}

fn find<'a>(document: &'a Value, path: &[String]) -> Result<&'a Value, String> {
    let mut here = document;
    for part in path {
        here = match here {
            Value::Object(map) => map.get(part),
            Value::Array(items) => items.get(index(part, items.len())?),
            _ => None,
        }
        .ok_or_else(|| format!("doc is missing path: {}", show(path)))?;
    }
    Ok(here)
}

fn find_mut<'a>(document: &'a mut Value, path: &[String]) -> Result<&'a mut Value, String> {
    let mut here = document;
    for part in path {
        here = match here {
            Value::Object(map) => map.get_mut(part),
            Value::Array(items) => {
                let at = index(part, items.len())?;
                items.get_mut(at)
            }
            _ => None,
        }
        .ok_or_else(|| format!("doc is missing path: {}", show(path)))?;
    }
    Ok(here)
}

fn add(document: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    if path.len() + depth(&value) > MAX_DEPTH {
        return Err("exceeded max depth".to_owned());
    }
    let Some((last, parent)) = path.split_last() else {
        *document = value;
        return Ok(());
    };
    match find_mut(document, parent)? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at = index(last, items.len())?;
            if at > items.len() {
                return Err(format!("unable to access invalid index: {last}"));
            }
            items.insert(at, value);
        }
        _ => return Err(format!("doc is missing path: {}", show(path))),
    }
    Ok(())
}

fn remove(document: &mut Value, path: &[String]) -> Result<Value, String> {
    let missing = || format!("doc is missing path: {}", show(path));
    let Some((last, parent)) = path.split_last() else {
        return Ok(std::mem::take(document));
    };
    match find_mut(document, parent)? {
        Value::Object(map) => map.remove(last).ok_or_else(missing),
        Value::Array(items) => {
            let at = index(last, items.len())?;
            if at < items.len() { Ok(items.remove(at)) } else { Err(format!("unable to access invalid index: {last}")) }
        }
        _ => Err(missing()),
    }
}

fn replace(document: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    if path.len() + depth(&value) > MAX_DEPTH {
        return Err("exceeded max depth".to_owned());
    }
    *find_mut(document, path)? = value;
    Ok(())
}

fn test(document: &Value, path: &[String], value: &Value) -> Result<(), String> {
    match find(document, path) {
        Ok(found) if same(found, value) => Ok(()),
        // Upstream's library takes what is absent for null.
        Err(_) if value.is_null() => Ok(()),
        _ => Err(format!("testing value {} failed: test failed", show(path))),
    }
}

/// Equality where numbers are equal by value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json as v;

    /// RFC 6902 as it is written, slowly: each operation makes a new document or does not apply.
    mod reference {
        use super::Value;

        fn split(path: &str) -> (String, &str) {
            let rest = &path[1..];
            let end = rest.find('/').unwrap_or(rest.len());
            (rest[..end].replace("~1", "/").replace("~0", "~"), &rest[end..])
        }

        fn get(document: &Value, path: &str) -> Option<Value> {
            if path.is_empty() {
                return Some(document.clone());
            }
            let (first, rest) = split(path);
            match document {
                Value::Object(map) => get(map.get(&first)?, rest),
                Value::Array(items) => get(items.get(first.parse::<usize>().ok()?)?, rest),
                _ => None,
            }
        }

        /// The document with the value at the path, or without what is there; `new` where nothing need be there.
        fn with(document: &Value, path: &str, value: Option<&Value>, new: bool) -> Option<Value> {
            if path.is_empty() {
                return value.cloned();
            }
            let (first, rest) = split(path);
            let inner = |old: Option<&Value>| match (rest.is_empty(), old) {
                (true, None) if !new => None,
                (true, _) => Some(value.cloned()),
                (false, old) => with(old?, rest, value, new).map(Some),
            };
            match document {
                Value::Object(map) => {
                    let mut out = map.clone();
                    match inner(map.get(&first))? {
                        Some(value) => drop(out.insert(first, value)),
                        None => drop(out.remove(&first)),
                    }
                    Some(Value::Object(out))
                }
                Value::Array(items) => {
                    let at = if first == "-" { items.len() } else { first.parse().ok()? };
                    let (before, after) = (items.get(..at)?, &items[at..]);
                    let inserts = rest.is_empty() && new;
                    let put = if inserts { Some(value.cloned()) } else { inner(after.first()) }?;
                    let after = if inserts { after } else { after.get(1..)? };
                    Some(before.iter().cloned().chain(put).chain(after.iter().cloned()).collect())
                }
                _ => None,
            }
        }

        pub fn apply(document: &Value, operation: &Value) -> Option<Value> {
            let text = |key: &str| operation[key].as_str().unwrap_or_default();
            let (path, value) = (text("path"), operation.get("value"));
            match text("op") {
                "add" => with(document, path, value, true),
                "replace" => with(document, path, value, false),
                "remove" => with(document, path, None, false),
                "test" => (get(document, path).as_ref() == value).then(|| document.clone()),
                "copy" => with(document, path, Some(&get(document, text("from"))?), true),
                _ => {
                    let from = text("from");
                    let inside = path.len() > from.len() && path.starts_with(&format!("{from}/"));
                    let moved = get(document, from).filter(|_| !inside)?;
                    with(&with(document, from, None, false)?, path, Some(&moved), true)
                }
            }
        }
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0..3_u8).prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab/~]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn operation() -> impl Strategy<Value = Value> {
        let part =
            prop_oneof![Just("a"), Just("b"), Just("~1"), Just("~0"), Just("0"), Just("1"), Just("2"), Just("-")];
        let path = prop::collection::vec(part, 1..4).prop_map(|parts| format!("/{}", parts.join("/")));
        let op = prop_oneof![Just("add"), Just("remove"), Just("replace"), Just("test"), Just("move"), Just("copy")];
        (op, path.clone(), path, tree())
            .prop_map(|(op, path, from, value)| v!({"op": op, "path": path, "from": from, "value": value}))
    }

    proptest! {
        #[test]
        fn patches_do_what_the_reference_does(
            document in tree(),
            patch in prop::collection::vec(operation(), 1..5),
        ) {
            let wanted = patch.iter().try_fold(document.clone(), |document, operation| reference::apply(&document, operation));
            let is = json(&document, &Value::from(patch.clone())).ok();
            prop_assert_eq!(is, wanted, "{} of {}", Value::from(patch), document);
        }
    }

    #[test]
    fn operations_do_what_their_standard_says() {
        for (document, patch, result) in [
            (v!({"foo": "bar"}), v!([{"op": "add", "path": "/baz", "value": "qux"}]), v!({"baz": "qux", "foo": "bar"})),
            (v!({"foo": [1, 3]}), v!([{"op": "add", "path": "/foo/1", "value": 2}]), v!({"foo": [1, 2, 3]})),
            (v!({"foo": [1]}), v!([{"op": "add", "path": "/foo/-", "value": [2]}]), v!({"foo": [1, [2]]})),
            (v!({"a": 1, "b": 2}), v!([{"op": "remove", "path": "/a"}]), v!({"b": 2})),
            (v!({"a": [1, 2]}), v!([{"op": "remove", "path": "/a/-1"}]), v!({"a": [1]})),
            (v!({"a": 1}), v!([{"op": "replace", "path": "/a", "value": {"b": 1}}]), v!({"a": {"b": 1}})),
            (
                v!({"a": {"x": 1}, "b": {}}),
                v!([{"op": "move", "from": "/a/x", "path": "/b/y"}]),
                v!({"a": {}, "b": {"y": 1}}),
            ),
            (v!({"a": [1]}), v!([{"op": "copy", "from": "/a", "path": "/b"}]), v!({"a": [1], "b": [1]})),
            (
                v!({"m/n": 8, "~": 1}),
                v!([{"op": "test", "path": "/m~1n", "value": 8.0}, {"op": "remove", "path": "/~0"}]),
                v!({"m/n": 8}),
            ),
            (v!({"a": 1}), v!([{"op": "test", "path": "/b", "value": null}]), v!({"a": 1})),
            (v!({"a": 1}), v!([{"op": "replace", "path": "", "value": {}}]), v!({})),
            (v!({"a": 1}), v!([]), v!({"a": 1})),
        ] {
            assert_eq!(json(&document, &patch).expect("applies"), result);
        }
    }

    #[test]
    fn what_does_not_apply_is_unprocessable_and_what_is_no_patch_a_bad_request() {
        for (patch, code) in [
            (v!({}), 400),
            (v!([{"path": "/a"}]), 400),
            (v!([{"op": "jump", "path": "/a"}]), 400),
            (v!([{"op": "add", "path": "a", "value": 1}]), 400),
            (v!([{"op": "add", "path": "/a"}]), 400),
            (v!([1]), 400),
            (v!([{"op": "test", "path": "/a", "value": 2}]), 422),
            (v!([{"op": "remove", "path": "/x"}]), 422),
            (v!([{"op": "replace", "path": "/x", "value": 1}]), 422),
            (v!([{"op": "add", "path": "/x/y", "value": 1}]), 422),
            (v!([{"op": "add", "path": "/l/9", "value": 1}]), 422),
            (v!([{"op": "remove", "path": "/l/01"}]), 422),
            (v!([{"op": "remove", "path": "/l/-9"}]), 422),
            (v!([{"op": "move", "from": "/l", "path": "/l/0"}]), 422),
        ] {
            assert_eq!(json(&v!({"a": 1, "l": [1]}), &patch).expect_err("does not apply").code, code, "{patch}");
        }
        let many = Value::Array(vec![v!({"op": "test", "path": "", "value": 1}); MAX_OPERATIONS + 1]);
        assert_eq!(json(&v!({}), &many).expect_err("too many").code, 413);
    }

    #[test]
    fn a_small_patch_makes_no_huge_or_deep_object() {
        let double = Value::Array((0..60).map(|i| v!({"op": "copy", "from": "", "path": format!("/{i}")})).collect());
        assert!(json(&v!({"a": "x"}), &double).expect_err("too large").details.is_some());
        let deeper = Value::Array(vec![v!({"op": "copy", "from": "", "path": "/a"}); 1000]);
        assert!(json(&v!({}), &deeper).is_err());
    }
}
