//! `node.k8s.io/v1 RuntimeClass`.

use serde_json::Value;

use crate::kind::{Kind, Strategy};
use crate::kinds::access::{at, entries, list, text};
use crate::kinds::builder::Builder;
use crate::kinds::pods::warnings::deprecated;
use crate::kinds::pods::{resources, tolerations};
use crate::print::{self, AGE, Cell, NAME};
use crate::validation::labels::labels;
use crate::validation::{Errors, Path, names};

pub fn kind() -> Kind {
    Builder::new("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses").columns(COLUMNS).strategy(RuntimeClass).build()
}

const COLUMNS: &[Cell] = &[NAME, Cell::text("Handler", "handler"), AGE];

struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate(&self, object: &Value, errors: &mut Errors) {
        let handler = text(object, "handler");
        errors.all_invalid("handler", handler, names::dns1123_label(handler));
        let overhead = Path::new("overhead.podFixed");
        for (name, value) in entries(object, "overhead.podFixed") {
            resources::named_amount(name, value, &overhead.key(name), errors);
        }
        let path = Path::new("scheduling");
        labels(at(object, "scheduling.nodeSelector"), &path.child("nodeSelector"), errors);
        let (tolerations, all) = (list(object, "scheduling.tolerations"), path.child("tolerations"));
        for (index, toleration) in tolerations.iter().enumerate() {
            if tolerations[..index].contains(toleration) {
                errors.duplicate(all.index(index), toleration);
            }
        }
        tolerations::validate_all(tolerations, &all, errors);
    }

    fn validate_update(&self, old: &Value, new: &Value, errors: &mut Errors) {
        errors.immutable(old, new, "handler");
    }

    fn warnings(&self, _old: Option<&Value>, new: &Value) -> Vec<String> {
        let keys = entries(new, "scheduling.nodeSelector").map(|(key, _)| key);
        keys.filter_map(|key| deprecated(key)).map(|why| format!("scheduling.nodeSelector: {why}")).collect()
    }

    fn conditional_update(&self) -> bool {
        true
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        print::row(COLUMNS, object, now)
    }
}
