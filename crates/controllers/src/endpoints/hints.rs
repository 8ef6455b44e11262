//! Which zones should use an endpoint, by `service.kubernetes.io/topology-mode: Auto`: the zones share the endpoints as they
//! share the cluster's CPU, as long as no zone has much less than its part. Functions of values.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointHints, ForZone},
};

use super::spread::Group;
use crate::owner::Named;

/// By so much a zone's endpoints may be loaded more than those of others.
const OVERLOAD: f64 = 0.2;

/// The CPU of each zone's nodes, in thousandths.
pub(super) type Zones = BTreeMap<String, i64>;

pub(super) fn are_wanted(service: &Service) -> bool {
    let modes = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];
    let mode = modes.iter().find_map(|name| service.annotation(name));
    matches!(mode, Some("Auto" | "auto"))
}

/// Gives every endpoint of a family that serves a hint, or none of them where the zones cannot share them.
pub(super) fn give(groups: &mut [Group], zones: &Zones) {
    let is_ready = |endpoint: &&mut Endpoint| {
        endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
    };
    let all = groups.iter_mut().flat_map(|group| &mut group.endpoints);
    let mut ready: Vec<&mut Endpoint> = all.filter(is_ready).collect();
    let own: Option<Vec<String>> = ready.iter().map(|endpoint| endpoint.zone.clone()).collect();
    let Some(shared) = own.and_then(|own| share(own, zones)) else { return };
    for (endpoint, zone) in ready.iter_mut().zip(shared) {
        endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone }]), for_nodes: None });
    }
}

/// For endpoints in these zones the zones that should use them; none if some zone would have too few.
fn share(mut by: Vec<String>, zones: &Zones) -> Option<Vec<String>> {
    let (all, cpu) = (by.len() as f64, zones.values().sum::<i64>() as f64);
    if zones.len() < 2 || by.len() < zones.len() || cpu <= 0.0 {
        return None;
    }
    let desired = |zone: &str| zones.get(zone).map_or(0.0, |own| all * *own as f64 / cpu);
    let least = |zone: &str| (desired(zone) / (1.0 + OVERLOAD)).ceil() as usize;
    if zones.keys().map(|zone| least(zone)).sum::<usize>() > by.len() {
        return None;
    }
    let count = |by: &[String], zone: &str| by.iter().filter(|other| *other == zone).count();
    while let Some(poor) = zones.keys().find(|zone| count(&by, zone) < least(zone)) {
        // From whoever has most beyond its part, and can spare one.
        let spare = |place: &usize| count(&by, &by[*place]) as f64 - desired(&by[*place]);
        let can = |place: &usize| by[*place] != *poor && count(&by, &by[*place]) > least(&by[*place]);
        let giver = (0..by.len()).filter(can).max_by(|a, b| spare(a).total_cmp(&spare(b)))?;
        by[giver].clone_from(poor);
    }
    Some(by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_share_endpoints_as_they_share_the_cpu() {
        let zones = |text: &str| -> Zones {
            let zone = |word: &str| word.split_once('=').map(|(name, cpu)| (name.to_owned(), cpu.parse().unwrap()));
            text.split(' ').filter_map(zone).collect()
        };
        let cases = [
            ("a b c", "a=1 b=1 c=1", Some("a b c")),
            ("a a a b", "a=1 b=1", Some("a a b b")),
            ("a a a a b b", "a=1 b=1", Some("a a a b b b")),
            ("a a a a b b c c", "a=2 b=1 c=1", Some("a a a a b b c c")),
            ("a a b", "a=1 b=1", None),
            ("a b", "a=1 b=1 c=1", None),
            ("a a", "a=1", None),
        ];
        for (own, cpu, expected) in cases {
            let own: Vec<String> = own.split(' ').map(str::to_owned).collect();
            let shared = share(own.clone(), &zones(cpu)).map(|shared| shared.join(" "));
            assert_eq!(shared.as_deref(), expected, "{own:?} {cpu}");
        }
    }
}
