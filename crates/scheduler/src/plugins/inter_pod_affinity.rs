//! Pods want to be near others, or far from them; near is in the same domain of a node label.

use super::{Event, MAX_SCORE, Plugin};
use crate::{
    expression::Selector,
    groups::{Counts, Group, GroupId, Who},
    objects::Kind,
    pod::{Needs, Pod, PodTerm},
    profile::Profile,
    snapshot::{Slot, Snapshot, Stage},
    topology::TopologyId,
    verdict::{Reason, Rejection},
};

/// Whether a namespace's labels match a selector.
pub(crate) type Namespaces<'a> = &'a dyn Fn(&str, &Selector) -> bool;

impl PodTerm {
    fn matches(&self, pod: &Pod, namespaces: Namespaces<'_>) -> bool {
        let namespace = pod.item.namespace();
        let in_namespace = self.namespaces.iter().any(|name| **name == *namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| namespaces(namespace, selector));
        in_namespace && self.selector.as_ref().is_some_and(|selector| selector.matches(|key| pod.labels().get(key)))
    }
}

/// The pods that a pod's terms speak of.
enum Source {
    Groups(Vec<GroupId>),
    Counted(Counts),
}

impl Source {
    /// The pods that match all terms. Those of namespaces that are known by name are kept by the snapshot.
    fn new(terms: &[&PodTerm], who: Who, namespaces: Namespaces<'_>, snapshot: &mut Snapshot) -> Self {
        let Some(first) = terms.first() else { return Self::Counted(Counts::default()) };
        let is_plain = |it: &&PodTerm| it.namespace_selector.is_none() && it.namespaces == first.namespaces;
        let selectors: Option<Vec<&Selector>> = terms.iter().map(|it| it.selector.as_ref()).collect();
        match selectors {
            None => Self::Counted(Counts::default()),
            Some(selectors) if terms.iter().all(is_plain) => {
                let selector = Selector(selectors.iter().flat_map(|it| it.0.iter().cloned()).collect());
                let group = |namespace: &str| Group { namespace: namespace.into(), selector: selector.clone(), who };
                Self::Groups(first.namespaces.iter().map(|namespace| snapshot.group(group(namespace))).collect())
            }
            Some(_) => {
                let mut counts = Counts::default();
                let counted = snapshot.all_placed().filter(|it| who != Who::Certain || it.stage != Stage::Nominated);
                for placed in counted.filter(|it| terms.iter().all(|term| term.matches(&it.pod, namespaces))) {
                    counts.add(placed.slot, 1);
                }
                Self::Counted(counts)
            }
        }
    }

    fn each(&self, snapshot: &Snapshot, mut each: impl FnMut(Slot, i64)) {
        let mut all = |counts: &Counts| counts.iter().for_each(|(slot, number)| each(slot, number));
        match self {
            Self::Groups(groups) => groups.iter().for_each(|group| all(snapshot.counts(*group))),
            Self::Counted(counts) => all(counts),
        }
    }
}

/// A pod's terms, with what the snapshot keeps for them.
pub(crate) struct Plan {
    /// The labels of the required terms, and the pods that match all of them.
    required: Vec<TopologyId>,
    wanted: Source,
    avoided: Vec<(TopologyId, Source)>,
    /// Weights, negative for anti-affinity.
    preferred: Vec<(i64, TopologyId, Source)>,
}

impl Plan {
    /// None when neither the pod nor any other says anything.
    pub fn new(needs: &Needs, namespaces: Namespaces<'_>, snapshot: &mut Snapshot) -> Option<Self> {
        let known: Vec<Box<str>> = snapshot.with_affinity().flat_map(|(needs, _)| keys(needs)).cloned().collect();
        if !needs.has_affinity() && known.is_empty() {
            return None;
        }
        for key in known.iter().chain(keys(needs)) {
            snapshot.topology_id(key);
        }
        let (affinity, anti) = (&needs.affinity, &needs.anti_affinity);
        let all: Vec<&PodTerm> = affinity.required.iter().collect();
        let mut ask = |terms: &[&PodTerm], who| Source::new(terms, who, namespaces, snapshot);
        let wanted = ask(&all, Who::Certain);
        let avoided: Vec<_> = anti.required.iter().map(|term| ask(&[term], Who::All)).collect();
        let near = affinity.preferred.iter().map(|(weight, term)| (i64::from(*weight), term));
        let far = anti.preferred.iter().map(|(weight, term)| (-i64::from(*weight), term));
        let preferred: Vec<_> = near.chain(far).map(|(weight, term)| (weight, term, ask(&[term], Who::All))).collect();
        let mut topology = |term: &PodTerm| snapshot.topology_id(&term.topology_key);
        Some(Self {
            required: affinity.required.iter().map(&mut topology).collect(),
            wanted,
            avoided: anti.required.iter().zip(avoided).map(|(term, source)| (topology(term), source)).collect(),
            preferred: preferred.into_iter().map(|(weight, term, source)| (weight, topology(term), source)).collect(),
        })
    }
}

/// The labels of all terms.
fn keys(needs: &Needs) -> impl Iterator<Item = &Box<str>> {
    let affinities = [&needs.affinity, &needs.anti_affinity].into_iter();
    let terms = affinities.flat_map(|it| it.required.iter().chain(it.preferred.iter().map(|(_, term)| term)));
    terms.map(|term| &term.topology_key)
}

/// How much speaks for (or how many pods are in) each domain, by label.
#[derive(Default)]
struct Domains(Vec<(TopologyId, Vec<i64>)>);

impl Domains {
    fn add(&mut self, topology: TopologyId, slot: Slot, number: i64, snapshot: &Snapshot) {
        let Some(domain) = snapshot.topology(topology).domain(slot) else { return };
        let at = self.0.iter().position(|(known, _)| *known == topology).unwrap_or_else(|| {
            self.0.push((topology, vec![0; snapshot.topology(topology).domains()]));
            self.0.len() - 1
        });
        self.0[at].1[domain] += number;
    }

    fn of(&self, topology: TopologyId, slot: Slot, snapshot: &Snapshot) -> i64 {
        let domains = self.0.iter().find(|(known, _)| *known == topology);
        domains.zip(snapshot.topology(topology).domain(slot)).map_or(0, |((_, numbers), domain)| numbers[domain])
    }

    /// The sum over all labels of a node.
    fn sum(&self, slot: Slot, snapshot: &Snapshot) -> i64 {
        let of = |(topology, numbers): &(TopologyId, Vec<i64>)| {
            snapshot.topology(*topology).domain(slot).map_or(0, |domain| numbers[domain])
        };
        self.0.iter().map(of).sum()
    }
}

/// What the pods that are there mean for one pod, worked out once a decision.
pub(crate) struct Near<'a> {
    plan: &'a Plan,
    snapshot: &'a Snapshot,
    /// Domains with pods that match all required terms.
    wanted: Domains,
    /// Domains with pods that match a required anti-affinity term, in the order of the plan.
    avoided: Vec<Domains>,
    /// Domains with pods that want to be far from this one.
    closed: Domains,
    scores: Domains,
    /// Whether the pod itself matches all its required terms: the first of a group may go anywhere.
    own: bool,
}

impl<'a> Near<'a> {
    pub fn prepare(
        plan: &'a Plan,
        pod: &Pod,
        profile: &Profile,
        snapshot: &'a Snapshot,
        namespaces: Namespaces<'_>,
    ) -> Self {
        let needs = &*pod.needs;
        let own = needs.affinity.required.iter().all(|term| term.matches(pod, namespaces));
        let [wanted, closed, scores] = [const { None }; 3].map(|_: Option<()>| Domains::default());
        let mut near = Self { plan, snapshot, wanted, avoided: Vec::new(), closed, scores, own };
        let of_others = !profile.ignore_preferred_of_others || !plan.preferred.is_empty();
        for (others, counts) in snapshot.with_affinity() {
            near.ask(others, counts, pod, of_others.then_some(profile.hard_affinity_weight), namespaces);
        }
        for topology in &plan.required {
            plan.wanted.each(snapshot, |slot, number| near.wanted.add(*topology, slot, number, snapshot));
        }
        for (topology, source) in &plan.avoided {
            let mut domains = Domains::default();
            source.each(snapshot, |slot, number| domains.add(*topology, slot, number, snapshot));
            near.avoided.push(domains);
        }
        for (weight, topology, source) in &plan.preferred {
            source.each(snapshot, |slot, number| near.scores.add(*topology, slot, weight * number, snapshot));
        }
        near
    }

    /// What pods that are there say of this one. With the weight of their required terms, they say what they prefer too.
    fn ask(&mut self, needs: &Needs, counts: &Counts, pod: &Pod, hard: Option<i64>, namespaces: Namespaces<'_>) {
        let snapshot = self.snapshot;
        let say = |domains: &mut Domains, term: &PodTerm, weight: i64| {
            if weight != 0
                && term.matches(pod, namespaces)
                && let Some(topology) = snapshot.find_topology(&term.topology_key)
            {
                counts.iter().for_each(|(slot, number)| domains.add(topology, slot, weight * number, snapshot));
            }
        };
        let (affinity, anti) = (&needs.affinity, &needs.anti_affinity);
        anti.required.iter().for_each(|term| say(&mut self.closed, term, 1));
        if let Some(hard) = hard {
            affinity.required.iter().for_each(|term| say(&mut self.scores, term, hard));
            affinity.preferred.iter().for_each(|(weight, term)| say(&mut self.scores, term, i64::from(*weight)));
            anti.preferred.iter().for_each(|(weight, term)| say(&mut self.scores, term, -i64::from(*weight)));
        }
    }

    pub fn filter(&self, slot: Slot) -> Option<Rejection> {
        let (plan, snapshot) = (self.plan, self.snapshot);
        if !plan.required.iter().all(|topology| self.wanted.of(*topology, slot, snapshot) > 0) {
            let has_labels = || plan.required.iter().all(|it| snapshot.topology(*it).domain(slot).is_some());
            let first = self.wanted.0.is_empty() && self.own && has_labels();
            if !first {
                return Some(Rejection::hopeless(Plugin::InterPodAffinity, Reason::AFFINITY));
            }
        }
        let mut avoided = plan.avoided.iter().zip(&self.avoided);
        let reason = if avoided.any(|((topology, _), domains)| domains.of(*topology, slot, snapshot) > 0) {
            Reason::ANTI_AFFINITY
        } else if self.closed.sum(slot, snapshot) > 0 {
            Reason::EXISTING_ANTI_AFFINITY
        } else {
            return None;
        };
        Some(Rejection::resolvable(Plugin::InterPodAffinity, reason))
    }

    /// The scores of the feasible nodes, when anything speaks for or against one.
    pub fn score(&self, feasible: &[Slot]) -> Option<Vec<i64>> {
        if self.scores.0.is_empty() {
            return None;
        }
        let mut scores: Vec<i64> = feasible.iter().map(|slot| self.scores.sum(*slot, self.snapshot)).collect();
        let (min, max) = scores.iter().fold((0, 0), |(min, max), score| (*score.min(&min), *score.max(&max)));
        for score in &mut scores {
            *score = if max > min { MAX_SCORE * (*score - min) / (max - min) } else { 0 };
        }
        Some(scores)
    }
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    // Labels of namespaces are not at hand: a pod that might match is enough.
    let may_match = |terms: &[PodTerm], pod: &Pod| terms.iter().any(|term| term.matches(pod, &|_, _| true));
    match event {
        Event::Placed(other) => may_match(&pod.needs.affinity.required, other),
        Event::Gone(other) => {
            may_match(&pod.needs.anti_affinity.required, other)
                || may_match(&other.needs.anti_affinity.required, pod)
                // The first of a group may go anywhere, when the last of it is gone.
                || may_match(&pod.needs.affinity.required, other)
        }
        Event::Node { old, new } => old.is_none_or(|old| old.labels != new.labels),
        Event::Object { kind, .. } => kind == Kind::Namespace,
    }
}
