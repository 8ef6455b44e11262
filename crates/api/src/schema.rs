//! The structure of an object's fields. Built-in types are static (the generated [`crate::table`]); a custom resource's
//! schema becomes the same structure at run time. Codecs, pruning, patches and apply walk it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::kind::Text;

/// A struct type: a JSON object with known fields.
#[derive(Debug)]
pub struct Struct {
    /// As the OpenAPI document names it: `io.k8s.api.core.v1.Pod`.
    pub name: Text,
    /// Ordered by JSON name.
    pub fields: Cow<'static, [Field]>,
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
    /// What a strategic merge patch does with it.
    pub patch: Patch,
}

/// What a strategic merge patch does with a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    /// `patchStrategy` contains `merge`.
    pub merge: bool,
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
    Duration,
    Quantity,
    IntOrString,
    /// Any JSON: `RawExtension`, `JSON`, `JSONSchemaPropsOrBool` and their like, named as in the OpenAPI document.
    Any(&'static str),
    Object(StructRef),
    /// A map from strings.
    Map(Boxed, MapKind),
    List(Boxed, ListKind),
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
