//! A pod as the standards' rules look at it, and the words in which they say who breaks them.

use api::Value;

/// A broken rule.
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

impl Violation {
    pub fn new(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
        Some(Violation { reason: reason.into(), detail: detail.into() })
    }
}

/// A rule; `None` where the pod keeps it.
pub type Check = fn(&Pod) -> Option<Violation>;

pub struct Pod<'p> {
    pub metadata: &'p Value,
    pub spec: &'p Value,
}

impl<'p> Pod<'p> {
    pub fn new(metadata: &'p Value, spec: &'p Value) -> Self {
        Pod { metadata, spec }
    }

    /// Of all three lists.
    pub fn containers(&self) -> impl Iterator<Item = &'p Value> + use<'p> {
        let spec = self.spec;
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(move |list| spec[list].as_array().into_iter().flatten())
    }

    /// The names of the containers of which it is true.
    pub fn which(&self, test: impl Fn(&Value) -> bool) -> Vec<&'p str> {
        self.containers().filter(|container| test(container)).map(name).collect()
    }

    pub fn context(&self) -> &'p Value {
        &self.spec["securityContext"]
    }

    pub fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Who breaks a rule that is for the pod's and for the containers' contexts, as `pod and container "a"`, with the values in the
    /// order of their names; `bad` gives the value that breaks it.
    pub fn setters(&self, bad: impl Fn(&'p Value) -> Option<&'p str>) -> (Vec<String>, Vec<&'p str>) {
        let mut setters = Vec::new();
        let mut values = Vec::new();
        if let Some(value) = bad(self.context()) {
            setters.push("pod".to_owned());
            values.push(value);
        }
        let mut names = Vec::new();
        for container in self.containers() {
            if let Some(value) = bad(&container["securityContext"]) {
                names.push(name(container));
                values.push(value);
            }
        }
        if !names.is_empty() {
            setters.push(containers(&names));
        }
        values.sort_unstable();
        values.dedup();
        (setters, values)
    }
}

pub fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

/// `container "a"` or `containers "a", "b"`.
pub fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

pub fn plural<'t>(one: &'t str, many: &'t str, count: usize) -> &'t str {
    if count == 1 { one } else { many }
}

pub fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}
