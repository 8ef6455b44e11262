//! What a namespace's labels ask for.

use std::fmt;

use api::Value;

const PREFIX: &str = "pod-security.kubernetes.io/";

/// From what allows all to what allows least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    pub level: Level,
    /// `latest` or `v1.30`. The rules are the reference version's whatever it says.
    pub version: String,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        write!(f, "{level}:{}", self.version)
    }
}

pub struct Policy {
    pub enforce: Mode,
    pub warn: Mode,
}

impl Policy {
    /// The policy, and what is wrong with the labels. A level that makes no sense is the strictest, as upstream fails safe.
    pub fn read(labels: &Value) -> (Policy, Vec<String>) {
        let mut errors = Vec::new();
        let enforce = mode(labels, "enforce", &mut errors);
        mode(labels, "audit", &mut errors);
        let mut warn = mode(labels, "warn", &mut errors);
        let silent = |key: &str| labels.get(format!("{PREFIX}{key}")).is_none();
        // Where only enforce is given, its makers of templates are warned of what would not be let in.
        if silent("warn") && enforce.level > warn.level {
            warn.level = enforce.level;
            warn.version = enforce.version.clone();
        }
        (Policy { enforce, warn }, errors)
    }
}

fn mode(labels: &Value, name: &str, errors: &mut Vec<String>) -> Mode {
    let text = |key: &str| labels.get(format!("{PREFIX}{key}")).and_then(Value::as_str);
    let level = match text(name) {
        None | Some("privileged") => Level::Privileged,
        Some("baseline") => Level::Baseline,
        Some("restricted") => Level::Restricted,
        Some(other) => {
            errors.push(format!(
                "metadata.labels[{PREFIX}{name}]: Invalid value: {other:?}: must be one of privileged, baseline, restricted"
            ));
            if name == "enforce" { Level::Restricted } else { Level::Privileged }
        }
    };
    let version = text(&format!("{name}-version")).unwrap_or("latest");
    let minor = version.strip_prefix("v1.");
    if version != "latest" && !minor.is_some_and(|m| m.bytes().all(|b| b.is_ascii_digit()) && !m.is_empty()) {
        errors.push(format!(
            "metadata.labels[{PREFIX}{name}-version]: Invalid value: {version:?}: must be \"latest\" or \"v1.x\""
        ));
    }
    Mode { level, version: version.to_owned() }
}
