//! Resources that DeviceClasses stand behind: a node that has none of it itself may have devices instead (KEP-5004).

use std::{cmp::Reverse, collections::BTreeMap};

use client::Change;
use k8s_openapi::{api::resource::v1::DeviceClass, jiff::Timestamp};

/// A class is asked for by its own name behind this.
const IMPLICIT: &str = "deviceclass.resource.kubernetes.io/";

#[derive(Debug, Default)]
pub(crate) struct DeviceClasses(BTreeMap<Box<str>, Class>);

#[derive(Debug)]
struct Class {
    resource: Option<String>,
    created: Option<Timestamp>,
}

impl DeviceClasses {
    /// A class has come, changed or gone.
    pub fn observe(&mut self, change: &Change) {
        let name = &*change.key.name;
        let read = |item: &client::Item| {
            let class = item.parse::<DeviceClass>();
            class.inspect_err(|error| tracing::error!(class = name, %error, "unreadable device class")).ok()
        };
        match change.new.as_deref().and_then(read) {
            None => _ = self.0.remove(name),
            Some(DeviceClass { metadata, spec }) => {
                let created = metadata.creation_timestamp.map(|time| time.0);
                self.0.insert(name.into(), Class { resource: spec.extended_resource_name, created });
            }
        }
    }

    /// The class behind a resource. Of several that name it the latest counts, and of those the first by name.
    pub fn behind(&self, resource: &str) -> Option<&str> {
        if let Some(name) = resource.strip_prefix(IMPLICIT) {
            return self.0.get_key_value(name).map(|(name, _)| &**name);
        }
        let named = self.0.iter().filter(|(_, class)| class.resource.as_deref() == Some(resource));
        named.max_by_key(|(name, class)| (class.created, Reverse(*name))).map(|(name, _)| &**name)
    }
}

/// Whether a class stands behind a resource by what it says itself.
pub(crate) fn is_behind(class: &client::Item, resource: &str) -> bool {
    resource.strip_prefix(IMPLICIT) == Some(class.name())
        || class
            .parse::<DeviceClass>()
            .is_ok_and(|class| class.spec.extended_resource_name.as_deref() == Some(resource))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use client::{Item, Key};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_class_that_names_a_resource_stands_behind_it() {
        let mut classes = DeviceClasses::default();
        let class = |name: &str, resource: &str, minute: u32| {
            let json = json!({"metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")},
                "spec": {"extendedResourceName": resource}});
            let new = Some(Arc::new(Item::from_json(&json.to_string()).unwrap()));
            Change { key: Key::new("", name), old: None, new }
        };
        let changes =
            [("c", "example.com/gpu", 1), ("b", "example.com/gpu", 2), ("a", "example.com/gpu", 2), ("d", "x.y/z", 3)];
        changes.iter().for_each(|(name, resource, minute)| classes.observe(&class(name, resource, *minute)));
        assert_eq!(classes.behind("example.com/gpu"), Some("a"), "of the latest two the first by name");
        assert_eq!(classes.behind("deviceclass.resource.kubernetes.io/c"), Some("c"));
        assert_eq!(classes.behind("deviceclass.resource.kubernetes.io/e"), None);
        assert_eq!(classes.behind("example.com/tpu"), None);
        classes.observe(&Change { key: Key::new("", "a"), old: None, new: None });
        assert_eq!(classes.behind("example.com/gpu"), Some("b"));
    }
}
