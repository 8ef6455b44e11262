//! `apps/v1 StatefulSet`.

use serde_json::{Value, json};

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, each_mut, fill, fill_text, has, keep_at, list, number, section, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::{Errors, NameRule, Path, percent_or_number};

pub fn kind() -> Kind {
    Builder::new("apps", "v1", "StatefulSet", "statefulsets")
        .namespaced()
        .short(&["sts"])
        .category("all")
        .scale()
        .status()
        .columns(COLUMNS)
        .strategy(StatefulSet)
        .build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Ready", |o| format!("{}/{}", number(o, "status.readyReplicas"), number(o, "spec.replicas")).into()),
    AGE,
    Cell::made("Containers", |o| cells::container_field(o, "spec.template.spec", "name")).wide(),
    Cell::made("Images", |o| cells::container_field(o, "spec.template.spec", "image")).wide(),
];

/// Fields of the spec that an update may change.
const MUTABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// The set with the volumes that its pods will have of its claim templates, which its containers may mount.
fn with_claims(object: &Value) -> Value {
    let mut object = object.clone();
    let templates = list(&object, "spec.volumeClaimTemplates").to_vec();
    let Some(spec) = object.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut) else { return object };
    let volumes = spec.entry("volumes").or_insert(Value::Null);
    if volumes.is_null() {
        *volumes = Value::Array(Vec::new());
    }
    for name in templates.iter().map(|template| text(template, "metadata.name")) {
        if let Some(all) = volumes.as_array_mut().filter(|all| all.iter().all(|it| it["name"] != name)) {
            all.push(json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
        }
    }
    object
}

struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "spec.template");
        let Some(spec) = object.get_mut("spec") else { return };
        fill_text(spec, "podManagementPolicy", "OrderedReady");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        section(spec, "updateStrategy");
        fill_text(&mut spec["updateStrategy"], "type", "RollingUpdate");
        if text(spec, "updateStrategy.type") == "RollingUpdate" {
            section(spec, "updateStrategy.rollingUpdate");
            fill(&mut spec["updateStrategy"]["rollingUpdate"], "partition", 0);
        }
        section(spec, "persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            fill_text(&mut spec["persistentVolumeClaimRetentionPolicy"], field, "Retain");
        }
        for claim in each_mut(spec, "volumeClaimTemplates") {
            fill(claim, "apiVersion", "v1");
            fill(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = claim.get_mut("spec") {
                fill(spec, "volumeMode", "Filesystem");
            }
            section(claim, "status");
            fill_text(&mut claim["status"], "phase", "Pending");
        }
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let (spec, path) = (at(object, "spec"), Path::new("spec"));
        errors.one_of(
            path.child("podManagementPolicy"),
            at(spec, "podManagementPolicy"),
            &["OrderedReady", "Parallel"],
        );
        let strategy = path.child("updateStrategy");
        match text(spec, "updateStrategy.type") {
            "" => errors.required(strategy, ""),
            "OnDelete" if has(spec, "updateStrategy.rollingUpdate") => {
                let why = "only allowed for updateStrategy 'RollingUpdate'";
                errors.invalid(strategy.child("rollingUpdate"), at(spec, "updateStrategy.rollingUpdate"), why);
            }
            "OnDelete" => {}
            "RollingUpdate" => {
                let rolling = at(spec, "updateStrategy.rollingUpdate");
                let path = strategy.child("rollingUpdate");
                errors.not_negative(path.child("partition"), at(rolling, "partition"));
                if has(rolling, "maxUnavailable") {
                    let value = at(rolling, "maxUnavailable");
                    if percent_or_number(value, &path.child("maxUnavailable"), errors) == Some(0) {
                        errors.invalid(path.child("maxUnavailable"), value, "cannot be 0");
                    }
                }
            }
            _ => {
                let why = "must be 'RollingUpdate' or 'OnDelete'";
                errors.invalid(strategy, at(spec, "updateStrategy"), why);
            }
        }
        for field in ["whenDeleted", "whenScaled"] {
            let at_policy = path.child("persistentVolumeClaimRetentionPolicy");
            let value = &spec["persistentVolumeClaimRetentionPolicy"][field];
            errors.one_of_supported(at_policy.child(field), value, &["Delete", "Retain"]);
        }
        for field in ["replicas", "minReadySeconds", "ordinals.start", "revisionHistoryLimit"] {
            errors.not_negative(path.child(field), at(spec, field));
        }
        template::workload(&with_claims(object), "statefulset", errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        let mut allowed = new.clone();
        for field in MUTABLE {
            keep_at(old, &mut allowed, &format!("spec.{field}"));
        }
        if at(old, "spec") != at(&allowed, "spec") {
            errors.forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
    }

    fn validate_subresource_update(&self, _subresource: &str, _old: &Value, new: &Value, errors: &mut Errors) {
        let status = Path::new("status");
        for field in ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
            let count = &new["status"][field];
            errors.not_negative(status.child(field), count);
            if count.as_i64() > Some(number(new, "status.replicas")) {
                errors.invalid(status.child(field), count, "cannot be greater than status.replicas");
            }
        }
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        let claims = list(new, "spec.volumeClaimTemplates");
        let mut warnings = template::warnings(new, "spec.template");
        for (index, claim) in claims.iter().enumerate() {
            let name = at(claim, "metadata.name");
            if claims[..index].iter().any(|other| at(other, "metadata.name") == name) {
                warnings.push(format!("spec.volumeClaimTemplates[{index}].metadata.name: duplicate name {name}"));
            }
        }
        warnings
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
