//! What a job's status may say, and how it may change. Most rules look only at what an update changes, so that a job of long ago
//! can still be worked on.

use serde_json::Value;

use super::policies::{indexes_of, intervals};
use crate::kinds::access::{at, flag, has, list, number, text};
use crate::validation::{Errors, Path};

fn is(job: &Value, condition: &str) -> bool {
    list(job, "status.conditions").iter().any(|c| text(c, "type") == condition && text(c, "status") == "True")
}

fn finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

fn indexed(job: &Value) -> bool {
    text(job, "spec.completionMode") == "Indexed"
}

/// Errors of an update of a job's status.
pub fn validate(old: &Value, new: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    counts(new, &path, errors);
    conditions(old, new, &path, errors);
    times(old, new, &path, errors);
    pods(old, new, &path, errors);
    indexes(old, new, &path, errors);
    changes(old, new, &path, errors);
}

fn counts(job: &Value, path: &Path, errors: &mut Errors) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        errors.not_negative(path.child(field), at(at(job, "status"), field));
    }
    let mut seen: Vec<&Value> = Vec::new();
    let uncounted = path.child("uncountedTerminatedPods");
    for field in ["succeeded", "failed"] {
        let all = uncounted.child(field);
        for (index, uid) in list(at(job, "status.uncountedTerminatedPods"), field).iter().enumerate() {
            if uid == "" {
                errors.invalid(all.index(index), "", "must not be empty");
            } else if seen.contains(&uid) {
                errors.duplicate(all.index(index), uid);
            } else {
                seen.push(uid);
            }
        }
    }
}

fn conditions(old: &Value, new: &Value, path: &Path, errors: &mut Errors) {
    let path = path.child("conditions");
    let turned = |condition: &str| is(old, condition) != is(new, condition);
    let (complete, failed) = (is(new, "Complete"), is(new, "Failed"));
    let (target, met) = (is(new, "FailureTarget"), is(new, "SuccessCriteriaMet"));
    let mut refuse = |when: bool, why: &str| {
        if when {
            errors.invalid_as_a_whole(path, why);
        }
    };
    refuse(
        complete && failed && (turned("Complete") || turned("Failed")),
        "cannot set Complete=True and Failed=true conditions",
    );
    refuse(
        complete && target && (turned("Complete") || turned("FailureTarget")),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    refuse(
        failed && !target && turned("Failed"),
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    refuse(
        complete && !met && turned("Complete"),
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    refuse(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    refuse(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    refuse(
        has(new, "spec.successPolicy") && complete && !met,
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
}

fn times(old: &Value, new: &Value, path: &Path, errors: &mut Errors) {
    let changed = |field: &str| at(old, field) != at(new, field);
    let ended_now = is(old, "Complete") != is(new, "Complete");
    let (start, end) = (at(new, "status.startTime"), at(new, "status.completionTime"));
    let (at_start, at_end) = (path.child("startTime"), path.child("completionTime"));
    if ended_now || changed("status.completionTime") {
        match (end.is_null(), is(new, "Complete")) {
            (false, false) => {
                errors.invalid(at_end, end, "cannot set completionTime when there is no Complete=True condition");
            }
            (true, true) => errors.required(at_end, "completionTime is required for Complete jobs"),
            _ => {}
        }
    }
    // Both are in the same form, in which the order of texts is the order of times.
    if (changed("status.startTime") || changed("status.completionTime"))
        && let (Some(from), Some(to)) = (start.as_str(), end.as_str())
        && to < from
    {
        errors.invalid(at_end, end, "completionTime cannot be set before startTime");
    }
    if start.is_null() && finished(new) && (finished(old) != finished(new) || changed("status.startTime")) {
        errors.required(at_start, "startTime is required for finished job");
    }
}

fn pods(old: &Value, new: &Value, path: &Path, errors: &mut Errors) {
    let changed = |field: &str| at(old, field) != at(new, field);
    let ended_now = finished(old) != finished(new);
    if finished(new) {
        let active = number(new, "status.active");
        if active > 0 && (ended_now || changed("status.active")) {
            errors.invalid(path.child("active"), active, "active>0 is invalid for finished job");
        }
        let uncounted = at(new, "status.uncountedTerminatedPods");
        let any = ["failed", "succeeded"].iter().any(|field| !list(uncounted, field).is_empty());
        if any && (ended_now || changed("status.uncountedTerminatedPods")) {
            let why = "uncountedTerminatedPods needs to be empty for finished job";
            errors.invalid(path.child("uncountedTerminatedPods"), uncounted, why);
        }
        let terminating = number(new, "status.terminating");
        if terminating > 0 && (ended_now || changed("status.terminating")) {
            errors.invalid(path.child("terminating"), terminating, "terminating>0 is invalid for finished job");
        }
    }
    let ready = number(new, "status.ready");
    if ready > number(new, "status.active") && (changed("status.ready") || changed("status.active")) {
        errors.invalid(path.child("ready"), ready, "cannot set more ready pods than active");
    }
}

fn indexes(old: &Value, new: &Value, path: &Path, errors: &mut Errors) {
    let changed = |field: &str| at(old, field) != at(new, field);
    let completions = at(new, "spec.completions").as_i64();
    let (completed, failed) = (text(new, "status.completedIndexes"), at(new, "status.failedIndexes").as_str());
    let (at_completed, at_failed) = (path.child("completedIndexes"), path.child("failedIndexes"));
    if changed("status.completedIndexes") {
        if let Some(why) = completions.and_then(|most| indexes_of(completed, most).err()) {
            errors.invalid(at_completed, completed, format!("error parsing completedIndexes: {why}"));
        }
        if !completed.is_empty() && !indexed(new) {
            let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.invalid(at_completed, completed, why);
        }
    }
    let Some(failed) = failed else { return };
    let limited = has(new, "spec.backoffLimitPerIndex");
    if changed("status.failedIndexes") {
        if let Some(why) = completions.filter(|_| limited).and_then(|most| indexes_of(failed, most).err()) {
            errors.invalid(at_failed, failed, format!("error parsing failedIndexes: {why}"));
        }
        if !limited {
            let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.invalid(at_failed, failed, why);
        }
    }
    if let Some(most) = completions
        && (changed("status.failedIndexes") || changed("status.completedIndexes"))
        && let Some(first) = overlap(completed, failed, most)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {first}");
        errors.invalid(at_failed, failed, why);
    }
}

/// The first index that two texts such as `1,3-5,7` both name.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let failed: Vec<(i64, i64)> = intervals(failed, completions).filter_map(Result::ok).collect();
    intervals(completed, completions).filter_map(Result::ok).find_map(|(first, last)| {
        let both = failed.iter().find(|(from, to)| first <= *to && *from <= last);
        both.map(|(from, _)| first.max(*from))
    })
}

fn changes(old: &Value, new: &Value, path: &Path, errors: &mut Errors) {
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is(old, condition) && !is(new, condition) {
            let why = format!("cannot disable the terminal {condition}=True condition");
            errors.invalid_as_a_whole(path.child("conditions"), why);
        }
    }
    // Jobs whose completions follow their parallelism are scaled down.
    let scales = indexed(new) && at(new, "spec.completions") == at(new, "spec.parallelism");
    for field in ["failed", "succeeded"] {
        let count = number(at(new, "status"), field);
        if count < number(at(old, "status"), field) && !(scales && field == "succeeded") {
            errors.invalid(path.child(field), count, format!("cannot decrease the {field} counter"));
        }
    }
    let (was, now) = (at(old, "status.completionTime"), at(new, "status.completionTime"));
    if !was.is_null() && !now.is_null() && was != now {
        errors.invalid(path.child("completionTime"), now, "completionTime cannot be mutated");
    }
    let was = at(old, "status.startTime");
    if !was.is_null() && was != at(new, "status.startTime") && !flag(new, "spec.suspend") {
        errors.required(path.child("startTime"), "startTime cannot be removed for unsuspended job");
    }
    let met = |job: &Value| is(job, "SuccessCriteriaMet");
    if met(old) && !met(new) {
        errors.invalid_as_a_whole(path.child("conditions"), "cannot disable the SuccessCriteriaMet=True condition");
    }
    if is(old, "Complete") && !met(old) && met(new) {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.invalid_as_a_whole(path.child("conditions"), why);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The errors of the change from one status to another.
    fn texts(spec: Value, old: Value, new: Value) -> Vec<String> {
        let mut errors = Errors::default();
        let job = |status: Value| json!({"spec": spec, "status": status});
        validate(&job(old), &job(new), &mut errors);
        errors.causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    fn on(conditions: &[&str]) -> Value {
        conditions.iter().map(|c| json!({"type": c, "status": "True"})).collect()
    }

    #[test]
    fn a_job_ends_the_way_that_it_was_told_to() {
        let spec = json!({"completions": 1, "parallelism": 1});
        let ends = json!({"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z", "succeeded": 1,
            "conditions": on(&["SuccessCriteriaMet", "Complete"])});
        assert_eq!(texts(spec.clone(), json!({}), ends.clone()), [""; 0]);
        assert_eq!(
            texts(spec.clone(), json!({}), json!({"active": 1, "conditions": on(&["Complete"])})),
            [
                "status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "status.completionTime: Required value: completionTime is required for Complete jobs",
                "status.startTime: Required value: startTime is required for finished job",
                "status.active: Invalid value: 1: active>0 is invalid for finished job",
            ]
        );
        assert_eq!(
            texts(spec, ends, json!({"startTime": "2026-01-01T00:00:00Z"})),
            [
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
            ]
        );
    }

    #[test]
    fn an_index_has_failed_or_is_complete() {
        let spec = json!({"completions": 9, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
        let status = |completed: &str, failed: &str| json!({"completedIndexes": completed, "failedIndexes": failed});
        assert_eq!(texts(spec.clone(), json!({}), status("0-2,5", "3,6-8")), [""; 0]);
        assert_eq!(
            texts(spec.clone(), json!({}), status("0-2,5", "1,9")),
            [
                "status.failedIndexes: Invalid value: \"1,9\": error parsing failedIndexes: too large index: \"9\"",
                "status.failedIndexes: Invalid value: \"1,9\": failedIndexes and completedIndexes overlap at index: 1",
            ]
        );
        assert_eq!(texts(spec, status("0-2,9", "1"), status("0-2,9", "1")), [""; 0], "nothing changes");
    }
}
