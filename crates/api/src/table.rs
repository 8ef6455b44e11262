//! Every built-in type, from the published specification: [`builtin`] is written by the `api-table` generator.

#[rustfmt::skip]
mod builtin;

use std::borrow::Cow;

use crate::kind::Text;
use crate::schema::{Any, Boxed, Field, ListKind, MapKind, Patch, Struct, StructRef, Type, Wire};

/// The struct that the OpenAPI document calls `name`: `io.k8s.api.core.v1.Pod`.
pub fn get(name: &str) -> Option<&'static Struct> {
    builtin::STRUCTS.binary_search_by(|s| s.name.as_ref().cmp(name)).ok().map(|i| builtin::STRUCTS[i])
}

/// The struct of the objects that carry this `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Struct> {
    let place = builtin::KINDS.binary_search_by(|(v, k, _)| (*v, *k).cmp(&(api_version, kind))).ok()?;
    Some(builtin::KINDS[place].2)
}

/// Every `apiVersion` and `kind` whose objects are of that struct.
pub fn kinds_of(of: &'static Struct) -> impl Iterator<Item = (&'static str, &'static str)> {
    builtin::KINDS
        .iter()
        .filter(move |(.., known)| std::ptr::eq(*known, of))
        .map(|(version, kind, _)| (*version, *kind))
}

// What the generated file is written in.

const fn t(text: &'static str) -> Text {
    Cow::Borrowed(text)
}

const fn s(name: &'static str, fields: &'static [Field], wire: &'static [Wire]) -> Struct {
    Struct { name: t(name), fields: Cow::Borrowed(fields), wire, atomic: false, open: false }
}

const fn f(name: &'static str, number: u32, ty: Type) -> Field {
    defaulted(name, number, ty, "")
}

const fn defaulted(name: &'static str, number: u32, ty: Type, key_default: &'static str) -> Field {
    let patch = Patch { merge: false, replace: false, retain_keys: false, merge_key: "" };
    Field { name: t(name), number, ty, required: false, pointer: false, patch, key_default: t(key_default) }
}

const fn object(of: &'static Struct) -> Type {
    Type::Object(StructRef::Static(of))
}

const fn list(item: &'static Type, kind: ListKind) -> Type {
    Type::List(Boxed::Static(item), kind)
}

const fn keyed(keys: &'static [Text]) -> ListKind {
    ListKind::Map(Cow::Borrowed(keys))
}

const fn map(value: &'static Type, kind: MapKind) -> Type {
    Type::Map(Boxed::Static(value), kind)
}

const fn w(number: u32, index: u16) -> Wire {
    Wire::Field { number, index }
}

const fn wrapped(number: u32, index: u16) -> Wire {
    Wire::Wrapped { number, index }
}

const fn embedded(number: u32, of: &'static Struct) -> Wire {
    Wire::Embedded { number, of }
}

impl Struct {
    const fn atomic(mut self) -> Struct {
        self.atomic = true;
        self
    }
}

impl Field {
    const fn required(mut self) -> Field {
        self.required = true;
        self
    }

    const fn pointer(mut self) -> Field {
        self.pointer = true;
        self
    }

    const fn replace(mut self) -> Field {
        self.patch.replace = true;
        self
    }

    const fn retain_keys(mut self) -> Field {
        self.patch.retain_keys = true;
        self
    }

    const fn merge(mut self, key: &'static str) -> Field {
        self.patch.merge = true;
        self.patch.merge_key = key;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_name_and_by_kind() {
        let pod = get("io.k8s.api.core.v1.Pod").expect("pods are built in");
        assert!(std::ptr::eq(pod, by_kind("v1", "Pod").expect("by kind")));
        assert!(get("io.k8s.api.core.v1.Nothing").is_none());
        assert!(by_kind("v2", "Pod").is_none());
        for item in builtin::STRUCTS {
            assert!(item.fields.is_sorted_by(|a, b| a.name < b.name), "{}", item.name);
            assert!(item.wire.is_sorted_by(|a, b| a.number() < b.number()), "{}", item.name);
        }
    }

    #[test]
    fn marks_of_the_specification_are_in_the_table() {
        let Some(Type::Object(spec)) = by_kind("v1", "Pod").and_then(|p| p.field("spec")).map(|f| &f.ty) else {
            panic!("a pod has a spec")
        };
        let containers = spec.field("containers").expect("containers");
        assert!(containers.required && containers.patch.merge && containers.patch.merge_key == "name");
        assert!(matches!(&containers.ty, Type::List(_, ListKind::Map(keys)) if **keys == [t("name")]));
        let volumes = spec.field("volumes").expect("volumes");
        assert!(volumes.patch.retain_keys && volumes.patch.merge);
        assert!(matches!(&spec.field("nodeSelector").expect("nodeSelector").ty, Type::Map(_, MapKind::Atomic)));
    }
}
