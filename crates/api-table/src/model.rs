//! The specification's documents read into one list of struct types.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Types that only the protobuf document knows and that are served all the same, with the versions that name them.
const EXTRA: &[(&str, &str)] = &[
    ("io.k8s.api.admission.v1.AdmissionReview", "admission.k8s.io/v1"),
    ("io.k8s.api.admission.v1beta1.AdmissionReview", "admission.k8s.io/v1beta1"),
    ("io.k8s.api.apidiscovery.v2.APIGroupDiscovery", "apidiscovery.k8s.io/v2"),
    ("io.k8s.api.apidiscovery.v2.APIGroupDiscoveryList", "apidiscovery.k8s.io/v2"),
    ("io.k8s.api.apidiscovery.v2beta1.APIGroupDiscovery", "apidiscovery.k8s.io/v2beta1"),
    ("io.k8s.api.apidiscovery.v2beta1.APIGroupDiscoveryList", "apidiscovery.k8s.io/v2beta1"),
    ("io.k8s.api.core.v1.NodeProxyOptions", "v1"),
    ("io.k8s.api.core.v1.PodAttachOptions", "v1"),
    ("io.k8s.api.core.v1.PodExecOptions", "v1"),
    ("io.k8s.api.core.v1.PodLogOptions", "v1"),
    ("io.k8s.api.core.v1.PodPortForwardOptions", "v1"),
    ("io.k8s.api.core.v1.PodProxyOptions", "v1"),
    ("io.k8s.api.core.v1.ServiceProxyOptions", "v1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.CreateOptions", "meta.k8s.io/v1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata", "meta.k8s.io/v1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList", "meta.k8s.io/v1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.PatchOptions", "meta.k8s.io/v1"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.UpdateOptions", "meta.k8s.io/v1"),
];

/// List keys that have a default in upstream's types, which the published document leaves out: JSON text.
const KEY_DEFAULTS: &[(&str, &str, &str)] = &[
    ("io.k8s.api.core.v1.ContainerPort", "protocol", "\"TCP\""),
    ("io.k8s.api.core.v1.LocalObjectReference", "name", "\"\""),
    ("io.k8s.api.core.v1.ServicePort", "protocol", "\"TCP\""),
];

#[derive(Clone)]
pub struct Struct {
    pub name: String,
    /// By JSON name.
    pub fields: BTreeMap<String, Field>,
    /// By protobuf number.
    pub wire: BTreeMap<u32, Wire>,
    pub atomic: bool,
}

#[derive(Clone)]
pub enum Wire {
    /// The field of that JSON name.
    Field(String),
    /// A list inside a message of its own.
    Wrapped(String),
    /// An embedded struct, whose fields JSON inlines.
    Embedded(String),
}

#[derive(Clone)]
pub struct Field {
    pub number: u32,
    pub ty: Type,
    pub required: bool,
    /// A Go pointer: absent and zero differ.
    pub pointer: bool,
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
    pub merge_key: String,
    pub key_default: &'static str,
}

#[derive(Clone)]
pub enum Type {
    /// A variant of `schema::Type` without contents.
    Plain(&'static str),
    /// A variant of `schema::Any`.
    Any(&'static str),
    /// By the struct's name.
    Object(String),
    Map(Box<Type>, bool),
    List(Box<Type>, ListKind),
}

#[derive(Clone)]
pub enum ListKind {
    Atomic,
    Set,
    Map(Vec<String>),
}

/// All struct types by name, and which `apiVersion` and `kind` name which.
pub struct Model {
    pub structs: BTreeMap<String, Struct>,
    pub kinds: BTreeMap<(String, String), String>,
}

/// A struct in the making: its definition and its message.
struct Source<'a> {
    definitions: &'a serde_json::Map<String, Value>,
    messages: &'a serde_json::Map<String, Value>,
    pointers: Pointers,
    structs: BTreeMap<String, Struct>,
}

impl Model {
    pub fn new(openapi: &Value, protobuf: &Value) -> Result<Model> {
        let definitions = openapi["definitions"].as_object().context("the OpenAPI document has no definitions")?;
        let messages = protobuf.as_object().context("the protobuf document is no object")?;
        let mut source = Source { definitions, messages, pointers: Pointers::new(), structs: BTreeMap::new() };
        let mut kinds = BTreeMap::new();
        for (name, definition) in definitions {
            if definition.get("properties").is_none() && special(name).is_some() {
                continue;
            }
            source.add(name)?;
            for gvk in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
                let part = |key: &str| gvk[key].as_str().unwrap_or_default();
                let group = part("group");
                let version = part("version");
                let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
                kinds.insert((api_version, part("kind").to_owned()), name.clone());
            }
        }
        for (name, api_version) in EXTRA {
            source.add(name)?;
            kinds.insert(((*api_version).to_owned(), last(name).to_owned()), (*name).to_owned());
            let own = source.structs.get_mut(*name).context("just added")?;
            for field in ["apiVersion", "kind"] {
                own.fields.insert(field.to_owned(), Field::new(0, Type::Plain("String")));
            }
        }
        let Source { structs, pointers, .. } = source;
        pointers.check(&structs)?;
        Ok(Model { structs, kinds })
    }
}

impl Field {
    fn new(number: u32, ty: Type) -> Field {
        Field {
            number,
            ty,
            required: false,
            pointer: false,
            merge: false,
            replace: false,
            retain_keys: false,
            merge_key: String::new(),
            key_default: "",
        }
    }
}

impl Source<'_> {
    fn add(&mut self, name: &str) -> Result<()> {
        if self.structs.contains_key(name) {
            return Ok(());
        }
        let definition = self.definitions.get(name).unwrap_or(&Value::Null).clone();
        self.add_with(name, name, &definition)
    }

    /// Adds the struct `name` made of the message `message`. A struct that only the protobuf document knows
    /// takes what can be known of its fields from the properties of the struct that embeds it.
    fn add_with(&mut self, name: &str, message: &str, definition: &Value) -> Result<()> {
        let empty = Struct { name: name.to_owned(), fields: BTreeMap::new(), wire: BTreeMap::new(), atomic: false };
        self.structs.insert(name.to_owned(), empty);
        let mut wire = BTreeMap::new();
        let mut fields = BTreeMap::new();
        let known = self.definitions.contains_key(name);
        let none = serde_json::Map::new();
        let properties = definition["properties"].as_object().unwrap_or(&none);
        if known {
            for (json, property) in properties {
                fields.insert(json.clone(), self.field(name, json, property, definition)?);
            }
        }
        for (proto, entry) in self.messages.get(message).and_then(Value::as_object).into_iter().flatten() {
            let number = u32::try_from(entry[0].as_u64().context("a field without a number")?)?;
            let ty = entry[1].as_str().context("a field without a type")?;
            let repeated = entry.get(2).is_some();
            let json = properties.keys().find(|json| same(json, proto)).cloned();
            if json.is_none() && (known || !properties.is_empty()) {
                let inner = self.resolve(message, ty)?;
                ensure!(!repeated, "{name}.{proto} is neither a property nor embedded");
                if self.definitions.contains_key(&inner) {
                    self.add(&inner)?;
                } else if !self.structs.contains_key(&inner) {
                    self.add_with(&inner, &inner, definition)?;
                }
                wire.insert(number, Wire::Embedded(inner));
                continue;
            }
            let json = json.unwrap_or_else(|| lower(proto));
            let mut field = match properties.get(&json) {
                Some(property) => self.field(name, &json, property, definition)?,
                None => {
                    let mut field = Field::new(number, self.message_type(message, ty, repeated)?);
                    field.pointer = self.pointers.is(name, &json, &field);
                    field
                }
            };
            field.number = number;
            let wrapped = matches!(field.ty, Type::List(..)) && !repeated;
            fields.insert(json.clone(), field);
            wire.insert(number, if wrapped { Wire::Wrapped(json) } else { Wire::Field(json) });
        }
        let atomic = definition["x-kubernetes-map-type"] == "atomic";
        self.structs.insert(name.to_owned(), Struct { name: name.to_owned(), fields, wire, atomic });
        Ok(())
    }

    fn field(&mut self, of: &str, json: &str, property: &Value, definition: &Value) -> Result<Field> {
        let mut field = Field::new(0, self.property_type(property)?);
        field.required = definition["required"].as_array().is_some_and(|r| r.iter().any(|v| v == json));
        field.pointer = self.pointers.is(of, json, &field);
        let strategy = property["x-kubernetes-patch-strategy"].as_str().unwrap_or_default();
        field.merge = strategy.split(',').any(|s| s == "merge");
        field.replace = strategy.split(',').any(|s| s == "replace");
        field.retain_keys = strategy.split(',').any(|s| s == "retainKeys");
        field.merge_key = property["x-kubernetes-patch-merge-key"].as_str().unwrap_or_default().to_owned();
        field.key_default =
            KEY_DEFAULTS.iter().find(|(s, f, _)| *s == of && *f == json).map(|(_, _, d)| *d).unwrap_or_default();
        Ok(field)
    }

    fn property_type(&mut self, property: &Value) -> Result<Type> {
        if let Some(name) = property["$ref"].as_str().and_then(|r| r.strip_prefix("#/definitions/")) {
            if let Some(ty) = special(name) {
                return Ok(ty);
            }
            self.add(name)?;
            if property["x-kubernetes-map-type"] == "granular" {
                // The same struct, owned field by field here: a twin under a name of its own.
                let twin = format!("{name}#granular");
                let definition = self.definitions.get(name).unwrap_or(&Value::Null).clone();
                let mut granular = self.structs.get(name).cloned().context("just added")?;
                if granular.fields.is_empty() {
                    self.add_with(name, name, &definition)?;
                    granular = self.structs.get(name).cloned().context("just added")?;
                }
                granular.atomic = false;
                self.structs.insert(twin.clone(), granular);
                return Ok(Type::Object(twin));
            }
            return Ok(Type::Object(name.to_owned()));
        }
        Ok(match (property["type"].as_str().unwrap_or_default(), property["format"].as_str().unwrap_or_default()) {
            ("boolean", _) => Type::Plain("Bool"),
            ("integer", "int32") => Type::Plain("Int32"),
            ("integer", "int64") => Type::Plain("Int64"),
            ("number", "double") => Type::Plain("Double"),
            ("string", "byte") => Type::Plain("Bytes"),
            ("string", "") => Type::Plain("String"),
            ("array", _) => {
                let kind = match property["x-kubernetes-list-type"].as_str() {
                    Some("set") => ListKind::Set,
                    Some("map") => {
                        let keys = property["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                        ListKind::Map(keys.filter_map(Value::as_str).map(str::to_owned).collect())
                    }
                    _ => ListKind::Atomic,
                };
                Type::List(Box::new(self.property_type(&property["items"])?), kind)
            }
            ("object", _) => {
                let value = self.property_type(&property["additionalProperties"])?;
                Type::Map(Box::new(value), property["x-kubernetes-map-type"] == "atomic")
            }
            other => bail!("no rule for a property of type {other:?}"),
        })
    }

    /// The type of a field that only the protobuf document knows.
    fn message_type(&mut self, message: &str, ty: &str, repeated: bool) -> Result<Type> {
        let one = match ty {
            "bool" => Type::Plain("Bool"),
            "int32" => Type::Plain("Int32"),
            "int64" => Type::Plain("Int64"),
            "double" => Type::Plain("Double"),
            "string" => Type::Plain("String"),
            "bytes" => Type::Plain("Bytes"),
            _ => {
                if let Some(value) = ty.strip_prefix("map<string,").and_then(|v| v.strip_suffix('>')) {
                    let value = self.message_type(message, value.trim_start_matches('.'), false)?;
                    return Ok(Type::Map(Box::new(value), false));
                }
                let name = self.resolve(message, ty)?;
                if name.ends_with(".ExtraValue") {
                    Type::List(Box::new(Type::Plain("String")), ListKind::Atomic)
                } else if let Some(ty) = special(&name) {
                    ty
                } else {
                    self.add(&name)?;
                    Type::Object(name)
                }
            }
        };
        Ok(if repeated { Type::List(Box::new(one), ListKind::Atomic) } else { one })
    }

    /// A message's full name as seen from inside `message`.
    fn resolve(&self, message: &str, ty: &str) -> Result<String> {
        let package = message.rsplit_once('.').map_or("", |(p, _)| p);
        let near = format!("{package}.{ty}");
        let name = if self.messages.contains_key(&near) { near } else { ty.to_owned() };
        ensure!(self.messages.contains_key(&name), "no message {ty} in {package}");
        Ok(name)
    }
}

/// Types that are no structs in JSON.
fn special(name: &str) -> Option<Type> {
    Some(
        match name
            .strip_prefix("io.k8s.apimachinery.pkg.")
            .or(name.strip_prefix("io.k8s.apiextensions-apiserver.pkg."))?
        {
            "api.resource.Quantity" => Type::Plain("Quantity"),
            "apis.meta.v1.Time" => Type::Plain("Time"),
            "apis.meta.v1.MicroTime" => Type::Plain("MicroTime"),
            "util.intstr.IntOrString" => Type::Plain("IntOrString"),
            "apis.meta.v1.FieldsV1" => Type::Any("Fields"),
            "apis.meta.v1.Patch" | "runtime.RawExtension" => Type::Any("Raw"),
            "apis.apiextensions.v1.JSON" => Type::Any("Json"),
            "apis.apiextensions.v1.JSONSchemaPropsOrArray" => Type::Any("SchemaOrArray"),
            "apis.apiextensions.v1.JSONSchemaPropsOrBool" => Type::Any("SchemaOrBool"),
            "apis.apiextensions.v1.JSONSchemaPropsOrStringArray" => Type::Any("SchemaOrStrings"),
            _ => return None,
        },
    )
}

/// Whether a JSON name and a protobuf field's name are the same word (`$ref` and `ref`, `apiGroup` and `aPIGroup`,
/// `x-kubernetes-list-type` and `xKubernetesListType`).
fn same(json: &str, proto: &str) -> bool {
    let plain = |text: &str| text.replace(['-', '$'], "").to_ascii_lowercase();
    json == proto || plain(json) == plain(proto)
}

/// `uID` and `Expression` as JSON writes them.
fn lower(proto: &str) -> String {
    if proto == "uID" { "uid".to_owned() } else { proto[..1].to_ascii_lowercase() + &proto[1..] }
}

fn last(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

/// What `pointers.txt` says, as `Struct.field`.
struct Pointers {
    scalars: BTreeSet<String>,
    values: BTreeSet<String>,
}

impl Pointers {
    fn new() -> Pointers {
        let (scalars, values) = include_str!("../pointers.txt").split_once("---").unwrap_or_default();
        let read = |text: &str| {
            let lines = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(": "));
            lines.flat_map(|(of, names)| names.split(' ').map(move |name| format!("{of}.{name}"))).collect()
        };
        Pointers { scalars: read(scalars), values: read(values) }
    }

    /// Every line must say something of a type that exists.
    fn check(&self, structs: &BTreeMap<String, Struct>) -> Result<()> {
        let unknown = |entry: &&String| {
            let (of, field) = entry.rsplit_once('.').unwrap_or_default();
            let tail = format!(".{of}");
            !structs.values().any(|s| s.name.ends_with(&tail) && s.fields.contains_key(field))
        };
        let wrong: Vec<&String> = self.scalars.union(&self.values).filter(unknown).collect();
        ensure!(wrong.is_empty(), "pointers.txt names what is in no struct: {wrong:?}");
        Ok(())
    }

    fn is(&self, of: &str, json: &str, field: &Field) -> bool {
        // `PodSpec.replicas` or `core.v1.PodSpec.replicas`.
        let parts: Vec<&str> = of.split('.').collect();
        let tail = |n: usize| format!("{}.{json}", parts[parts.len().saturating_sub(n)..].join("."));
        let in_set = |set: &BTreeSet<String>| set.contains(&tail(1)) || set.contains(&tail(3));
        match &field.ty {
            Type::List(..) | Type::Map(..) | Type::Plain("Bytes") => false,
            Type::Object(_) | Type::Any(_) | Type::Plain("IntOrString") if !field.required => {
                let of_a_kind = matches!(json, "spec" | "status") && !in_set(&self.scalars);
                let value = json == "metadata" || of_a_kind || in_set(&self.values);
                !value || of == "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresources"
            }
            _ => in_set(&self.scalars),
        }
    }
}
