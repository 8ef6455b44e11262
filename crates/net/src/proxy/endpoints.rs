//! Which endpoints a service port's traffic goes to: the rules of kube-proxy's `CategorizeEndpoints`.

use super::Node;
use crate::nft::Family;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// The endpoints of one service port and address family.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// For traffic that may go anywhere.
    pub cluster: Vec<SocketAddr>,
    /// For traffic that must stay on this node.
    pub local: Vec<SocketAddr>,
}

impl Endpoints {
    /// There is somebody, here or elsewhere.
    pub fn any(&self) -> bool {
        !(self.cluster.is_empty() && self.local.is_empty())
    }
}

struct Candidate<'a> {
    address: SocketAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    local: bool,
    endpoint: &'a Endpoint,
}

/// Chooses among the slices of a service. Ready endpoints are preferred; where there are none, those that still serve while
/// they terminate are used. Topology hints are followed where every ready endpoint has them and one is for this node.
pub fn choose(slices: &[EndpointSlice], port: &str, protocol: &str, family: Family, node: &Node) -> Endpoints {
    let candidates = candidates(slices, port, protocol, family, node);
    let ready: Vec<_> = candidates.iter().filter(|candidate| candidate.ready).collect();
    let hinted = hinted(&ready, node);
    let usable = |local: bool| {
        let here = move |candidate: &&Candidate<'_>| !local || candidate.local;
        let ready: BTreeSet<_> = ready.iter().copied().filter(here).map(|candidate| candidate.address).collect();
        if !ready.is_empty() {
            return ready;
        }
        let leaving = |candidate: &&Candidate<'_>| candidate.serving && candidate.terminating;
        candidates.iter().filter(here).filter(leaving).map(|candidate| candidate.address).collect()
    };
    let cluster = hinted.unwrap_or_else(|| usable(false));
    Endpoints { cluster: cluster.into_iter().collect(), local: usable(true).into_iter().collect() }
}

fn candidates<'a>(
    slices: &'a [EndpointSlice],
    port: &str,
    protocol: &str,
    family: Family,
    node: &Node,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for slice in slices {
        let named = |found: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            found.name.as_deref().unwrap_or_default() == port && found.protocol.as_deref().unwrap_or("TCP") == protocol
        };
        let Some(number) = slice.ports.iter().flatten().find(named).and_then(|found| found.port) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            // All addresses of an endpoint are the same endpoint; like upstream only the first is used.
            let address = endpoint.addresses.first().and_then(|address| address.parse::<IpAddr>().ok());
            let Some(address) = address.filter(|address| Family::of(*address) == family) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            candidates.push(Candidate {
                address: SocketAddr::new(address, number as u16),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                local: endpoint.node_name.as_deref() == Some(&node.name),
                endpoint,
            });
        }
    }
    candidates
}

/// The ready endpoints that hints give to this node, or else to its zone; nothing where hints cannot be followed.
fn hinted(ready: &[&Candidate<'_>], node: &Node) -> Option<BTreeSet<SocketAddr>> {
    let follow = |wanted: &str, names: &dyn Fn(&Endpoint) -> Option<Vec<String>>| {
        let given: Option<Vec<_>> =
            ready.iter().map(|candidate| Some((candidate, names(candidate.endpoint)?))).collect();
        let chosen = given?.into_iter().filter(|(_, names)| names.iter().any(|name| name == wanted));
        let chosen: BTreeSet<_> = chosen.map(|(candidate, _)| candidate.address).collect();
        (!chosen.is_empty()).then_some(chosen)
    };
    let nodes = |endpoint: &Endpoint| {
        let hints = endpoint.hints.as_ref()?.for_nodes.as_ref()?;
        Some(hints.iter().map(|hint| hint.name.clone()).collect())
    };
    let zones = |endpoint: &Endpoint| {
        let hints = endpoint.hints.as_ref()?.for_zones.as_ref()?;
        Some(hints.iter().map(|hint| hint.name.clone()).collect())
    };
    follow(&node.name, &nodes).or_else(|| follow(node.zone.as_deref()?, &zones))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_ones_come_first_then_those_that_serve_while_they_terminate() {
        let (ready, leaving, dead) = (
            "conditions: {ready: true}",
            "conditions: {ready: false, serving: true, terminating: true}",
            "conditions: {ready: false, serving: false, terminating: true}",
        );
        let here = "nodeName: here";
        // Each endpoint's conditions and node; the last number of those for all traffic, and of those for local traffic.
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a [u8], &'a [u8]);
        let cases: &[Case<'_>] = &[
            (&[(ready, here), (ready, "nodeName: there")], &[1, 2], &[1]),
            (&[(leaving, here), (ready, "nodeName: there")], &[2], &[1]),
            (&[(leaving, here), (dead, here)], &[1], &[1]),
            (&[(dead, here)], &[], &[]),
            (&[("conditions: {}", here)], &[1], &[1]),
            (&[(ready, "hints: {forZones: [{name: z}]}"), (ready, "hints: {forZones: [{name: y}]}")], &[1], &[]),
            (&[(ready, "hints: {forZones: [{name: z}]}"), (ready, here)], &[1, 2], &[2]),
            (&[(ready, "hints: {forZones: [{name: y}]}")], &[1], &[]),
            (
                &[
                    (ready, "hints: {forZones: [{name: z}], forNodes: [{name: there}]}"),
                    (ready, "hints: {forZones: [{name: z}], forNodes: [{name: here}]}"),
                ],
                &[2],
                &[],
            ),
        ];
        let node = Node { name: "here".into(), zone: Some("z".into()), ..Node::default() };
        for (endpoints, cluster, local) in cases {
            let mut text =
                "addressType: IPv4\nmetadata: {name: s}\nports: [{name: http, port: 80}]\nendpoints:\n".to_string();
            for (number, (conditions, rest)) in endpoints.iter().enumerate() {
                text += &format!("- addresses: [10.0.0.{}]\n  {conditions}\n  {rest}\n", number + 1);
            }
            let slices = [serde_saphyr::from_str(&text).unwrap()];
            let wanted = |numbers: &[u8]| -> Vec<SocketAddr> {
                numbers.iter().map(|number| SocketAddr::from(([10, 0, 0, *number], 80))).collect()
            };
            let chosen = choose(&slices, "http", "TCP", Family::V4, &node);
            assert_eq!(chosen, Endpoints { cluster: wanted(cluster), local: wanted(local) }, "{text}");
            assert!(!choose(&slices, "other", "TCP", Family::V4, &node).any());
            assert!(!choose(&slices, "http", "UDP", Family::V4, &node).any());
            assert!(!choose(&slices, "http", "TCP", Family::V6, &node).any());
        }
    }
}
