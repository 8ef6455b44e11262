//! Where on the machine a container's resources are to come from, when each resource has its own wishes: those are brought
//! together, and the policy says whether the result will do. See <https://kep.k8s.io/693>.

use super::machine::Machine;
use crate::config::TopologyManagerPolicy;

/// A set of NUMA nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mask(u64);

impl Mask {
    pub fn has(self, node: usize) -> bool {
        node < 64 && self.0 & (1 << node) != 0
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn nodes(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |node| self.has(*node))
    }

    /// All sets of these nodes but the empty one, the smaller ones first.
    pub fn all_of(nodes: &[usize]) -> Vec<Mask> {
        let pick = |bits: u64| nodes.iter().enumerate().filter(move |(at, _)| bits & (1 << at) != 0).map(|(_, n)| *n);
        let mut all: Vec<Mask> = (1..1_u64 << nodes.len().min(MOST_NODES)).map(|bits| pick(bits).collect()).collect();
        all.sort_by_key(|mask| (mask.count(), *mask));
        all
    }

    fn narrower(self, other: Mask) -> bool {
        (self.count(), self) < (other.count(), other)
    }

    fn distance(self, machine: &Machine) -> f64 {
        let nodes: Vec<_> = self.nodes().collect();
        let of = |from: &usize, to: &usize| {
            machine.distances.get(from).and_then(|row| row.get(*to)).copied().unwrap_or(10) as f64
        };
        let sum: f64 = nodes.iter().flat_map(|from| nodes.iter().map(move |to| of(from, to))).sum();
        sum / ((nodes.len() * nodes.len()).max(1) as f64)
    }
}

impl FromIterator<usize> for Mask {
    fn from_iter<I: IntoIterator<Item = usize>>(nodes: I) -> Mask {
        Mask(nodes.into_iter().filter(|node| *node < 64).fold(0, |bits, node| bits | 1 << node))
    }
}

/// More nodes would be too many sets to look at.
const MOST_NODES: usize = 16;

/// A place that will do for one resource; none is any place. It is preferred where no smaller one could ever do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    pub nodes: Option<Mask>,
    pub preferred: bool,
}

/// How places are chosen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    pub kind: TopologyManagerPolicy,
    pub prefer_closest: bool,
}

/// The place for all resources together, each with its hints: nothing is no preference, no hints is no place. None where the
/// policy does not let the container run.
pub fn merge(policy: Policy, machine: &Machine, resources: &[Option<Vec<Hint>>]) -> Option<Hint> {
    if policy.kind == TopologyManagerPolicy::None {
        return Some(Hint { nodes: None, preferred: false });
    }
    let everywhere: Mask = machine.node_ids().into_iter().collect();
    let single = policy.kind == TopologyManagerPolicy::SingleNumaNode;
    let lists: Vec<Vec<Hint>> = resources
        .iter()
        .map(|hints| match hints {
            None => vec![Hint { nodes: None, preferred: true }],
            Some(hints) if hints.is_empty() => vec![Hint { nodes: None, preferred: false }],
            Some(hints) => hints.clone(),
        })
        .map(|hints| {
            let fits = |hint: &Hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.count() == 1);
            if single { hints.into_iter().filter(fits).collect() } else { hints }
        })
        .collect();
    // The least that the most demanding resource can do with.
    let least = |hints: &Vec<Hint>| hints.iter().filter_map(|h| h.nodes).map(Mask::count).min().unwrap_or(0);
    let widest = lists.iter().map(least).max().unwrap_or(0);
    let better = |best: Option<Hint>, next: Hint| choose(policy, machine, widest, best, next);
    let mut best = None;
    each(&lists, &mut Vec::new(), &mut |chosen| {
        let together = together(everywhere, chosen);
        if together.nodes.is_some_and(|nodes| nodes.count() > 0) {
            best = Some(better(best, together));
        }
    });
    let mut best = best.unwrap_or(Hint { nodes: Some(everywhere), preferred: false });
    if single && best.nodes == Some(everywhere) {
        best.nodes = None;
    }
    (policy.kind == TopologyManagerPolicy::BestEffort || best.preferred).then_some(best)
}

/// Calls `found` with one hint of each list, for all ways to choose.
fn each(lists: &[Vec<Hint>], chosen: &mut Vec<Hint>, found: &mut impl FnMut(&[Hint])) {
    let Some((first, rest)) = lists.split_first() else { return found(chosen) };
    for hint in first {
        chosen.push(*hint);
        each(rest, chosen, found);
        chosen.pop();
    }
}

fn together(everywhere: Mask, chosen: &[Hint]) -> Hint {
    let mut places = chosen.iter().filter_map(|hint| hint.nodes);
    let first = places.clone().next();
    let same = places.clone().all(|nodes| Some(nodes) == first);
    let nodes = places.try_fold(everywhere, |all, nodes| Some(Mask(all.0 & nodes.0)));
    Hint { nodes, preferred: same && chosen.iter().all(|hint| hint.preferred) }
}

fn choose(policy: Policy, machine: &Machine, widest: usize, best: Option<Hint>, next: Hint) -> Hint {
    let Some(best) = best else { return next };
    let (Some(old), Some(new)) = (best.nodes, next.nodes) else { return best };
    let nearer = || {
        if policy.prefer_closest && old.count() == new.count() {
            let (old, new) = (old.distance(machine), new.distance(machine));
            if old != new {
                return new < old;
            }
        }
        new.narrower(old)
    };
    let take = match (best.preferred, next.preferred) {
        (false, true) => true,
        (true, false) => false,
        (true, true) => nearer(),
        // Nothing is as it should be: then as near as can be to what the most demanding resource needs.
        (false, false) => match (old.count().cmp(&widest), new.count().cmp(&widest)) {
            (std::cmp::Ordering::Greater, _) => nearer(),
            (std::cmp::Ordering::Equal, std::cmp::Ordering::Equal) => nearer(),
            (std::cmp::Ordering::Equal, _) => false,
            (std::cmp::Ordering::Less, std::cmp::Ordering::Greater) => false,
            (std::cmp::Ordering::Less, std::cmp::Ordering::Equal) => true,
            (std::cmp::Ordering::Less, std::cmp::Ordering::Less) => {
                new.count() > old.count() || (new.count() == old.count() && nearer())
            }
        },
    };
    if take { next } else { best }
}

#[cfg(test)]
mod tests {
    use super::super::machine::sample;
    use super::*;

    /// `01+ 0-`: the nodes 0 and 1, preferred, or the node 0, which is not; `*` is any place.
    fn hints(text: &str) -> Option<Vec<Hint>> {
        let one = |word: &str| {
            let (nodes, preferred) = word.split_at(word.len() - 1);
            let nodes = (nodes != "*").then(|| nodes.bytes().map(|b| usize::from(b - b'0')).collect());
            Hint { nodes, preferred: preferred == "+" }
        };
        (text != "any").then(|| text.split_whitespace().map(one).collect())
    }

    #[test]
    fn wishes_are_brought_together_and_the_policy_judges() {
        use TopologyManagerPolicy::{BestEffort, None as Free, Restricted, SingleNumaNode};
        let shown = |hint: Option<Hint>| match hint {
            None => "refused".to_owned(),
            Some(hint) => {
                let nodes = hint.nodes.map(|nodes| nodes.nodes().map(|n| n.to_string()).collect::<String>());
                format!("{}{}", nodes.unwrap_or("*".into()), if hint.preferred { "+" } else { "-" })
            }
        };
        for (kind, resources, expected) in [
            (Free, &["0+"][..], "*-"),
            (BestEffort, &["0+ 1+ 01-", "1+ 01-"], "1+"),
            (BestEffort, &["0+ 01-", "1+ 01-"], "0-"),
            (BestEffort, &["", "1+"], "1-"),
            (BestEffort, &["any", "any"], "01+"),
            (Restricted, &["0+ 1+", "any"], "0+"),
            (Restricted, &["01+", "01+"], "01+"),
            (Restricted, &["0+ 01-", "1+ 01-"], "refused"),
            (SingleNumaNode, &["01+", "01+"], "refused"),
            (SingleNumaNode, &["0+ 1+", "1+"], "1+"),
            (SingleNumaNode, &["any"], "*+"),
            (SingleNumaNode, &[""], "refused"),
        ] {
            let lists: Vec<_> = resources.iter().map(|text| hints(text)).collect();
            let policy = Policy { kind, prefer_closest: false };
            assert_eq!(shown(merge(policy, &sample(2, 2, 1, 1), &lists)), expected, "{kind:?} {resources:?}");
        }
    }

    #[test]
    fn nearer_nodes_are_taken_where_that_is_wanted() {
        let mut machine = sample(3, 1, 1, 1);
        machine.distances = [(0, vec![10, 30, 30]), (1, vec![30, 10, 15]), (2, vec![30, 15, 10])].into();
        let wishes = [hints("01+ 02+ 12+")];
        let found = |prefer_closest| {
            let policy = Policy { kind: TopologyManagerPolicy::Restricted, prefer_closest };
            merge(policy, &machine, &wishes).unwrap().nodes.unwrap().nodes().collect::<Vec<_>>()
        };
        assert_eq!((found(false), found(true)), (vec![0, 1], vec![1, 2]));
    }
}
