//! `v1 PodTemplate`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::at;
use crate::kinds::builder::Builder;
use crate::kinds::pods::{cells, template};
use crate::print::{self, Cell, NAME};
use crate::validation::{Errors, Path};

pub fn kind() -> Kind {
    Builder::new("", "v1", "PodTemplate", "podtemplates").namespaced().columns(COLUMNS).strategy(PodTemplate).build()
}

const COLUMNS: &[Cell] = &[
    NAME,
    Cell::made("Containers", |o| cells::container_field(o, "template.spec", "name")),
    Cell::made("Images", |o| cells::container_field(o, "template.spec", "image")),
    Cell::made("Pod Labels", |o| print::labels(at(o, "template.metadata.labels")).into()),
];

struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        template::defaults(object, "template");
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        template::validate(at(object, "template"), &Path::new("template"), errors);
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        template::warnings(new, "template")
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
