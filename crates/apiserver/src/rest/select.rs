//! Which objects a list, watch or deletecollection is about.

use api::kind::{Kind, Text};
use api::selector::{FieldSelector, LabelSelector};
use api::{Status, Value};
use store::Entry;

use super::index::index;
use super::{Call, prefix};

/// The range of keys and the selectors of a request.
#[derive(Clone)]
pub struct Selection {
    /// A prefix that ends in `/`, or one key where the object's name is given.
    pub range: String,
    labels: LabelSelector,
    terms: Vec<Term>,
}

#[derive(Clone)]
struct Term {
    source: Source,
    negated: bool,
    value: String,
}

#[derive(Clone)]
enum Source {
    Name,
    Namespace,
    /// The place in the stored kind's `selectable`.
    Stored(usize),
    /// The place in the request's kind's `selectable` of a field that only this version has.
    Converted(usize),
}

impl Selection {
    /// Reads the selectors. A path with a name (a watch of one object) selects that name.
    pub fn new(call: &Call) -> Result<Self, Status> {
        let labels = LabelSelector::parse(call.query.get("labelSelector").unwrap_or(""))?;
        let fields = FieldSelector::parse(call.query.get("fieldSelector").unwrap_or(""))?;
        let mut terms = Vec::with_capacity(fields.terms.len());
        let mut name = (!call.info.name.is_empty()).then(|| call.info.name.clone());
        let mut namespace = call.info.namespace.clone();
        for term in fields.terms {
            let source = source(call, &term.path)?;
            if !term.negated && !term.value.is_empty() {
                match source {
                    Source::Name if name.is_none() => name = Some(term.value.clone()),
                    Source::Namespace if namespace.is_empty() && call.kind.namespaced => namespace = term.value.clone(),
                    _ => {}
                }
            }
            terms.push(Term { source, negated: term.negated, value: term.value });
        }
        let mut range = prefix(&call.kind, &namespace);
        // A name in all namespaces is selected by its term alone.
        if let Some(name) = name
            && (!call.kind.namespaced || !namespace.is_empty())
        {
            range.push_str(&name);
            // The range says as much.
            terms.retain(|term| match term.source {
                Source::Name => term.negated || term.value != name,
                Source::Namespace => term.negated || term.value != namespace,
                Source::Stored(_) | Source::Converted(_) => true,
            });
        }
        if range.split('/').any(|segment| segment == "." || segment == "..") {
            return Err(Status::bad_request("a name in the field selector is not valid"));
        }
        Ok(Selection { range, labels, terms })
    }

    /// Whether it is more than a range.
    pub fn filters(&self) -> bool {
        !self.labels.is_empty() || !self.terms.is_empty()
    }

    /// Whether the entry is selected.
    pub fn matches(&self, call: &Call, entry: &Entry) -> bool {
        if !self.filters() {
            return true;
        }
        self.terms.iter().all(|term| term.matches(call, entry))
            && (self.labels.is_empty() || self.labels.matches(index(entry, &call.stored).labels.as_ref()))
    }
}

fn source(call: &Call, path: &str) -> Result<Source, Status> {
    let at = |kind: &Kind| kind.selectable.iter().position(|s| s.name == path);
    match path {
        "metadata.name" => return Ok(Source::Name),
        "metadata.namespace" => return Ok(Source::Namespace),
        _ => {}
    }
    let place = at(&call.kind).ok_or_else(|| Status::bad_request(unknown(&call.kind, path)))?;
    if let Some(stored) = at(&call.stored) {
        return Ok(Source::Stored(stored));
    }
    Ok(Source::Converted(place))
}

/// What is said of a selector that the kind does not know: kinds without any of their own all say the same.
fn unknown(kind: &Kind, path: &str) -> String {
    if kind.selectable.is_empty() {
        return format!("{path:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
    }
    kind.strategy.unknown_selector(path)
}

impl Term {
    fn matches(&self, call: &Call, entry: &Entry) -> bool {
        let (namespace, name) = names(&entry.key, call.kind.namespaced);
        let equal = match &self.source {
            Source::Name => name == self.value,
            Source::Namespace => namespace == self.value,
            Source::Stored(place) => index(entry, &call.stored).fields.get(*place).is_some_and(|f| *f == self.value),
            Source::Converted(place) => {
                let selectable = &call.kind.selectable[*place];
                let object = call.parse(entry).unwrap_or_default();
                let found = |path: &[Text]| match path.iter().fold(&object, |value, key| &value[&**key]) {
                    Value::Null => None,
                    Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
                    other => Some(other.to_string()),
                };
                let other = || Some(&*selectable.otherwise).filter(|path| !path.is_empty()).and_then(found);
                found(&selectable.path).or_else(other).unwrap_or_else(|| selectable.default.to_string()) == self.value
            }
        };
        equal != self.negated
    }
}

/// Namespace and name of a stored object, from its key.
pub fn names(key: &str, namespaced: bool) -> (&str, &str) {
    let mut parts = key.rsplitn(3, '/');
    let name = parts.next().unwrap_or("");
    let namespace = if namespaced { parts.next().unwrap_or("") } else { "" };
    (namespace, name)
}
