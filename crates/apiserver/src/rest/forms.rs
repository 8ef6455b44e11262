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

/// How many bytes may be kept, in two generations of half as many.
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

#[derive(Default)]
struct Generations {
    young: HashMap<Key, Bytes>,
    old: HashMap<Key, Bytes>,
    young_bytes: usize,
    /// Whether a task is there that lets generations pass.
    ages: bool,
}

impl Generations {
    fn turn(&mut self) {
        self.old = std::mem::take(&mut self.young);
        self.young_bytes = 0;
    }

    fn put(&mut self, key: Key, bytes: Bytes) {
        self.young_bytes += bytes.len() + OVERHEAD;
        self.young.insert(key, bytes);
        if self.young_bytes > KEPT / 2 {
            self.turn();
        }
    }
}

impl Forms {
    fn get(&self, key: Key, make: impl FnOnce() -> Result<Vec<u8>, Status>) -> Result<Bytes, Status> {
        {
            let mut generations = self.0.lock();
            if let Some(known) = generations.young.get(&key) {
                return Ok(known.clone());
            }
            if let Some(known) = generations.old.remove(&key) {
                generations.put(key, known.clone());
                return Ok(known);
            }
        }
        let mut made = make()?;
        made.shrink_to_fit();
        let made = Bytes::from(made);
        let mut generations = self.0.lock();
        generations.put(key, made.clone());
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
        if generations.old.is_empty() {
            generations.ages = false;
            return;
        }
    }
}

fn key(call: &Call, entry: &Entry, revision: u64, form: Form) -> Key {
    (std::ptr::from_ref(entry).addr(), revision, Arc::as_ptr(&call.kind).addr(), form)
}

/// The object's protobuf message in the path's version, without an envelope.
pub fn message(call: &Call, entry: &Entry, revision: u64) -> Result<Bytes, Status> {
    call.server.forms.get(key(call, entry, revision, Form::Protobuf), || {
        if call.is_stored_version() {
            return api::codec::protobuf::message(&entry.value, revision, &call.kind.schema).map_err(Status::internal);
        }
        let object = call.parse_at(&entry.value, revision)?;
        let stored = api::codec::stored::encode(&object);
        api::codec::protobuf::message(&stored, revision, &call.kind.schema).map_err(Status::internal)
    })
}

/// The object's JSON in the path's version, which is not the stored one.
pub fn converted(call: &Call, entry: &Entry, revision: u64) -> Result<Bytes, Status> {
    call.server.forms.get(key(call, entry, revision, Form::Json), || {
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
        forms.get(key(0), make(10)).expect("made");
        let again = forms.get(key(0), || Err(Status::internal("made twice")));
        assert_eq!(again.map(|bytes| bytes.len()), Ok(10));
        for n in 1..100 {
            forms.get(key(n), make(1 << 20)).expect("made");
            let generations = forms.0.lock();
            let kept: usize = generations.young.values().chain(generations.old.values()).map(Bytes::len).sum();
            assert!(kept <= KEPT + (1 << 20), "{kept}");
        }
        assert!(forms.get(key(0), || Err(Status::internal("gone"))).is_err());
    }
}
