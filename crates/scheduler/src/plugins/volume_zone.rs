//! A bound volume that is labelled with zones or regions is used there.

use std::{borrow::Cow, sync::Arc};

use api::volume::Volume;

use super::{
    Event, Plugin,
    extension::{Extension, Judge},
    volumes::{Views, concerns},
};
use crate::{
    node::Node,
    pod::Pod,
    snapshot::{Slot, Snapshot},
    verdict::Rejection,
};

const CONFLICT: &str = "node(s) had no available volume zone";
/// Labels by their old and their new name.
const TOPOLOGY: [(&str, &str); 2] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
];

pub(crate) struct VolumeZone {
    pub views: Arc<Views>,
}

/// The labels that a node must have, each with the values that will do.
struct Zones(Vec<(usize, Vec<String>)>);

impl Zones {
    fn of<'a>(volumes: impl Iterator<Item = &'a Volume>) -> Zones {
        let mut zones = Vec::new();
        for volume in volumes {
            for (at, (old, new)) in TOPOLOGY.iter().enumerate() {
                for name in [old, new] {
                    if let Some(values) = volume.metadata.labels.get(*name).and_then(|value| value.as_str()) {
                        zones.push((at, values.split("__").map(str::to_owned).collect()));
                    }
                }
            }
        }
        Zones(zones)
    }

    fn allow<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = |at: usize| label(TOPOLOGY[at].1).or_else(|| label(TOPOLOGY[at].0));
        // A node that knows nothing of zones is in all of them.
        let aware = (0..TOPOLOGY.len()).any(|at| value(at).is_some());
        !aware || self.0.iter().all(|(at, values)| value(*at).is_some_and(|value| values.iter().any(|it| it == value)))
    }
}

impl Extension for VolumeZone {
    fn plugin(&self) -> Plugin {
        Plugin::VolumeZone
    }

    fn prepare<'a>(&'a self, pod: &'a Pod, _: &Snapshot) -> Result<Option<Box<dyn Judge + 'a>>, Rejection> {
        if pod.volumes.is_empty() {
            return Ok(None);
        }
        let claims = self.views.claims(pod);
        let volumes: Vec<_> = claims.iter().filter_map(|claim| self.views.volume_of(claim)).collect();
        let zones = Zones::of(volumes.iter().map(|it| &**it));
        Ok((!zones.0.is_empty()).then(|| Box::new(zones) as Box<dyn Judge>))
    }

    fn helps(&self, pod: &Pod, event: Event<'_>) -> bool {
        match event {
            Event::Node { old, new } => old.is_none_or(|old| old.labels != new.labels),
            _ => concerns(pod, event),
        }
    }
}

impl Judge for Zones {
    fn filter(&mut self, _: Slot, node: &Node, _: &Snapshot) -> Option<Rejection> {
        let fits = self.allow(|key| node.labels.get(key));
        (!fits).then(|| Rejection::because(Plugin::VolumeZone, true, [Cow::Borrowed(CONFLICT)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn zones_of_volumes_and_nodes_meet_under_either_name() {
        let (new, old) = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone");
        let table = [
            (json!({new: "a"}), Some((new, "a")), true),
            (json!({new: "a"}), Some((new, "b")), false),
            (json!({new: "a__b"}), Some((new, "b")), true),
            (json!({old: "a"}), Some((new, "a")), true),
            (json!({new: "a"}), Some((old, "b")), false),
            (json!({new: "a"}), Some(("topology.kubernetes.io/region", "r")), false),
            (json!({new: "a"}), None, true),
            (json!({"other": "a"}), Some((new, "b")), true),
        ];
        for (labels, node, expected) in table {
            let volume: Volume = serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap();
            let label = |key: &str| node.filter(|(name, _)| *name == key).map(|(_, value)| value);
            assert_eq!(Zones::of([&volume].into_iter()).allow(label), expected, "{labels} {node:?}");
        }
    }
}
