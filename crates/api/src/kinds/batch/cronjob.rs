//! `batch/v1 CronJob`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, at_mut, fill, fill_text, has, list, text};
use crate::kinds::batch::job;
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, AGE, Cell, NAME, since};
use crate::validation::{Errors, Path, cron, names};

pub fn kind() -> Kind {
    Builder::new("batch", "v1", "CronJob", "cronjobs")
        .namespaced()
        .short(&["cj"])
        .category("all")
        .status()
        .columns(COLUMNS)
        .strategy(CronJob)
        .build()
}

const POD: &str = "spec.jobTemplate.spec.template.spec";

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::text("Schedule", "spec.schedule"),
    Cell::made("Timezone", |o| or_none(text(o, "spec.timeZone"))),
    Cell::made("Suspend", |o| {
        match at(o, "spec.suspend").as_bool() {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        }
        .into()
    })
    .typed("boolean"),
    Cell::made("Active", |o| list(o, "status.active").len().into()).typed("integer"),
    Cell::timed("Last Schedule", |o, now| match text(o, "status.lastScheduleTime") {
        "" => "<none>".into(),
        time => since(time, now).into(),
    }),
    AGE,
    Cell::made("Containers", |o| cells::container_field(o, POD, "name")).wide(),
    Cell::made("Images", |o| cells::container_field(o, POD, "image")).wide(),
    Cell::made("Selector", |o| cells::selector(at(o, "spec.jobTemplate.spec.selector"))).wide(),
];

fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

struct CronJob;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "spec.jobTemplate.spec.template");
        let Some(spec) = object.get_mut("spec") else { return };
        fill_text(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = at_mut(spec, "jobTemplate.spec") {
            job::failure_policy(job);
        }
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        let schedule = text(spec, "schedule");
        if schedule.is_empty() {
            errors.required(path.child("schedule"), "");
        } else if let Err(why) = cron::check(schedule) {
            errors.invalid(path.child("schedule"), schedule, why);
        }
        for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            errors.not_negative(path.child(field), at(spec, field));
        }
        errors.one_of(path.child("concurrencyPolicy"), at(spec, "concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
        let job = at(spec, "jobTemplate.spec");
        let at_job = path.child("jobTemplate.spec");
        if has(job, "selector") {
            errors.invalid(at_job.child("selector"), at(job, "selector"), "`selector` will be auto-generated");
        }
        if at(job, "manualSelector") == &Value::Bool(true) {
            errors.not_supported(at_job.child("manualSelector"), at(job, "manualSelector"), &["nil", "false"]);
        }
        job::validate_spec(job, &at_job, errors);
    }

    fn validate_new(&self, object: &Value, errors: &mut Errors) {
        zone_in_schedule(None, object, errors);
        time_zone(at(object, "spec.timeZone"), errors);
        let name = text(object, "metadata.name");
        if name.len() > 52 {
            // A suffix of 11 characters makes a job's name of it.
            errors.invalid("metadata.name", name, "must be no more than 52 characters");
        }
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        zone_in_schedule(Some(old), new, errors);
        if at(old, "spec.timeZone") != at(new, "spec.timeZone") {
            time_zone(at(new, "spec.timeZone"), errors);
        }
    }

    fn warnings(&self, old: Option<&Value>, new: &Value) -> Vec<String> {
        let mut warnings = template::hostname(old, new);
        warnings.extend(template::warnings(new, "spec.jobTemplate.spec.template"));
        warnings
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}

/// A schedule that names its time zone itself may go on doing so.
fn zone_in_schedule(old: Option<&Value>, new: &Value, errors: &mut Errors) {
    let schedule = text(new, "spec.schedule");
    if !schedule.contains("TZ") {
        return;
    }
    let why = if !old.is_some_and(|old| text(old, "spec.schedule").contains("TZ")) {
        "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
    } else if has(new, "spec.timeZone") {
        "cannot use both timeZone field and TZ or CRON_TZ in schedule"
    } else {
        return;
    };
    errors.invalid("spec.schedule", schedule, why);
}

fn time_zone(zone: &Value, errors: &mut Errors) {
    let Some(zone) = zone.as_str() else { return };
    let path = Path::new("spec.timeZone");
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    let named = |part: &str| {
        let characters = |b: u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
        !matches!(part, "." | "..")
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(characters)
    };
    if !zone.split('/').all(named) {
        return errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
    if zone.eq_ignore_ascii_case("local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, why);
    } else if !names::time_zone(zone) {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}
