//! The options of creates, updates and patches, which are in the query: checked before anything is read or written.

use api::Status;
use api::validation::Errors;
use serde_json::json;

use super::Call;
use super::patch::is_apply;

const LONGEST_MANAGER: usize = 128;

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
    field_manager(manager, "fieldManager", &mut errors);
    dry_run(&query.all("dryRun").collect::<Vec<_>>(), &mut errors);
    let validation = query.get("fieldValidation").unwrap_or("");
    let known = ["", "Ignore", "Strict", "Warn"];
    if !known.contains(&validation) {
        errors.not_supported("fieldValidation", validation, &known);
    }
    errors.into_result("meta.k8s.io", name, "")
}

/// A manager's name is short and printable.
pub fn field_manager(manager: &str, field: &str, errors: &mut Errors) {
    if manager.len() > LONGEST_MANAGER {
        errors.too_long(field, LONGEST_MANAGER);
    }
    for (at, c) in manager.char_indices().filter(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' ')) {
        errors.invalid(field, manager, format!("invalid character U+{:04X} (at position {at})", u32::from(c)));
    }
}

/// `All` is the only dry run that there is.
pub fn dry_run(values: &[&str], errors: &mut Errors) {
    if values.iter().any(|value| *value != "All") {
        errors.not_supported("dryRun", &json!(values), &["All"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_are_short_and_printable() {
        let table = [
            ("kubectl client", None),
            ("a\tb", Some("Invalid value: \"a\\tb\": invalid character U+0009 (at position 1)")),
        ];
        for (manager, expected) in table {
            let mut errors = Errors::default();
            field_manager(manager, "fieldManager", &mut errors);
            assert_eq!(errors.causes().first().map(|cause| cause.message.as_str()), expected, "{manager:?}");
        }
        let mut errors = Errors::default();
        field_manager(&"x".repeat(129), "fieldManager", &mut errors);
        assert_eq!(errors.causes()[0].message, "Too long: may not be more than 128 bytes");
    }
}
