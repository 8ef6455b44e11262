//! Label selectors: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.

use std::fmt;

use crate::{Map, Status, Value};

/// A label selector: all requirements must hold. The empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Selects nothing, whatever the requirements (an absent `LabelSelector` object).
    nothing: bool,
}

/// One requirement of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub op: Operator,
}

/// What a requirement wants of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// One of these, in order of text.
    In(Vec<String>),
    /// None of these; a label that is absent is none of them.
    NotIn(Vec<String>),
    Exists,
    NotExists,
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// Parses a query's selector. Errors have upstream's words.
    pub fn parse(text: &str) -> Result<LabelSelector, Status> {
        let mut parser = Parser { text, at: 0 };
        let requirements =
            parser.requirements().map_err(|why| Status::bad_request(format!("unable to parse requirement: {why}")))?;
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// From a `LabelSelector` object (`matchLabels`, `matchExpressions`). Null selects nothing, an empty object everything.
    pub fn from_object(object: &Value) -> Result<LabelSelector, Status> {
        if object.is_null() {
            return Ok(LabelSelector { requirements: Vec::new(), nothing: true });
        }
        let mut requirements = Vec::new();
        for (key, value) in object["matchLabels"].as_object().into_iter().flatten() {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            requirements.push(Requirement { key: key.clone(), op: Operator::In(values) });
        }
        for expression in object["matchExpressions"].as_array().into_iter().flatten() {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let texts = expression["values"].as_array().into_iter().flatten();
            let mut values: Vec<String> = texts.filter_map(Value::as_str).map(str::to_owned).collect();
            values.sort();
            values.dedup();
            let op = match (expression["operator"].as_str().unwrap_or_default(), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::NotExists,
                ("In" | "NotIn", true) => {
                    return Err(Status::bad_request("for 'in', 'notin' operators, values set can't be empty"));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(Status::bad_request("values set must be empty for exists and does not exist"));
                }
                (other, _) => {
                    return Err(Status::bad_request(format!("{other:?} is not a valid label selector operator")));
                }
            };
            requirements.push(Requirement { key, op });
        }
        Ok(LabelSelector { requirements, nothing: false })
    }

    /// From a map of labels that must all be there, as Services' and ReplicationControllers' selectors are.
    pub fn from_map(labels: &Map<String, Value>) -> LabelSelector {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            op: Operator::In(vec![value.as_str().unwrap_or_default().to_owned()]),
        };
        LabelSelector { requirements: labels.iter().map(requirement).collect(), nothing: false }
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether an object's labels (`metadata.labels`) match.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels.and_then(|l| l.get(key)).and_then(Value::as_str))
    }

    /// Whether labels that are reached by a function match.
    pub fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.op.matches(label(&r.key)))
    }
}

impl Operator {
    fn matches(&self, label: Option<&str>) -> bool {
        let number = || label.and_then(|l| l.parse::<i64>().ok());
        match self {
            Operator::In(values) => label.is_some_and(|l| values.iter().any(|v| v == l)),
            Operator::NotIn(values) => label.is_none_or(|l| values.iter().all(|v| v != l)),
            Operator::Exists => label.is_some(),
            Operator::NotExists => label.is_none(),
            Operator::Greater(bound) => number().is_some_and(|n| n > *bound),
            Operator::Less(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

impl fmt::Display for LabelSelector {
    /// As a query writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Requirement { key, op }) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match op {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", values.join(","))?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Operator::Exists => f.write_str(key)?,
                Operator::NotExists => write!(f, "!{key}")?,
                Operator::Greater(bound) => write!(f, "{key}>{bound}")?,
                Operator::Less(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

/// Upstream's grammar: a lexer of operators and words, one token ahead.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    End,
    /// `=`, `==`, `!=`, `!`, `,`, `(`, `)`, `<`, `>`
    Sign(&'a str),
    Word(&'a str),
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::End => "",
            Token::Sign(text) | Token::Word(text) => text,
        }
    }
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Token<'a> {
        let special = |c: char| "=!,()<>".contains(c);
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\r', '\n']);
        let start = self.text.len() - rest.len();
        let Some(first) = rest.chars().next() else {
            self.at = self.text.len();
            return Token::End;
        };
        let length = if !special(first) {
            rest.find(|c: char| special(c) || c.is_ascii_whitespace()).unwrap_or(rest.len())
        } else if rest.starts_with("==") || rest.starts_with("!=") {
            2
        } else {
            1
        };
        self.at = start + length;
        let text = &rest[..length];
        if special(first) { Token::Sign(text) } else { Token::Word(text) }
    }

    fn peek(&self) -> Token<'a> {
        Parser { text: self.text, at: self.at }.next()
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut all = Vec::new();
        if self.peek() == Token::End {
            return Ok(all);
        }
        loop {
            all.push(self.requirement()?);
            match self.next() {
                Token::End => break,
                Token::Sign(",") => match self.peek() {
                    Token::Word(_) | Token::Sign("!") => {}
                    other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                },
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.peek() == Token::Sign("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(word) => word.to_owned(),
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        label_key(&key)?;
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(Requirement { key, op: if absent { Operator::NotExists } else { Operator::Exists } });
        }
        if absent {
            return Err(format!("found '{}', expected: ',' or 'end of string'", self.peek().text()));
        }
        let op = match self.next() {
            Token::Sign("=" | "==") => Operator::In(vec![self.value(&key)?]),
            Token::Sign("!=") => Operator::NotIn(vec![self.value(&key)?]),
            Token::Sign(">") => Operator::Greater(self.bound(&key)?),
            Token::Sign("<") => Operator::Less(self.bound(&key)?),
            Token::Word("in") => Operator::In(self.values(&key)?),
            Token::Word("notin") => Operator::NotIn(self.values(&key)?),
            other => {
                return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()));
            }
        };
        Ok(Requirement { key, op })
    }

    /// One value; it may be empty.
    fn value(&mut self, key: &str) -> Result<String, String> {
        if matches!(self.peek(), Token::End | Token::Sign(",")) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Word(word) => label_value(key, word).map(|()| word.to_owned()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn bound(&mut self, key: &str) -> Result<i64, String> {
        let text = self.value(key)?;
        text.parse().map_err(|_| {
            format!("values[0][{key}]: Invalid value: {text:?}: for 'Gt', 'Lt' operators, the value must be an integer")
        })
    }

    /// `(a,b)`, values sorted and once each.
    fn values(&mut self, key: &str) -> Result<Vec<String>, String> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut all = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    label_value(key, word)?;
                    all.push(word.to_owned());
                    match self.next() {
                        Token::Sign(",") if self.peek() == Token::Sign(")") => all.push(String::new()),
                        Token::Sign(",") => {}
                        Token::Sign(")") => break,
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Sign(",") => all.push(String::new()),
                Token::Sign(")") => {
                    if all.is_empty() {
                        all.push(String::new());
                    }
                    break;
                }
                other => return Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
            }
        }
        all.sort();
        all.dedup();
        Ok(all)
    }
}

const NAME_FORM: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_FORM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let invalid = |why: &str| Err(format!("key: Invalid value: {key:?}: {why}"));
    if prefix.is_some_and(str::is_empty) {
        return invalid("prefix part must be non-empty");
    }
    if prefix.is_some_and(|p| {
        p.len() > 253 || !p.split('.').all(|l| is_name(l) && !l.contains('_') && l.to_ascii_lowercase() == l)
    }) {
        return invalid(
            "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        );
    }
    if name.len() > 63 {
        return invalid("name part must be no more than 63 bytes");
    }
    if is_name(name) { Ok(()) } else { invalid(NAME_FORM) }
}

fn label_value(key: &str, value: &str) -> Result<(), String> {
    let invalid = |why: &str| Err(format!("values[0][{key}]: Invalid value: {value:?}: {why}"));
    if value.len() > 63 {
        return invalid("must be no more than 63 bytes");
    }
    if value.is_empty() || is_name(value) { Ok(()) } else { invalid(VALUE_FORM) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn selectors_select_by_labels() {
        let labels = json!({"app": "web", "tier": "front", "n": "5", "empty": ""});
        for (text, hit) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=front", true),
            (" app = web , tier != back ", true),
            ("app=db", false),
            ("app!=web", false),
            ("none!=x", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("none notin (a)", true),
            ("app", true),
            ("none", false),
            ("!none", true),
            ("!app", false),
            ("n>4", true),
            ("n<5", false),
            ("app>4", false),
            ("empty=", true),
            ("empty in ()", true),
            ("app in (,web)", true),
            ("x.io/y=z", false),
        ] {
            let selector = LabelSelector::parse(text).expect(text);
            assert_eq!(selector.matches(labels.as_object()), hit, "{text}");
            let again = LabelSelector::parse(&selector.to_string()).expect("its own text");
            assert_eq!(again, selector, "{text}");
        }
        assert!(!LabelSelector::parse("a").expect("valid").matches(None));
    }

    #[test]
    fn selectors_that_make_no_sense_are_refused() {
        for (text, why) in [
            ("a=b,", "found '', expected: identifier after ','"),
            ("=b", "found '=', expected: identifier"),
            ("a in b", "found 'b' expected: '('"),
            ("a in (b", "found '', expected: ',' or ')'"),
            ("a b", "found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a>x", "values[0][a]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"),
            ("/a", "key: Invalid value: \"/a\": prefix part must be non-empty"),
        ] {
            let status = LabelSelector::parse(text).expect_err(text);
            assert_eq!((status.code, status.message), (400, format!("unable to parse requirement: {why}")));
        }
        assert!(LabelSelector::parse("a=-b").is_err() && LabelSelector::parse("a$=b").is_err());
    }

    #[test]
    fn selector_objects_say_the_same() {
        let object = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "In", "values": ["e", "d"]}, {"key": "f", "operator": "DoesNotExist"}]});
        assert_eq!(LabelSelector::from_object(&object).expect("valid").to_string(), "a=b,c in (d,e),!f");
        assert!(LabelSelector::from_object(&json!({})).expect("valid").matches(None));
        assert!(!LabelSelector::from_object(&Value::Null).expect("valid").matches(None));
        let bad = json!({"matchExpressions": [{"key": "c", "operator": "Is"}]});
        assert_eq!(
            LabelSelector::from_object(&bad).expect_err("no operator").message,
            "\"Is\" is not a valid label selector operator"
        );
    }

    /// Whether labels match a requirement, said as plainly as can be.
    fn holds(labels: &Map<String, Value>, key: &str, operator: &str, values: &[String]) -> bool {
        let label = labels.get(key).and_then(Value::as_str);
        let listed = || label.is_some_and(|label| values.iter().any(|value| value == label));
        match operator {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            "Gt" => label.and_then(|l| l.parse::<i64>().ok()).is_some_and(|n| n > values[0].parse().expect("a number")),
            _ => label.and_then(|l| l.parse::<i64>().ok()).is_some_and(|n| n < values[0].parse().expect("a number")),
        }
    }

    /// The same requirement as a query writes it, one of the ways that there are.
    fn written(key: &str, operator: &str, values: &[String], other_way: bool) -> String {
        match (operator, values) {
            ("In", [one]) if other_way => format!("{key}=={one}"),
            ("In", [one]) => format!("{key} = {one}"),
            ("NotIn", [one]) if other_way => format!("{key}!={one}"),
            ("In", all) => format!("{key} in ({})", all.join(", ")),
            ("NotIn", all) => format!("{key} notin ({})", all.join(",")),
            ("Exists", _) => key.to_owned(),
            ("DoesNotExist", _) => format!("! {key}"),
            ("Gt", all) => format!("{key}>{}", all[0]),
            (_, all) => format!("{key} < {}", all[0]),
        }
    }

    fn requirement() -> impl Strategy<Value = (String, &'static str, Vec<String>, bool)> {
        let operators = prop_oneof![
            prop::collection::vec("[a-c0-3]", 1..4).prop_map(|values| ("In", values)),
            prop::collection::vec("[a-c0-3]", 1..4).prop_map(|values| ("NotIn", values)),
            Just(("Exists", Vec::new())),
            Just(("DoesNotExist", Vec::new())),
            (0..4_u8).prop_map(|bound| ("Gt", vec![bound.to_string()])),
            (0..4_u8).prop_map(|bound| ("Lt", vec![bound.to_string()])),
        ];
        ("(x\\.y/)?[a-c]", operators, any::<bool>())
            .prop_map(|(key, (operator, values), way)| (key, operator, values, way))
    }

    proptest! {
        /// A query and an object say the same, and what they say.
        #[test]
        fn selectors_match_as_their_requirements_read(
            requirements in prop::collection::vec(requirement(), 0..4),
            labels in prop::collection::btree_map("(x\\.y/)?[a-c]", "[a-c0-3]?", 0..5),
        ) {
            let labels: Map<String, Value> = labels.into_iter().map(|(key, value)| (key, value.into())).collect();
            let wanted = requirements.iter().all(|(key, operator, values, _)| holds(&labels, key, operator, values));
            let texts: Vec<String> = requirements.iter().map(|(k, o, v, way)| written(k, o, v, *way)).collect();
            let parsed = LabelSelector::parse(&texts.join(", ")).expect("valid");
            prop_assert_eq!(parsed.matches(Some(&labels)), wanted, "{:?} of {:?}", texts, labels);
            let of_objects = requirements.iter().all(|(_, operator, ..)| !matches!(*operator, "Gt" | "Lt"));
            if of_objects {
                let expressions: Vec<Value> = requirements.iter()
                    .map(|(key, operator, values, _)| json!({"key": key, "operator": operator, "values": values})).collect();
                let object = LabelSelector::from_object(&json!({"matchExpressions": expressions})).expect("valid");
                prop_assert_eq!(object.matches(Some(&labels)), wanted);
            }
        }

        #[test]
        fn parsing_never_panics(text in "[a-c=!,()<> \u{e9}/]{0,20}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
