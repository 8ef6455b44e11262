//! Names under a domain: drivers, signers, webhooks, controllers.

use super::{Errors, Path, names};

/// A driver of volumes or devices: a DNS subdomain in letters of either case, at most 63 of them.
pub fn driver(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    errors.all_invalid(path, name, names::dns1123_subdomain(&name.to_lowercase()));
}

/// Who signs certificates: `example.com/signer`.
pub fn signer(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts.as_slice() else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(path, name, why);
    };
    if domain.len() > 253 {
        errors.too_long(path, 253);
    }
    labels(domain, names::dns1123_label, path, errors);
    if !domain.contains('.') {
        errors.invalid(path, *domain, "should be a domain with at least two segments separated by dots");
    }
    labels(rest, names::dns1123_subdomain, path, errors);
    const LONGEST: usize = 253 + 1 + 63 + 1 + 253;
    if name.len() > LONGEST {
        errors.too_long(path, LONGEST);
    }
}

/// The first label of a domain that is wrong.
fn labels(text: &str, check: fn(&str) -> Vec<String>, path: &Path, errors: &mut Errors) {
    let checked = text.split('.').map(|label| (label, check(label)));
    if let Some((label, messages)) = checked.into_iter().find(|(_, messages)| !messages.is_empty()) {
        for message in messages {
            errors.invalid(path, text, format!("validating label {label:?}: {message}"));
        }
    }
}

/// A name of at least three labels, as webhooks have it.
pub fn fully_qualified(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        errors.invalid(path, name, messages.join(","));
    } else if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

/// A host's whole name, with or without the dot at its end.
pub fn host(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = names::dns1123_subdomain(name);
    if !messages.is_empty() {
        return errors.invalid(path, name, messages.join(","));
    }
    if !name.contains('.') {
        return errors.invalid(path, name, "should be a domain with at least two segments separated by dots");
    }
    for label in name.split('.') {
        let messages = names::dns1123_label(label);
        if !messages.is_empty() {
            errors.invalid(path, label, messages.join(","));
        }
    }
}

/// `acme.io/foo`: a domain and a path.
pub fn prefixed_path(text: &str, path: &Path, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = text.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty())
    else {
        return errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    errors.all_invalid(path, domain, names::dns1123_subdomain(domain));
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.invalid(path, rest, why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Check = fn(&str, &Path, &mut Errors);

    #[test]
    fn names_that_break_a_rule_are_told_it() {
        let path = Path::new("x");
        let table: &[(Check, &str, &[&str])] = &[
            (driver, "CSI.example.com", &[]),
            (signer, "example.com/a", &[]),
            (signer, "a", &["must be a fully qualified domain and path of the form 'example.com/signer-name'"]),
            (signer, "a/b", &["should be a domain with at least two segments separated by dots"]),
            (fully_qualified, "a.b.c", &[]),
            (fully_qualified, "a.b", &["should be a domain with at least three segments separated by dots"]),
            (host, "a.b.", &[]),
            (host, "a", &["should be a domain with at least two segments separated by dots"]),
            (prefixed_path, "acme.io/foo/1", &[]),
            (prefixed_path, "/foo", &["must be a domain-prefixed path (such as \"acme.io/foo\")"]),
        ];
        for (check, text, wanted) in table {
            let mut errors = Errors::default();
            check(text, &path, &mut errors);
            assert_eq!(errors.causes().len(), wanted.len(), "{text}: {:?}", errors.causes());
            for (cause, why) in errors.causes().iter().zip(*wanted) {
                assert!(cause.message.ends_with(why), "{text}: {}", cause.message);
            }
        }
        let mut errors = Errors::default();
        signer("Example.com/a_b", &path, &mut errors);
        let texts: Vec<&str> = errors.causes().iter().map(|c| &c.message[..60]).collect();
        assert_eq!(
            texts,
            [
                "Invalid value: \"Example.com\": validating label \"Example\": a ",
                "Invalid value: \"a_b\": validating label \"a_b\": a lowercase RF"
            ]
        );
    }
}
