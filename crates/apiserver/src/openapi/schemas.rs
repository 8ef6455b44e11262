//! The definitions of types, as OpenAPI v2 writes them: every struct that the paths reach.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::kind::Kind;
use api::schema::{Any, Field, ListKind, MapKind, Struct, Type};
use api::{Map, Value};
use serde_json::json;

use super::operation::reference;
use super::texts::Texts;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// All definitions that the value refers to, and that those refer to.
pub fn of(kinds: &[Arc<Kind>], value: &Value, texts: &Texts) -> Map<String, Value> {
    let mut own = HashMap::new();
    for kind in kinds.iter().filter(|kind| api::table::get(&kind.schema.name).is_none()) {
        own.insert(kind.schema.name.to_string(), kind.clone());
    }
    let mut definitions = Definitions { texts, own, done: BTreeMap::new() };
    definitions.follow(value);
    definitions.done.into_iter().collect()
}

struct Definitions<'t> {
    texts: &'t Texts,
    /// Kinds of which the table has no type, by their schema's name.
    own: HashMap<String, Arc<Kind>>,
    done: BTreeMap<String, Value>,
}

impl Definitions<'_> {
    /// Adds what the value's references name.
    fn follow(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(name) =
                    map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/definitions/"))
                {
                    self.need(name);
                }
                map.values().for_each(|value| self.follow(value));
            }
            Value::Array(items) => items.iter().for_each(|value| self.follow(value)),
            _ => {}
        }
    }

    fn need(&mut self, name: &str) {
        if self.done.contains_key(name) {
            return;
        }
        if let Some(kind) = self.own.get(name).cloned() {
            self.add(&kind.schema, &[(&kind.group, &kind.version, &kind.kind)]);
        } else if let Some(schema) = api::table::get(name) {
            let split = |(api_version, kind): (&'static str, &'static str)| {
                let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
                (group, version, kind)
            };
            let mut marks: Vec<_> = api::table::kinds_of(schema).map(split).collect();
            marks.sort_unstable();
            self.add(schema, &marks);
        } else if let Some(kind) = name.strip_suffix("List").and_then(|item| self.own.get(item)).cloned() {
            self.list_of(&kind, name);
        } else {
            // A type without fields: `Patch`.
            self.named(name, json!({"type": "object"}));
        }
    }

    /// The list of a kind that has none in the table.
    fn list_of(&mut self, kind: &Kind, name: &str) {
        let string = |text: &str| json!({"type": "string", "description": text});
        let pod_list = "io.k8s.api.core.v1.PodList";
        let text = |field: &str| self.texts.of(pod_list, field).unwrap_or_default().to_owned();
        let definition = json!({
            "description": format!("{} is a list of {}", kind.list_kind, kind.kind), "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": string(&text("apiVersion")),
                "kind": string(&text("kind")),
                "metadata": reference(&format!("{META}ListMeta")),
                "items": {"type": "array", "items": reference(&kind.schema.name), "description": format!("List of {}.", kind.plural)},
            },
            "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": kind.list_kind}],
        });
        self.done.insert(name.to_owned(), definition.clone());
        self.follow(&definition);
    }

    fn add(&mut self, schema: &Struct, kinds: &[(&str, &str, &str)]) {
        // A place is taken first: types refer to themselves.
        self.done.insert(schema.name.to_string(), Value::Null);
        let mut definition = self.structure(schema);
        if !kinds.is_empty() {
            let marks =
                kinds.iter().map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}));
            definition["x-kubernetes-group-version-kind"] = marks.collect();
        }
        self.done.insert(schema.name.to_string(), definition);
    }

    fn structure(&mut self, schema: &Struct) -> Value {
        let properties: Map<String, Value> =
            schema.fields.iter().map(|field| (field.name.to_string(), self.field(schema, field))).collect();
        let required: Vec<&str> = schema.fields.iter().filter(|f| f.required).map(|f| &*f.name).collect();
        let mut definition = json!({"type": "object"});
        if let Some(text) = self.texts.of(&schema.name, "") {
            definition["description"] = text.into();
        }
        if let Some(union) = self.texts.union(&schema.name) {
            definition["x-kubernetes-unions"] = union.clone();
        }
        if !properties.is_empty() {
            definition["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            definition["required"] = json!(required);
        }
        if schema.atomic {
            definition["x-kubernetes-map-type"] = Value::from("atomic");
        }
        if schema.open {
            definition["x-kubernetes-preserve-unknown-fields"] = Value::Bool(true);
        }
        definition
    }

    fn field(&mut self, schema: &Struct, field: &Field) -> Value {
        let mut value = self.of_type(&field.ty);
        if let Some(text) = self.texts.of(&schema.name, &field.name) {
            value["description"] = text.into();
        }
        let strategies =
            [(field.patch.merge, "merge"), (field.patch.replace, "replace"), (field.patch.retain_keys, "retainKeys")];
        let strategies: Vec<&str> = strategies.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !strategies.is_empty() {
            value["x-kubernetes-patch-strategy"] = Value::from(strategies.join(","));
        }
        if !field.patch.merge_key.is_empty() {
            value["x-kubernetes-patch-merge-key"] = Value::from(field.patch.merge_key);
        }
        value
    }

    fn of_type(&mut self, ty: &Type) -> Value {
        match ty {
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::String => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Time => self.named(&format!("{META}Time"), json!({"type": "string", "format": "date-time"})),
            Type::MicroTime => {
                self.named(&format!("{META}MicroTime"), json!({"type": "string", "format": "date-time"}))
            }
            Type::Quantity => self.named("io.k8s.apimachinery.pkg.api.resource.Quantity", json!({"type": "string"})),
            Type::IntOrString => self.named(
                "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
                json!({"type": "string", "format": "int-or-string"}),
            ),
            Type::Any(any) => match any {
                Any::Raw => self.named("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"})),
                Any::Fields => self.named(&format!("{META}FieldsV1"), json!({"type": "object"})),
                Any::Json => self.named(&format!("{EXTENSIONS}JSON"), json!({})),
                Any::SchemaOrArray => self.named(&format!("{EXTENSIONS}JSONSchemaPropsOrArray"), json!({})),
                Any::SchemaOrBool => self.named(&format!("{EXTENSIONS}JSONSchemaPropsOrBool"), json!({})),
                Any::SchemaOrStrings => self.named(&format!("{EXTENSIONS}JSONSchemaPropsOrStringArray"), json!({})),
            },
            Type::Object(inner) if inner.name.is_empty() => self.structure(inner),
            Type::Object(inner) => {
                self.need(&inner.name);
                let mut value = reference(&inner.name);
                // A struct that is atomic elsewhere and not here.
                if !inner.atomic && api::table::get(&inner.name).is_some_and(|usual| usual.atomic) {
                    value["x-kubernetes-map-type"] = "granular".into();
                }
                value
            }
            Type::Map(inner, kind) => {
                let mut value = json!({"type": "object", "additionalProperties": self.of_type(inner)});
                if *kind == MapKind::Atomic {
                    value["x-kubernetes-map-type"] = Value::from("atomic");
                }
                value
            }
            Type::List(inner, kind) => {
                let mut value = json!({"type": "array", "items": self.of_type(inner)});
                match kind {
                    ListKind::Atomic => value["x-kubernetes-list-type"] = Value::from("atomic"),
                    ListKind::Set => value["x-kubernetes-list-type"] = Value::from("set"),
                    ListKind::Map(keys) => {
                        value["x-kubernetes-list-type"] = Value::from("map");
                        value["x-kubernetes-list-map-keys"] = json!(keys);
                    }
                }
                value
            }
        }
    }

    /// A type that JSON has no struct for.
    fn named(&mut self, name: &str, mut definition: Value) -> Value {
        if let Some(text) = self.texts.of(name, "") {
            definition["description"] = text.into();
        }
        self.done.entry(name.to_owned()).or_insert(definition);
        reference(name)
    }
}
