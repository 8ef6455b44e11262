//! Events: what a component tells the user about an object.
//!
//! Repeated events are merged as upstream's correlator does: the same event again raises its `count`; many that differ in
//! their message alone become one that says so; an object that is the subject of too many is silenced for a while.

mod correlate;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Resource,
    api::{Patch, PatchParams, PostParams},
    core::{Request, request},
};
use serde_json::json;
use tokio::sync::mpsc;

use correlate::{Correlator, Verdict};

/// Events waiting to be written; more are dropped, since nothing may wait for them.
const BACKLOG: usize = 10_000;
/// How often a failed write is tried again.
const RETRIES: u32 = 12;
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// Whether something went as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Writes the events of one component in the background. Clones share; recording never waits and never fails.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Occurrence>,
}

/// An event as it was reported.
#[derive(Clone, Debug)]
pub(crate) struct Occurrence {
    pub about: ObjectReference,
    pub kind: EventType,
    pub reason: String,
    pub message: String,
    pub annotations: Option<BTreeMap<String, String>>,
    pub at: Timestamp,
}

impl Recorder {
    /// A recorder for `component` (`deployment-controller`, `kubelet`) on `host`, empty where that says nothing.
    pub fn new(client: kube::Client, component: &str, host: &str) -> Recorder {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let source =
            EventSource { component: Some(component.to_owned()), host: (!host.is_empty()).then(|| host.to_owned()) };
        tokio::spawn(Writer { client, source, correlator: Correlator::default() }.run(receiver));
        Recorder { sender }
    }

    /// Records that something happened to an object.
    pub fn record(&self, about: ObjectReference, kind: EventType, reason: &str, message: impl Into<String>) {
        let (reason, message) = (reason.to_owned(), message.into());
        let occurrence = Occurrence { about, kind, reason, message, annotations: None, at: Timestamp::now() };
        if self.sender.try_send(occurrence).is_err() {
            tracing::debug!("too many events are waiting, one was dropped");
        }
    }

    /// Something went as it should.
    pub fn normal<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: impl Into<String>) {
        self.record(reference(about), EventType::Normal, reason, message);
    }

    /// Something did not go as it should.
    pub fn warning<K: Resource<DynamicType = ()>>(&self, about: &K, reason: &str, message: impl Into<String>) {
        self.record(reference(about), EventType::Warning, reason, message);
    }
}

/// The reference to an object that its events carry.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    ObjectReference { resource_version: object.meta().resource_version.clone(), ..object.object_ref(&()) }
}

struct Writer {
    client: kube::Client,
    source: EventSource,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Occurrence>) {
        while let Some(occurrence) = receiver.recv().await {
            let verdict = self.correlator.judge(&occurrence);
            if let Some(verdict) = verdict {
                self.write(&occurrence, verdict).await;
            }
        }
    }

    async fn write(&mut self, occurrence: &Occurrence, verdict: Verdict) {
        for attempt in 0..=RETRIES {
            let answer = self.try_write(occurrence, &verdict).await;
            match answer {
                Ok(name) => return self.correlator.written(&verdict.key, name),
                // The answer will not change: the namespace is going away, or the event is not valid.
                Err(kube::Error::Api(status)) if (400..500).contains(&status.code) && status.code != 429 => {
                    return tracing::debug!(%status, reason = occurrence.reason, "event refused");
                }
                Err(error) if attempt == RETRIES => tracing::debug!(%error, reason = occurrence.reason, "event lost"),
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }

    /// Writes the event and returns its name.
    async fn try_write(&self, occurrence: &Occurrence, verdict: &Verdict) -> kube::Result<String> {
        let namespace = occurrence.about.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or("default");
        let events = Request::new(Event::url_path(&(), Some(namespace)));
        // What the server makes of an event is nobody's question.
        let send = async |request: Result<http::Request<Vec<u8>>, request::Error>| {
            self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
        };
        if let Some(name) = &verdict.known {
            let last = Time(whole_seconds(occurrence.at));
            let patch = json!({"count": verdict.count, "lastTimestamp": last, "message": verdict.message});
            match send(events.patch(name, &PatchParams::default(), &Patch::Strategic(patch))).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                answer => return answer.map(|()| name.clone()),
            }
        }
        let subject = occurrence.about.name.as_deref().unwrap_or_default();
        let name = format!("{subject}.{:x}", occurrence.at.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                annotations: occurrence.annotations.clone(),
                ..ObjectMeta::default()
            },
            involved_object: occurrence.about.clone(),
            reason: Some(occurrence.reason.clone()),
            message: Some(verdict.message.clone()),
            source: Some(self.source.clone()),
            first_timestamp: Some(Time(whole_seconds(verdict.first))),
            last_timestamp: Some(Time(whole_seconds(occurrence.at))),
            count: Some(verdict.count),
            type_: Some(occurrence.kind.as_str().to_owned()),
            reporting_component: self.source.component.clone(),
            reporting_instance: Some(self.source.host.clone().unwrap_or_default()),
            ..Event::default()
        };
        let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
        send(events.create(&PostParams::default(), body)).await.map(|()| name)
    }
}

fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
