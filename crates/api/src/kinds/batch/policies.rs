//! What a job says of failures and successes of its pods: `podFailurePolicy`, `successPolicy`, `managedBy`.

use serde_json::Value;

use crate::kinds::access::{at, has, list, number, text};
use crate::validation::{Errors, Path, domains, names};

const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
const LONGEST_INDEXES: usize = 64 * 1024;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

/// Errors of a job's policies.
pub fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    if has(spec, "podFailurePolicy") {
        failures(spec, &path.child("podFailurePolicy"), errors);
    }
    if has(spec, "successPolicy") {
        if text(spec, "completionMode") == "Indexed" {
            successes(spec, &path.child("successPolicy"), errors);
        } else {
            errors.invalid(path.child("successPolicy"), at(spec, "successPolicy"), "requires indexed completion mode");
        }
    }
    if let Some(manager) = at(spec, "managedBy").as_str() {
        let path = path.child("managedBy");
        domains::prefixed_path(manager, &path, errors);
        if manager.len() > 63 {
            errors.too_long(path, 63);
        }
    }
}

/// `Required value: valid values: ["a" "b"]`, as Go prints a list.
fn one_of(path: Path, value: &Value, supported: &[&str], errors: &mut Errors) {
    match value.as_str().unwrap_or_default() {
        "" => {
            let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            errors.required(path, format!("valid values: [{}]", quoted.join(" ")));
        }
        text if !supported.contains(&text) => errors.not_supported(path, text, supported),
        _ => {}
    }
}

fn failures(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("rules");
    let rules = list(spec, "podFailurePolicy.rules");
    if rules.len() > MOST_RULES {
        errors.too_many(all, rules.len(), MOST_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        let path = all.index(index);
        if text(rule, "action") == "FailIndex" && !has(spec, "backoffLimitPerIndex") {
            errors.invalid(path.child("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        one_of(path.child("action"), at(rule, "action"), ACTIONS, errors);
        let conditions = list(rule, "onPodConditions");
        if has(rule, "onExitCodes") {
            exit_codes(at(rule, "onExitCodes"), spec, &path.child("onExitCodes"), errors);
        }
        let at_conditions = path.child("onPodConditions");
        if conditions.len() > MOST_RULES {
            errors.too_many(at_conditions, conditions.len(), MOST_RULES);
        }
        for (index, condition) in conditions.iter().enumerate() {
            let path = at_conditions.index(index);
            let kind = text(condition, "type");
            errors.all_invalid(path.child("type"), kind, names::qualified_name(kind));
            one_of(path.child("status"), at(condition, "status"), &["False", "True", "Unknown"], errors);
        }
        let why = match (has(rule, "onExitCodes"), !conditions.is_empty()) {
            (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.invalid_as_a_whole(path, why);
    }
}

fn exit_codes(codes: &Value, spec: &Value, path: &Path, errors: &mut Errors) {
    one_of(path.child("operator"), at(codes, "operator"), &["In", "NotIn"], errors);
    if let Some(name) = at(codes, "containerName").as_str() {
        let known = ["template.spec.containers", "template.spec.initContainers"];
        if !known.iter().any(|all| list(spec, all).iter().any(|c| text(c, "name") == name)) {
            let why = "must be one of the container or initContainer names in the pod template";
            errors.invalid(path.child("containerName"), name, why);
        }
    }
    let all = path.child("values");
    let values = list(codes, "values");
    if values.is_empty() {
        errors.invalid(all, at(codes, "values"), "at least one value is required");
    } else if values.len() > MOST_CODES {
        errors.too_many(all, values.len(), MOST_CODES);
    }
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    for (index, code) in numbers.iter().enumerate() {
        if *code == 0 && text(codes, "operator") == "In" {
            errors.invalid(all.index(index), 0, "must not be 0 for the In operator");
        }
        if numbers[..index].contains(code) {
            errors.duplicate(all.index(index), *code);
        }
    }
    if !numbers.is_sorted() {
        errors.invalid(all, at(codes, "values"), "must be ordered");
    }
}

fn successes(spec: &Value, path: &Path, errors: &mut Errors) {
    let all = path.child("rules");
    let rules = list(spec, "successPolicy.rules");
    if rules.is_empty() {
        errors.required(all, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MOST_RULES {
        errors.too_many(all, rules.len(), MOST_RULES);
    }
    let completions = number(spec, "completions");
    for (index, rule) in rules.iter().enumerate() {
        let path = all.index(index);
        let (count, indexes) = (at(rule, "succeededCount"), at(rule, "succeededIndexes").as_str());
        if count.is_null() && indexes.is_none() {
            errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut named = None;
        if let Some(text) = indexes {
            let path = path.child("succeededIndexes");
            if text.len() > LONGEST_INDEXES {
                errors.too_long(path, LONGEST_INDEXES);
            }
            named = Some(indexes_of(text, completions).unwrap_or_else(|why| {
                errors.invalid(path, text, format!("error parsing succeededIndexes: {why}"));
                0
            }));
        }
        errors.not_negative(path.child("succeededCount"), count);
        let mosts =
            [(Some(completions), "specified completions"), (named, "indexes in the specified succeededIndexes field")];
        for (most, what) in mosts {
            if let Some(most) = most.filter(|most| count.as_i64() > Some(*most)) {
                let why = format!("must be less than or equal to {most} (the number of {what})");
                errors.invalid(path.child("succeededCount"), count, why);
            }
        }
    }
}

/// How many indexes a text such as `1,3-5,7` names.
pub fn indexes_of(text: &str, completions: i64) -> Result<i64, String> {
    let (mut total, mut last) = (0, None);
    for interval in intervals(text, completions) {
        let (first, end) = interval?;
        if let Some(last) = last.filter(|last| first <= *last) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

/// The intervals of such a text, each by itself.
pub fn intervals(text: &str, completions: i64) -> impl Iterator<Item = Result<(i64, i64), String>> + '_ {
    let parse = move |part: &str| -> Result<i64, String> {
        let index = part.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {part:?}"))?;
        if index >= completions {
            return Err(format!("too large index: {part:?}"));
        }
        Ok(index)
    };
    text.split(',').filter(move |_| !text.is_empty()).map(move |interval| {
        let (first, end) = interval.split_once('-').unwrap_or((interval, interval));
        if end.contains('-') {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let (first, end) = (parse(first)?, parse(end)?);
        if interval.contains('-') && first >= end {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        Ok((first, end))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn indexes_are_counted_and_must_increase() {
        for (text, count) in [("", Ok(0)), ("1,3-5,7", Ok(5)), ("0-9", Ok(10))] {
            assert_eq!(indexes_of(text, 10), count, "{text}");
        }
        for text in ["3,1", "1-1", "x", "10", "1-2-3", "2,1-3"] {
            assert!(indexes_of(text, 10).is_err(), "{text}");
        }
    }

    #[test]
    fn mistakes_in_policies_are_told() {
        let spec = json!({
            "completionMode": "Indexed", "completions": 3, "managedBy": "me",
            "podFailurePolicy": {"rules": [
                {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [2, 0, 2]}},
                {"action": "Ignore"}, {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]},
            "successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 3}, {}]},
        });
        let mut errors = Errors::default();
        validate(&spec, &Path::new("spec"), &mut errors);
        let texts: Vec<String> = errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert_eq!(
            texts,
            [
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 2",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0,2]: must be ordered",
                "spec.podFailurePolicy.rules[1]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
                "spec.podFailurePolicy.rules[2].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
                "spec.successPolicy.rules[1]: Required value: at least one of succeededCount or succeededIndexes must be specified",
                "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ]
        );
    }
}
