//! Label and field selectors.
use crate::{Map, Status, Value};

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub op: Operator,
}

/// What a requirement wants of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    NotExists,
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// Parses `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(_text: &str) -> Result<LabelSelector, Status> {
        Ok(LabelSelector::default())
    }

    /// From a `LabelSelector` object (`matchLabels`, `matchExpressions`).
    pub fn from_object(_object: &Value) -> Result<LabelSelector, Status> {
        Ok(LabelSelector::default())
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object's labels match.
    pub fn matches(&self, _labels: Option<&Map<String, Value>>) -> bool {
        true
    }
}

/// A field selector: all terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<Term>,
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub path: String,
    /// `=` or, where true, `!=`.
    pub negated: bool,
    pub value: String,
}

impl FieldSelector {
    /// Parses `a.b=c,d!=e`.
    pub fn parse(_text: &str) -> Result<FieldSelector, Status> {
        Ok(FieldSelector::default())
    }
}
