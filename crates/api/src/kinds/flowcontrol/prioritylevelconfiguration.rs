//! `flowcontrol.apiserver.k8s.io/v1 PriorityLevelConfiguration`.

use serde_json::Value;

use super::mandatory;
use crate::kind::{ALL_METADATA, Kind, Strategy};
use crate::kinds::access::{at, at_mut, fill, has, number, section, text};
use crate::kinds::builder::Builder;
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, Path};

const EXEMPT: &str = "exempt";
const MOST_QUEUES: i64 = 10_000_000;
/// How many bits of a flow's hash deal its hand.
const HASH_BITS: i64 = 60;
/// No hand that such a hash can deal is larger.
const MOST_HAND: i64 = 60;

pub fn kind() -> Kind {
    Builder::new("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations")
        .status()
        .columns(COLUMNS)
        .strategy(PriorityLevelConfiguration)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Type", "spec.type"),
    Cell::made("NominalConcurrencyShares", |o| limited(o, "nominalConcurrencyShares")),
    Cell::made("Queues", |o| limited(o, "limitResponse.queuing.queues")),
    Cell::made("HandSize", |o| limited(o, "limitResponse.queuing.handSize")),
    Cell::made("QueueLengthLimit", |o| limited(o, "limitResponse.queuing.queueLengthLimit")),
    AGE,
];

fn limited(level: &Value, path: &str) -> Value {
    match at(at(level, "spec.limited"), path) {
        Value::Null => "<none>".into(),
        value => value.to_string().into(),
    }
}

struct PriorityLevelConfiguration;

impl Strategy for PriorityLevelConfiguration {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        if text(spec, "type") == "Exempt" {
            section(spec, "exempt");
        }
        if let Some(exempt) = at_mut(spec, "exempt") {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = at_mut(spec, "limited") {
            fill(limited, "nominalConcurrencyShares", 30);
            fill(limited, "lendablePercent", 0);
            if let Some(queuing) = at_mut(limited, "limitResponse.queuing") {
                fill(queuing, "queues", 64);
                fill(queuing, "handSize", 8);
                fill(queuing, "queueLengthLimit", 50);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let (name, kind) = (text(object, "metadata.name"), text(spec, "type"));
        if (name == EXEMPT) != (kind == "Exempt") {
            let why = "type must be 'Exempt' if and only if name is 'exempt'";
            errors.invalid(path.child("type"), kind, why);
        }
        let (at_exempt, at_limited) = (path.child("exempt"), path.child("limited"));
        match kind {
            "Exempt" => {
                if has(spec, "limited") {
                    errors.forbidden(at_limited, "must be nil if the type is not Limited");
                }
                let exempt = at(spec, "exempt");
                shares(exempt, &at_exempt, errors);
                lendable(exempt, &at_exempt, errors);
            }
            "Limited" => {
                if has(spec, "exempt") {
                    errors.forbidden(at_exempt, "must be nil if the type is Limited");
                }
                match has(spec, "limited") {
                    true => limited_level(at(spec, "limited"), &at_limited, errors),
                    false => errors.required(at_limited, "must not be empty when type is Limited"),
                }
            }
            other => errors.not_supported(path.child("type"), other, &["Exempt", "Limited"]),
        }
        mandatory::level(object, errors);
        mandatory::conditions(object, errors);
    }

    fn validate_subresource_update(&self, _: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        mandatory::conditions(new, errors);
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn kept_by_status(&self) -> &'static [&'static str] {
        ALL_METADATA
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

fn shares(section: &Value, path: &Path, errors: &mut Errors) {
    let shares = number(section, "nominalConcurrencyShares");
    if shares < 0 {
        errors.invalid(path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
}

fn lendable(section: &Value, path: &Path, errors: &mut Errors) {
    let percent = number(section, "lendablePercent");
    if !(0..=100).contains(&percent) {
        errors.invalid(path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn limited_level(limited: &Value, path: &Path, errors: &mut Errors) {
    shares(limited, path, errors);
    let (response, at_response) = (at(limited, "limitResponse"), path.child("limitResponse"));
    let at_queuing = at_response.child("queuing");
    match (text(response, "type"), has(response, "queuing")) {
        ("Reject", true) => errors.forbidden(at_queuing, "must be nil if limited.limitResponse.type is not Limited"),
        ("Reject", false) => {}
        ("Queue", true) => queues(at(response, "queuing"), &at_queuing, errors),
        ("Queue", false) => {
            errors.required(at_queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        (other, _) => errors.not_supported(at_response.child("type"), other, &["Queue", "Reject"]),
    }
    lendable(limited, path, errors);
    let borrowing = number(limited, "borrowingLimitPercent");
    if borrowing < 0 {
        let why = "if specified, must be a non-negative integer";
        errors.invalid(path.child("borrowingLimitPercent"), borrowing, why);
    }
}

fn queues(queuing: &Value, path: &Path, errors: &mut Errors) {
    let number = |field: &str| number(queuing, field);
    let (queues, hand, length) = (number("queues"), number("handSize"), number("queueLengthLimit"));
    if length <= 0 {
        errors.invalid(path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(path.child("queues"), queues, "must be positive");
    } else if queues > MOST_QUEUES {
        errors.invalid(path.child("queues"), queues, format!("must not be greater than {MOST_QUEUES}"));
    }
    let at_hand = path.child("handSize");
    if hand <= 0 {
        errors.invalid(at_hand, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(at_hand, hand, format!("should not be greater than queues ({queues})"));
    } else if entropy(queues, hand) > HASH_BITS {
        let why = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.invalid(at_hand, hand, why);
    }
}

/// How many bits of a hash it takes to deal a hand of a deck.
fn entropy(deck: i64, hand: i64) -> i64 {
    let ways = (0..hand.min(MOST_HAND)).map(|dealt| ((deck - dealt) as f64).log2());
    ways.sum::<f64>().ceil() as i64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors_of(name: &str, spec: Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": name}, "spec": spec});
        PriorityLevelConfiguration.default(&mut object);
        let mut errors = Errors::default();
        PriorityLevelConfiguration.validate(&object, &mut errors);
        errors.causes().iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn levels_are_checked_as_upstream_checks_them() {
        let queue = |queues: i64, hand: i64, length: i64| {
            json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}}}})
        };
        let reject = |field: &str, value: i64| json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}, field: value}});
        let at_queuing = "spec.limited.limitResponse.queuing";
        let table = [
            ("a", queue(64, 8, 50), String::new()),
            (
                "a",
                queue(10_000_001, 1, 1),
                format!("{at_queuing}.queues: Invalid value: 10000001: must not be greater than 10000000"),
            ),
            (
                "a",
                queue(8, 9, 1),
                format!("{at_queuing}.handSize: Invalid value: 9: should not be greater than queues (8)"),
            ),
            (
                "a",
                queue(10_000_000, 4, 1),
                format!(
                    "{at_queuing}.handSize: Invalid value: 4: required entropy bits of deckSize 10000000 and handSize 4 should not be greater than 60"
                ),
            ),
            ("a", queue(1, 1, -1), format!("{at_queuing}.queueLengthLimit: Invalid value: -1: must be positive")),
            (
                "a",
                reject("lendablePercent", 101),
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive".to_owned(),
            ),
            (
                "a",
                reject("borrowingLimitPercent", -1),
                "spec.limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer"
                    .to_owned(),
            ),
            (
                "a",
                reject("nominalConcurrencyShares", -1),
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer".to_owned(),
            ),
            (
                "a",
                json!({"type": "Exempt"}),
                "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"
                    .to_owned(),
            ),
            ("exempt", json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 5}}), String::new()),
        ];
        for (name, spec, expected) in table {
            assert_eq!(errors_of(name, spec.clone()).join("; "), expected, "{spec}");
        }
        let changed = errors_of("catch-all", reject("nominalConcurrencyShares", 6));
        assert!(changed[0].ends_with("spec of 'catch-all' must equal the fixed value"), "{changed:?}");
    }
}
