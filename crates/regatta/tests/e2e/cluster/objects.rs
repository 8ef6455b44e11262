//! Objects as kubectl shows them, for tests to look at.

use serde_json::Value;

use super::Cluster;

impl Cluster<'_> {
    /// What `kubectl get -o json` gives.
    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[&["get", "-o", "json"], args].concat())).expect("JSON")
    }

    /// One field of an object, as kubectl's JSONPath gives it.
    pub fn field(&self, what: &str, path: &str) -> String {
        self.kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Waits until a field of an object has a value.
    pub fn until_field(&self, what: &str, path: &str, expected: &str) {
        self.wait_for(&format!("{path} of {what} to be {expected:?}"), || {
            let found = self.try_kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")])?;
            if found == expected { Ok(()) } else { Err(found) }
        });
    }

    /// Waits until an object is gone.
    pub fn until_gone(&self, what: &str) {
        self.wait_for(&format!("{what} to be gone"), || match self.try_kubectl(&["get", what]) {
            Err(error) if error.contains("NotFound") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// The pods of a selector that are not going.
    pub fn pods(&self, selector: &str) -> Vec<Value> {
        let list = self.json(&["pods", "-l", selector]);
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().filter(|pod| pod["metadata"].get("deletionTimestamp").is_none()).collect()
    }

    /// Waits until that many pods of a selector are there and not going, and gives their names.
    pub fn until_pods(&self, selector: &str, count: usize) -> Vec<String> {
        self.wait_for(&format!("{count} pods of {selector}"), || {
            let names: Vec<_> = self.pods(selector).iter().map(name).collect();
            if names.len() == count { Ok(names) } else { Err(format!("{names:?}")) }
        })
    }
}

pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}
