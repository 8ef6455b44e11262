//! Names and small values that claims, classes and slices share.

use serde_json::Value;

use crate::kinds::access::{list, text};
use crate::validation::labels::label_key;
use crate::validation::{Errors, Path, domains, names};

/// What a driver is told may be this large.
const LARGEST_PARAMETERS: usize = 10 * 1024;

/// The name of a pool: DNS subdomains between slashes.
pub fn pool(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > 253 {
        errors.too_long(path, 253);
    }
    for part in name.split('/') {
        errors.all_invalid(path, part, names::dns1123_subdomain(part));
    }
}

/// A DNS label.
pub fn label(name: &str, path: &Path, errors: &mut Errors) {
    errors.all_invalid(path, name, names::dns1123_label(name));
}

/// The name of an attribute or a capacity: an identifier, with a domain or without.
pub fn qualified(name: &str, path: &Path, errors: &mut Errors) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [own] => identifier(own, path, errors),
        [domain, own] => {
            match *domain {
                "" => errors.invalid(path, "", "the domain must not be empty"),
                domain => domains::driver(domain, path, errors),
            }
            match *own {
                "" => errors.invalid(path, "", "the name must not be empty"),
                own => identifier(own, path, errors),
            }
        }
        _ => {}
    }
}

/// The same with its domain.
pub fn fully_qualified(name: &str, path: &Path, errors: &mut Errors) {
    qualified(name, path, errors);
    if !name.contains('/') {
        errors.invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

fn identifier(name: &str, path: &Path, errors: &mut Errors) {
    const LONGEST: usize = 32;
    if name.len() > LONGEST {
        errors.too_long(path, LONGEST);
    }
    let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name.is_empty() || !word || name.starts_with(|c: char| c.is_ascii_digit()) {
        let why = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                   alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for \
                   validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.invalid(path, name, why);
    }
}

/// A version according to semver.org, 2.0.0.
pub fn is_version(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
    let (core, early) = text.split_once('-').map_or((text, None), |(core, early)| (core, Some(early)));
    let named = |part: &str| number(part) || (word(part) && part.bytes().any(|b| !b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && early.is_none_or(|early| early.split('.').all(named))
        && build.is_none_or(|build| build.split('.').all(word))
}

/// A uid in its usual form.
pub fn uid(text: &str, path: &Path, errors: &mut Errors) {
    let hex = |c: u8| c.is_ascii_hexdigit() && !c.is_ascii_uppercase();
    let dashed =
        text.bytes().enumerate().all(|(at, b)| if matches!(at, 8 | 13 | 18 | 23) { b == b'-' } else { hex(b) });
    if text.len() != 36 || !dashed {
        let why = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                   hexadecimal characters";
        errors.invalid(path, text, why);
    }
}

/// No more items than `most`; answers whether they are few enough to be looked at.
pub fn at_most(items: &[Value], most: usize, path: &Path, errors: &mut Errors) -> bool {
    if items.len() > most {
        errors.too_many(path, items.len(), most);
    }
    items.len() <= most
}

/// Items that are the same in what `key` says of them.
pub fn unique<'v, K: PartialEq>(
    items: &'v [Value],
    path: &Path,
    errors: &mut Errors,
    key: impl Fn(&'v Value) -> K,
    show: impl Fn(&'v Value) -> &'v Value,
) {
    for (index, item) in items.iter().enumerate() {
        if items[..index].iter().any(|other| key(other) == key(item)) {
            errors.duplicate(path.index(index), show(item));
        }
    }
}

/// What a driver alone understands.
pub fn configuration(config: &Value, path: &Path, errors: &mut Errors) {
    let (opaque, path) = (&config["opaque"], path.child("opaque"));
    if opaque.is_null() {
        return errors.required(path, "");
    }
    domains::driver(text(opaque, "driver"), &path.child("driver"), errors);
    raw(&opaque["parameters"], &path.child("parameters"), errors);
}

/// An object that is kept as it is.
pub fn raw(value: &Value, path: &Path, errors: &mut Errors) {
    match value {
        Value::Null => errors.required(path, ""),
        value if value.to_string().len() > LARGEST_PARAMETERS => errors.too_long(path, LARGEST_PARAMETERS),
        Value::Object(_) => {}
        _ => errors.invalid(path, "<value omitted>", "must be a valid JSON object"),
    }
}

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// A taint of a device.
pub fn taint(taint: &Value, path: &Path, errors: &mut Errors) {
    label_key(text(taint, "key"), &path.child("key"), errors);
    let value = text(taint, "value");
    errors.all_invalid(path.child("value"), value, names::label_value(value));
    errors.one_of(path.child("effect"), &taint["effect"], EFFECTS);
}

/// Taints that a request puts up with.
pub fn tolerations(request: &Value, path: &Path, errors: &mut Errors) {
    const MOST: usize = 16;
    let (tolerations, all) = (list(request, "tolerations"), path.child("tolerations"));
    if !at_most(tolerations, MOST, &all, errors) {
        return;
    }
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = all.index(index);
        let (key, value) = (text(toleration, "key"), text(toleration, "value"));
        if !key.is_empty() {
            label_key(key, &path.child("key"), errors);
        }
        match text(toleration, "operator") {
            "Exists" if !value.is_empty() => {
                errors.invalid(path.child("value"), value, "must be empty for operator `Exists`");
            }
            "Exists" => {}
            "Equal" => errors.all_invalid(path.child("value"), value, names::label_value(value)),
            "" => errors.required(path.child("operator"), ""),
            other => errors.not_supported(path.child("operator"), other, &["Equal", "Exists"]),
        }
        let effect = text(toleration, "effect");
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.not_supported(path.child("effect"), effect, EFFECTS);
        }
    }
}

/// Conditions that must hold, and those that must not, before a pod is bound to a device.
pub fn binding_conditions(device: &Value, path: &Path, errors: &mut Errors) {
    const MOST: usize = 4;
    let (wanted, failing) = (list(device, "bindingConditions"), list(device, "bindingFailureConditions"));
    let (at_wanted, at_failing) = (path.child("bindingConditions"), path.child("bindingFailureConditions"));
    for (conditions, all) in [(wanted, &at_wanted), (failing, &at_failing)] {
        if at_most(conditions, MOST, all, errors) {
            for (index, name) in conditions.iter().filter_map(Value::as_str).enumerate() {
                label_key(name, &all.index(index), errors);
            }
        }
    }
    unique(wanted, &at_wanted, errors, |name| name, |name| name);
    for (index, name) in failing.iter().enumerate() {
        if failing[..index].contains(name) {
            errors.duplicate(at_failing.index(index), name);
        }
        if wanted.contains(name) {
            let why = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(at_failing.index(index), name, why);
        }
    }
    match (wanted.is_empty(), failing.is_empty()) {
        (true, false) => {
            let why = "bindingConditions are required to use bindingFailureConditions";
            errors.invalid(at_wanted, &device["bindingConditions"], why);
        }
        (false, true) => {
            let why = "bindingFailureConditions are required to use bindingConditions";
            errors.invalid(at_failing, &device["bindingFailureConditions"], why);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic() {
        for right in ["1.2.3", "0.0.0-alpha.1", "1.0.0-0a+build.01", "1.2.3--"] {
            assert!(is_version(right), "{right}");
        }
        for wrong in ["1.2", "01.2.3", "1.2.3-01", "1.2.3-", "1.2.3+", "v1.2.3", "1.2.3-a..b"] {
            assert!(!is_version(wrong), "{wrong}");
        }
    }
}
