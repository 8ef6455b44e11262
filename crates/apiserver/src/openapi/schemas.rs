//! The definitions of types: every struct that the kinds reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::kind::Kind;
use api::schema::{Any, Field, ListKind, MapKind, Struct, Type};
use api::{Map, Value};
use serde_json::json;

use super::Edition;
use crate::catalog::Catalog;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// All definitions that the kinds need, by name.
pub fn of(catalog: &Catalog, kinds: &[Arc<Kind>], edition: Edition) -> Map<String, Value> {
    let mut definitions = Definitions { edition, done: BTreeMap::new() };
    for kind in kinds {
        definitions.add(&kind.schema);
        let list = format!("{}List", kind.schema.name);
        if let Some(list) = api::table::get(&list) {
            definitions.add(list);
        }
        for sub in kind.subresources.iter().filter(|s| !s.version.is_empty()) {
            let version =
                if sub.group.is_empty() { sub.version.to_string() } else { format!("{}/{}", sub.group, sub.version) };
            if let Some(schema) = api::table::by_kind(&version, &sub.kind) {
                definitions.add(schema);
            }
        }
    }
    for name in ["DeleteOptions", "Status", "Patch"] {
        let name = format!("{META}{name}");
        match api::table::get(&name) {
            Some(schema) => definitions.add(schema),
            None => {
                definitions.done.insert(name, json!({"type": "object"}));
            }
        }
    }
    let mut done = definitions.done;
    for kind in catalog.iter() {
        let list = format!("{}List", kind.schema.name);
        for (name, kind_name) in [(&*kind.schema.name, &kind.kind), (&*list, &kind.list_kind)] {
            let Some(definition) = done.get_mut(name) else { continue };
            let mark = json!({"group": kind.group, "version": kind.version, "kind": kind_name});
            match definition["x-kubernetes-group-version-kind"].as_array_mut() {
                Some(marks) => marks.push(mark),
                None => definition["x-kubernetes-group-version-kind"] = json!([mark]),
            }
        }
    }
    done.into_iter().collect()
}

struct Definitions {
    edition: Edition,
    done: BTreeMap<String, Value>,
}

impl Definitions {
    fn add(&mut self, schema: &Struct) {
        if schema.name.is_empty() || self.done.contains_key(&*schema.name) {
            return;
        }
        // A place is taken first: types refer to themselves.
        self.done.insert(schema.name.to_string(), Value::Null);
        let definition = self.structure(schema);
        self.done.insert(schema.name.to_string(), definition);
    }

    fn structure(&mut self, schema: &Struct) -> Value {
        let properties: Map<String, Value> =
            schema.fields.iter().map(|field| (field.name.to_string(), self.field(field))).collect();
        let required: Vec<&str> = schema.fields.iter().filter(|f| f.required).map(|f| &*f.name).collect();
        let mut definition = json!({"type": "object"});
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

    fn field(&mut self, field: &Field) -> Value {
        let mut value = self.of_type(&field.ty);
        if value.get("$ref").is_some() && self.edition == Edition::V3 {
            value = json!({"allOf": [value], "default": {}});
        }
        let strategies: Vec<&str> =
            [(field.patch.merge, "merge"), (field.patch.replace, "replace"), (field.patch.retain_keys, "retainKeys")]
                .iter()
                .filter(|(on, _)| *on)
                .map(|(_, name)| *name)
                .collect();
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
            Type::Time => self
                .named("io.k8s.apimachinery.pkg.apis.meta.v1.Time", json!({"type": "string", "format": "date-time"})),
            Type::MicroTime => self.named(
                "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
                json!({"type": "string", "format": "date-time"}),
            ),
            Type::Quantity => self.named("io.k8s.apimachinery.pkg.api.resource.Quantity", self.either("number", "")),
            Type::IntOrString => {
                self.named("io.k8s.apimachinery.pkg.util.intstr.IntOrString", self.either("integer", "int-or-string"))
            }
            Type::Any(any) => match any {
                Any::Raw => self.named("io.k8s.apimachinery.pkg.runtime.RawExtension", json!({"type": "object"})),
                Any::Fields => self.named("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", json!({"type": "object"})),
                Any::Json | Any::SchemaOrArray | Any::SchemaOrBool | Any::SchemaOrStrings => json!({}),
            },
            Type::Object(inner) if inner.name.is_empty() => self.structure(inner),
            Type::Object(inner) => {
                self.add(inner);
                self.reference(&inner.name)
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

    /// A string or something else, as far as the edition can say it.
    fn either(&self, other: &str, format: &str) -> Value {
        let mut value = match self.edition {
            Edition::V2 => json!({"type": "string"}),
            Edition::V3 => json!({"oneOf": [{"type": "string"}, {"type": other}]}),
        };
        if !format.is_empty() {
            value["format"] = Value::from(format);
        }
        value
    }

    fn named(&mut self, name: &str, definition: Value) -> Value {
        self.done.entry(name.to_owned()).or_insert(definition);
        self.reference(name)
    }

    fn reference(&self, name: &str) -> Value {
        json!({"$ref": reference(name, self.edition)})
    }
}

/// The path of a definition inside the document.
pub fn reference(name: &str, edition: Edition) -> String {
    match edition {
        Edition::V2 => format!("#/definitions/{name}"),
        Edition::V3 => format!("#/components/schemas/{name}"),
    }
}
