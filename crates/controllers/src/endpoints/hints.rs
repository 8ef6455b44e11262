//! Which zones should use an endpoint, by `service.kubernetes.io/topology-mode: Auto`: the zones share the endpoints as they
//! share the cluster's CPU, as long as no zone has much less than its part. Functions of values.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::{Endpoint, EndpointHints, ForZone},
};

use super::spread::Group;
use crate::{condition, owner::Named};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const CONTROL_PLANE_LABELS: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// By so much a zone's endpoints may be loaded more than those of others.
const OVERLOAD: f64 = 0.2;

/// The CPU of each zone's nodes, in thousandths; none where it is not known of all of them.
pub(super) type Zones = BTreeMap<String, i64>;

/// What a node counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub zone: Option<String>,
    cpu: i64,
    /// Whether it is ready, and runs what users run.
    counts: bool,
}

impl Place {
    pub fn of(node: &Node) -> Place {
        let label = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name));
        let status = node.status.as_ref();
        let cpu = status.and_then(|status| status.allocatable.as_ref()?.get("cpu"));
        let cpu = cpu.and_then(|cpu| api::quantity::Quantity::parse(&cpu.0).ok());
        let is_ready = status.is_some_and(|status| condition::is_true(&status.conditions, "Ready"));
        Place {
            zone: label(ZONE_LABEL).cloned(),
            cpu: cpu.map_or(0, |cpu| cpu.milli_value()),
            counts: is_ready && CONTROL_PLANE_LABELS.iter().all(|name| label(name).is_none()),
        }
    }
}

/// The zones of all nodes. One node of which it is not known where it is or how much it can do spoils the shares.
pub(super) fn zones<'a>(places: impl Iterator<Item = &'a Place>) -> Zones {
    let mut zones = Zones::new();
    for Place { zone, cpu, .. } in places.filter(|place| place.counts) {
        match zone.as_ref().filter(|zone| !zone.is_empty() && *cpu > 0) {
            Some(zone) => *zones.entry(zone.clone()).or_default() += cpu,
            None => return Zones::new(),
        }
    }
    zones
}

pub(super) fn are_wanted(service: &Service) -> bool {
    let modes = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
    let mode = modes.iter().find_map(|name| service.annotation(name));
    matches!(mode, Some("Auto" | "auto"))
}

/// Gives every endpoint of a family that serves a hint, or none of them where the zones cannot share them, which is told in
/// upstream's words.
pub(super) fn give(groups: &mut [Group], zones: &Zones) -> Result<(), String> {
    let is_ready = |endpoint: &&mut Endpoint| {
        endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
    };
    let all = groups.iter_mut().flat_map(|group| &mut group.endpoints);
    let mut ready: Vec<&mut Endpoint> = all.filter(is_ready).collect();
    let own: Vec<Option<String>> = ready.iter().map(|endpoint| endpoint.zone.clone()).collect();
    for (endpoint, zone) in ready.iter_mut().zip(share(own, zones)?) {
        endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone }]), for_nodes: None });
    }
    Ok(())
}

/// For endpoints in these zones the zones that should use them, or why some zone would have too few.
fn share(own: Vec<Option<String>>, zones: &Zones) -> Result<Vec<String>, String> {
    if zones.len() < 2 {
        return Err(
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes".to_owned()
        );
    }
    let counts = || format!("({} endpoints, {} zones)", own.len(), zones.len());
    if own.len() < zones.len() {
        return Err(format!("Insufficient number of endpoints {}", counts()));
    }
    let (all, cpu) = (own.len() as f64, zones.values().sum::<i64>() as f64);
    let part = |zone: &str| zones.get(zone).map_or(0.0, |own| all * *own as f64 / cpu);
    let least = |zone: &str| (part(zone) / (1.0 + OVERLOAD)).ceil() as usize;
    let desired = |zone: &str| part(zone).max(least(zone) as f64);
    if zones.keys().map(|zone| least(zone)).sum::<usize>() > own.len() {
        let why = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        return Err(format!("{why} {}", counts()));
    }
    let by: Option<Vec<String>> = own.iter().cloned().collect();
    let Some(mut by) = by else { return Err("One or more endpoints do not have a zone specified".to_owned()) };
    let count = |by: &[String], zone: &str| by.iter().filter(|other| *other == zone).count();
    while let Some(poor) = zones.keys().find(|zone| count(&by, zone) < least(zone)) {
        // From whoever has most beyond its part, and can spare one.
        let spare = |place: &usize| count(&by, &by[*place]) as f64 - desired(&by[*place]);
        let can = |place: &usize| by[*place] != *poor && count(&by, &by[*place]) > least(&by[*place]);
        let giver = (0..by.len()).filter(can).max_by(|a, b| spare(a).total_cmp(&spare(b)));
        let giver = giver.ok_or("No hints allocated for zones")?;
        by[giver].clone_from(poor);
    }
    Ok(by)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn zones_share_endpoints_as_they_share_the_cpu() {
        let zones = |text: &str| -> Zones {
            let zone = |word: &str| word.split_once('=').map(|(name, cpu)| (name.to_owned(), cpu.parse().unwrap()));
            text.split(' ').filter_map(zone).collect()
        };
        const FEW: &str = "Insufficient number of endpoints";
        const OVERLOADED: &str =
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
        const UNKNOWN: &str =
            "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
        let cases = [
            ("a b c", "a=1 b=1 c=1", Ok("a b c".to_owned())),
            ("a a a b", "a=1 b=1", Ok("a a b b".to_owned())),
            ("a a a a b b", "a=1 b=1", Ok("a a a b b b".to_owned())),
            ("a a a a b b c c", "a=2 b=1 c=1", Ok("a a a a b b c c".to_owned())),
            ("a a b", "a=1 b=1", Err(format!("{OVERLOADED} (3 endpoints, 2 zones)"))),
            ("a b", "a=1 b=1 c=1", Err(format!("{FEW} (2 endpoints, 3 zones)"))),
            ("a a", "a=1", Err(UNKNOWN.to_owned())),
            ("a -", "a=1 b=1", Err("One or more endpoints do not have a zone specified".to_owned())),
        ];
        for (own, cpu, expected) in cases {
            let own = own.split(' ').map(|zone| (zone != "-").then(|| zone.to_owned())).collect();
            assert_eq!(share(own, &zones(cpu)).map(|shared| shared.join(" ")), expected, "{cpu}");
        }
    }

    #[test]
    fn a_node_that_is_not_known_spoils_the_shares_unless_it_does_not_count() {
        let place = |zone: &str, cpu: &str, ready: &str, label: &str| {
            let node = serde_json::from_value::<Node>(json!({
                "metadata": {"name": "n", "labels": {label: "", ZONE_LABEL: zone}},
                "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]}}));
            Place::of(&node.unwrap())
        };
        let cases = [
            (place("b", "2", "True", "x"), "a=1000 b=2000"),
            (place("", "2", "True", "x"), ""),
            (place("b", "0", "True", "x"), ""),
            (place("", "2", "False", "x"), "a=1000"),
            (place("", "2", "True", "node-role.kubernetes.io/control-plane"), "a=1000"),
            (place("b", "2", "True", "node-role.kubernetes.io/master"), "a=1000"),
        ];
        for (other, expected) in cases {
            let found = zones([place("a", "1", "True", "x"), other.clone()].iter());
            let found: Vec<String> = found.into_iter().map(|(zone, cpu)| format!("{zone}={cpu}")).collect();
            assert_eq!(found.join(" "), expected, "{other:?}");
        }
    }
}
