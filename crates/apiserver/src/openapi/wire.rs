//! Version 2 in protobuf, as generated clients in Go ask for it: the messages of gnostic's `OpenAPIv2.proto`, by tables.

use api::{Map, Value};

/// What the document is called in requests, and in the answer, where `@` would be no media type.
pub const ASKED: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
pub const ANSWERED: &str = ASKED[1];

/// How a field is written.
enum As {
    Text,
    Flag,
    /// A list of texts.
    Texts,
    /// A text or a list of texts in a message of its own.
    TypeItem,
    Message(&'static Message),
    /// A list of messages.
    Messages(&'static Message),
    /// A message around the other, which is its field of that number.
    Within(u32, &'static Message),
    /// An object as a message of named messages, which are its field of that number.
    Named(u32, &'static Message),
    /// A list of objects from names to texts: what is required of a caller.
    Requirements,
}

/// Fields by their JSON names, and the number of what begins with `x-`.
struct Message {
    fields: &'static [(&'static str, u32, As)],
    extensions: u32,
    /// Chooses among messages by the value; the number of the choice.
    choice: Option<Choice>,
}

type Choice = fn(&Value) -> (u32, &'static Message);

const fn plain(fields: &'static [(&'static str, u32, As)], extensions: u32) -> Message {
    Message { fields, extensions, choice: None }
}

const fn choice(choose: Choice) -> Message {
    Message { fields: &[], extensions: 0, choice: Some(choose) }
}

static DOCUMENT: Message = plain(
    &[
        ("swagger", 1, As::Text),
        ("info", 2, As::Message(&INFO)),
        ("paths", 8, As::Named(2, &PATH)),
        ("definitions", 9, As::Named(1, &SCHEMA)),
        ("parameters", 10, As::Named(1, &PARAMETER)),
        ("security", 12, As::Requirements),
        ("securityDefinitions", 13, As::Named(1, &SECURITY)),
    ],
    16,
);
static INFO: Message = plain(&[("title", 1, As::Text), ("version", 2, As::Text), ("description", 3, As::Text)], 7);
static PATH: Message = plain(
    &[
        ("get", 2, As::Message(&OPERATION)),
        ("put", 3, As::Message(&OPERATION)),
        ("post", 4, As::Message(&OPERATION)),
        ("delete", 5, As::Message(&OPERATION)),
        ("options", 6, As::Message(&OPERATION)),
        ("head", 7, As::Message(&OPERATION)),
        ("patch", 8, As::Message(&OPERATION)),
        ("parameters", 9, As::Messages(&PARAMETERS_ITEM)),
    ],
    10,
);
static OPERATION: Message = plain(
    &[
        ("tags", 1, As::Texts),
        ("description", 3, As::Text),
        ("operationId", 5, As::Text),
        ("produces", 6, As::Texts),
        ("consumes", 7, As::Texts),
        ("parameters", 8, As::Messages(&PARAMETERS_ITEM)),
        ("responses", 9, As::Named(1, &RESPONSE_VALUE)),
        ("schemes", 10, As::Texts),
    ],
    13,
);
static PARAMETERS_ITEM: Message =
    choice(|value| if value.get("$ref").is_some() { (2, &REFERENCE) } else { (1, &PARAMETER) });
static REFERENCE: Message = plain(&[("$ref", 1, As::Text), ("description", 2, As::Text)], 0);
static PARAMETER: Message = choice(|value| if value["in"] == "body" { (1, &BODY) } else { (2, &NOT_BODY) });
static BODY: Message = plain(
    &[
        ("description", 1, As::Text),
        ("name", 2, As::Text),
        ("in", 3, As::Text),
        ("required", 4, As::Flag),
        ("schema", 5, As::Message(&SCHEMA)),
    ],
    6,
);
static NOT_BODY: Message = choice(|value| if value["in"] == "path" { (4, &IN_PATH) } else { (3, &IN_QUERY) });
static IN_QUERY: Message = plain(
    &[
        ("required", 1, As::Flag),
        ("in", 2, As::Text),
        ("description", 3, As::Text),
        ("name", 4, As::Text),
        ("type", 6, As::Text),
        ("format", 7, As::Text),
        ("uniqueItems", 20, As::Flag),
    ],
    23,
);
static IN_PATH: Message = plain(
    &[
        ("required", 1, As::Flag),
        ("in", 2, As::Text),
        ("description", 3, As::Text),
        ("name", 4, As::Text),
        ("type", 5, As::Text),
        ("format", 6, As::Text),
        ("uniqueItems", 19, As::Flag),
    ],
    22,
);
static RESPONSE_VALUE: Message = choice(|_| (1, &RESPONSE));
static RESPONSE: Message = plain(&[("description", 1, As::Text), ("schema", 2, As::Within(1, &SCHEMA))], 5);
static SCHEMA: Message = plain(
    &[
        ("$ref", 1, As::Text),
        ("format", 2, As::Text),
        ("title", 3, As::Text),
        ("description", 4, As::Text),
        ("pattern", 13, As::Text),
        ("required", 19, As::Texts),
        ("additionalProperties", 21, As::Within(1, &SCHEMA)),
        ("type", 22, As::TypeItem),
        ("items", 23, As::Within(1, &SCHEMA)),
        ("allOf", 24, As::Messages(&SCHEMA)),
        ("properties", 25, As::Named(1, &SCHEMA)),
    ],
    31,
);
static SECURITY: Message = choice(|_| (2, &API_KEY));
static API_KEY: Message =
    plain(&[("type", 1, As::Text), ("name", 2, As::Text), ("in", 3, As::Text), ("description", 4, As::Text)], 5);

/// The document's bytes.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    message(&DOCUMENT, document, &mut out);
    out
}

fn message(of: &'static Message, value: &Value, out: &mut Vec<u8>) {
    if let Some(choose) = of.choice {
        let (number, chosen) = choose(value);
        return nested(number, out, |out| message(chosen, value, out));
    }
    for (name, number, how) in of.fields {
        if let Some(value) = value.get(name) {
            field(*number, how, value, out);
        }
    }
    for (name, value) in members(value).filter(|(name, _)| name.starts_with("x-")) {
        nested(of.extensions, out, |out| {
            text(1, name, out);
            // JSON is YAML.
            nested(2, out, |out| text(2, &value.to_string(), out));
        });
    }
}

fn field(number: u32, how: &As, value: &Value, out: &mut Vec<u8>) {
    match how {
        As::Text => text(number, value.as_str().unwrap_or_default(), out),
        As::Flag => {
            if value == true {
                varint(u64::from(number) << 3, out);
                varint(1, out);
            }
        }
        As::Texts => texts(number, value, out),
        As::TypeItem => nested(number, out, |out| match value {
            Value::String(one) => text(1, one, out),
            list => texts(1, list, out),
        }),
        As::Message(of) => nested(number, out, |out| message(of, value, out)),
        As::Messages(of) => {
            for item in value.as_array().into_iter().flatten() {
                nested(number, out, |out| message(of, item, out));
            }
        }
        As::Within(inner, of) => nested(number, out, |out| nested(*inner, out, |out| message(of, value, out))),
        As::Named(inner, of) => nested(number, out, |out| {
            for (name, value) in members(value) {
                named(*inner, name, out, |out| message(of, value, out));
            }
        }),
        As::Requirements => {
            for item in value.as_array().into_iter().flatten() {
                nested(number, out, |out| {
                    for (name, scopes) in members(item) {
                        named(1, name, out, |out| texts(1, scopes, out));
                    }
                });
            }
        }
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// A name and its value, as gnostic writes the entries of maps.
fn named(number: u32, name: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    nested(number, out, |out| {
        text(1, name, out);
        nested(2, out, write);
    });
}

fn texts(number: u32, list: &Value, out: &mut Vec<u8>) {
    for item in list.as_array().into_iter().flatten().filter_map(Value::as_str) {
        bytes(number, item.as_bytes(), out);
    }
}

fn text(number: u32, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        bytes(number, text.as_bytes(), out);
    }
}

fn nested(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(number, &inner, out);
}

fn bytes(number: u32, content: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(number) << 3 | 2, out);
    varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_choices_and_extensions_are_where_the_messages_have_them() {
        let document = json!({"swagger": "2.0", "definitions": {"P": {"type": "object", "x-k": 1}}});
        let bytes = encode(&document);
        assert!(bytes.starts_with(b"\x0a\x032.0\x4a"), "{bytes:?}");
        assert!(bytes.windows(11).any(|w| w == b"\xb2\x01\x08\x0a\x06object"), "{bytes:?}");
        assert!(bytes.ends_with(b"\x0a\x03x-k\x12\x03\x12\x011"), "{bytes:?}");
    }
}
