//! GET with `watch`: what is there, then every change of it, in order and without gaps.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use api::{Status, Value};
use bytes::Bytes;
use http::StatusCode;
use rand::Rng;
use serde_json::json;
use store::{Entry, Event, EventKind, Watch};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::forms::{self, Keep};
use super::options::{Options, fresh_enough};
use super::select::Selection;
use super::{Call, output, store_error, view};

use crate::wire::{Accept, Body, Format, Response, View, answer};

/// How often a bookmark is sent while nothing else is.
const BOOKMARKS: Duration = Duration::from_secs(60);
/// The shortest life of a watch that asks for none; it lives up to twice as long.
const LIFE: u64 = 1800;
/// About how many bytes of events go out at once.
const CHUNK: usize = 128 * 1024;

/// A watch on its way: the state behind a streamed body.
struct Watching {
    call: Call,
    selection: Selection,
    /// What was there when the watch began and is still to be sent.
    initial: VecDeque<Arc<Entry>>,
    /// After the initial objects a bookmark says that they end.
    announce_end: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// Goes off at the next bookmark or at the deadline. Kept, like what tells of the shutdown, since setting up a timer costs
    /// more than an event.
    timer: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    watch: Watch,
    revision: u64,
    /// A table's columns were sent.
    columns_sent: bool,
    ended: bool,
}

/// Starts a watch.
pub async fn watch(mut call: Call) -> Result<Response, Status> {
    let selection = Selection::new(&call)?;
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let Options { revision: asked, send_initial, .. } = Options::of(&call, true)?;
    // A list that comes as events has no table: the next form that the client takes, or none.
    if send_initial == Some(true) && call.accept.view == View::Table {
        call.accept = Accept::choose(&call.headers, false)?.stream()?;
    }
    let timeout = call.query.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let timeout = timeout.unwrap_or_else(|| LIFE + rand::rng().random_range(0..LIFE));
    let store = &call.server.store;
    let initially = send_initial.unwrap_or(asked.unwrap_or(0) == 0);
    let started = if initially {
        fresh_enough(&call, asked).await?;
        let snapshot = store.snapshot(&selection.range, None).map_err(store_error)?;
        let there = snapshot.iter().filter(|entry| selection.matches(&call, entry)).cloned().collect();
        store.watch(&selection.range, snapshot.revision()).map(|watch| (there, snapshot.revision(), watch))
    } else {
        let after = asked.filter(|rv| *rv > 0).unwrap_or_else(|| store.revision());
        store.watch(&selection.range, after).map(|watch| (VecDeque::new(), after, watch))
    };
    let (initial, revision, watch) = match started {
        Ok(started) => started,
        Err(error) => return Ok(refused(&call, &store_error(error))),
    };
    let now = Instant::now();
    let mut watching = Watching {
        selection,
        initial,
        announce_end: send_initial == Some(true) && bookmarks,
        bookmarks,
        next_bookmark: now + BOOKMARKS,
        deadline: now + Duration::from_secs(timeout),
        timer: Box::pin(sleep_until(now)),
        stopping: Box::pin(call.server.stopping.clone().cancelled_owned()),
        watch,
        revision,
        columns_sent: false,
        ended: false,
        call,
    };
    watching.set_timer();
    Ok(response(
        watching.call.accept.content_type(true),
        Body::stream(futures::stream::unfold(Box::new(watching), Watching::advance)),
    ))
}

fn response(content_type: &'static str, body: Body) -> Response {
    answer::bytes(StatusCode::OK, content_type, body)
}

/// One event as a line of JSON.
fn line(out: &mut Vec<u8>, kind: &str, object: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object(out);
    out.extend_from_slice(b"}\n");
}

/// A watch that cannot begin says so in its stream, as upstream's watch cache does.
fn refused(call: &Call, status: &Status) -> Response {
    let mut out = Vec::new();
    frame(call, &mut out, "ERROR", &status.to_value());
    response(call.accept.content_type(true), out.into())
}

impl Watching {
    /// The next chunk, as soon as there is something to say.
    async fn advance(mut self: Box<Self>) -> Option<(Bytes, Box<Self>)> {
        let mut out = Vec::new();
        if !self.initial.is_empty() || self.announce_end {
            self.send_initial(&mut out);
            return Some((out.into(), self));
        }
        if self.ended {
            return None;
        }
        while out.is_empty() {
            tokio::select! {
                biased;
                batch = self.watch.next() => match batch {
                    Some(Ok(events)) => self.send(&mut out, &events),
                    Some(Err(error)) => {
                        self.ended = true;
                        frame(&self.call, &mut out, "ERROR", &store_error(error).to_value());
                    }
                    None => return None,
                },
                () = self.stopping.as_mut() => return None,
                () = self.timer.as_mut() => {
                    // At its end the client is told how far it has come, however long nothing changed.
                    self.ended = Instant::now() >= self.deadline;
                    if self.ended && !self.bookmarks {
                        return None;
                    }
                    self.bookmark(&mut out, false);
                }
            }
        }
        Some((out.into(), self))
    }

    fn set_timer(&mut self) {
        let next = if self.bookmarks { self.deadline.min(self.next_bookmark) } else { self.deadline };
        self.timer.as_mut().reset(next);
    }

    fn send_initial(&mut self, out: &mut Vec<u8>) {
        while out.len() < CHUNK {
            let Some(entry) = self.initial.pop_front() else { break };
            self.event(out, "ADDED", &entry, entry.modified);
        }
        if self.initial.is_empty() && std::mem::take(&mut self.announce_end) {
            self.bookmark(out, true);
        }
    }

    fn send(&mut self, out: &mut Vec<u8>, events: &[Event]) {
        for event in events {
            let revision = event.revision();
            self.revision = self.revision.max(revision);
            let (call, selection) = (&self.call, &self.selection);
            let before = event.prev.as_ref().filter(|prev| selection.matches(call, prev));
            let now = event.kind != EventKind::Deleted && selection.matches(call, &event.entry);
            match (before, now) {
                (None, true) => self.event(out, "ADDED", &event.entry, revision),
                (Some(_), true) => self.event(out, "MODIFIED", &event.entry, revision),
                (Some(prev), false) => self.event(out, "DELETED", prev, revision),
                (None, false) => {}
            }
        }
    }

    fn event(&mut self, out: &mut Vec<u8>, kind: &str, entry: &Entry, revision: u64) {
        let (call, accept) = (&self.call, self.call.accept);
        let json = accept.format != Format::Protobuf;
        let written = match accept.view {
            View::Object if json && call.is_stored_version() => {
                line(out, kind, |out| api::codec::stored::splice_into(out, &entry.value, revision));
                Ok(())
            }
            View::Object if json => forms::converted(call, entry, revision, Keep::Surely)
                .map(|object| line(out, kind, |out| out.extend_from_slice(&object))),
            View::Metadata if json => {
                line(out, kind, |out| view::metadata_into(out, &entry.value, revision));
                Ok(())
            }
            _ if output::is_message(call) => forms::message(call, entry, revision, Keep::Surely).map(|message| {
                let kind_of = &call.kind;
                let object = api::codec::protobuf::envelope(&kind_of.api_version(), &kind_of.kind, &message);
                out.extend_from_slice(&api::codec::protobuf::event(kind, &object));
            }),
            _ => call.parse_at(&entry.value, revision).and_then(|object| self.shown(object)).map(|object| {
                frame(&self.call, out, kind, &object);
            }),
        };
        if let Err(status) = written {
            self.ended = true;
            frame(&self.call, out, "ERROR", &status.to_value());
        }
    }

    fn shown(&mut self, mut object: Value) -> Result<Value, Status> {
        match self.call.accept.view {
            View::Object => Ok(object),
            View::Metadata => Ok(view::metadata(&mut object)),
            View::Table => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                view::table(&self.call, view::single(&object), columns, std::iter::once(object))
            }
        }
    }

    /// Tells the client how far it has come, without an object.
    fn bookmark(&mut self, out: &mut Vec<u8>, ends_initial: bool) {
        self.next_bookmark = Instant::now() + BOOKMARKS;
        self.set_timer();
        self.revision = self.revision.max(self.watch.progressed_to());
        let kind = &self.call.kind;
        let mut metadata = json!({"resourceVersion": self.revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.call.accept.view {
            View::Object => json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata}),
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": self.revision.to_string()},
                "columnDefinitions": null, "rows": [],
            }),
        };
        frame(&self.call, out, "BOOKMARK", &object);
    }
}

/// One event of a value: a line of JSON, or a frame of protobuf with its length in front.
fn frame(call: &Call, out: &mut Vec<u8>, kind: &str, object: &Value) {
    let own = object["kind"] == *call.kind.kind;
    if call.accept.format == Format::Protobuf
        && let Some(raw) = output::protobuf(call, object, own)
    {
        // WatchEvent { type = 1, object = 2: RawExtension { raw = 1 } }
        let extension = field(1, &raw);
        let mut event = field(1, kind.as_bytes());
        event.extend(field(2, &extension));
        out.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&event);
        return;
    }
    out.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").as_bytes());
}

/// A length-delimited protobuf field.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 6);
    out.push((number << 3) | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}
