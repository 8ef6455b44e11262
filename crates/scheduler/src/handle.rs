//! Finding those who speak of a pod: they are kept under what a pod must have for it, so that few are asked.

use crate::{
    expression::{Operator, Selector},
    namespaces::Scope,
    pod::Pod,
};

/// What of a pod something is found by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Handle {
    Label { namespace: Box<str>, key: Box<str>, value: Box<str> },
    Namespace(Box<str>),
    Any,
}

impl Handle {
    /// Under what is to be found who speaks of the pods of these namespaces that a selector selects.
    pub fn all(scope: &Scope, selector: &Selector) -> Vec<Self> {
        if scope.selector.is_some() {
            return vec![Self::Any];
        }
        let single = selector.0.iter().find(|it| it.operator == Operator::In && it.values.len() == 1);
        let mut names: Vec<&str> = scope.names.iter().map(|name| &**name).collect();
        names.sort();
        names.dedup();
        let handle = |namespace: &str| match single {
            Some(it) => Self::Label { namespace: namespace.into(), key: it.key.clone(), value: it.values[0].clone() },
            None => Self::Namespace(namespace.into()),
        };
        names.into_iter().map(handle).collect()
    }

    /// By what a pod is found: whoever speaks of it is under exactly one of these.
    pub fn of(pod: &Pod) -> impl Iterator<Item = Self> {
        let namespace = pod.item.namespace();
        let labels = pod.labels().iter().map(|(key, value)| Self::Label {
            namespace: namespace.into(),
            key: key.into(),
            value: value.into(),
        });
        labels.chain([Self::Namespace(namespace.into()), Self::Any])
    }
}
