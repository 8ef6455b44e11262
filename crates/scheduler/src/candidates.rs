//! The nodes that may do for a pod, as bits: what needs only the columns of nodes is found out for 64 of them at once, along
//! memory. Those that are left are looked at one by one.

use crate::{
    class::Class,
    plugins::{Plugin, node_resources_fit},
    profile::Profile,
    snapshot::{Slot, Snapshot},
};

/// Nodes a word.
pub(crate) const WORD: usize = u64::BITS as usize;

/// What is known of the nodes during one decision. Words are found out when they are first asked for, since mostly few are.
pub(crate) struct Candidates {
    words: Vec<Option<u64>>,
    needs_room: bool,
}

impl Candidates {
    pub fn new(class: &mut Class, profile: &Profile, snapshot: &Snapshot) -> Self {
        class.refresh(profile, snapshot);
        let words = vec![None; snapshot.slots().div_ceil(WORD)];
        Self { words, needs_room: profile.filters(Plugin::NodeResourcesFit) }
    }

    /// Whether neither the node itself nor what is left on it speaks against it.
    pub fn has(&mut self, slot: Slot, class: &Class, snapshot: &Snapshot) -> bool {
        let (at, bit) = (slot / WORD, slot % WORD);
        let word = self.words[at].unwrap_or_else(|| {
            let open = class.open(at);
            let word = match open != 0 && self.needs_room {
                true => open & node_resources_fit::room(&class.requests, snapshot, at * WORD),
                false => open,
            };
            self.words[at] = Some(word);
            word
        });
        word & (1 << bit) != 0
    }
}
