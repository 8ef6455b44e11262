//! Field selectors: `metadata.name=a,status.phase!=Running`.

use std::fmt;

use crate::Status;

/// A field selector: all terms must hold. The empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    pub terms: Vec<Term>,
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    pub path: String,
    /// `!=` instead of `=`.
    pub negated: bool,
    pub value: String,
}

impl FieldSelector {
    /// Parses `a.b=c,d!=e,f==g`; in values `\,`, `\=` and `\\` stand for themselves. Errors have upstream's words.
    pub fn parse(text: &str) -> Result<FieldSelector, Status> {
        let mut terms = Vec::new();
        for part in split(text) {
            if !part.is_empty() {
                terms.push(term(part).map_err(Status::bad_request)?);
            }
        }
        Ok(FieldSelector { terms })
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that a field must have, where a term says so.
    pub fn required(&self, path: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.path == path && !t.negated).map(|t| t.value.as_str())
    }

    /// Whether fields that are reached by a function match.
    pub fn matches_with<'a>(&self, field: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|t| (field(&t.path) == t.value) != t.negated)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Term { path, negated, value }) in self.terms.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{}{path}{}{value}", if i > 0 { "," } else { "" }, if *negated { "!=" } else { "=" })?;
        }
        Ok(())
    }
}

/// At commas that no backslash precedes.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn term(part: &str) -> Result<Term, String> {
    let wrong = || format!("invalid selector: '{part}'; can't understand '{part}'");
    let sign = part.find('=').ok_or_else(wrong)?;
    let (path, negated) = match part[..sign].strip_suffix('!') {
        Some(path) => (path, true),
        None => (&part[..sign], false),
    };
    let value = &part[sign + 1..];
    let value = if negated { value } else { value.strip_prefix('=').unwrap_or(value) };
    Ok(Term { path: path.to_owned(), negated, value: unescape(value)? })
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                next => {
                    let sequence = next.map_or("\\".to_owned(), |n| format!("\\{n}"));
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            ',' | '=' => return Err(format!("invalid field selector: unescaped character in value: {c}")),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn field_selectors_are_read() {
        let term = |path: &str, negated, value: &str| Term { path: path.into(), negated, value: value.into() };
        for (text, terms) in [
            ("", vec![]),
            ("metadata.name=a", vec![term("metadata.name", false, "a")]),
            ("a==b,c!=d", vec![term("a", false, "b"), term("c", true, "d")]),
            ("a=,b!=", vec![term("a", false, ""), term("b", true, "")]),
            (r"a=x\,y\=z\\", vec![term("a", false, r"x,y=z\")]),
        ] {
            let parsed = FieldSelector::parse(text).expect(text);
            assert_eq!(parsed.terms, terms, "{text}");
            assert_eq!(FieldSelector::parse(&parsed.to_string()).expect("its own text"), parsed);
        }
        for text in ["a", "a>b", "a=b=c", r"a=\x", "a=b\\"] {
            assert_eq!(FieldSelector::parse(text).expect_err(text).code, 400);
        }
    }

    #[test]
    fn terms_are_compared_as_text() {
        let selector = FieldSelector::parse("a=1,b!=2").expect("valid");
        assert!(selector.matches_with(|path| if path == "a" { "1" } else { "" }));
        assert!(!selector.matches_with(|path| if path == "a" { "1" } else { "2" }));
        assert_eq!((selector.required("a"), selector.required("b")), (Some("1"), None));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in r"[a=!,\\\u{e9}]{0,12}") {
            if let Ok(parsed) = FieldSelector::parse(&text) {
                prop_assert_eq!(FieldSelector::parse(&parsed.to_string()).expect("its own text"), parsed);
            }
        }
    }
}
