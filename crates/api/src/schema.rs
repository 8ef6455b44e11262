//! The structure of an object's fields. Built-in types are static (the generated [`crate::table`]); a custom resource's
//! schema becomes the same structure at run time. Codecs, pruning, patches and apply walk it.

mod check;
mod path;
mod time;

use std::borrow::Cow;
use std::sync::Arc;

use crate::kind::Text;

pub(crate) use check::is_absent;
pub use check::{Check, check, check_config};
pub use path::{MAX_STRICT_ERRORS, Path};
pub use time::{format_micro, format_seconds, parse_time};

/// A struct type: a JSON object with known fields.
#[derive(Debug)]
pub struct Struct {
    /// As the OpenAPI document names it: `io.k8s.api.core.v1.Pod`.
    pub name: Text,
    /// Ordered by JSON name. What JSON inlines is here like any other field.
    pub fields: Cow<'static, [Field]>,
    /// The protobuf message, ordered by number. Empty where there is none.
    pub wire: &'static [Wire],
    /// Upstream's `x-kubernetes-map-type: atomic`: owned and replaced as a whole by server-side apply.
    pub atomic: bool,
    /// Unknown fields are kept (custom resources' `x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
}

/// A reference to a struct type.
#[derive(Clone, Debug)]
pub enum StructRef {
    Static(&'static Struct),
    Shared(Arc<Struct>),
}

impl std::ops::Deref for StructRef {
    type Target = Struct;
    fn deref(&self) -> &Struct {
        match self {
            StructRef::Static(inner) => inner,
            StructRef::Shared(inner) => inner,
        }
    }
}

/// One field of a struct.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: Text,
    /// Its protobuf number; 0 where there is none.
    pub number: u32,
    pub ty: Type,
    pub required: bool,
    /// Absent and zero differ (a pointer in upstream's types). Protobuf writes other fields always.
    pub pointer: bool,
    /// What a strategic merge patch does with it.
    pub patch: Patch,
    /// What the field reads as where it is a list's key and absent: JSON text; empty where it has no default.
    pub key_default: Text,
}

/// One entry of a protobuf message.
#[derive(Clone, Copy, Debug)]
pub enum Wire {
    /// The field at that place of [`Struct::fields`].
    Field { number: u32, index: u16 },
    /// A list inside a message that has nothing but the list, as number 1.
    Wrapped { number: u32, index: u16 },
    /// A message of its own for fields that JSON inlines.
    Embedded { number: u32, of: &'static Struct },
}

/// What a strategic merge patch does with a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// `patchStrategy` contains `merge`.
    pub merge: bool,
    /// `patchStrategy` contains `replace`.
    pub replace: bool,
    /// `patchStrategy` contains `retainKeys`.
    pub retain_keys: bool,
    /// `patchMergeKey`; empty for lists of scalars.
    pub merge_key: &'static str,
}

/// The type of a value.
#[derive(Clone, Debug)]
pub enum Type {
    Bool,
    Int32,
    Int64,
    Double,
    String,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds; a message of seconds and nanoseconds in protobuf.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    Quantity,
    IntOrString,
    /// JSON beyond the schema.
    Any(Any),
    Object(StructRef),
    /// A map from strings.
    Map(Boxed, MapKind),
    List(Boxed, ListKind),
}

/// JSON whose structure the schema leaves open, by how protobuf carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Any {
    /// `RawExtension`: any object, kept as it is.
    Raw,
    /// `FieldsV1`.
    Fields,
    /// `JSON`: any value.
    Json,
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray,
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings,
}

/// A type inside another.
#[derive(Clone, Debug)]
pub enum Boxed {
    Static(&'static Type),
    Shared(Arc<Type>),
}

impl std::ops::Deref for Boxed {
    type Target = Type;
    fn deref(&self) -> &Type {
        match self {
            Boxed::Static(inner) => inner,
            Boxed::Shared(inner) => inner,
        }
    }
}

/// How server-side apply treats a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    Granular,
    Atomic,
}

/// How server-side apply treats a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    /// Keyed by these fields of its items.
    Map(Cow<'static, [Text]>),
}

impl Struct {
    /// The field of that JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok().map(|i| &self.fields[i])
    }
}

impl Wire {
    pub fn number(&self) -> u32 {
        match *self {
            Wire::Field { number, .. } | Wire::Wrapped { number, .. } | Wire::Embedded { number, .. } => number,
        }
    }
}
