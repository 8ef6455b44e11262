//! YAML in and out. Aliases, nesting and sizes are bounded, so that no small input becomes a huge object.

use serde::de::DeserializeSeed;
use serde_saphyr::{DuplicateKeyPolicy, Options};

use super::json::Tree;
use super::{DecodeError, Decoded, MAX_DEPTH};
use crate::Value;
use crate::schema::Path;

/// Decodes one YAML document (JSON among them). Of a key given twice the last value counts.
pub fn decode(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    // JSON is YAML, and much the faster to read.
    if bytes.trim_ascii_start().first() == Some(&b'{')
        && let Ok(decoded) = super::json::decode(bytes)
    {
        return Ok(decoded);
    }
    std::thread::scope(|scope| {
        let reading = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || read(bytes));
        let read = reading.map_err(|error| DecodeError(format!("error converting YAML to JSON: {error}")))?.join();
        read.unwrap_or_else(|_| Err(DecodeError("error converting YAML to JSON: it cannot be read".to_owned())))
    })
}

/// The reader goes deep into its stack for each level of nesting, deeper than a thread of the server's has room for. Only what
/// is used of it costs memory.
const STACK: usize = 64 << 20;

fn read(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let mut duplicates = Vec::new();
    let read = |deserializer: serde_saphyr::Deserializer| {
        Tree { path: Path::ROOT, depth: 0, duplicates: &mut duplicates }.deserialize(deserializer)
    };
    let value = serde_saphyr::with_deserializer_from_slice_with_options(bytes, options(), read)
        .map_err(|error| DecodeError(format!("error converting YAML to JSON: {error}")))?;
    Ok(Decoded { value, duplicates })
}

fn options() -> Options {
    serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_aliases: 1_000,
            max_documents: 1,
            max_nodes: 500_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
    }
}

/// Encodes a value as one block-style document.
pub fn encode(value: &Value) -> String {
    // A tree with string keys always has a YAML form.
    serde_saphyr::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_read_as_their_json() {
        for (text, value) in [
            (
                "a: 1\nb: [x, 'y', 0.5, true, null, ~, \"1\"]\n",
                json!({"a": 1, "b": ["x", "y", 0.5, true, null, null, "1"]}),
            ),
            ("---\na: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
            ("a: &x {k: v}\nb: *x\n", json!({"a": {"k": "v"}, "b": {"k": "v"}})),
            ("{\"a\": {\"b\": 1}}", json!({"a": {"b": 1}})),
            ("1: x\ntrue: z\n", json!({"1": "x", "true": "z"})),
            ("a: yes\nb: 'yes'\n", json!({"a": true, "b": "yes"})),
        ] {
            assert_eq!(decode(text.as_bytes()).expect(text).value, value, "{text}");
        }
    }

    #[test]
    fn duplicates_are_named_and_the_last_one_counts() {
        let decoded = decode(b"spec:\n  a: 1\n  b: 2\n  a: 3\n").expect("valid");
        assert_eq!(decoded.value, json!({"spec": {"a": 3, "b": 2}}));
        assert_eq!(decoded.duplicates, ["duplicate field \"spec.a\""]);
    }

    #[test]
    fn what_grows_without_bound_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let last = format!("*a{}, ", i - 1).repeat(10);
            bomb.push_str(&format!("a{i}: &a{i} [{}]\n", last.trim_end_matches(", ")));
        }
        let deep = "[".repeat(10_000);
        for text in [bomb.as_str(), deep.as_str(), "a: [", "a: b: c", "\t- x: {", "a: 1\n---\nb: 2\n"] {
            assert!(decode(text.as_bytes()).is_err(), "{}", &text[..text.len().min(40)]);
        }
        assert!(decode(b"a: \xff").is_err());
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts() {
        for text in [
            "true",
            "null",
            "1",
            "1e3",
            "yes",
            "~",
            "",
            " x",
            "a: b",
            "- x",
            "#",
            "x\ny",
            "\u{e9}\t",
            "0x1f",
            "2026-01-01",
            "|",
            "@a",
            "012",
        ] {
            let value = json!({"a": text, text: [text]});
            assert_eq!(decode(encode(&value).as_bytes()).expect(text).value, value, "{text}");
        }
    }
}
