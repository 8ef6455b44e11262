//! Brings a decoded object into the form that upstream's typed decoding gives it: wrong types are errors, unknown fields
//! and nulls go, zeros of fields whose zero is their absence go, times and quantities become canonical.

use serde_json::Number;

use super::{Any, Field, MAX_STRICT_ERRORS, Path, Struct, StructRef, Type, format_micro, format_seconds, parse_time};
use crate::quantity::Quantity;
use crate::{Map, Status, Value, table};

/// What a check found beyond errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Fields that the schema does not know, in upstream's wording: `unknown field "spec.foo"`.
    pub unknown: Vec<String>,
}

/// Checks the whole object and normalises it in place. A value of a wrong type is a `BadRequest` in the words of
/// upstream's decoder; the object is then of no more use.
pub fn check(object: &mut Value, schema: &Struct) -> Result<Check, Status> {
    run(object, schema, false)
}

/// The same for a configuration that is applied, where a zero says something: it stays.
pub fn check_config(object: &mut Value, schema: &Struct) -> Result<Check, Status> {
    run(object, schema, true)
}

fn run(object: &mut Value, schema: &Struct, keep_zeros: bool) -> Result<Check, Status> {
    let mut walk = Walk { found: Check::default(), keep_zeros };
    let result = match &mut *object {
        Value::Object(map) => walk.object(map, schema, &Path::ROOT),
        other => {
            Err(format!("json: cannot unmarshal {} into Go value of type {}", json_type(other), go_struct(schema)))
        }
    };
    result.map(|()| walk.found).map_err(|fault| {
        let kind = object["kind"].as_str().unwrap_or_else(|| short(&schema.name));
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let version = api_version.rsplit_once('/').map_or(api_version, |(_, v)| v);
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {fault}"))
    })
}

struct Walk {
    found: Check,
    keep_zeros: bool,
}

/// Where a value is: the struct that has the field, and the field's path.
#[derive(Clone, Copy)]
struct Place<'a> {
    owner: &'a Struct,
    path: &'a Path<'a>,
}

impl Place<'_> {
    /// Go's `UnmarshalTypeError`.
    fn mismatch(&self, value: &Value, ty: &Type) -> String {
        let what = match (value, ty) {
            (Value::Number(n), Type::Int32 | Type::Int64) => format!("number {n}"),
            _ => json_type(value).to_owned(),
        };
        let field = format!("{}.{}", short(&self.owner.name), self.path.plain());
        format!("json: cannot unmarshal {what} into Go struct field {field} of type {}", go_type(ty))
    }
}

impl Walk {
    fn object(&mut self, map: &mut Map<String, Value>, schema: &Struct, path: &Path) -> Result<(), String> {
        let mut result = Ok(());
        map.retain(|key, value| match schema.field(key) {
            _ if result.is_err() => true,
            None if schema.open => true,
            None => {
                if self.found.unknown.len() < MAX_STRICT_ERRORS {
                    self.found.unknown.push(format!("unknown field \"{}\"", path.key(key)));
                }
                false
            }
            Some(_) if value.is_null() => false,
            Some(field) => {
                result = self.value(value, &field.ty, Place { owner: schema, path: &path.key(key) });
                self.keep_zeros || !is_absent(value, field)
            }
        });
        if !self.keep_zeros {
            complete(map, schema);
        }
        result
    }

    fn value(&mut self, value: &mut Value, ty: &Type, at: Place) -> Result<(), String> {
        match (ty, &mut *value) {
            (Type::Bool, Value::Bool(_)) | (Type::String, Value::String(_)) | (Type::Double, Value::Number(_)) => {}
            (Type::Int32, Value::Number(n)) if n.as_i64().is_some_and(|i| i32::try_from(i).is_ok()) => {}
            (Type::Int64, Value::Number(n)) if n.as_i64().is_some() => {}
            (Type::Bytes, Value::String(text)) => base64(text)?,
            (Type::Time | Type::MicroTime, _) => time(value, matches!(ty, Type::MicroTime))?,
            (Type::Quantity, _) => quantity(value)?,
            (Type::IntOrString, Value::String(_)) => {}
            (Type::IntOrString, other) => int32(other)?,
            (Type::Any(any), _) => self.any(value, *any, at)?,
            (Type::Object(schema), Value::Object(map)) => self.object(map, schema, at.path)?,
            (Type::Map(inner, _), Value::Object(map)) => self.map(map, inner, at)?,
            (Type::List(inner, _), Value::Array(items)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.item(item, inner, Place { path: &at.path.index(i), ..at })?;
                }
            }
            _ => return Err(at.mismatch(value, ty)),
        }
        Ok(())
    }

    fn map(&mut self, map: &mut Map<String, Value>, inner: &Type, at: Place) -> Result<(), String> {
        for (key, value) in map.iter_mut() {
            // Values of the same length: the path of the error is the map's own.
            let path = at.path.key(key);
            self.item(value, inner, Place { path: &path, ..at })?;
        }
        Ok(())
    }

    /// A value inside a list or map, where null is the zero.
    fn item(&mut self, value: &mut Value, ty: &Type, at: Place) -> Result<(), String> {
        if value.is_null() {
            *value = zero(ty);
        }
        if value.is_null() { Ok(()) } else { self.value(value, ty, at) }
    }

    fn any(&mut self, value: &mut Value, any: Any, at: Place) -> Result<(), String> {
        let Some(schema) = table::get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
        else {
            return Ok(());
        };
        match (any, value) {
            (Any::Fields, Value::Object(_)) | (Any::Raw | Any::Json, _) => Ok(()),
            (Any::SchemaOrBool, Value::Bool(_)) => Ok(()),
            (Any::SchemaOrArray | Any::SchemaOrBool | Any::SchemaOrStrings, Value::Object(map)) => {
                self.object(map, schema, at.path)
            }
            (Any::SchemaOrArray, Value::Array(items)) => {
                for (i, item) in items.iter_mut().enumerate() {
                    if let Value::Object(map) = item {
                        self.object(map, schema, &at.path.index(i))?;
                    }
                }
                Ok(())
            }
            (Any::SchemaOrStrings, Value::Array(_)) => Ok(()),
            (Any::SchemaOrBool, _) => Err("boolean or JSON schema expected".to_owned()),
            (Any::SchemaOrStrings | Any::SchemaOrArray, other) => {
                Err(format!("json: cannot unmarshal {} into Go value of type v1.JSONSchemaProps", json_type(other)))
            }
            (Any::Fields, other) => {
                Err(format!("json: cannot unmarshal {} into Go value of type v1.FieldsV1", json_type(other)))
            }
        }
    }
}

/// Adds what upstream writes out though nobody gave it: structs that are no pointers (`resources: {}`, `status: {}`). One with required
/// fields is left out, since its zero would be no object that anybody could read.
fn complete(map: &mut Map<String, Value>, schema: &Struct) {
    for field in schema.fields.iter().filter(|field| !field.required && !field.pointer) {
        if let Type::Object(StructRef::Static(inner)) = &field.ty
            && !inner.fields.iter().any(|field| field.required)
            && !map.contains_key(&*field.name)
        {
            let mut empty = Map::new();
            complete(&mut empty, inner);
            map.insert(field.name.to_string(), Value::Object(empty));
        }
    }
}

/// Whether the value says as much as its absence: the zero of a type that is no pointer and that upstream omits. Structs it never
/// omits.
pub(crate) fn is_absent(value: &Value, field: &Field) -> bool {
    if field.required || field.pointer {
        return false;
    }
    match (value, &field.ty) {
        (Value::Bool(value), Type::Bool) => !value,
        (Value::Number(n), Type::Int32 | Type::Int64 | Type::Double) => n.as_f64() == Some(0.0),
        (Value::String(text), Type::String | Type::Bytes) => text.is_empty(),
        (Value::Array(items), Type::List(..)) => items.is_empty(),
        (Value::Object(map), Type::Map(..)) => map.is_empty(),
        (Value::Number(n), Type::IntOrString) => n.as_i64() == Some(0),
        (Value::String(text), Type::Quantity) => text == "0",
        _ => false,
    }
}

/// The zero of a type, as it stands inside lists and maps.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => Value::Number(Number::from(0)),
        Type::String | Type::Bytes => Value::String(String::new()),
        Type::Quantity => Value::String("0".to_owned()),
        Type::Object(_) => Value::Object(Map::new()),
        Type::Time | Type::MicroTime | Type::Any(_) | Type::Map(..) | Type::List(..) => Value::Null,
    }
}

fn base64(text: &str) -> Result<(), String> {
    use ::base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
    // Go skips line breaks.
    let plain: String;
    let text = if text.contains(['\n', '\r']) {
        plain = text.replace(['\n', '\r'], "");
        &plain
    } else {
        text
    };
    STANDARD.decode(text).map(drop).map_err(|error| {
        let at = match error {
            DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => text.len() / 4 * 4,
        };
        format!("illegal base64 data at input byte {at}")
    })
}

fn time(value: &mut Value, micro: bool) -> Result<(), String> {
    let Value::String(text) = value else {
        return Err(format!("json: cannot unmarshal {} into Go value of type string", json_type(value)));
    };
    let Some(time) = parse_time(text) else {
        let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
        return Err(format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\""));
    };
    let canonical = if micro { text.len() == 27 } else { text.len() == 20 } && text.ends_with('Z');
    if !canonical {
        *text = if micro { format_micro(time) } else { format_seconds(time) };
    }
    Ok(())
}

fn quantity(value: &mut Value) -> Result<(), String> {
    let parsed = match &*value {
        Value::String(text) => Quantity::parse(text.trim()),
        other => Quantity::parse(&other.to_string()),
    };
    let text = parsed.map_err(|error| error.to_string())?.to_string();
    if value.as_str() != Some(&text) {
        *value = Value::String(text);
    }
    Ok(())
}

fn int32(value: &Value) -> Result<(), String> {
    if value.as_i64().is_some_and(|i| i32::try_from(i).is_ok()) {
        return Ok(());
    }
    let what = if value.is_number() { format!("number {value}") } else { json_type(value).to_owned() };
    Err(format!("json: cannot unmarshal {what} into Go value of type int32"))
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn short(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, short)| short)
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn go_struct(schema: &Struct) -> &str {
    schema.name.rmatch_indices('.').nth(1).map_or(schema.name.as_ref(), |(at, _)| &schema.name[at + 1..])
}

fn go_type(ty: &Type) -> String {
    match ty {
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Any(_) => "runtime.RawExtension".to_owned(),
        Type::Object(schema) => go_struct(schema).to_owned(),
        Type::Map(inner, _) => format!("map[string]{}", go_type(inner)),
        Type::List(inner, _) => format!("[]{}", go_type(inner)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec})
    }

    fn checked(object: &mut Value) -> Result<Check, Status> {
        let text = |key: &str| object[key].as_str().expect("typed");
        let schema = table::by_kind(text("apiVersion"), text("kind")).expect("built in");
        check(object, schema)
    }

    #[test]
    fn objects_become_what_upstream_decodes_them_to() {
        for (given, expected, unknown) in [
            (
                json!({"containers": [{"name": "c", "image": "i", "bad": 1, "ports": [{"x": {}}]}], "nodeSelector": {"a": null}, "foo": 1}),
                json!({"containers": [{"name": "c", "image": "i", "ports": [{}], "resources": {}}], "nodeSelector": {"a": ""}}),
                vec!["spec.containers[0].bad", "spec.containers[0].ports[0].x", "spec.foo"],
            ),
            (
                json!({"containers": [], "hostNetwork": false, "hostUsers": false, "nodeName": "", "priority": 0, "volumes": []}),
                json!({"containers": [], "hostUsers": false, "priority": 0}),
                vec![],
            ),
            (
                json!({"containers": [{"name": "c", "resources": {}, "securityContext": {}}]}),
                json!({"containers": [{"name": "c", "resources": {}, "securityContext": {}}]}),
                vec![],
            ),
            (
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}}}]}),
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}}]}),
                vec![],
            ),
        ] {
            let mut object = pod(given);
            let found = checked(&mut object).expect("right types");
            let mut wanted = pod(expected);
            wanted["status"] = json!({});
            assert_eq!(object, wanted);
            let unknown: Vec<String> = unknown.iter().map(|path| format!("unknown field \"{path}\"")).collect();
            assert_eq!(found.unknown, unknown);
        }
    }

    #[test]
    fn times_are_brought_into_their_form() {
        let mut object = pod(json!({"containers": []}));
        object["metadata"]["creationTimestamp"] = json!("2026-01-02T03:04:05.5+01:00");
        object["metadata"]["deletionTimestamp"] = Value::Null;
        checked(&mut object).expect("right types");
        assert_eq!(object["metadata"], json!({"name": "a", "creationTimestamp": "2026-01-02T02:04:05Z"}));
    }

    #[test]
    fn wrong_types_are_refused_in_the_words_of_upstreams_decoder() {
        for (spec, fault) in [
            (
                json!({"nodeName": 5}),
                "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeName of type string",
            ),
            (json!("x"), "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"),
            (
                json!({"containers": {}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"containers": [{"env": [{"name": "a", "value": 1}]}]}),
                "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
            ),
            (
                json!({"priority": 3_000_000_000_u64}),
                "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
            ),
            (
                json!({"containers": [{"resources": {"limits": {"cpu": "x"}}}]}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                json!({"containers": [{"livenessProbe": {"httpGet": {"port": true}}}]}),
                "json: cannot unmarshal bool into Go value of type int32",
            ),
        ] {
            let mut object = pod(spec);
            let status = checked(&mut object).expect_err(fault);
            assert_eq!(status.code, 400);
            assert_eq!(status.message, format!("Pod in version \"v1\" cannot be handled as a Pod: {fault}"));
        }
    }

    #[test]
    fn schemas_inside_definitions_are_checked_too() {
        let mut object = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
                "properties": {"a": {"type": "object", "additionalProperties": {"type": "string", "zzz": 1}, "default": {"q": null}}},
                "x-kubernetes-list-map-keys": ["a"],
            }}}]},
        });
        let found = checked(&mut object).expect("right types");
        assert_eq!(
            found.unknown,
            ["unknown field \"spec.versions[0].schema.openAPIV3Schema.properties.a.additionalProperties.zzz\""]
        );
        let inner = &object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"];
        assert_eq!(inner["default"], json!({"q": null}));
    }
}
