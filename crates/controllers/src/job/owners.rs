//! Which Jobs the pods belong to that we hold, so that those of a former Job are found when it is gone or another one has
//! its name.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use client::Key;
use parking_lot::Mutex;

/// The uids of all Jobs of a name that pods we hold have been seen to belong to.
#[derive(Clone, Default)]
pub(super) struct Owners(Arc<Mutex<HashMap<Key, HashSet<Box<str>>>>>);

impl Owners {
    /// A pod has been seen. True if none of its Job was since that was last taken out: then the Job's name is to be synced.
    pub fn see(&self, key: &Key, uid: &str) -> bool {
        self.0.lock().entry(key.clone()).or_default().insert(uid.into())
    }

    /// Takes out the Jobs of a name that are not there any more.
    pub fn take_former(&self, key: &Key, present: Option<&str>) -> HashSet<Box<str>> {
        let mut all = self.0.lock();
        let Entry::Occupied(mut owners) = all.entry(key.clone()) else { return HashSet::new() };
        let former = owners.get_mut().extract_if(|uid| present != Some(&**uid)).collect();
        if owners.get().is_empty() {
            owners.remove();
        }
        former
    }

    /// Not all pods of these could be freed.
    pub fn put_back(&self, key: &Key, former: HashSet<Box<str>>) {
        if !former.is_empty() {
            self.0.lock().entry(key.clone()).or_default().extend(former);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_a_former_job_that_comes_while_others_are_freed_asks_for_another_turn() {
        let (owners, key) = (Owners::default(), Key::new("n", "job"));
        let taken = |present: Option<&str>| {
            let mut taken: Vec<Box<str>> = owners.take_former(&key, present).into_iter().collect();
            taken.sort();
            taken.join(" ")
        };
        assert!(owners.see(&key, "old") && owners.see(&key, "new") && !owners.see(&key, "old"));
        assert_eq!(taken(Some("new")), "old");
        assert!(owners.see(&key, "old"), "it came while the pods were being freed");
        assert!(!owners.see(&key, "new"));
        assert_eq!(taken(Some("new")), "old");
        owners.put_back(&key, HashSet::from(["old".into()]));
        assert_eq!(taken(None), "new old", "what could not be freed is tried again");
        owners.put_back(&key, HashSet::new());
        assert!(owners.0.lock().is_empty(), "nothing is kept of a name without pods");
    }
}
