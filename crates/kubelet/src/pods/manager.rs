//! Brings news to pod workers: a worker for each pod bound to this node, and one for each that only the runtime remembers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::{Cache, Item};
use futures::StreamExt;
use k8s_openapi::api::core::v1;
use parking_lot::Mutex;
use runtime::cri::{ContainerEventResponse, PodSandboxFilter};
use tokio::sync::mpsc;

use super::pod::Pod;
use super::worker::{Input, Worker};
use crate::context::Context;
use crate::eviction::Eviction;
use crate::labels;
use crate::objects::{Kind, references};

/// A pod's worker as others see it.
struct Entry {
    pod: Arc<Pod>,
    references: BTreeSet<(Kind, String)>,
    sender: mpsc::UnboundedSender<Input>,
}

/// All pods of this node by uid. Clones share.
#[derive(Clone)]
pub struct Pods {
    context: Arc<Context>,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    ended: mpsc::UnboundedSender<String>,
}

impl Pods {
    /// The pods that have a worker.
    pub fn all(&self) -> Vec<Arc<Pod>> {
        self.entries.lock().values().map(|entry| entry.pod.clone()).collect()
    }

    /// The pod of that name; of two with one name the one that is not being deleted.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let entries = self.entries.lock();
        let named = entries.values().map(|e| &e.pod).filter(|p| p.namespace == namespace && p.name == name);
        named.min_by_key(|p| p.deletion().is_some()).cloned()
    }

    /// Ends a pod for the node's sake.
    pub fn evict(&self, uid: &str, eviction: Eviction) {
        self.send(uid, Input::Evict(eviction));
    }

    /// Serves until the sources end, which they do not: the pods of `cache` on this node, the runtime's events and the
    /// objects that pods show.
    pub async fn run(context: Arc<Context>, cache: Cache<v1::Pod>, publish: impl FnOnce(Pods)) {
        let (ended, mut endings) = mpsc::unbounded_channel();
        let pods = Pods { context: context.clone(), entries: Arc::default(), ended };
        publish(pods.clone());
        // Events are heard before anything is read, so that none falls in between.
        let events = pods.clone();
        context.spawn(async move { events.hear_runtime().await });
        let objects = pods.clone();
        context.spawn(async move { objects.hear_objects().await });
        cache.synced().await;
        let mut changes = cache.subscribe();
        while let Some(change) = changes.try_next() {
            if let Some(item) = change.new.as_deref() {
                pods.desire(item);
            }
        }
        pods.adopt_orphans().await;
        loop {
            tokio::select! {
                change = changes.next() => match (&change.new, &change.old) {
                    (Some(item), _) => pods.desire(item),
                    (None, Some(item)) => pods.send(&item.uid, Input::Vanished),
                    (None, None) => {}
                },
                uid = endings.recv() => if let Some(uid) = uid {
                    pods.entries.lock().remove(&uid);
                },
            }
        }
    }

    fn desire(&self, item: &Item) {
        if *item.node_name != *self.context.node_name {
            return;
        }
        let object: v1::Pod = match item.parse() {
            Ok(object) => object,
            Err(error) => {
                return tracing::warn!(namespace = item.namespace(), name = item.name(), %error, "a pod cannot be read");
            }
        };
        self.put(Arc::new(Pod::new(object)), false);
    }

    /// Hands a revision of a pod to its worker, which is made if it is new.
    fn put(&self, pod: Arc<Pod>, vanished: bool) {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get_mut(&pod.uid) {
            entry.references = references(&pod);
            entry.pod = pod.clone();
            let _ = entry.sender.send(Input::Desired(pod));
            return;
        }
        let (sender, inbox) = mpsc::unbounded_channel();
        let worker = Worker::new(self.context.clone(), pod.clone(), &sender, inbox);
        if vanished {
            let _ = sender.send(Input::Vanished);
        }
        let (ended, uid) = (self.ended.clone(), pod.uid.clone());
        self.context.spawn(async move {
            worker.run().await;
            let _ = ended.send(uid);
        });
        entries.insert(pod.uid.clone(), Entry { references: references(&pod), pod, sender });
    }

    fn send(&self, uid: &str, input: Input) {
        if let Some(entry) = self.entries.lock().get(uid) {
            let _ = entry.sender.send(input);
        }
    }

    async fn hear_runtime(&self) {
        loop {
            let mut events = match self.context.runtime.get_container_events().await {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!(%error, "the runtime gives no events");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    continue;
                }
            };
            self.wake_all();
            while let Some(event) = events.next().await {
                match event.as_ref().map(owner) {
                    Ok(Some(uid)) => self.send(uid, Input::Runtime),
                    Ok(None) => {}
                    // Some were missed.
                    Err(_) => self.wake_all(),
                }
            }
        }
    }

    fn wake_all(&self) {
        for entry in self.entries.lock().values() {
            let _ = entry.sender.send(Input::Runtime);
        }
    }

    /// Tells the pods that show a ConfigMap or Secret of its changes.
    async fn hear_objects(&self) {
        let objects = &self.context.objects;
        let (mut maps, mut secrets) = (objects.config_maps.subscribe(), objects.secrets.subscribe());
        loop {
            let (kind, change) = tokio::select! {
                change = maps.next() => (Kind::ConfigMap, change),
                change = secrets.next() => (Kind::Secret, change),
            };
            let reference = (kind, change.key.name.to_string());
            for entry in self.entries.lock().values() {
                if *entry.pod.namespace == *change.key.namespace && entry.references.contains(&reference) {
                    let _ = entry.sender.send(Input::Objects);
                }
            }
        }
    }

    /// Gives every pod that runs here without an object in the API a worker that ends it, and removes what pods long gone
    /// left on disk.
    async fn adopt_orphans(&self) {
        let listed = self.context.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await;
        let sandboxes = match listed {
            Ok(sandboxes) => sandboxes,
            Err(error) => return tracing::warn!(%error, "sandboxes cannot be listed; orphans stay"),
        };
        let mut known: BTreeSet<String> = self.entries.lock().keys().cloned().collect();
        for sandbox in sandboxes {
            let Some(uid) = sandbox.labels.get(labels::POD_UID).filter(|uid| known.insert((*uid).clone())) else {
                continue;
            };
            tracing::info!(
                namespace = sandbox.metadata.namespace,
                name = sandbox.metadata.name,
                uid,
                "ending a pod that the API does not know"
            );
            let mut object = v1::Pod::default();
            object.metadata.uid = Some(uid.clone());
            object.metadata.name = Some(sandbox.metadata.name);
            object.metadata.namespace = Some(sandbox.metadata.namespace);
            self.put(Arc::new(Pod::new(object)), true);
        }
        let entries = |dir: &std::path::Path| -> BTreeMap<String, std::path::PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect()
        };
        for uid in entries(&self.context.volumes.root).into_keys().filter(|uid| !known.contains(uid)) {
            if let Err(error) = self.context.volumes.tear_down(&uid).await {
                tracing::warn!(uid, error, "volumes of a pod long gone cannot be removed");
            }
        }
        for (name, path) in entries(&self.context.logs) {
            if name.rsplit('_').next().is_none_or(|uid| !known.contains(uid)) {
                let _ = std::fs::remove_dir_all(path);
            }
        }
    }
}

/// The uid of the pod that an event is about.
fn owner(event: &ContainerEventResponse) -> Option<&str> {
    let sandbox = event.pod_sandbox_status.as_ref().map(|s| &s.labels);
    let labels = sandbox.or_else(|| event.containers_statuses.first().map(|s| &s.labels))?;
    labels.get(labels::POD_UID).map(String::as_str)
}
