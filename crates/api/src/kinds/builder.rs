//! How a built-in kind is written down.

use std::borrow::Cow;
use std::sync::Arc;

use crate::kind::{Column, Kind, Plain, Selectable, Storage, Strategy, Subresource, Text};
use crate::print::{self, Cell};
use crate::schema::StructRef;

/// The verbs of an ordinary stored kind, in discovery's order.
const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The verbs of a subresource that is a view of the object.
const VIEW: &[&str] = &["get", "patch", "update"];

/// Makes a [`Kind`] from what is not ordinary about it. An ordinary kind is cluster scoped, stored under its plural in its own
/// version, has all verbs and prints its name and when it was created.
pub struct Builder {
    kind: Kind,
}

impl Builder {
    pub fn new(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Self {
        Builder::with_schema(group, version, kind, plural, schema(&schema_name(group, version, kind)))
    }

    /// A kind that the generated table does not have.
    pub fn with_schema(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        schema: StructRef,
    ) -> Self {
        let api_version: Text = if group.is_empty() { version.into() } else { format!("{group}/{version}").into() };
        Builder {
            kind: Kind {
                group: group.into(),
                version: version.into(),
                kind: kind.into(),
                plural: plural.into(),
                singular: kind.to_lowercase().into(),
                list_kind: format!("{kind}List").into(),
                short_names: Cow::Borrowed(&[]),
                categories: Cow::Borrowed(&[]),
                namespaced: false,
                verbs: texts(ALL),
                subresources: Cow::Borrowed(&[]),
                storage: Storage { prefix: plural.into(), api_version, kind: kind.into() },
                schema,
                columns: columns(print::CREATED),
                selectable: Cow::Borrowed(&[]),
                strategy: Arc::new(Plain),
            },
        }
    }

    pub fn namespaced(mut self) -> Self {
        self.kind.namespaced = true;
        self
    }

    pub fn short(mut self, names: &[&'static str]) -> Self {
        self.kind.short_names = texts(names);
        self
    }

    /// `all` for kinds that `kubectl get all` lists.
    pub fn category(mut self, name: &'static str) -> Self {
        self.kind.categories = texts(&[name]);
        self
    }

    pub fn verbs(mut self, verbs: &[&'static str]) -> Self {
        self.kind.verbs = texts(verbs);
        self
    }

    /// Where upstream keeps the objects, if not under their plural.
    pub fn prefix(mut self, prefix: &'static str) -> Self {
        self.kind.storage.prefix = prefix.into();
        self
    }

    /// The version that is stored, if not this one.
    pub fn stored_as(mut self, api_version: &'static str) -> Self {
        self.kind.storage.api_version = api_version.into();
        self
    }

    pub fn status(self) -> Self {
        self.view("status")
    }

    pub fn scale(self) -> Self {
        self.subresource("scale", ("autoscaling", "v1", "Scale"), VIEW)
    }

    /// A subresource that is a view of the object itself: read, updated and patched.
    pub fn view(self, name: &'static str) -> Self {
        self.own(name, VIEW)
    }

    /// A subresource of the object's own kind with the verbs given.
    pub fn own(self, name: &'static str, verbs: &[&'static str]) -> Self {
        let kind = self.kind.kind.clone();
        self.push(name, ("", ""), kind, verbs)
    }

    /// A subresource of another kind: `(group, version, kind)`, the first two empty where they are the parent's.
    pub fn subresource(
        self,
        name: &'static str,
        (group, version, kind): (&'static str, &'static str, &'static str),
        verbs: &[&'static str],
    ) -> Self {
        self.push(name, (group, version), kind.into(), verbs)
    }

    fn push(
        mut self,
        name: &'static str,
        group: (&'static str, &'static str),
        kind: Text,
        verbs: &[&'static str],
    ) -> Self {
        self.kind.subresources.to_mut().push(Subresource {
            name: name.into(),
            group: group.0.into(),
            version: group.1.into(),
            kind,
            verbs: texts(verbs),
        });
        self
    }

    /// Fields for field selectors, as `spec.nodeName`; an absent one reads as the empty string, or as what follows `=`.
    pub fn selectable(mut self, fields: &[&'static str]) -> Self {
        let field = |text: &&'static str| {
            let (name, default) = text.split_once('=').unwrap_or((text, ""));
            let path = name.split('.').map(Text::from).collect();
            Selectable { name: name.into(), path: Cow::Owned(path), otherwise: Cow::default(), default: default.into() }
        };
        self.kind.selectable = fields.iter().map(field).collect();
        self
    }

    /// A selectable field whose name is not its path: jobs' `status.successful`.
    pub fn selectable_at(mut self, name: &'static str, path: &'static str, default: &'static str) -> Self {
        let path = path.split('.').map(Text::from).collect();
        let (otherwise, default) = (Cow::default(), default.into());
        self.kind.selectable.to_mut().push(Selectable {
            name: name.into(),
            path: Cow::Owned(path),
            otherwise,
            default,
        });
        self
    }

    /// The field selectable last is read there where it is absent or empty.
    pub fn or_at(mut self, path: &'static str) -> Self {
        if let Some(last) = self.kind.selectable.to_mut().last_mut() {
            last.otherwise = path.split('.').map(Text::from).collect();
        }
        self
    }

    /// The columns of the table. The strategy's cells come from the same list; a kind with columns and nothing else needs no
    /// strategy of its own.
    pub fn columns(mut self, cells: &'static [Cell]) -> Self {
        self.kind.columns = columns(cells);
        self.kind.strategy = Arc::new(print::Rows(cells));
        self
    }

    /// What the kind does beyond the generic path. Comes after [`Builder::columns`].
    pub fn strategy(mut self, strategy: impl Strategy + 'static) -> Self {
        self.kind.strategy = Arc::new(strategy);
        self
    }

    pub fn build(self) -> Kind {
        self.kind
    }
}

fn texts(names: &[&'static str]) -> Cow<'static, [Text]> {
    names.iter().map(|name| Text::from(*name)).collect()
}

fn columns(cells: &[Cell]) -> Cow<'static, [Column]> {
    cells.iter().map(Cell::column).collect()
}

/// The OpenAPI document's name of a built-in type.
fn schema_name(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => {
            format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}")
        }
        "apiregistration.k8s.io" => format!("io.k8s.kube-aggregator.pkg.apis.apiregistration.{version}.{kind}"),
        _ => format!("io.k8s.api.{}.{version}.{kind}", group.split('.').next().unwrap_or(group)),
    }
}

/// The generated structure of a built-in type.
fn schema(name: &str) -> StructRef {
    StructRef::Static(crate::table::get(name).expect("the generated table has every built-in kind"))
}
