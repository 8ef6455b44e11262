//! Label selectors on the labels of cached items.

use client::Labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// A label selector ready for matching.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// The labels that a map names, as Services and ReplicationControllers select.
    pub fn equal(labels: &BTreeMap<String, String>) -> Selector {
        let requirement =
            |(key, value): (&String, &String)| Requirement { key: key.clone(), test: Test::In(vec![value.clone()]) };
        Selector(labels.iter().map(requirement).collect())
    }

    /// None for an operator that does not exist, which validation lets nobody write.
    pub fn new(selector: &LabelSelector) -> Option<Selector> {
        let mut all = selector.match_labels.as_ref().map(Selector::equal).unwrap_or_default();
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.clone().unwrap_or_default();
            let test = match expression.operator.as_str() {
                "In" => Test::In(values),
                "NotIn" => Test::NotIn(values),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                _ => return None,
            };
            all.0.push(Requirement { key: expression.key.clone(), test });
        }
        Some(all)
    }

    /// Whether there is no requirement, so that everything matches.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|Requirement { key, test }| {
            let value = labels.get(key);
            let among = |values: &Vec<String>| value.is_some_and(|value| values.iter().any(|known| known == value));
            match test {
                Test::In(values) => among(values),
                Test::NotIn(values) => !among(values),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_documented() {
        let labels = Labels::from_iter([("app", "web"), ("tier", "front")]);
        let cases = [
            ("{}", true),
            (r#"{"matchLabels":{"app":"web"}}"#, true),
            (r#"{"matchLabels":{"app":"db"}}"#, false),
            (r#"{"matchExpressions":[{"key":"app","operator":"In","values":["a","web"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["web"]}]}"#, false),
            (r#"{"matchExpressions":[{"key":"x","operator":"NotIn","values":["web"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"x","operator":"Exists"}]}"#, false),
            (r#"{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"x","operator":"DoesNotExist"}]}"#, true),
        ];
        for (json, expected) in cases {
            let selector = Selector::new(&serde_json::from_str(json).unwrap()).unwrap();
            assert_eq!(selector.matches(&labels), expected, "{json}");
        }
    }
}
