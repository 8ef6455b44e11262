//! Label expressions: what node selectors, node affinity and label selectors have in common.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One requirement of a label (or of a node's name). It can be compared and hashed, so that equal pods are recognised.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct Expression {
    pub key: Box<str>,
    pub operator: Operator,
    #[serde(default)]
    pub values: Vec<Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub(crate) enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    /// One that a newer API may have: matches nothing.
    #[serde(other)]
    Unknown,
}

impl Expression {
    /// The label must have this value.
    pub fn equals(key: Box<str>, value: Box<str>) -> Self {
        Self { key, operator: Operator::In, values: vec![value] }
    }

    pub fn matches(&self, label: Option<&str>) -> bool {
        let among = |label: &str| self.values.iter().any(|value| **value == *label);
        let number = || label.and_then(|label| label.parse::<i64>().ok()).zip(self.values.first()?.parse::<i64>().ok());
        match self.operator {
            Operator::In => label.is_some_and(among),
            Operator::NotIn => !label.is_some_and(among),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::Gt => number().is_some_and(|(label, bound)| label > bound),
            Operator::Lt => number().is_some_and(|(label, bound)| label < bound),
            Operator::Unknown => false,
        }
    }
}

/// A `LabelSelector`: all expressions must hold; without any it selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Selector(pub Vec<Expression>);

impl Selector {
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|expression| expression.matches(label(&expression.key)))
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        #[derive(Default)]
        struct Raw {
            match_labels: BTreeMap<Box<str>, Box<str>>,
            match_expressions: Vec<Expression>,
        }
        let Raw { match_labels, mut match_expressions } = Raw::deserialize(deserializer)?;
        match_expressions.extend(match_labels.into_iter().map(|(key, value)| Expression::equals(key, value)));
        Ok(Self(match_expressions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_as_upstream_defines_them() {
        let table = [
            ("In", "a,b", Some("a"), true),
            ("In", "a,b", None, false),
            ("NotIn", "a,b", Some("a"), false),
            ("NotIn", "a,b", None, true),
            ("Exists", "", Some(""), true),
            ("Exists", "", None, false),
            ("DoesNotExist", "", None, true),
            ("Gt", "4", Some("5"), true),
            ("Gt", "5", Some("5"), false),
            ("Lt", "5", Some("four"), false),
            ("Lt", "5", Some("-1"), true),
            ("Like", "a", Some("a"), false),
        ];
        for (operator, values, label, expected) in table {
            let values: Vec<&str> = values.split(',').filter(|value| !value.is_empty()).collect();
            let json = serde_json::json!({"key": "k", "operator": operator, "values": values});
            let expression: Expression = serde_json::from_value(json).unwrap();
            assert_eq!(expression.matches(label), expected, "{operator} {values:?} {label:?}");
        }
    }
}
