//! Other forms of stored objects: the protobuf message, and the JSON of a version that is not the stored one. Each is made once
//! a revision for everybody who reads or watches it, and kept for a while within a bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use parking_lot::Mutex;
use store::Entry;

use super::Call;

/// How many bytes may be kept.
const KEPT: usize = 16 << 20;
/// What an entry costs beside its bytes.
const OVERHEAD: usize = 96;
/// How long what nobody reads any more is kept, at least; at most twice as long.
const GENERATION: Duration = Duration::from_secs(30);

/// The forms that were made lately. Clones share them.
#[derive(Clone, Default)]
pub struct Forms(Arc<Mutex<Generations>>);

/// An entry's address and revision name it as long as it lives, and no later one has both.
type Key = (usize, u64, usize, Form);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    Protobuf,
    Json,
}

/// What becomes of a form that is new where there is no room for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Others make room: everybody who watches asks for it now.
    Surely,
    /// It is not kept. A list of more than there is room for would drive out each form before it is asked for again.
    WithRoom,
}

#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
    /// Whether a task is there that lets generations pass.
    ages: bool,
}

#[derive(Default)]
struct Generation {
    forms: HashMap<Key, Bytes>,
    bytes: usize,
}

fn cost(form: &Bytes) -> usize {
    form.len() + OVERHEAD
}

impl Generation {
    fn insert(&mut self, key: Key, form: Bytes) {
        self.bytes += cost(&form);
        if let Some(known) = self.forms.insert(key, form) {
            self.bytes -= cost(&known);
        }
    }
}

impl Generations {
    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }

    fn has_room(&self, form: &Bytes) -> bool {
        self.young.bytes + self.old.bytes + cost(form) <= KEPT
    }

    /// What is asked for again stays.
    fn get(&mut self, key: Key) -> Option<Bytes> {
        if let Some(known) = self.young.forms.get(&key) {
            return Some(known.clone());
        }
        let known = self.old.forms.remove(&key)?;
        self.old.bytes -= cost(&known);
        self.young.insert(key, known.clone());
        Some(known)
    }

    fn put(&mut self, key: Key, form: Bytes, keep: Keep) {
        if !self.has_room(&form) && keep == Keep::Surely {
            self.turn();
            if !self.has_room(&form) {
                self.turn();
            }
        }
        if self.has_room(&form) {
            self.young.insert(key, form);
        }
    }
}

impl Forms {
    fn get(&self, key: Key, keep: Keep, make: impl FnOnce() -> Result<Vec<u8>, Status>) -> Result<Bytes, Status> {
        if let Some(known) = self.0.lock().get(key) {
            return Ok(known);
        }
        let mut made = make()?;
        made.shrink_to_fit();
        let made = Bytes::from(made);
        let mut generations = self.0.lock();
        generations.put(key, made.clone(), keep);
        if !std::mem::replace(&mut generations.ages, true) {
            tokio::spawn(age(self.clone()));
        }
        Ok(made)
    }
}

/// Lets generations pass until nothing is left.
async fn age(forms: Forms) {
    loop {
        tokio::time::sleep(GENERATION).await;
        let mut generations = forms.0.lock();
        generations.turn();
        if generations.old.forms.is_empty() {
            generations.ages = false;
            return;
        }
    }
}

fn key(call: &Call, entry: &Entry, revision: u64, form: Form) -> Key {
    (std::ptr::from_ref(entry).addr(), revision, Arc::as_ptr(&call.kind).addr(), form)
}

/// The object's protobuf message in the path's version, without an envelope.
pub fn message(call: &Call, entry: &Entry, revision: u64, keep: Keep) -> Result<Bytes, Status> {
    call.server.forms.get(key(call, entry, revision, Form::Protobuf), keep, || {
        if call.is_stored_version() {
            return api::codec::protobuf::message(&entry.value, revision, &call.kind.schema).map_err(Status::internal);
        }
        let object = call.parse_at(&entry.value, revision)?;
        let stored = api::codec::stored::encode(&object);
        api::codec::protobuf::message(&stored, revision, &call.kind.schema).map_err(Status::internal)
    })
}

/// The object's JSON in the path's version, which is not the stored one.
pub fn converted(call: &Call, entry: &Entry, revision: u64, keep: Keep) -> Result<Bytes, Status> {
    call.server.forms.get(key(call, entry, revision, Form::Json), keep, || {
        let object = call.parse_at(&entry.value, revision)?;
        serde_json::to_vec(&object).map_err(Status::internal)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(size: usize) -> impl FnOnce() -> Result<Vec<u8>, Status> {
        move || Ok(vec![0; size])
    }

    #[tokio::test]
    async fn a_form_is_made_once_and_what_is_kept_is_bounded() {
        let forms = Forms::default();
        let key = |n: usize| (n, 1, 0, Form::Protobuf);
        forms.get(key(0), Keep::Surely, make(10)).expect("made");
        let again = forms.get(key(0), Keep::Surely, || Err(Status::internal("made twice")));
        assert_eq!(again.map(|bytes| bytes.len()), Ok(10));
        for n in 1..100 {
            forms.get(key(n), Keep::Surely, make(1 << 20)).expect("made");
            let generations = forms.0.lock();
            let kept = [&generations.young, &generations.old].map(|generation| {
                assert_eq!(generation.bytes, generation.forms.values().map(cost).sum::<usize>());
                generation.bytes
            });
            assert!(kept.iter().sum::<usize>() <= KEPT, "{kept:?}");
        }
        assert!(forms.get(key(0), Keep::Surely, || Err(Status::internal("gone"))).is_err());
        assert!(forms.get(key(99), Keep::Surely, || Err(Status::internal("gone"))).is_ok());
    }

    #[tokio::test]
    async fn a_list_that_is_larger_than_what_is_kept_finds_most_of_it_again() {
        const OBJECTS: usize = 100;
        let forms = Forms::default();
        let size = KEPT * 11 / 10 / OBJECTS;
        let list = || {
            let mut made = 0;
            for n in 0..OBJECTS {
                let key = (n, 1, 0, Form::Protobuf);
                let form = forms.get(key, Keep::WithRoom, || {
                    made += 1;
                    make(size)()
                });
                form.expect("made");
            }
            made
        };
        assert_eq!(list(), OBJECTS);
        for _ in 0..3 {
            let again = list();
            assert!(again <= OBJECTS / 9, "{again}");
            forms.0.lock().turn();
        }
    }
}
