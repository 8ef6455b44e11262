//! Pods want to be near others, or far from them; near is in the same domain of a node label.

use std::collections::HashMap;

use super::{Event, MAX_SCORE, Plugin};
use crate::{
    expression::Selector,
    node::Node,
    pod::{Pod, PodTerm},
    snapshot::{Slot, Snapshot},
    verdict::{Reason, Rejection},
};

/// The weight of a placed pod's required affinity when others are scored.
const HARD_WEIGHT: i64 = 1;

/// Whether a namespace's labels match a selector.
pub(crate) type Namespaces<'a> = &'a dyn Fn(&str, &Selector) -> bool;

impl PodTerm {
    fn matches(&self, pod: &Pod, namespaces: Namespaces<'_>) -> bool {
        let namespace = pod.item.namespace();
        let in_namespace = self.namespaces.iter().any(|name| **name == *namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| namespaces(namespace, selector));
        in_namespace && self.selector.as_ref().is_some_and(|selector| selector.matches(|key| pod.labels().get(key)))
    }

    fn domain<'a>(&self, node: &'a Node) -> Option<&'a str> {
        node.labels.get(&self.topology_key)
    }
}

/// How much speaks for (or how many pods are in) each domain, by label and value.
type Domains<'a> = HashMap<(&'a str, &'a str), i64>;

/// What the pods that are there mean for one pod, worked out once a decision.
pub(crate) struct Near<'a> {
    pod: &'a Pod,
    /// Domains with pods that match all required terms.
    wanted: Domains<'a>,
    /// Domains with pods that match a required anti-affinity term.
    avoided: Domains<'a>,
    /// Domains with pods that want to be far from this one.
    closed: Domains<'a>,
    scores: Domains<'a>,
    /// Whether the pod itself matches all its required terms: the first of a group may go anywhere.
    own: bool,
}

impl<'a> Near<'a> {
    pub fn prepare(pod: &'a Pod, snapshot: &'a Snapshot, namespaces: Namespaces<'_>) -> Option<Self> {
        let needs = &*pod.needs;
        if !needs.has_affinity() && snapshot.with_affinity().next().is_none() {
            return None;
        }
        let own = needs.affinity.required.iter().all(|term| term.matches(pod, namespaces));
        let [wanted, avoided, closed, scores] = [const { None }; 4].map(|_: Option<()>| Domains::new());
        let mut near = Self { pod, wanted, avoided, closed, scores, own };
        for (other, slot) in snapshot.with_affinity() {
            if let Some(node) = snapshot.node(*slot) {
                near.ask(other, node, namespaces);
            }
        }
        if needs.has_affinity() {
            for &slot in snapshot.order() {
                if let Some(node) = snapshot.node(slot) {
                    snapshot.pods_on(slot).iter().for_each(|other| near.look_at(other, node, namespaces));
                }
            }
        }
        Some(near)
    }

    /// What a pod that is there says of this one.
    fn ask(&mut self, other: &'a Pod, node: &'a Node, namespaces: Namespaces<'_>) {
        let pod = self.pod;
        let say = |domains: &mut Domains<'a>, term: &'a PodTerm, weight: i64| {
            if let Some(domain) = term.domain(node).filter(|_| term.matches(pod, namespaces)) {
                *domains.entry((&term.topology_key, domain)).or_default() += weight;
            }
        };
        let (affinity, anti) = (&other.needs.affinity, &other.needs.anti_affinity);
        anti.required.iter().for_each(|term| say(&mut self.closed, term, 1));
        affinity.required.iter().for_each(|term| say(&mut self.scores, term, HARD_WEIGHT));
        affinity.preferred.iter().for_each(|(weight, term)| say(&mut self.scores, term, i64::from(*weight)));
        anti.preferred.iter().for_each(|(weight, term)| say(&mut self.scores, term, -i64::from(*weight)));
    }

    /// What this pod says of one that is there.
    fn look_at(&mut self, other: &Pod, node: &'a Node, namespaces: Namespaces<'_>) {
        let needs = &*self.pod.needs;
        let say = |domains: &mut Domains<'a>, term: &'a PodTerm, weight: i64| {
            if let Some(domain) = term.domain(node) {
                *domains.entry((&term.topology_key, domain)).or_default() += weight;
            }
        };
        let (affinity, anti) = (&needs.affinity, &needs.anti_affinity);
        if affinity.required.iter().all(|term| term.matches(other, namespaces)) {
            affinity.required.iter().for_each(|term| say(&mut self.wanted, term, 1));
        }
        for term in anti.required.iter().filter(|term| term.matches(other, namespaces)) {
            say(&mut self.avoided, term, 1);
        }
        let preferred = affinity.preferred.iter().map(|it| (it, 1)).chain(anti.preferred.iter().map(|it| (it, -1)));
        for ((weight, term), sign) in preferred {
            if term.matches(other, namespaces) {
                say(&mut self.scores, term, sign * i64::from(*weight));
            }
        }
    }

    pub fn filter(&self, node: &Node) -> Option<Rejection> {
        let needs = &*self.pod.needs;
        let within = |domains: &Domains<'_>, term: &PodTerm| {
            term.domain(node).is_some_and(|domain| domains.contains_key(&(&*term.topology_key, domain)))
        };
        let required = &needs.affinity.required;
        if !required.iter().all(|term| within(&self.wanted, term)) {
            let first = self.wanted.is_empty() && self.own && required.iter().all(|it| it.domain(node).is_some());
            if !first {
                return Some(Rejection::hopeless(Plugin::InterPodAffinity, Reason::AFFINITY));
            }
        }
        let reason = if needs.anti_affinity.required.iter().any(|term| within(&self.avoided, term)) {
            Reason::ANTI_AFFINITY
        } else if self.closed.keys().any(|(key, domain)| node.labels.get(key) == Some(domain)) {
            Reason::EXISTING_ANTI_AFFINITY
        } else {
            return None;
        };
        Some(Rejection::resolvable(Plugin::InterPodAffinity, reason))
    }

    /// The scores of the feasible nodes, when anything speaks for or against one.
    pub fn score(&self, snapshot: &Snapshot, feasible: &[Slot]) -> Option<Vec<i64>> {
        if self.scores.is_empty() {
            return None;
        }
        let raw = |slot: &Slot| {
            let labels = snapshot.node(*slot).map(|node| &node.labels);
            let here = |(key, domain): &(&str, &str)| labels.is_some_and(|labels| labels.get(key) == Some(domain));
            self.scores.iter().filter(|(domain, _)| here(domain)).map(|(_, weight)| *weight).sum::<i64>()
        };
        let mut scores: Vec<i64> = feasible.iter().map(raw).collect();
        let (min, max) = scores.iter().fold((0, 0), |(min, max), score| (score.min(&min).to_owned(), *score.max(&max)));
        scores
            .iter_mut()
            .for_each(|score| *score = if max > min { MAX_SCORE * (*score - min) / (max - min) } else { 0 });
        Some(scores)
    }
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    // Labels of namespaces are not at hand: a pod that might match is enough.
    let may_match = |terms: &[PodTerm], pod: &Pod| terms.iter().any(|term| term.matches(pod, &|_, _| true));
    match event {
        Event::Placed(other) => may_match(&pod.needs.affinity.required, other),
        Event::Gone(other) => {
            may_match(&pod.needs.anti_affinity.required, other) || may_match(&other.needs.anti_affinity.required, pod)
        }
        Event::Object { .. } => false,
        Event::Node { old, new } => old.is_none_or(|old| old.labels != new.labels),
    }
}
