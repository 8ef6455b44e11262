//! The arithmetic of rollouts: which ReplicaSet gets which size. Functions of values.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::set::{DESIRED_REPLICAS, Desired, MAX_REPLICAS, Numbers, Sets, by_age, sum};
use crate::owner::Named;

/// A ReplicaSet's name and its new size.
pub(super) type Resize = (String, i32);

/// Whether the number of replicas was changed since the sets were last sized.
pub(super) fn is_scaling(desired: &Desired, sets: &Sets) -> bool {
    sets.active().any(|set| set.number(DESIRED_REPLICAS).is_some_and(|known| known != desired.replicas))
}

/// The size at which the new set may be now. `others` is the size of all sets together, the new one included.
pub(super) fn new_size(desired: &Desired, present: i32, all: i32) -> i32 {
    if desired.recreate {
        return desired.replicas;
    }
    let room = desired.max_replicas() - all;
    if room <= 0 { present } else { present + room.min(desired.replicas - present) }
}

/// One step of a rolling update: the new set grows as far as the surge allows, or else the old ones shrink as far as
/// availability allows.
pub(super) fn rolling(desired: &Desired, sets: &Sets) -> Vec<Resize> {
    let Some(new) = &sets.new else { return Vec::new() };
    let all = sum(sets.all(), Numbers::size);
    let size = if new.size() > desired.replicas { desired.replicas } else { new_size(desired, new.size(), all) };
    if size != new.size() {
        return vec![(new.name().to_owned(), size)];
    }
    shrink_old(desired, sets, new, all)
}

fn shrink_old(desired: &Desired, sets: &Sets, new: &ReplicaSet, all: i32) -> Vec<Resize> {
    let min_available = desired.replicas - desired.max_unavailable;
    let new_unavailable = new.size() - new.available();
    let budget = all - min_available - new_unavailable;
    if sum(&sets.old, Numbers::size) == 0 || budget <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<i32> = sets.old.iter().map(Numbers::size).collect();
    // Pods that are not available are no loss, so they go first.
    let mut cleaned = 0;
    for (set, size) in sets.old.iter().zip(&mut sizes) {
        let unhealthy = (*size - set.available()).max(0).min(budget - cleaned);
        *size -= unhealthy;
        cleaned += unhealthy;
    }
    let mut spare = (sum(sets.all(), Numbers::available) - min_available).max(0);
    for size in &mut sizes {
        let down = spare.min(*size);
        *size -= down;
        spare -= down;
    }
    let resized = sets.old.iter().zip(sizes).filter(|(set, size)| set.size() != *size);
    resized.map(|(set, size)| (set.name().to_owned(), size)).collect()
}

/// Sizes after the number of replicas was changed outside of a rollout's own steps, or while it is paused.
pub(super) fn scale(desired: &Desired, sets: &Sets) -> Vec<Resize> {
    if let Some(only) = active_or_latest(sets) {
        return resized(only, desired.replicas).into_iter().collect();
    }
    if is_saturated(desired, sets.new.as_ref()) {
        return sets.old.iter().filter_map(|set| resized(set, 0)).collect();
    }
    if desired.recreate { Vec::new() } else { proportional(desired, sets) }
}

fn resized(set: &ReplicaSet, size: i32) -> Option<Resize> {
    (set.size() != size).then(|| (set.name().to_owned(), size))
}

/// The only active set; if none is active, the new one, else the youngest.
fn active_or_latest(sets: &Sets) -> Option<&ReplicaSet> {
    let mut active = sets.active();
    match (active.next(), active.next()) {
        (None, _) => sets.new.as_ref().or(sets.old.last()),
        (only, None) => only,
        _ => None,
    }
}

/// Whether the new set has taken over completely.
fn is_saturated(desired: &Desired, new: Option<&ReplicaSet>) -> bool {
    new.is_some_and(|new| {
        let all = desired.replicas;
        new.number(DESIRED_REPLICAS) == Some(all) && new.size() == all && new.available() == all
    })
}

/// Shares what is to be added or removed among the active sets in proportion to their sizes, which mitigates risk while a
/// rollout is under way. The largest takes what rounding leaves.
fn proportional(desired: &Desired, sets: &Sets) -> Vec<Resize> {
    let mut active: Vec<&ReplicaSet> = sets.active().collect();
    let allowed = if desired.replicas > 0 { desired.max_replicas() } else { 0 };
    let to_add = allowed - sum(active.iter().copied(), Numbers::size);
    // The largest first; of equals the younger when growing and the older when shrinking.
    active.sort_by(|a, b| {
        let age = if to_add > 0 { by_age(b, a) } else { by_age(a, b) };
        b.size().cmp(&a.size()).then(age)
    });
    let mut added = 0;
    let mut sizes = Vec::with_capacity(active.len());
    for set in &active {
        let share = if to_add == 0 || to_add == added { 0 } else { fraction(desired, set) };
        let share = if to_add > 0 { share.min(to_add - added) } else { share.max(to_add - added) };
        added += share;
        sizes.push(set.size() + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    // Sets that keep their size are named too: their annotations must learn of the new number.
    active.iter().zip(sizes).map(|(set, size)| (set.name().to_owned(), size)).collect()
}

/// By how much a set changes if it keeps its share of the whole.
fn fraction(desired: &Desired, set: &ReplicaSet) -> i32 {
    if desired.replicas == 0 {
        return -set.size();
    }
    // The whole at the time of the last sizing.
    let whole = set.number(MAX_REPLICAS).filter(|whole| *whole > 0).unwrap_or(desired.max_replicas());
    let share = f64::from(set.size()) * f64::from(desired.max_replicas()) / f64::from(whole);
    share.round() as i32 - set.size()
}

/// Old sets beyond the history's limit, which are empty and settled.
pub(super) fn surplus<'a>(desired: &Desired, sets: &'a Sets) -> Vec<&'a ReplicaSet> {
    let Some(limit) = desired.history else { return Vec::new() };
    let mut alive: Vec<&ReplicaSet> = sets.old.iter().filter(|set| !set.is_deleting()).collect();
    alive.sort_by(|a, b| a.revision().cmp(&b.revision()).then_with(|| by_age(a, b)));
    let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.truncate(excess);
    let observed = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    alive.retain(|set| set.actual() == 0 && set.size() == 0 && set.generation() <= observed(set));
    alive
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A set's name, size and available pods.
    type Brief<'a> = (&'a str, i32, i32);
    /// What is desired, the old sets from the oldest on, the new one, what all were when last sized, and the step.
    type Case<'a> = (Desired, &'a [Brief<'a>], Option<Brief<'a>>, i32, &'a str);

    fn set(number: usize, (name, size, available): Brief<'_>, whole: Option<i32>) -> ReplicaSet {
        let mut annotations = json!({"deployment.kubernetes.io/revision": (number + 1).to_string()});
        if let Some(whole) = whole {
            annotations[MAX_REPLICAS] = whole.to_string().into();
        }
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": format!("2026-01-01T00:00:{number:02}Z"),
                "generation": 1, "annotations": annotations},
            "spec": {"replicas": size, "selector": {}},
            "status": {"replicas": size, "availableReplicas": available, "observedGeneration": 1},
        }))
        .unwrap()
    }

    fn sets(old: &[Brief<'_>], new: Option<Brief<'_>>, whole: Option<i32>) -> Sets {
        let old: Vec<_> = old.iter().enumerate().map(|(number, old)| set(number, *old, whole)).collect();
        Sets { new: new.map(|new| set(old.len(), new, whole)), old }
    }

    fn rolling_update(replicas: i32, max_surge: i32, max_unavailable: i32) -> Desired {
        Desired { replicas, max_surge, max_unavailable, ..Desired::default() }
    }

    fn resizes(resizes: &[Resize]) -> String {
        resizes.iter().map(|(name, size)| format!("{name}={size}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_rolling_update_moves_as_far_as_surge_and_availability_allow() {
        let cases: &[Case<'_>] = &[
            (rolling_update(10, 3, 2), &[("old", 10, 10)], Some(("new", 0, 0)), 0, "new=3"),
            (rolling_update(10, 3, 2), &[("old", 10, 10)], Some(("new", 3, 0)), 0, "old=8"),
            (rolling_update(10, 3, 2), &[("old", 8, 8)], Some(("new", 5, 0)), 0, ""),
            (rolling_update(10, 3, 2), &[("old", 8, 8)], Some(("new", 5, 5)), 0, "old=3"),
            (rolling_update(10, 0, 1), &[("old", 10, 10)], Some(("new", 0, 0)), 0, "old=9"),
            (rolling_update(10, 0, 1), &[("old", 9, 9)], Some(("new", 0, 0)), 0, "new=1"),
            (rolling_update(10, 2, 0), &[("old", 10, 10)], Some(("new", 2, 2)), 0, "old=8"),
            // Pods that never became available go first and free room at once.
            (rolling_update(10, 3, 2), &[("bad", 3, 0), ("old", 8, 8)], Some(("new", 2, 0)), 0, "bad=0"),
            // The number of replicas was lowered under way.
            (rolling_update(3, 1, 1), &[("old", 0, 0)], Some(("new", 5, 5)), 0, "new=3"),
            (rolling_update(3, 1, 0), &[("old", 0, 0)], Some(("new", 3, 3)), 0, ""),
        ];
        for (desired, old, new, _, expected) in cases {
            let step = rolling(desired, &sets(old, *new, None));
            assert_eq!(resizes(&step), *expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_rolling_update_always_ends_within_its_bounds() {
        for (replicas, surge, unavailable) in [(1, 1, 0), (1, 0, 1), (4, 1, 1), (10, 3, 0), (7, 0, 3), (5, 5, 5)] {
            let desired = rolling_update(replicas, surge, unavailable);
            let mut now = sets(&[("old", replicas, replicas)], Some(("new", 0, 0)), None);
            for _ in 0..100 {
                for (name, size) in rolling(&desired, &now) {
                    let set = now.by_name_mut(&name).unwrap();
                    set.spec.as_mut().unwrap().replicas = Some(size);
                    // Scaled down at once; scaled up pods become available one step later.
                    let status = set.status.as_mut().unwrap();
                    status.available_replicas = status.available_replicas.map(|available| available.min(size));
                }
                assert!(sum(now.all(), Numbers::size) <= replicas + surge);
                assert!(sum(now.all(), Numbers::available) >= replicas - unavailable);
                let new = now.new.as_mut().unwrap();
                new.status.as_mut().unwrap().available_replicas = Some(new.size());
            }
            assert_eq!((now.new.as_ref().unwrap().size(), now.old[0].size()), (replicas, 0));
        }
    }

    #[test]
    fn scaling_during_a_rollout_keeps_the_proportions() {
        let cases: &[Case<'_>] = &[
            // The documented example: 10 with a surge of 3 becomes 15 while 8 are old and 5 new.
            (rolling_update(15, 3, 2), &[("old", 8, 8)], Some(("new", 5, 0)), 13, "old=11 new=7"),
            (rolling_update(5, 2, 1), &[("old", 8, 8)], Some(("new", 5, 5)), 13, "old=4 new=3"),
            (rolling_update(0, 3, 2), &[("old", 8, 8)], Some(("new", 5, 5)), 13, "old=0 new=0"),
            (rolling_update(7, 1, 1), &[("old", 0, 0)], Some(("new", 5, 5)), 6, "new=7"),
            (rolling_update(4, 1, 1), &[("a", 0, 0), ("b", 0, 0)], None, 6, "b=4"),
        ];
        for (desired, old, new, whole, expected) in cases {
            let step = scale(desired, &sets(old, *new, Some(*whole)));
            assert_eq!(resizes(&step), *expected, "{old:?} {new:?}");
        }
    }

    #[test]
    fn history_keeps_the_youngest_and_whatever_still_has_pods() {
        let all = sets(&[("a", 0, 0), ("b", 1, 0), ("c", 0, 0), ("d", 0, 0)], Some(("new", 1, 1)), None);
        let names = |history| {
            let desired = Desired { history, ..rolling_update(1, 1, 0) };
            surplus(&desired, &all).iter().map(|set| set.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(Some(2)), ["a"]);
        assert_eq!(names(Some(0)), ["a", "c", "d"]);
        assert!(names(None).is_empty());
    }
}
