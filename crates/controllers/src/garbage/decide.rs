//! What becomes of an object, given its owners. Functions of values.

use client::{Item, Owner};

/// The finalizer of an object that waits for its dependents to be deleted.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object that lets its dependents go before it goes.
pub(super) const ORPHAN: &str = "orphan";

/// What is known of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerState {
    Present,
    /// It is being deleted, and waits for its dependents.
    Leaving,
    Absent,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// Some owners remain: keep only these.
    Detach(Vec<Owner>),
    /// With this propagation policy.
    Delete(&'static str),
}

fn has_finalizer(item: &Item, finalizer: &str) -> bool {
    item.finalizers.iter().any(|name| &**name == finalizer)
}

pub(super) fn waits_for_dependents(item: &Item) -> bool {
    item.deleting && has_finalizer(item, FOREGROUND)
}

/// Whether the object's deletion is ours to finish.
pub(super) fn needs_finalizing(item: &Item) -> bool {
    item.deleting && (has_finalizer(item, FOREGROUND) || has_finalizer(item, ORPHAN))
}

/// Whether the object holds up the deletion of the owner with this uid.
pub(super) fn blocks(item: &Item, uid: &str) -> bool {
    item.owners.iter().any(|owner| &*owner.uid == uid && owner.block_owner_deletion)
}

/// The object's owners but for some.
pub(super) fn without(item: &Item, leave_out: impl Fn(&Owner) -> bool) -> Vec<Owner> {
    item.owners.iter().filter(|owner| !leave_out(owner)).cloned().collect()
}

/// The object's owners, none of which it holds up.
pub(super) fn unblocking(item: &Item) -> Vec<Owner> {
    item.owners.iter().map(|owner| Owner { block_owner_deletion: false, ..owner.clone() }).collect()
}

/// Decides by the states of the object's owners, in their order.
pub(super) fn act(item: &Item, states: &[OwnerState], has_dependents: bool) -> Action {
    let is = |state: OwnerState| states.contains(&state);
    if is(OwnerState::Present) {
        let present = item.owners.iter().zip(states).filter(|(_, state)| **state == OwnerState::Present);
        let present: Vec<Owner> = present.map(|(owner, _)| owner.clone()).collect();
        return if present.len() == item.owners.len() { Action::Nothing } else { Action::Detach(present) };
    }
    if is(OwnerState::Leaving) && has_dependents {
        // The owner waits for this object and whatever it owns in turn.
        return Action::Delete("Foreground");
    }
    // What the object's own finalizers ask for is honoured.
    Action::Delete(match () {
        () if has_finalizer(item, ORPHAN) => "Orphan",
        () if has_finalizer(item, FOREGROUND) => "Foreground",
        () => "Background",
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(owners: &[&str], finalizers: &[&str]) -> Item {
        let owners: Vec<_> =
            owners.iter().map(|uid| json!({"apiVersion": "v1", "kind": "K", "name": uid, "uid": uid})).collect();
        let json = json!({"metadata": {"name": "a", "ownerReferences": owners, "finalizers": finalizers}});
        Item::from_json(&json.to_string()).unwrap()
    }

    #[test]
    fn an_object_lives_as_long_as_one_of_its_owners() {
        use OwnerState::{Absent, Leaving, Present};
        let two = item(&["a", "b"], &[]);
        let detached =
            |uid: &str| Action::Detach(two.owners.iter().filter(|owner| &*owner.uid == uid).cloned().collect());
        let cases = [
            (&two, vec![Present, Present], false, Action::Nothing),
            (&two, vec![Present, Absent], false, detached("a")),
            (&two, vec![Leaving, Present], true, detached("b")),
            (&two, vec![Absent, Absent], true, Action::Delete("Background")),
            (&two, vec![Absent, Leaving], true, Action::Delete("Foreground")),
            (&two, vec![Absent, Leaving], false, Action::Delete("Background")),
            (&item(&["a"], &["orphan"]), vec![Absent], true, Action::Delete("Orphan")),
            (&item(&["a"], &["foregroundDeletion"]), vec![Absent], false, Action::Delete("Foreground")),
        ];
        for (item, states, has_dependents, expected) in cases {
            assert_eq!(act(item, &states, has_dependents), expected, "{states:?}");
        }
    }
}
