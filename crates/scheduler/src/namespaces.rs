//! The labels of namespaces, and the namespaces of which a rule speaks.

use std::collections::HashMap;

use client::Labels;

use crate::expression::Selector;

/// All namespaces.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(HashMap<Box<str>, Labels>);

impl Namespaces {
    pub fn get(&self, name: &str) -> Option<&Labels> {
        self.0.get(name)
    }

    pub fn set(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => _ = self.0.insert(name.into(), labels),
            None => _ = self.0.remove(name),
        }
    }

    fn match_selector(&self, name: &str, selector: &Selector) -> bool {
        self.get(name).is_some_and(|labels| selector.matches(|key| labels.get(key)))
    }
}

/// Those of some names, and those that a selector selects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub names: Vec<Box<str>>,
    pub selector: Option<Selector>,
}

impl Scope {
    pub fn one(name: &str) -> Self {
        Self { names: vec![name.into()], selector: None }
    }

    pub fn has(&self, namespace: &str, all: &Namespaces) -> bool {
        self.names.iter().any(|name| **name == *namespace)
            || self.selector.as_ref().is_some_and(|selector| all.match_selector(namespace, selector))
    }
}
