//! Pods are spread over the domains of a node label: no domain may have many more of them than another.
//!
//! Pods that state no constraints get the profile's, for the pods that their Services and their owner select
//! ([`crate::owners`]).

mod ledger;

use std::sync::Arc;

use super::{Event, MAX_SCORE, Plugin};
use crate::{
    class::Class,
    expression::Selector,
    groups::{Group, GroupId, Who},
    namespaces::Scope,
    node::Node,
    pod::{Pod, SpreadConstraint},
    profile::Profile,
    snapshot::{Slot, Snapshot},
    topology::TopologyId,
    verdict::{Reason, Rejection},
};
pub(crate) use ledger::Ledgers;
use ledger::{Account, Ledger};

const HOSTNAME: &str = "kubernetes.io/hostname";

impl SpreadConstraint {
    /// Whether the constraint counts this pod for `of`.
    fn counts(&self, pod: &Pod, of: &Pod) -> bool {
        pod.item.namespace() == of.item.namespace()
            && !pod.item.deleting
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

#[derive(Debug, Clone, Copy)]
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
                of: vec![(Scope::one(pod.item.namespace()), selector.clone())],
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

/// What each constraint counts by domain, among the nodes at which it looks.
fn ledgers(
    asked: &[Asked],
    all_labels: bool,
    class: &mut Class,
    profile: &Profile,
    snapshot: &Snapshot,
) -> Vec<Arc<Ledger>> {
    let labels: Vec<TopologyId> = if all_labels { asked.iter().map(|it| it.topology).collect() } else { Vec::new() };
    let account = |it: &Asked| Account {
        group: it.group,
        topology: it.topology,
        honor_affinity: it.honor_affinity,
        honor_taints: it.honor_taints,
        labels: labels.clone(),
    };
    asked.iter().map(|it| Ledgers::up_to_date(account(it), class, profile, snapshot)).collect()
}

/// What a pod's hard constraints demand, worked out once a decision.
pub(crate) struct Hard(Vec<Demand>);

struct Demand {
    asked: Asked,
    ledger: Arc<Ledger>,
    /// How the number of the node that is being tried differs from what is counted.
    tried: i64,
}

impl Hard {
    pub fn prepare(plan: &Plan, class: &mut Class, profile: &Profile, snapshot: &Snapshot) -> Option<Self> {
        if plan.hard.is_empty() {
            return None;
        }
        let ledgers = ledgers(&plan.hard, true, class, profile, snapshot);
        let demand = |(asked, ledger): (&Asked, Arc<Ledger>)| Demand { asked: *asked, ledger, tried: 0 };
        Some(Self(plan.hard.iter().zip(ledgers).map(demand).collect()))
    }

    pub fn filter(&self, slot: Slot, snapshot: &Snapshot) -> Option<Rejection> {
        self.0.iter().find_map(|Demand { asked, ledger, tried }| {
            let Some(domain) = snapshot.topology(asked.topology).domain(slot) else {
                return Some(Rejection::hopeless(Plugin::PodTopologySpread, Reason::SPREAD_LABEL));
            };
            let few = i64::try_from(ledger.domains()).is_ok_and(|domains| domains < asked.min_domains);
            let fewest = if few { 0 } else { ledger.fewest(domain, *tried) };
            let skew = ledger.of(domain).unwrap_or(0) + tried + asked.own - fewest;
            (skew > asked.max_skew).then(|| Rejection::resolvable(Plugin::PodTopologySpread, Reason::SPREAD))
        })
    }

    /// A pod has been lifted off the node that is being tried (-1), or put back.
    pub fn change(
        &mut self,
        other: &Pod,
        slot: Slot,
        sign: i64,
        (class, profile, snapshot): (&mut Class, &Profile, &Snapshot),
    ) {
        for Demand { asked, ledger, tried } in &mut self.0 {
            if asked.group.is_some_and(|group| snapshot.is_of(group, other))
                && ledger.looks_at(slot, class, profile, snapshot)
            {
                *tried += sign;
            }
        }
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
    let domain = |it: &Asked, slot: Slot| snapshot.topology(it.topology).domain(slot);
    let scored: Vec<bool> =
        feasible.iter().map(|&slot| !plan.all_labels || asked.iter().all(|it| domain(it, slot).is_some())).collect();
    let candidates = || feasible.iter().zip(&scored).filter(|(_, scored)| **scored).map(|(slot, _)| *slot);
    let needs_domains = asked.iter().any(|it| !it.is_hostname);
    let totals = if needs_domains { ledgers(asked, plan.all_labels, class, profile, snapshot) } else { Vec::new() };
    let mut raw = vec![0.0; feasible.len()];
    for (index, it) in asked.iter().enumerate() {
        let on_node = it.group.map(|group| &snapshot.grouped(group).counts);
        let kinds = if it.is_hostname {
            candidates().count()
        } else {
            // Nodes without the label, where they count, are one domain more.
            let mut seen = vec![false; snapshot.topology(it.topology).domains() + 1];
            candidates().for_each(|slot| seen[domain(it, slot).map_or(0, |domain| domain + 1)] = true);
            seen.into_iter().filter(|seen| *seen).count()
        };
        let weight = weight(kinds);
        for (raw, &slot) in raw.iter_mut().zip(feasible) {
            let Some(domain) = domain(it, slot) else { continue };
            let count = match on_node {
                None => 0,
                Some(on_node) if it.is_hostname => on_node.get(slot),
                Some(_) => totals[index].of(domain).unwrap_or(0),
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
    let mut hard = pod.needs.spread.iter().filter(|constraint| constraint.hard);
    match event {
        Event::Object { .. } => false,
        // Hard defaults of the profile are not at hand; only they can have rejected a pod that states nothing.
        _ if pod.needs.spread.is_empty() => true,
        Event::Placed(other) | Event::Gone(other) => hard.any(|constraint| constraint.counts(other, pod)),
        Event::Changed { old, new } => {
            hard.any(|constraint| constraint.counts(old, pod) != constraint.counts(new, pod))
        }
        // The domain of the fewest may have gone with it.
        Event::NodeGone(node) => hard.any(|it| node.labels.get(&it.topology_key).is_some()),
        Event::Node { old, new } => {
            let domains =
                |node: &Node| hard.clone().map(|it| node.labels.get(&it.topology_key).map(str::to_owned)).collect();
            let now: Vec<Option<String>> = domains(new);
            old.map_or(now.iter().all(Option::is_some), |old| {
                // A policy that honours taints or affinity looks at more of a node than its domain.
                domains(old) != now || old.taints != new.taints || old.labels != new.labels
            })
        }
    }
}
