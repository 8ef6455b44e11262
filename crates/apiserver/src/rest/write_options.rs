//! The options of creates, updates and patches, which are in the query: checked before anything is read or written.

use api::Status;
use api::validation::{Errors, metadata};
use serde_json::json;

use super::Call;
use super::patch::is_apply;

/// Checks the options that go with the request's verb.
pub fn check(call: &Call) -> Result<(), Status> {
    let name = match call.info.verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => return Ok(()),
    };
    let query = &call.query;
    let mut errors = Errors::default();
    let manager = query.get("fieldManager").unwrap_or("");
    if name == "PatchOptions" {
        match is_apply(&call.headers) {
            false if query.has("force") => errors.forbidden("force", "may not be specified for non-apply patch"),
            true if manager.is_empty() => errors.required("fieldManager", "is required for apply patch"),
            _ => {}
        }
    }
    metadata::manager(manager, "fieldManager", &mut errors);
    dry_run(&query.all("dryRun").collect::<Vec<_>>(), &mut errors);
    let validation = query.get("fieldValidation").unwrap_or("");
    let known = ["", "Ignore", "Strict", "Warn"];
    if !known.contains(&validation) {
        errors.not_supported("fieldValidation", validation, &known);
    }
    errors.into_result("meta.k8s.io", name, "")
}

/// `All` is the only dry run that there is.
pub fn dry_run(values: &[&str], errors: &mut Errors) {
    if values.iter().any(|value| *value != "All") {
        errors.not_supported("dryRun", &json!(values), &["All"]);
    }
}
