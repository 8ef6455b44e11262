//! Paths to fields of custom resources, as definitions write them.

use serde_json::Value;

use super::structural::inner;
use crate::kinds::access::at;
use crate::validation::{Errors, Path};

/// Upstream's `validateSimpleJSONPath`. Answers whether it is one.
pub fn simple(text: &str, path: &Path, errors: &mut Errors) -> bool {
    if !text.starts_with('.') {
        errors.invalid(path, text, "must be a simple json path starting with .");
        return false;
    }
    true
}

/// The steps of a path such as `.spec.a['b']` and the schema that it leads to, or why it leads nowhere.
pub fn find<'v>(text: &str, schema: &'v Value, brackets: bool) -> Result<(Vec<String>, &'v Value), String> {
    const END: &str = "unexpected end of JSON path";
    let (mut rest, mut here, mut steps) = (text, schema, Vec::new());
    while let Some(sign) = rest.chars().next() {
        let next;
        match sign {
            '.' => {
                let word = &rest[1..];
                let end = word.find(['.', '[', ']']).unwrap_or(word.len());
                if word.is_empty() {
                    return Err(END.to_owned());
                }
                // A sign by itself is a word, as upstream splits them.
                let end = end.max(1);
                (next, rest) = (word[..end].to_owned(), &word[end..]);
            }
            '[' if !brackets => return Err("array notation is not allowed".to_owned()),
            '[' => {
                let inside = &rest[1..];
                if inside.is_empty() {
                    return Err(END.to_owned());
                }
                let quoted = inside.strip_prefix('\'').and_then(|inside| inside.split_once("']"));
                let Some((word, after)) = quoted else {
                    let end = inside.find(['.', '[', ']']).unwrap_or(inside.len());
                    return Err(format!("expected single quoted string but got {}", &inside[..end]));
                };
                (next, rest) = (word.replace("\\'", "'"), after);
            }
            _ => {
                let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
                return Err(format!("expected [ or . but got: {}", &rest[..end]));
            }
        }
        let field = match (inner(here, "properties"), at(here, "additionalProperties")) {
            (Some(properties), _) => properties.get(&next),
            (None, Value::Null) => None,
            (None, values) => Some(values),
        };
        here = field.ok_or("does not refer to a valid field")?;
        steps.push(next);
    }
    Ok((steps, here))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_declared_fields_or_say_why_not() {
        let schema = json!({"properties": {"spec": {"properties": {"a.b": {"type": "string"}, "m": {
            "additionalProperties": {"type": "integer"}}}}}});
        for (text, brackets, wanted) in [
            (".spec['a.b']", true, Ok("string")),
            (".spec.m.any", true, Ok("integer")),
            (".spec['a.b']", false, Err("array notation is not allowed")),
            (".spec.c", true, Err("does not refer to a valid field")),
            ("spec", true, Err("expected [ or . but got: spec")),
            (".spec.", true, Err("unexpected end of JSON path")),
            (".spec[0]", true, Err("expected single quoted string but got 0")),
        ] {
            let found = find(text, &schema, brackets).map(|(_, schema)| schema["type"].as_str().unwrap_or_default());
            assert_eq!(found, wanted.map_err(str::to_owned), "{text}");
        }
    }
}
