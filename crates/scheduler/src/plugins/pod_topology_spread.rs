//! Pods are spread over the domains of a node label: no domain may have many more of them than another.
//!
//! Pods that state no constraints get the profile's, for the pods that their Services and their owner select
//! ([`crate::owners`]).

use super::{Event, MAX_SCORE, Plugin};
use crate::{
    class::Class,
    expression::Selector,
    groups::{Group, GroupId, Who},
    node::Node,
    pod::{Pod, SpreadConstraint},
    profile::Profile,
    snapshot::{Slot, Snapshot},
    topology::{Topology, TopologyId},
    verdict::{Reason, Rejection},
};

const HOSTNAME: &str = "kubernetes.io/hostname";

impl SpreadConstraint {
    /// Whether the constraint counts this pod for `of`.
    fn counts(&self, pod: &Pod, of: &Pod) -> bool {
        pod.item.namespace() == of.item.namespace()
            && self.selector.as_ref().is_some_and(|selector| selector.matches(|key| pod.labels().get(key)))
    }
}

/// A pod's constraints, with what the snapshot keeps for them.
pub(crate) struct Plan {
    hard: Vec<Asked>,
    soft: Vec<Asked>,
    /// Whether nodes without one of the labels are left out.
    all_labels: bool,
}

struct Asked {
    max_skew: i64,
    min_domains: i64,
    honor_affinity: bool,
    honor_taints: bool,
    is_hostname: bool,
    topology: TopologyId,
    /// The pods that are counted, if any are.
    group: Option<GroupId>,
    /// Whether the pod itself counts.
    own: i64,
}

impl Plan {
    /// `selector` is what the defaults count; none for a pod that nothing selects.
    pub fn new(pod: &Pod, profile: &Profile, selector: Option<&Selector>, snapshot: &mut Snapshot) -> Option<Self> {
        let stated = &pod.needs.spread;
        let constraints = if stated.is_empty() { selector.map(|_| &profile.spread)? } else { stated };
        let (mut hard, mut soft) = (Vec::new(), Vec::new());
        for it in constraints {
            let selector = if stated.is_empty() { selector } else { it.selector.as_ref() };
            let group = |selector: &Selector| Group {
                namespace: pod.item.namespace().into(),
                selector: selector.clone(),
                who: Who::Staying,
            };
            let asked = Asked {
                max_skew: it.max_skew,
                min_domains: it.min_domains,
                honor_affinity: it.honor_affinity,
                honor_taints: it.honor_taints,
                is_hostname: &*it.topology_key == HOSTNAME,
                topology: snapshot.topology_id(&it.topology_key),
                group: selector.map(|selector| snapshot.group(group(selector))),
                own: selector.is_some_and(|selector| selector.matches(|key| pod.labels().get(key))).into(),
            };
            if it.hard { hard.push(asked) } else { soft.push(asked) }
        }
        let all_labels = !stated.is_empty() || !profile.system_spread;
        (!hard.is_empty() || !soft.is_empty()).then_some(Self { hard, soft, all_labels })
    }
}

impl Asked {
    fn topology<'a>(&self, snapshot: &'a Snapshot) -> &'a Topology {
        snapshot.topology(self.topology)
    }

    fn by_slot(&self, snapshot: &Snapshot) -> Vec<i64> {
        let slots = snapshot.slots();
        self.group.map_or_else(|| vec![0; slots], |group| snapshot.counts(group).by_slot(slots))
    }
}

/// The number of counted pods in each domain that has a node which the constraint looks at.
fn by_domain(
    asked: &[Asked],
    all_labels: bool,
    class: &mut Class,
    profile: &Profile,
    snapshot: &Snapshot,
) -> Vec<Vec<Option<i64>>> {
    let on_nodes: Vec<Vec<i64>> = asked.iter().map(|it| it.by_slot(snapshot)).collect();
    let mut domains: Vec<_> = asked.iter().map(|it| vec![None; it.topology(snapshot).domains()]).collect();
    for &slot in snapshot.order() {
        let Some(node) = snapshot.node(slot) else { continue };
        if all_labels && asked.iter().any(|it| it.topology(snapshot).domain(slot).is_none()) {
            continue;
        }
        let row = class.row(profile, snapshot, slot, node);
        for ((it, domains), on_node) in asked.iter().zip(&mut domains).zip(&on_nodes) {
            if let Some(domain) = it.topology(snapshot).domain(slot)
                && (!it.honor_affinity || row.is_chosen)
                && (!it.honor_taints || row.is_tolerated)
            {
                *domains[domain].get_or_insert(0) += on_node[slot];
            }
        }
    }
    domains
}

/// What a pod's hard constraints demand, worked out once a decision.
pub(crate) struct Hard<'a> {
    snapshot: &'a Snapshot,
    demands: Vec<Demand<'a>>,
}

struct Demand<'a> {
    asked: &'a Asked,
    domains: Vec<Option<i64>>,
    fewest: i64,
}

impl<'a> Hard<'a> {
    pub fn prepare(plan: &'a Plan, class: &mut Class, profile: &Profile, snapshot: &'a Snapshot) -> Option<Self> {
        if plan.hard.is_empty() {
            return None;
        }
        let demand = |(asked, domains): (&'a Asked, Vec<Option<i64>>)| {
            let known = || domains.iter().flatten().copied();
            let few = i64::try_from(known().count()).is_ok_and(|domains| domains < asked.min_domains);
            let fewest = if few { 0 } else { known().min().unwrap_or(0) };
            Demand { asked, domains, fewest }
        };
        let domains = by_domain(&plan.hard, true, class, profile, snapshot);
        Some(Self { snapshot, demands: plan.hard.iter().zip(domains).map(demand).collect() })
    }

    pub fn filter(&self, slot: Slot) -> Option<Rejection> {
        self.demands.iter().find_map(|Demand { asked, domains, fewest }| {
            let Some(domain) = asked.topology(self.snapshot).domain(slot) else {
                return Some(Rejection::hopeless(Plugin::PodTopologySpread, Reason::SPREAD_LABEL));
            };
            let skew = domains[domain].unwrap_or(0) + asked.own - fewest;
            (skew > asked.max_skew).then(|| Rejection::resolvable(Plugin::PodTopologySpread, Reason::SPREAD))
        })
    }
}

/// The scores of the feasible nodes, when the pod has soft constraints.
pub(crate) fn score(
    plan: &Plan,
    class: &mut Class,
    profile: &Profile,
    snapshot: &Snapshot,
    feasible: &[Slot],
) -> Option<Vec<i64>> {
    let asked = &plan.soft;
    if asked.is_empty() {
        return None;
    }
    let domain = |it: &Asked, slot: Slot| it.topology(snapshot).domain(slot);
    let scored: Vec<bool> =
        feasible.iter().map(|&slot| !plan.all_labels || asked.iter().all(|it| domain(it, slot).is_some())).collect();
    let candidates = || feasible.iter().zip(&scored).filter(|(_, scored)| **scored).map(|(slot, _)| *slot);
    let needs_domains = asked.iter().any(|it| !it.is_hostname);
    let totals = if needs_domains { by_domain(asked, plan.all_labels, class, profile, snapshot) } else { Vec::new() };
    let mut raw = vec![0.0; feasible.len()];
    for (index, it) in asked.iter().enumerate() {
        let on_node = it.group.map(|group| snapshot.counts(group));
        let kinds = if it.is_hostname {
            candidates().count()
        } else {
            // Nodes without the label, where they count, are one domain more.
            let mut seen = vec![false; it.topology(snapshot).domains() + 1];
            candidates().for_each(|slot| seen[domain(it, slot).map_or(0, |domain| domain + 1)] = true);
            seen.into_iter().filter(|seen| *seen).count()
        };
        let weight = weight(kinds);
        for (raw, &slot) in raw.iter_mut().zip(feasible) {
            let Some(domain) = domain(it, slot) else { continue };
            let count = match on_node {
                None => 0,
                Some(on_node) if it.is_hostname => on_node.get(slot),
                Some(_) => totals[index][domain].unwrap_or(0),
            };
            *raw += cost(count, it.max_skew, weight);
        }
    }
    Some(invert(&raw, &scored))
}

/// A domain of many kinds weighs more, so that few large ones do not drown it.
#[expect(clippy::cast_precision_loss, reason = "a number of nodes is exact in a float")]
fn weight(domains: usize) -> f64 {
    ((domains + 2) as f64).ln()
}

#[expect(clippy::cast_precision_loss, reason = "a number of pods is exact in a float")]
fn cost(count: i64, max_skew: i64, weight: f64) -> f64 {
    count as f64 * weight + (max_skew - 1) as f64
}

/// The fewer pods the better; nodes without the labels get nothing.
#[expect(clippy::cast_possible_truncation, reason = "costs are small")]
fn invert(raw: &[f64], scored: &[bool]) -> Vec<i64> {
    let costs: Vec<Option<i64>> =
        raw.iter().zip(scored).map(|(raw, scored)| scored.then(|| raw.round() as i64)).collect();
    let min = costs.iter().flatten().min().copied().unwrap_or(0);
    let max = costs.iter().flatten().max().copied().unwrap_or(0);
    let score = |cost: Option<i64>| match cost {
        None => 0,
        Some(_) if max == 0 => MAX_SCORE,
        Some(cost) => MAX_SCORE * (max + min - cost) / max,
    };
    costs.into_iter().map(score).collect()
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    let hard = || pod.needs.spread.iter().filter(|constraint| constraint.hard);
    match event {
        // Hard defaults of the profile are not at hand; only they can have rejected a pod that states nothing.
        Event::Placed(_) | Event::Gone(_) if pod.needs.spread.is_empty() => true,
        Event::Placed(other) | Event::Gone(other) => hard().any(|constraint| constraint.counts(other, pod)),
        Event::Object { .. } => false,
        Event::Node { .. } if pod.needs.spread.is_empty() => true,
        Event::Node { old, new } => {
            let domains = |node: &Node| hard().map(|it| node.labels.get(&it.topology_key).map(str::to_owned)).collect();
            let now: Vec<Option<String>> = domains(new);
            old.map_or(now.iter().all(Option::is_some), |old| {
                // A policy that honours taints or affinity looks at more of a node than its domain.
                domains(old) != now || old.taints != new.taints || old.labels != new.labels
            })
        }
    }
}
