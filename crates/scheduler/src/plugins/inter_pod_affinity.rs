//! Pods want to be near others, or far from them; near is in the same domain of a node label.
//!
//! The snapshot keeps what is asked here counted by domain ([`crate::groups`], [`crate::terms`]), so that a decision costs as
//! much as the nodes that it looks at.

use super::{Event, MAX_SCORE, Plugin};
use crate::{
    expression::Selector,
    groups::{Group, GroupId, Who},
    namespaces::Namespaces,
    objects::Kind,
    pod::{Needs, Pod, PodTerm},
    profile::Profile,
    snapshot::{Slot, Snapshot},
    terms::{Says, TermId},
    topology::TopologyId,
    verdict::{Reason, Rejection},
};

/// From so many counted things on they are added up by domain first.
const FEW: usize = 6;

impl PodTerm {
    /// Whether the term speaks of a pod.
    pub fn matches(&self, pod: &Pod, namespaces: &Namespaces) -> bool {
        self.scope.has(pod.item.namespace(), namespaces) && self.selects(pod)
    }

    /// The same by labels alone: the labels of namespaces are not at hand, and a pod that might match is enough.
    fn may_match(&self, pod: &Pod) -> bool {
        let namespace = pod.item.namespace();
        (self.scope.selector.is_some() || self.scope.names.iter().any(|name| **name == *namespace)) && self.selects(pod)
    }

    fn selects(&self, pod: &Pod) -> bool {
        self.selector.as_ref().is_some_and(|selector| selector.matches(|key| pod.labels().get(key)))
    }
}

/// The group of the pods that match all terms; none if there are no terms, or one that selects nobody.
fn group<'a>(terms: impl Iterator<Item = &'a PodTerm>, who: Who) -> Option<Group> {
    let of: Option<Vec<_>> =
        terms.map(|term| Some((term.scope.clone(), Selector::clone(term.selector.as_ref()?)))).collect();
    of.filter(|of| !of.is_empty()).map(|of| Group { of, who })
}

/// Pods that are counted by domain.
#[derive(Debug, Clone, Copy)]
enum Counted {
    /// Those of a group, by the domains of a label.
    Group(GroupId, TopologyId),
    /// Those that state a term, by the domains of its label.
    Term(TermId),
}

impl Counted {
    fn of(self, slot: Slot, snapshot: &Snapshot) -> i64 {
        let tally = match self {
            Self::Group(group, topology) => snapshot.grouped(group).tally(topology),
            Self::Term(term) => snapshot.term(term).map(|it| &it.tally),
        };
        let Some(tally) = tally else { return 0 };
        snapshot.topology(tally.topology).domain(slot).map_or(0, |domain| tally.of(domain))
    }

    fn topology(self, snapshot: &Snapshot) -> Option<TopologyId> {
        match self {
            Self::Group(_, topology) => Some(topology),
            Self::Term(term) => snapshot.term(term).map(|it| it.tally.topology),
        }
    }

    /// A number for each domain that has a node.
    fn add_to(self, sums: &mut [i64], weight: i64, snapshot: &Snapshot) {
        let tally = match self {
            Self::Group(group, topology) => snapshot.grouped(group).tally(topology),
            Self::Term(term) => snapshot.term(term).map(|it| &it.tally),
        };
        let Some(tally) = tally else { return };
        sums.iter_mut().enumerate().for_each(|(domain, sum)| *sum += weight * tally.of(domain));
    }
}

/// A weighted sum of what is counted, for any node.
#[derive(Debug, Default)]
struct Sum {
    parts: Vec<(i64, Counted)>,
    /// The sums by domain for labels that many parts have.
    by_domain: Vec<(TopologyId, Vec<i64>)>,
}

impl Sum {
    fn new(parts: Vec<(i64, Counted)>, snapshot: &Snapshot) -> Self {
        if parts.len() <= FEW {
            return Self { parts, by_domain: Vec::new() };
        }
        let mut by_domain: Vec<(TopologyId, Vec<i64>)> = Vec::new();
        for (weight, part) in parts {
            let Some(topology) = part.topology(snapshot) else { continue };
            let at = by_domain.iter().position(|(known, _)| *known == topology).unwrap_or_else(|| {
                by_domain.push((topology, vec![0; snapshot.topology(topology).domains()]));
                by_domain.len() - 1
            });
            part.add_to(&mut by_domain[at].1, weight, snapshot);
        }
        Self { parts: Vec::new(), by_domain }
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty() && self.by_domain.is_empty()
    }

    fn of(&self, slot: Slot, snapshot: &Snapshot) -> i64 {
        let parts: i64 = self.parts.iter().map(|(weight, part)| weight * part.of(slot, snapshot)).sum();
        let domain = |topology: TopologyId| snapshot.topology(topology).domain(slot);
        let sums = self.by_domain.iter().map(|(topology, sums)| domain(*topology).map_or(0, |domain| sums[domain]));
        parts + sums.sum::<i64>()
    }
}

/// What a pod's terms ask of the pods that are there, and what those say of it; worked out once a decision.
pub(crate) struct Near {
    /// The labels of the required terms, and the pods that match all of them.
    required: Vec<TopologyId>,
    wanted: Option<GroupId>,
    /// Those that match a required anti-affinity term, one after another.
    avoided: Vec<(TopologyId, GroupId)>,
    /// Those that want to be far from this one.
    closed: Sum,
    scores: Sum,
    /// Whether the pod itself matches all its required terms: the first of a group may go anywhere.
    own: bool,
    /// How the numbers of the node that is being tried differ from what is counted.
    tried: Tried,
}

/// What pods that were [lifted](Snapshot::lift) off a node had counted there.
#[derive(Debug, Default)]
struct Tried {
    wanted: i64,
    avoided: Vec<i64>,
    closed: i64,
}

impl Near {
    /// None when neither the pod nor any other says anything.
    pub fn new(pod: &Pod, profile: &Profile, snapshot: &mut Snapshot) -> Option<Self> {
        let needs = &*pod.needs;
        if !needs.has_affinity() && !snapshot.has_terms() {
            return None;
        }
        let (affinity, anti) = (&needs.affinity, &needs.anti_affinity);
        let counted = |topology: TopologyId, term: &PodTerm, who, snapshot: &mut Snapshot| {
            group([term].into_iter(), who).map(|group| (topology, snapshot.tallied(group, topology)))
        };
        let required: Vec<TopologyId> =
            affinity.required.iter().map(|term| snapshot.topology_id(&term.topology_key)).collect();
        let wanted = group(affinity.required.iter().map(|term| &**term), Who::Certain).map(|group| {
            required.iter().for_each(|topology| _ = snapshot.tallied(group.clone(), *topology));
            snapshot.group(group)
        });
        let mut avoided = Vec::new();
        for term in &anti.required {
            let topology = snapshot.topology_id(&term.topology_key);
            avoided.extend(counted(topology, term, Who::All, snapshot));
        }
        let near = affinity.preferred.iter().map(|(weight, term)| (i64::from(*weight), term));
        let far = anti.preferred.iter().map(|(weight, term)| (-i64::from(*weight), term));
        let mut scores = Vec::new();
        for (weight, term) in near.chain(far) {
            let topology = snapshot.topology_id(&term.topology_key);
            let group = counted(topology, term, Who::All, snapshot);
            scores.extend(group.map(|(topology, group)| (weight, Counted::Group(group, topology))));
        }
        let of_others =
            !profile.ignore_preferred_of_others || [affinity, anti].iter().any(|it| !it.preferred.is_empty());
        let mut closed = Vec::new();
        for id in snapshot.terms_about(pod) {
            let weight = match snapshot.term(id).map(|it| it.says) {
                Some(Says::Forbids) => {
                    closed.push((1, Counted::Term(id)));
                    continue;
                }
                Some(Says::Requires) => profile.hard_affinity_weight,
                Some(Says::Prefers(weight)) => weight.into(),
                None => continue,
            };
            if of_others && weight != 0 {
                scores.push((weight, Counted::Term(id)));
            }
        }
        let snapshot = &*snapshot;
        let own = affinity.required.iter().all(|term| term.matches(pod, snapshot.namespaces()));
        let tried = Tried { avoided: vec![0; avoided.len()], ..Tried::default() };
        let (closed, scores) = (Sum::new(closed, snapshot), Sum::new(scores, snapshot));
        Some(Self { required, wanted, avoided, closed, scores, own, tried })
    }

    pub fn filter(&self, slot: Slot, snapshot: &Snapshot) -> Option<Rejection> {
        if !self.required.iter().all(|topology| self.is_wanted(slot, *topology, snapshot)) {
            let domain = |topology: &TopologyId| snapshot.topology(*topology).domain(slot);
            let is_first = self.own
                && self.required.iter().all(|topology| domain(topology).is_some())
                && self.required.iter().all(|topology| self.all_wanted(slot, *topology, snapshot) == 0);
            if !is_first {
                return Some(Rejection::hopeless(Plugin::InterPodAffinity, Reason::AFFINITY));
            }
        }
        let mut avoided = self.avoided.iter().zip(&self.tried.avoided);
        let reason = if avoided.any(|((topology, group), tried)| {
            snapshot.topology(*topology).domain(slot).is_some()
                && Counted::Group(*group, *topology).of(slot, snapshot) + tried > 0
        }) {
            Reason::ANTI_AFFINITY
        } else if self.closed.of(slot, snapshot) + self.tried.closed > 0 {
            Reason::EXISTING_ANTI_AFFINITY
        } else {
            return None;
        };
        Some(Rejection::resolvable(Plugin::InterPodAffinity, reason))
    }

    fn is_wanted(&self, slot: Slot, topology: TopologyId, snapshot: &Snapshot) -> bool {
        let (Some(group), Some(_)) = (self.wanted, snapshot.topology(topology).domain(slot)) else { return false };
        Counted::Group(group, topology).of(slot, snapshot) + self.tried.wanted > 0
    }

    /// The wanted pods in any domain of a label.
    fn all_wanted(&self, slot: Slot, topology: TopologyId, snapshot: &Snapshot) -> i64 {
        let tally = self.wanted.and_then(|group| snapshot.grouped(group).tally(topology));
        let tried = if snapshot.topology(topology).domain(slot).is_some() { self.tried.wanted } else { 0 };
        tally.map_or(0, |tally| tally.total() + tried)
    }

    /// A pod has been lifted off the node that is being tried (-1), or put back.
    pub fn change(&mut self, pod: &Pod, other: &Pod, slot: Slot, sign: i64, snapshot: &Snapshot) {
        if self.wanted.is_some_and(|group| snapshot.is_of(group, other)) {
            self.tried.wanted += sign;
        }
        for ((_, group), tried) in self.avoided.iter().zip(&mut self.tried.avoided) {
            *tried += if snapshot.is_of(*group, other) { sign } else { 0 };
        }
        for (_, part) in &self.closed.parts {
            let Counted::Term(id) = part else { continue };
            let Some(term) = snapshot.term(*id) else { continue };
            let stated = other.needs.anti_affinity.required.iter().filter(|own| **own == term.term).count();
            if snapshot.topology(term.tally.topology).domain(slot).is_some() {
                self.tried.closed += sign * i64::try_from(stated).unwrap_or(0);
            }
        }
        // Parts that were added up are no longer told apart.
        for (topology, _) in &self.closed.by_domain {
            let own = other.needs.anti_affinity.required.iter();
            let about = own.filter(|term| term.matches(pod, snapshot.namespaces()));
            let about = about.filter(|term| snapshot.topology(*topology).is_of(&term.topology_key)).count();
            if snapshot.topology(*topology).domain(slot).is_some() {
                self.tried.closed += sign * i64::try_from(about).unwrap_or(0);
            }
        }
    }

    /// The scores of the feasible nodes, when anything speaks for or against one.
    pub fn score(&self, feasible: &[Slot], snapshot: &Snapshot) -> Option<Vec<i64>> {
        if self.scores.is_empty() {
            return None;
        }
        let mut scores: Vec<i64> = feasible.iter().map(|slot| self.scores.of(*slot, snapshot)).collect();
        let (min, max) = scores.iter().fold((0, 0), |(min, max), score| (*score.min(&min), *score.max(&max)));
        for score in &mut scores {
            *score = if max > min { MAX_SCORE * (*score - min) / (max - min) } else { 0 };
        }
        Some(scores)
    }
}

pub(crate) fn helps(pod: &Pod, event: Event<'_>) -> bool {
    let any = |terms: &[std::sync::Arc<PodTerm>], pod: &Pod| terms.iter().any(|term| term.may_match(pod));
    let Needs { affinity, anti_affinity, .. } = &*pod.needs;
    match event {
        Event::Placed(other) => any(&affinity.required, other),
        Event::Gone(other) => {
            any(&anti_affinity.required, other)
                || any(&other.needs.anti_affinity.required, pod)
                // The first of a group may go anywhere, when the last of it is gone.
                || any(&affinity.required, other)
        }
        Event::Changed { old, new } => {
            let differs = |term: &PodTerm| term.may_match(old) != term.may_match(new);
            affinity.required.iter().any(|term| differs(term))
                || anti_affinity.required.iter().any(|term| term.may_match(old) && !term.may_match(new))
                || old.needs != new.needs && any(&old.needs.anti_affinity.required, pod)
        }
        // Whoever is on it is in no domain any more: neither those that forbid nor the others of a group.
        Event::NodeGone(_) => true,
        Event::Node { old, new } => old.is_none_or(|old| old.labels != new.labels),
        Event::Object { kind, .. } => kind == Kind::Namespace,
    }
}
