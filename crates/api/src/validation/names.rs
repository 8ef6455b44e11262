//! The syntaxes of names. A function answers upstream's messages about a text, none if it is right.

/// Which rule an object's name follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NameRule {
    #[default]
    Subdomain,
    Label,
    /// DNS-1035: starts with a letter.
    Label1035,
    /// Anything that can be a segment of a path: RBAC's kinds.
    PathSegment,
    /// The kind's own validation says.
    Own,
}

impl NameRule {
    /// Upstream's messages about a name, or about a prefix of one to which something is added (`generateName`).
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        let masked = if prefix { mask_trailing_dash(name) } else { name.to_owned() };
        match self {
            NameRule::Subdomain => dns1123_subdomain(&masked),
            NameRule::Label => dns1123_label(&masked),
            NameRule::Label1035 => dns1035_label(&masked),
            NameRule::PathSegment => path_segment(name, prefix),
            NameRule::Own => Vec::new(),
        }
    }
}

/// A prefix may end in a dash; what follows it makes the name right.
fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => {
            let mut masked = rest.to_owned();
            masked.pop();
            masked.push('a');
            masked
        }
        _ => name.to_owned(),
    }
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// Upstream counts bytes in its newer checks.
fn too_many_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// Upstream's way of telling the syntax together with examples.
fn syntax(what: &str, regex: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{what} (regex used for validation is '{regex}')");
    }
    let quoted: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{what} (e.g. {}regex used for validation is '{regex}')", quoted.join(" or "))
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

fn lower_or_digit(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Begins and ends with what `edge` allows and has that or `inner` between.
fn framed(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|b| edge(*b) || inner(*b)),
    }
}

fn is_label(text: &str) -> bool {
    framed(text, lower_or_digit, |b| b == b'-')
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// A DNS label of RFC 1123: at most 63 of a-z, 0-9 and `-`.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 63 {
        messages.push(too_many_bytes(63));
    }
    if !is_label(text) {
        messages.push(if is_subdomain(text) {
            "must not contain dots".to_owned()
        } else {
            syntax(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL,
                &["my-name", "123-abc"],
            )
        });
    }
    messages
}

/// A DNS subdomain of RFC 1123: labels between dots, at most 253 in all.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 253 {
        messages.push(too_many_bytes(253));
    }
    if !is_subdomain(text) {
        messages.push(syntax(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character",
            SUBDOMAIN,
            &["example.com"],
        ));
    }
    messages
}

/// `*.` and a subdomain.
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 253 {
        messages.push(too_long(253));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        messages.push(syntax(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    messages
}

/// A DNS label of RFC 1035, which starts with a letter.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 63 {
        messages.push(too_long(63));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        messages.push(syntax(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    messages
}

const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_IS: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
    alphanumeric character";
const QUALIFIED_EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];

fn is_qualified_part(text: &str) -> bool {
    framed(text, |b| b.is_ascii_alphanumeric(), |b| matches!(b, b'-' | b'_' | b'.'))
}

/// A label's key: a name of at most 63 with an optional DNS subdomain and `/` before it.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                messages.push("prefix part must be non-empty".to_owned());
            } else {
                messages.extend(dns1123_subdomain(prefix).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let what = syntax(QUALIFIED_IS, QUALIFIED, QUALIFIED_EXAMPLES);
            return vec![format!(
                "a qualified name {what} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        messages.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        messages.push(format!("name part {}", too_many_bytes(63)));
    }
    if !is_qualified_part(name) {
        messages.push(format!("name part {}", syntax(QUALIFIED_IS, QUALIFIED, QUALIFIED_EXAMPLES)));
    }
    messages
}

/// A label's value: empty, or at most 63 characters.
pub fn label_value(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 63 {
        messages.push(too_many_bytes(63));
    }
    if !text.is_empty() && !is_qualified_part(text) {
        messages.push(syntax(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    messages
}

/// A segment of a URL's path.
pub fn path_segment(text: &str, prefix: bool) -> Vec<String> {
    if !prefix && matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|bad| text.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// A port's name (IANA_SVC_NAME): at most 15 of a-z, 0-9 and single dashes between, with a letter.
pub fn port_name(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 15 {
        messages.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|b| lower_or_digit(b) || b == b'-') {
        messages.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        messages.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        messages.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        messages.push("must not begin or end with a hyphen".to_owned());
    }
    messages
}

/// An environment variable's name: printable ASCII other than `=`.
pub fn env_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    let what = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![what.to_owned()]
}

/// A key of a ConfigMap or Secret, which can be a file's name.
pub fn config_key(text: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if text.len() > 253 {
        messages.push(too_long(253));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        messages.push(syntax(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." | ".." => messages.push(format!("must not be '{text}'")),
        _ if text.starts_with("..") => messages.push("must not start with '..'".to_owned()),
        _ => {}
    }
    messages
}

/// A header's name as probes and hooks send it.
pub fn http_header(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    let what = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![syntax(what, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// `50%`.
pub fn percent(text: &str) -> Vec<String> {
    if text.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
        return Vec::new();
    }
    let what = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![syntax(what, "[0-9]+%", &["1%", "93%"])]
}

/// An IANA time zone's name that this build knows.
pub fn time_zone(text: &str) -> bool {
    jiff::tz::TimeZone::get(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_break_a_rule_are_told_it() {
        type Check = fn(&str) -> Vec<String>;
        let table: &[(Check, &str, &[&str])] = &[
            (dns1123_label, "web-1", &[]),
            (dns1123_label, "a.b", &["must not contain dots"]),
            (
                dns1123_label,
                "Web",
                &[
                    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (dns1123_subdomain, "a.b-c.d", &[]),
            (
                dns1123_subdomain,
                "a..b",
                &[
                    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
                 must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (dns1035_label, "web", &[]),
            (qualified_name, "example.com/My_Name", &[]),
            (qualified_name, "/x", &["prefix part must be non-empty"]),
            (label_value, "", &[]),
            (port_name, "http", &[]),
            (port_name, "80", &["must contain at least one letter (a-z)"]),
            (port_name, "a--b", &["must not contain consecutive hyphens"]),
            (env_name, "A.b-c", &[]),
            (
                env_name,
                "a=b",
                &["a valid environment variable name must consist only of printable ASCII characters other than '='"],
            ),
            (config_key, "..x", &["must not start with '..'"]),
            (wildcard_subdomain, "*.example.com", &[]),
        ];
        for (check, text, messages) in table {
            assert_eq!(check(text), *messages, "{text}");
        }
        assert_eq!(dns1035_label("1web").len(), 1);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn a_name_prefix_may_end_in_a_dash() {
        assert!(NameRule::Subdomain.check("web-", true).is_empty());
        assert!(!NameRule::Subdomain.check("web-", false).is_empty());
        assert!(!NameRule::Subdomain.check("-", true).is_empty());
    }
}
