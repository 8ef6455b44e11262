//! Brings news to pod workers: a worker for each pod bound to this node, and one for each that only the runtime remembers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::{Cache, Item};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1;
use parking_lot::Mutex;
use runtime::cri::{ContainerEventResponse, PodSandboxFilter};
use tokio::sync::mpsc;

use super::pod::Pod;
use super::statics;
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
    /// Its object is gone.
    vanished: bool,
}

/// How a worker ended.
enum End {
    Done,
    /// By a defect of its own. What it was about is not done.
    Broken,
}

/// Before a pod whose worker broke gets another.
const REPAIR: std::time::Duration = std::time::Duration::from_secs(10);

/// How often all pods are compared with what the runtime has, whatever it tells.
const LOOK: std::time::Duration = std::time::Duration::from_secs(300);

/// Pods by namespace and name.
type Successors = HashMap<(String, String), Arc<Pod>>;

/// All pods of this node by uid. Clones share.
#[derive(Clone)]
pub struct Pods {
    context: Arc<Context>,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
    /// Static pods that begin when the one of their name has ended.
    next: Arc<Mutex<Successors>>,
    ended: mpsc::UnboundedSender<(String, End)>,
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
        let pods = Pods { context: context.clone(), entries: Arc::default(), next: Arc::default(), ended };
        publish(pods.clone());
        // Events are heard before anything is read, so that none falls in between.
        let events = pods.clone();
        context.spawn(async move { events.hear_runtime().await });
        let objects = pods.clone();
        context.spawn(async move { objects.hear_objects().await });
        let (files, mut folders) = mpsc::unbounded_channel();
        if let Some(folder) = context.manifests.clone() {
            context.spawn(statics::watch(folder, context.node_name.clone(), files.clone()));
            // The files come first, so that the API's mirrors of them are known for what they are.
            if let Some(found) = folders.recv().await {
                pods.set_static(found);
            }
        }
        cache.synced().await;
        let mut changes = cache.subscribe();
        while let Some(change) = changes.try_next() {
            if let Some(item) = change.new.as_deref() {
                pods.desire(item);
            }
        }
        pods.adopt_orphans().await;
        let mut preempted = context.preempted();
        loop {
            tokio::select! {
                change = changes.next() => match (&change.new, &change.old) {
                    (Some(item), _) => pods.desire(item),
                    (None, Some(item)) => pods.vanish(item),
                    (None, None) => {}
                },
                Some(found) = folders.recv() => pods.set_static(found),
                Some((uid, eviction)) = preempted.recv() => pods.preempt(&uid, eviction),
                end = endings.recv() => match end {
                    Some((uid, End::Done)) => pods.end(&uid),
                    Some((uid, End::Broken)) => pods.replace(&uid, &cache),
                    None => {}
                },
            }
        }
    }

    /// Ends a pod for a critical one's sake.
    fn preempt(&self, uid: &str, eviction: Eviction) {
        if let Some(pod) = self.entries.lock().get(uid).map(|entry| entry.pod.clone()) {
            self.context.warn(&pod, None, &eviction.failure.reason, eviction.failure.message.clone());
        }
        self.evict(uid, eviction);
    }

    /// A worker broke: another takes over from what the runtime and the API have.
    fn replace(&self, uid: &str, cache: &Cache<v1::Pod>) {
        let Some(entry) = self.entries.lock().remove(uid) else { return };
        let pod = entry.pod.clone();
        self.put(entry.pod, entry.vanished);
        if let Some(mirror) = cache.get(&pod.namespace, &pod.name).filter(|_| pod.is_static()) {
            self.desire(&mirror);
        }
    }

    /// A worker has done its work.
    fn end(&self, uid: &str) {
        let ended = self.entries.lock().remove(uid);
        self.context.pods_changed.notify_one();
        let next = ended.and_then(|e| self.next.lock().remove(&(e.pod.namespace.clone(), e.pod.name.clone())));
        if let Some(pod) = next {
            self.put(pod, false);
        }
    }

    /// Brings the static pods to those that are asked for now.
    fn set_static(&self, wanted: Vec<Pod>) {
        let kept: BTreeSet<_> = wanted.iter().map(|pod| pod.uid.clone()).collect();
        let running: Vec<_> = self.all().into_iter().filter(|pod| pod.is_static()).collect();
        self.next.lock().clear();
        for pod in running.iter().filter(|pod| !kept.contains(&pod.uid)) {
            self.lose(&pod.uid);
        }
        for pod in wanted.into_iter().map(Arc::new) {
            let same_name = |other: &&Arc<Pod>| other.namespace == pod.namespace && other.name == pod.name;
            match running.iter().find(same_name) {
                Some(same) if same.uid == pod.uid => {}
                Some(_) => {
                    self.next.lock().insert((pod.namespace.clone(), pod.name.clone()), pod);
                }
                None => self.put(pod, false),
            }
        }
    }

    fn vanish(&self, item: &Item) {
        match self.mirrored(item.namespace(), item.name()) {
            Some(sender) => drop(sender.send(Input::Mirror(None))),
            None => self.lose(&item.uid),
        }
    }

    /// The worker of the static pod with that name.
    fn mirrored(&self, namespace: &str, name: &str) -> Option<mpsc::UnboundedSender<Input>> {
        let entries = self.entries.lock();
        let mut all = entries.values();
        let named = all.find(|e| e.pod.namespace == namespace && e.pod.name == name && e.pod.is_static());
        named.map(|e| e.sender.clone())
    }

    /// Hands what the API shows of a static pod to its worker; what it shows of none is taken away.
    fn mirror(&self, object: v1::Pod) {
        let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
        let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
        if let Some(sender) = self.mirrored(&namespace, &name) {
            let _ = sender.send(Input::Mirror(Some(Box::new(object))));
            return;
        }
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let context = self.context.clone();
        self.context.spawn(async move {
            super::jobs::delete(&context, &Pod::new(object), &uid).await;
        });
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
        if object.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(labels::MIRROR)) {
            return self.mirror(object);
        }
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
        let worker = Worker::new(self.context.clone(), pod.clone(), vanished, &sender, inbox);
        let (ended, uid) = (self.ended.clone(), pod.uid.clone());
        self.context.spawn(async move {
            let end = guarded(worker.run()).await;
            if matches!(end, End::Broken) {
                tracing::error!(uid, "the worker of a pod broke; another takes its place");
                tokio::time::sleep(REPAIR).await;
            }
            let _ = ended.send((uid, end));
        });
        entries.insert(pod.uid.clone(), Entry { references: references(&pod), pod, sender, vanished });
        self.context.pods_changed.notify_one();
    }

    /// The pod is not asked for any more.
    fn lose(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            entry.vanished = true;
            let _ = entry.sender.send(Input::Vanished);
        }
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
            let mut looked = tokio::time::Instant::now();
            loop {
                match tokio::time::timeout(LOOK, events.next()).await {
                    Ok(Some(Ok(event))) => {
                        if let Some(uid) = owner(&event) {
                            self.send(uid, Input::Runtime);
                        }
                    }
                    // Some were missed.
                    Ok(Some(Err(_))) => self.wake_all(),
                    Ok(None) => break,
                    Err(_) => {}
                }
                // Who says nothing may have lost what there was to say.
                if looked.elapsed() >= LOOK {
                    looked = tokio::time::Instant::now();
                    self.wake_all();
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
            // How long it may take to stop nobody knows any more; upstream gives it a second.
            object.spec = Some(v1::PodSpec { termination_grace_period_seconds: Some(1), ..Default::default() });
            self.put(Arc::new(Pod::new(object)), true);
        }
        let entries = |dir: &std::path::Path| -> BTreeMap<String, std::path::PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect()
        };
        self.context.devices.keep(|uid| known.contains(uid));
        self.context.claims.clone().keep(|uid| known.contains(uid));
        self.context.placement.keep_only(|uid| known.contains(uid));
        for uid in entries(&self.context.volumes.root).into_keys().filter(|uid| !known.contains(uid)) {
            match self.context.volumes.tear_down(&uid).await {
                Ok(()) => self.context.users.release(&uid),
                Err(error) => tracing::warn!(uid, error, "volumes of a pod long gone cannot be removed"),
            }
        }
        for (name, path) in entries(&self.context.logs) {
            if name.rsplit('_').next().is_none_or(|uid| !known.contains(uid)) {
                let _ = std::fs::remove_dir_all(path);
            }
        }
    }
}

/// Runs a worker to its end, whichever that is. Nobody sees what a broken one leaves behind: it is dropped with it.
async fn guarded(work: impl Future<Output = ()>) -> End {
    match std::panic::AssertUnwindSafe(work).catch_unwind().await {
        Ok(()) => End::Done,
        Err(_) => End::Broken,
    }
}

/// The uid of the pod that an event is about.
fn owner(event: &ContainerEventResponse) -> Option<&str> {
    let sandbox = event.pod_sandbox_status.as_ref().map(|s| &s.labels);
    let labels = sandbox.or_else(|| event.containers_statuses.first().map(|s| &s.labels))?;
    labels.get(labels::POD_UID).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_that_breaks_is_told_from_one_that_is_done() {
        assert!(matches!(guarded(async {}).await, End::Done));
        let breaks = async {
            tokio::task::yield_now().await;
            panic!("as a defect would");
        };
        assert!(matches!(guarded(breaks).await, End::Broken));
    }
}
