//! `batch/v1 Job`.

use serde_json::{Map, Value, json};

use super::status;
use crate::kind::{Context, Kind, Strategy, clear_status};
use crate::kinds::access::{at, each_mut, fill, fill_text, flag, has, list, number, remove, section, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, AGE, Cell, NAME, duration, seconds};
use crate::selector::LabelSelector;
use crate::validation::{Errors, Path, label_selector, names};

pub fn kind() -> Kind {
    Builder::new("batch", "v1", "Job", "jobs")
        .namespaced()
        .category("all")
        .status()
        .selectable_at("status.successful", "status.succeeded", "0")
        .columns(COLUMNS)
        .strategy(Job)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Status", state),
    Cell::made("Completions", completions),
    Cell::timed("Duration", took),
    AGE,
    Cell::made("Containers", |o| cells::container_field(o, "spec.template.spec", "name")).wide(),
    Cell::made("Images", |o| cells::container_field(o, "spec.template.spec", "image")).wide(),
    Cell::made("Selector", |o| cells::selector(at(o, "spec.selector"))).wide(),
];

fn state(job: &Value) -> Value {
    let conditions = list(job, "status.conditions");
    let is = |name: &str| conditions.iter().any(|c| text(c, "type") == name && text(c, "status") == "True");
    let ended = ["Complete", "Failed"].into_iter().find(|name| is(name));
    let deleted = || has(job, "metadata.deletionTimestamp").then_some("Terminating");
    let other = || ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|name| is(name));
    ended.or_else(deleted).or_else(other).unwrap_or("Running").into()
}

fn completions(job: &Value) -> Value {
    let succeeded = number(job, "status.succeeded");
    match (at(job, "spec.completions").as_i64(), number(job, "spec.parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        _ => format!("{succeeded}/1"),
    }
    .into()
}

fn took(job: &Value, now: i64) -> Value {
    let Some(start) = seconds(text(job, "status.startTime")) else { return "".into() };
    let end = seconds(text(job, "status.completionTime")).unwrap_or(now);
    duration(end - start).into()
}

struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "spec.template");
        if at(object, "metadata.labels").as_object().is_none_or(Map::is_empty) {
            let labels = at(object, "spec.template.metadata.labels").clone();
            if let (false, Some(metadata)) = (labels.is_null(), section(object, "metadata")) {
                metadata.insert("labels".to_owned(), labels);
            }
        }
        let Some(spec) = object.get_mut("spec") else { return };
        if !has(spec, "completions") && !has(spec, "parallelism") {
            fill(spec, "completions", 1);
        }
        fill(spec, "parallelism", 1);
        let limit = if has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
        fill(spec, "backoffLimit", limit);
        fill(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        fill(spec, "podReplacementPolicy", replacement);
        failure_policy(spec);
    }

    fn prepare_create(&self, object: &mut Value, _context: &Context) {
        clear_status(object);
        if !flag(object, "spec.manualSelector") {
            generate_selector(object);
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        validate_spec(spec, &path, errors);
        let (selector, at_selector) = (at(spec, "selector"), path.child("selector"));
        if selector.is_null() {
            errors.required(at_selector, "");
        } else {
            label_selector(selector, &at_selector, errors);
            if let Ok(selector) = LabelSelector::from_object(selector) {
                template::matched(&selector, at(spec, "template"), &path.child("template"), errors);
            }
        }
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        if !flag(object, "spec.manualSelector") {
            generated_selector(object, errors);
        }
        // The name of the last pod is the longest.
        let completions = number(object, "spec.completions");
        if text(object, "spec.completionMode") == "Indexed" && completions > 0 {
            let name = text(object, "metadata.name");
            let host = format!("{name}-{}", completions - 1);
            if !names::dns1123_label(&host).is_empty() {
                let why = format!("will not able to create pod with invalid DNS label: {host}");
                errors.invalid("metadata.name", name, why);
            }
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        for field in
            ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
        {
            errors.immutable(old, new, &format!("spec.{field}"));
        }
        completions_update(old, new, errors);
        // The scheduling of a job that has not begun may still be said.
        let (mut was, mut is) = (at(old, "spec.template").clone(), at(new, "spec.template").clone());
        if flag(old, "spec.suspend") && !has(old, "status.startTime") {
            for template in [&mut was, &mut is] {
                for field in SCHEDULING {
                    remove(template, field);
                }
                if at(template, "spec.affinity") == &json!({}) {
                    remove(template, "spec.affinity");
                }
            }
        }
        if was != is {
            errors.invalid("spec.template", at(new, "spec.template"), crate::validation::IMMUTABLE);
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, old: &Value, new: &Value, errors: &mut Errors) {
        status::validate(old, new, errors);
    }

    fn warnings(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut warnings = template::hostname(old, new);
        warnings.extend(template::warnings(new, "spec.template"));
        warnings
    }

    fn unknown_selector(&self, label: &str) -> String {
        format!("field label {label:?} not supported for batchv1.Job")
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// What of the template may change while a job is suspended and has not started.
const SCHEDULING: &[&str] = &[
    "metadata.labels",
    "metadata.annotations",
    "spec.affinity.nodeAffinity",
    "spec.nodeSelector",
    "spec.tolerations",
    "spec.schedulingGates",
];

/// Defaults within `podFailurePolicy`.
pub fn failure_policy(spec: &mut Value) {
    for rule in each_mut(spec, "podFailurePolicy.rules") {
        for pattern in each_mut(rule, "onPodConditions") {
            fill_text(pattern, "status", "True");
        }
    }
}

/// The pods of a job are told by its uid.
fn generate_selector(job: &mut Value) {
    let uid = text(job, "metadata.uid").to_owned();
    let generated = labels_of(job).map(|(key, value)| (key.to_owned(), Value::from(value)));
    if let Some(labels) = section(job, "spec.template.metadata.labels") {
        labels.extend(generated);
    }
    if let Some(spec) = section(job, "spec") {
        if spec.get("selector").is_none_or(Value::is_null) {
            spec.insert("selector".to_owned(), json!({}));
        }
        if let Some(labels) = spec.get_mut("selector").and_then(|selector| section(selector, "matchLabels")) {
            labels.insert("batch.kubernetes.io/controller-uid".to_owned(), uid.into());
        }
    }
}

/// The labels by which a job's pods are told, unless the job says itself which pods are its own.
fn labels_of(job: &Value) -> [(&'static str, &str); 4] {
    let (uid, name) = (text(job, "metadata.uid"), text(job, "metadata.name"));
    [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ]
}

/// Whether nobody has written other labels than those that were generated.
fn generated_selector(job: &Value, errors: &mut Errors) {
    let selector = at(job, "spec.selector");
    if selector.is_null() {
        return;
    }
    if text(job, "metadata.uid").is_empty() {
        errors.required("metadata.uid", "");
    }
    let path = Path::new("spec.template.metadata");
    let labels = at(job, "spec.template.metadata.labels");
    let expected = labels_of(job);
    for (key, value) in expected {
        let path = path.child("labels");
        match labels.get(key).and_then(Value::as_str) {
            None => errors.required(path.key(key), format!("must be '{value}'")),
            Some(label) if label != value => errors.invalid(path.key(key), labels, format!("must be '{value}'")),
            Some(_) => {}
        }
    }
    if let Ok(parsed) = LabelSelector::from_object(selector)
        && !parsed.matches_with(|key| expected.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    {
        errors.invalid("spec.selector", selector, "`selector` not auto-generated");
    }
}

/// Errors of a job's spec but its selector's, which a cron job's template has not.
pub fn validate_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    const COUNTS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    for field in COUNTS {
        errors.not_negative(path.child(field), at(spec, field));
    }
    errors.one_of_if_set(path.child("completionMode"), at(spec, "completionMode"), &["Indexed", "NonIndexed"]);
    indexes(spec, path, errors);
    let replacements: &[&str] =
        if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    errors.one_of_if_set(path.child("podReplacementPolicy"), at(spec, "podReplacementPolicy"), replacements);
    super::policies::validate(spec, path, errors);
    let (template, at_template) = (at(spec, "template"), path.child("template"));
    template::validate(template, &at_template, errors);
    let policy = text(template, "spec.restartPolicy");
    let at_policy = at_template.child("spec.restartPolicy");
    if matches!(policy, "" | "Always") {
        errors.required(at_policy, "valid values: \"OnFailure\", \"Never\"");
    } else if !matches!(policy, "OnFailure" | "Never") {
        errors.not_supported(at_policy, policy, &["OnFailure", "Never"]);
    } else if has(spec, "podFailurePolicy") && policy != "Never" {
        errors.invalid(at_policy, policy, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

/// What a job says of its indexes, and how many it may have.
fn indexes(spec: &Value, path: &Path, errors: &mut Errors) {
    const MOST: i64 = 100_000;
    const HIGH_PARALLELISM: i64 = 10_000;
    const HIGH_FAILED: i64 = 10_000;
    let (parallelism, completions) = (number(spec, "parallelism"), at(spec, "completions").as_i64());
    let most_failed = at(spec, "maxFailedIndexes").as_i64();
    let limited = has(spec, "backoffLimitPerIndex");
    let at_failed = path.child("maxFailedIndexes");
    if most_failed.is_some() && !limited {
        errors.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if text(spec, "completionMode") != "Indexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if has(spec, field) {
                errors.invalid(path.child(field), number(spec, field), "requires indexed completion mode");
            }
        }
        return;
    }
    if completions.is_none() {
        errors.required(path.child("completions"), "when completion mode is Indexed");
    }
    if parallelism > MOST {
        let why = format!("must be less than or equal to {MOST} when completion mode is Indexed");
        errors.invalid(path.child("parallelism"), parallelism, why);
    }
    if let (Some(completions), Some(failed)) = (completions, most_failed)
        && failed > completions
    {
        errors.invalid(at_failed, failed, "must be less than or equal to completions");
    }
    if let Some(failed) = most_failed.filter(|failed| *failed > MOST) {
        errors.invalid(at_failed, failed, format!("must be less than or equal to {MOST}"));
    }
    if completions > Some(MOST) && limited {
        let high = |most: i64| {
            format!(
                "must be less than or equal to {most} when completions are above {MOST} and used with backoff limit per index"
            )
        };
        if most_failed.is_none() {
            errors.required(at_failed, format!("must be specified when completions is above {MOST}"));
        }
        if parallelism > HIGH_PARALLELISM {
            errors.invalid(path.child("parallelism"), parallelism, high(HIGH_PARALLELISM));
        }
        if let Some(failed) = most_failed.filter(|failed| *failed > HIGH_FAILED) {
            errors.invalid(at_failed, failed, high(HIGH_FAILED));
        }
    }
}

/// Completions change only with parallelism, and only of an indexed job.
fn completions_update(old: &Value, new: &Value, errors: &mut Errors) {
    let (was, is) = (at(old, "spec.completions"), at(new, "spec.completions"));
    if was == is {
        return;
    }
    if text(new, "spec.completionMode") != "Indexed" || was.is_null() || is.is_null() {
        errors.immutable(old, new, "spec.completions");
    } else if is != at(new, "spec.parallelism") {
        errors.invalid("spec.completions", is, "can only be modified in tandem with spec.parallelism");
    }
}
