//! Garbage collection: what an object owns goes with it, in the background or before it, or is let go.
//!
//! Every kind's metadata is watched, but for kinds that nobody owns. The caches only say what to look at: before anything is
//! deleted the server is asked about the object and its owners, so a cache that lags behind deletes nothing by mistake.

mod decide;
mod live;
mod table;

use std::{collections::HashSet, sync::Arc, time::Duration};

use client::{Change, Item, Key, Owner, WorkQueue, events::EventType};
use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use parking_lot::{Mutex, RwLock};

use crate::{
    discovery::{ResourceKind, discover},
    frame::{Env, Error, Synced},
};
use decide::{Action, FOREGROUND, ORPHAN, OwnerState};
use table::{Table, Watched};

const WORKERS: usize = 10;
/// How long to wait for further changes of what kinds there are before asking.
const SETTLE: Duration = Duration::from_millis(500);
/// How many owners are remembered as gone.
const REMEMBERED: usize = 500;

/// An object to be looked at.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Node {
    /// The path of its kind.
    path: Arc<str>,
    key: Key,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.path, self.key)
    }
}

/// Runs the garbage collector.
pub(crate) async fn run(env: Env) {
    let collector = Arc::new(Collector {
        env: env.clone(),
        queue: WorkQueue::new(),
        table: RwLock::default(),
        absent: Mutex::default(),
    });
    let keep_up = tokio::spawn(env.shutdown.clone().run_until_cancelled_owned(collector.clone().keep_up()));
    collector.queue.drive(WORKERS, &env.shutdown, |node| collector.sync(node)).await;
    keep_up.abort();
}

struct Collector {
    env: Env,
    queue: WorkQueue<Node>,
    table: RwLock<Arc<Table>>,
    /// Uids of owners that the server does not have. A uid never comes back.
    absent: Mutex<HashSet<Box<str>>>,
}

impl Collector {
    /// Watches whatever kinds there are, now and later.
    async fn keep_up(self: Arc<Self>) {
        let definitions =
            ["/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/apiregistration.k8s.io/v1/apiservices"];
        let mut changes = definitions.map(|path| self.env.caches.metadata(path).subscribe());
        let mut backoff = client::Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
        loop {
            match discover(&self.env.client).await {
                Ok(discovered) => {
                    backoff.reset();
                    self.watch(discovered.kinds);
                    let [first, second] = &mut changes;
                    tokio::select! {
                        _ = first.next() => {}
                        _ = second.next() => {}
                    }
                    tokio::time::sleep(SETTLE).await;
                    while first.try_next().is_some() || second.try_next().is_some() {}
                }
                Err(error) => {
                    tracing::debug!(%error, "the server does not tell its kinds");
                    backoff.wait().await;
                }
            }
        }
    }

    fn watch(self: &Arc<Self>, kinds: Vec<ResourceKind>) {
        let present = self.table.read().clone();
        let (table, fresh) = present.updated(kinds, &self.env.caches);
        *self.table.write() = Arc::new(table);
        for watched in fresh {
            let (collector, stop) = (self.clone(), watched.stop.clone());
            tokio::spawn(stop.run_until_cancelled_owned(async move {
                let mut changes = watched.cache.subscribe();
                loop {
                    let change = changes.next().await;
                    collector.note(&watched, &change);
                }
            }));
        }
    }

    fn add(&self, watched: &Watched, key: &Key) {
        self.queue.add(Node { path: watched.path.clone(), key: key.clone() });
    }

    /// Queues what a change may make garbage, or set free.
    fn note(&self, watched: &Watched, change: &Change) {
        let table = self.table.read().clone();
        let Some(item) = change.item() else { return };
        if let Some(new) = &change.new {
            let is_orphan = |owner: &Owner| table.owner(owner, item.namespace()).is_none();
            let owners_changed = change.old.as_ref().is_none_or(|old| old.owners != new.owners);
            if decide::needs_finalizing(new) || (owners_changed && new.owners.iter().any(is_orphan)) {
                self.add(watched, &change.key);
            }
        } else {
            self.absent.lock().remove(&item.uid);
            for (kind, dependent) in table.dependents(&item.uid) {
                self.add(&kind, &dependent.key);
            }
        }
        // An owner that waits for this object may go on once it is gone or no longer holds it up.
        for owner in change.old.iter().flat_map(|old| &old.owners) {
            if let Some((kind, owner)) = table.owner(owner, item.namespace())
                && decide::waits_for_dependents(&owner)
            {
                self.add(&kind, &owner.key);
            }
        }
        if let Some(new) = change.new.as_ref().filter(|new| !new.owners.is_empty() && !new.deleting) {
            let is_leaving = |owner: &Owner| {
                table.owner(owner, item.namespace()).is_some_and(|(_, owner)| decide::waits_for_dependents(&owner))
            };
            if new.owners.iter().any(is_leaving) {
                self.add(watched, &change.key);
            }
        }
    }

    async fn sync(&self, node: Node) -> Synced {
        let table = self.table.read().clone();
        let Some(watched) = table.by_path(&node.path) else { return Ok(None) };
        let Some(live) = live::get(&self.env, &watched.kind, &node.key).await? else {
            // Gone; if its owners or dependents care, the cache's own event tells them.
            return Ok(None);
        };
        let waits_for = |finalizer: &str| live.deleting && live.finalizers.iter().any(|name| &**name == finalizer);
        if waits_for(ORPHAN) {
            self.orphan(&table, &watched, &live).await?;
        } else if waits_for(FOREGROUND) {
            self.delete_dependents(&table, &watched, &live).await?;
        } else if !live.deleting && !live.owners.is_empty() {
            self.collect(&table, &watched, &live).await?;
        }
        Ok(None)
    }

    /// Deletes an object whose owners are all gone or leaving, and forgets those of several that are.
    async fn collect(&self, table: &Table, watched: &Watched, live: &Item) -> Result<(), Error> {
        let mut states = Vec::with_capacity(live.owners.len());
        for owner in &live.owners {
            states.push(self.state_of(table, watched, live, owner).await?);
        }
        let dependents = table.dependents(&live.uid);
        match decide::act(live, &states, !dependents.is_empty()) {
            Action::Nothing => Ok(()),
            Action::Detach(owners) => live::set_owners(&self.env, &watched.kind, live, owners).await,
            Action::Delete(policy) => {
                if policy == "Foreground" && dependents.iter().any(|(_, item)| decide::waits_for_dependents(item)) {
                    // A circle of owners that would wait for each other: this one holds up nobody.
                    live::set_owners(&self.env, &watched.kind, live, decide::unblocking(live)).await?;
                }
                tracing::debug!(path = &*watched.path, object = %live.key, policy, "deleting what its owners left");
                live::delete(&self.env, &watched.kind, live, policy).await
            }
        }
    }

    async fn state_of(
        &self,
        table: &Table,
        watched: &Watched,
        live: &Item,
        owner: &Owner,
    ) -> Result<OwnerState, Error> {
        let Some(kind) = table.kind_of(owner) else {
            let Owner { api_version, kind, .. } = owner;
            return Err(Error::Message(format!("no matches for kind \"{kind}\" in version \"{api_version}\"")));
        };
        if kind.kind.namespaced && !watched.kind.namespaced {
            // A mistake that nothing can set right here: no namespace is meant.
            self.report(watched, live, owner);
            return Ok(OwnerState::Present);
        }
        if let Some((_, known)) = table.owner(owner, live.namespace()) {
            return Ok(if decide::waits_for_dependents(&known) { OwnerState::Leaving } else { OwnerState::Present });
        }
        if self.absent.lock().contains(&owner.uid) {
            return Ok(OwnerState::Absent);
        }
        let namespace = if kind.kind.namespaced { live.namespace() } else { "" };
        match live::get(&self.env, &kind.kind, &Key::new(namespace, &owner.name)).await? {
            Some(found) if found.uid == owner.uid && decide::waits_for_dependents(&found) => Ok(OwnerState::Leaving),
            Some(found) if found.uid == owner.uid => Ok(OwnerState::Present),
            _ => {
                let elsewhere = |item: &Arc<Item>| item.uid == owner.uid && item.namespace() != namespace;
                if kind.cache.list().iter().any(elsewhere) {
                    self.report(watched, live, owner);
                }
                let mut absent = self.absent.lock();
                if absent.len() >= REMEMBERED {
                    absent.clear();
                }
                absent.insert(owner.uid.clone());
                Ok(OwnerState::Absent)
            }
        }
    }

    /// Tells the user of an owner that cannot be where the reference says.
    fn report(&self, watched: &Watched, live: &Item, owner: &Owner) {
        let Owner { api_version, kind, name, uid, .. } = owner;
        let text = |text: &str| Some(text.to_owned());
        let about = ObjectReference {
            api_version: Some(watched.kind.api_version()),
            kind: text(&watched.kind.kind),
            namespace: text(live.namespace()),
            name: text(live.name()),
            uid: text(&live.uid),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] does not exist in \
             namespace \"{namespace}\"",
            namespace = live.namespace()
        );
        self.env.recorder.record(about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    /// Everything is known of which the server has told, so that no dependent is overlooked.
    fn needs_all(&self, table: &Table) -> Result<(), Error> {
        match table.unsynced() {
            None => Ok(()),
            Some(path) => Err(Error::Message(format!("the objects of {path} are not known yet"))),
        }
    }

    /// Lets the dependents go, then the object.
    async fn orphan(&self, table: &Table, watched: &Watched, live: &Item) -> Result<(), Error> {
        self.needs_all(table)?;
        let released = table.dependents(&live.uid).into_iter().map(async |(kind, dependent)| {
            let owners = decide::without(&dependent, |owner| owner.uid == live.uid);
            live::set_owners(&self.env, &kind.kind, &dependent, owners).await
        });
        join_all(released).await.into_iter().collect::<Result<(), Error>>()?;
        live::remove_finalizer(&self.env, &watched.kind, live, ORPHAN).await
    }

    /// Deletes the dependents of an object that waits for them, and lets it go when none holds it up any more.
    async fn delete_dependents(&self, table: &Table, watched: &Watched, live: &Item) -> Result<(), Error> {
        self.needs_all(table)?;
        let dependents = table.dependents(&live.uid);
        if !dependents.iter().any(|(_, dependent)| decide::blocks(dependent, &live.uid)) {
            return live::remove_finalizer(&self.env, &watched.kind, live, FOREGROUND).await;
        }
        for (kind, dependent) in dependents.iter().filter(|(_, dependent)| !dependent.deleting) {
            self.add(kind, &dependent.key);
        }
        Ok(())
    }
}
