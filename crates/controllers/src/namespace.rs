//! Namespace deletion: everything in it goes, then it goes.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use client::{Cache, Key};
use http::Request;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use parking_lot::Mutex;
use serde::Deserialize;

use crate::{
    condition::{self, condition},
    discovery::{Discovered, ResourceKind, discover},
    frame::{Env, Error, Loop, Synced},
    owner::Named,
};

const WORKERS: usize = 10;
const FINALIZER: &str = "kubernetes";
/// How long to wait for what remains: at first, and at most.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Runs the namespace controller.
pub(crate) async fn run(env: Env) {
    let namespaces: Cache<Namespace> = env.caches.get();
    let pods: Cache<Pod> = env.caches.get();
    let controller = Controller { env: env.clone(), namespaces: namespaces.clone(), waits: Mutex::default() };
    let work = Loop::new().on_self(&namespaces).on(&pods, {
        let namespaces = namespaces.clone();
        move |change, queue| {
            let namespace = &change.key.namespace;
            if change.new.is_none() && namespaces.get("", namespace).is_some_and(|namespace| namespace.deleting) {
                queue.add(Key { namespace: "".into(), name: namespace.clone() });
            }
        }
    });
    work.run(&env, WORKERS, |key| controller.sync(key)).await;
}

struct Controller {
    env: Env,
    namespaces: Cache<Namespace>,
    /// How often a namespace was found not to be empty yet.
    waits: Mutex<HashMap<Key, u32>>,
}

/// What is left of one kind after deletion was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remaining {
    objects: usize,
    /// How many of them have which finalizer.
    finalizers: BTreeMap<String, usize>,
}

/// All that stands in the way of a namespace's end.
#[derive(Debug, Default)]
struct Obstacles {
    /// By qualified resource.
    remaining: BTreeMap<String, Remaining>,
    failures: Vec<String>,
    undiscovered: Vec<String>,
}

impl Obstacles {
    fn is_empty(&self) -> bool {
        self.remaining.is_empty() && self.failures.is_empty() && self.undiscovered.is_empty()
    }
}

impl Controller {
    async fn sync(&self, key: Key) -> Synced {
        let is_going = self.namespaces.get("", &key.name).is_some_and(|namespace| namespace.deleting);
        // The cache may be behind, and another namespace have the name by now, whose content is to stay.
        let live = if is_going { self.env.cluster::<Namespace>().get_opt(&key.name).await? } else { None };
        let Some(mut namespace) = live.filter(Named::is_deleting) else {
            self.waits.lock().remove(&key);
            return Ok(None);
        };
        let has_finalizer = |namespace: &Namespace| {
            namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten()).any(|name| name == FINALIZER)
        };
        if !has_finalizer(&namespace) {
            return Ok(None);
        }
        if namespace.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Terminating") {
            namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
            namespace = self.env.replace_status(&namespace).await?;
        }
        let obstacles = self.empty(&key.name).await?;
        let mut status = namespace.status.clone().unwrap_or_default();
        report(&mut status.conditions, &obstacles);
        if namespace.status.as_ref() != Some(&status) {
            namespace.status = Some(status);
            namespace = self.env.replace_status(&namespace).await?;
        }
        if obstacles.is_empty() {
            self.finalize(namespace).await?;
            self.waits.lock().remove(&key);
            return Ok(None);
        }
        let mut waits = self.waits.lock();
        let wait = waits.entry(key).or_insert(0);
        *wait += 1;
        Ok(Some((FIRST_WAIT * (1 << (*wait).min(10))).min(LONGEST_WAIT)))
    }

    /// Asks for the deletion of everything: the pods first, and when they are gone the rest, so that nothing that
    /// guards a running pod goes before it.
    async fn empty(&self, namespace: &str) -> Result<Obstacles, Error> {
        let Discovered { kinds, failed } = discover(&self.env.client).await?;
        let mut obstacles = Obstacles { undiscovered: failed, ..Obstacles::default() };
        let deletable = |kind: &ResourceKind| kind.namespaced && kind.can("list") && kind.can("delete");
        let (pods, others): (Vec<_>, Vec<_>) =
            kinds.into_iter().filter(deletable).partition(|kind| kind.group.is_empty() && kind.plural == "pods");
        for kinds in [pods, others] {
            for kind in kinds {
                match self.empty_kind(namespace, &kind).await {
                    Ok(remaining) if remaining.objects == 0 => {}
                    Ok(remaining) => {
                        obstacles.remaining.insert(kind.qualified(), remaining);
                    }
                    // The kind is no longer served.
                    Err(error) if error.is_not_found() => {}
                    Err(error) => obstacles.failures.push(error.message()),
                }
            }
            if !obstacles.remaining.is_empty() || !obstacles.failures.is_empty() {
                break;
            }
        }
        Ok(obstacles)
    }

    async fn empty_kind(&self, namespace: &str, kind: &ResourceKind) -> Result<Remaining, Error> {
        let path = kind.path_in(namespace);
        let before = self.list(&path).await?;
        if before.is_empty() {
            return Ok(Remaining::default());
        }
        let delete = async |path: &str| -> Result<(), Error> {
            let options = br#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;
            let request = Request::delete(path).header(http::header::CONTENT_TYPE, "application/json");
            let request = request.body(options.to_vec()).map_err(kube::Error::HttpError)?;
            self.env.client.request_text(request).await?;
            Ok(())
        };
        if kind.can("deletecollection") {
            delete(&path).await?;
        } else {
            for object in &before {
                match delete(&format!("{path}/{}", object.metadata.name)).await {
                    Err(error) if error.is_not_found() => {}
                    other => other?,
                }
            }
        }
        let after = self.list(&path).await?;
        let mut finalizers = BTreeMap::new();
        for finalizer in after.iter().flat_map(|object| &object.metadata.finalizers) {
            *finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(Remaining { objects: after.len(), finalizers })
    }

    async fn list(&self, path: &str) -> Result<Vec<Partial>, Error> {
        #[derive(Deserialize)]
        struct List {
            #[serde(default)]
            items: Vec<Partial>,
        }
        let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let request = Request::get(path).header(http::header::ACCEPT, accept);
        let request = request.body(Vec::new()).map_err(kube::Error::HttpError)?;
        Ok(self.env.client.request::<List>(request).await?.items)
    }

    /// Takes the finalizer away, after which the server removes the namespace.
    async fn finalize(&self, mut namespace: Namespace) -> Result<(), Error> {
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|name| name != FINALIZER);
        }
        let path = format!("/api/v1/namespaces/{}/finalize", namespace.name());
        let request = Request::put(path).header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(serde_json::to_vec(&namespace)?).map_err(kube::Error::HttpError)?;
        match self.env.client.request_text(request).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            answer => Ok(answer.map(|_| ())?),
        }
    }
}

#[derive(Deserialize)]
struct Partial {
    metadata: PartialMeta,
}

#[derive(Deserialize)]
struct PartialMeta {
    name: String,
    #[serde(default)]
    finalizers: Vec<String>,
}

/// Writes upstream's five conditions.
fn report(conditions: &mut Option<Vec<NamespaceCondition>>, obstacles: &Obstacles) {
    let Obstacles { remaining, failures, undiscovered } = obstacles;
    let resources: Vec<String> =
        remaining.iter().map(|(kind, left)| format!("{kind} has {} resource instances", left.objects)).collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in remaining.values().flat_map(|left| &left.finalizers) {
        *finalizers.entry(name).or_default() += count;
    }
    let finalizers: Vec<String> =
        finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let verdicts = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!undiscovered.is_empty()).then(|| {
                let groups = undiscovered.join(", ");
                (
                    "DiscoveryFailed",
                    format!("Discovery failed for some groups, {} failing: {groups}", undiscovered.len()),
                )
            }),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then(|| {
                let all = failures.join(", ");
                let message = format!("Failed to delete all resource types, {} remaining: {all}", failures.len());
                ("ContentDeletionFailed", message)
            }),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!resources.is_empty())
                .then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {}", resources.join(", ")))),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then(|| {
                let all = finalizers.join(", ");
                ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {all}"))
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    for (kind, problem, (good, message)) in verdicts {
        let new: NamespaceCondition = match problem {
            Some((reason, message)) => condition(kind, "True", reason, &message),
            None => condition(kind, "False", good, message),
        };
        // Messages count what remains, so they are kept current, unlike the time of the transition.
        if let Some(present) = conditions.iter_mut().flatten().find(|present| present.type_ == kind)
            && present.status == new.status
        {
            (present.reason, present.message) = (new.reason, new.message);
        } else {
            condition::set(conditions, new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_waited_for() {
        let mut conditions = None;
        let finalizers = [("example.com/hold".to_owned(), 1)].into();
        let remaining = [("pods.".to_owned(), Remaining { objects: 2, finalizers })].into();
        report(&mut conditions, &Obstacles { remaining, ..Obstacles::default() });
        let message = |conditions: &Option<Vec<NamespaceCondition>>, kind: &str| {
            let found = condition::find(conditions, kind).unwrap();
            format!("{} {}", found.status, found.message.as_deref().unwrap())
        };
        assert_eq!(
            message(&conditions, "NamespaceContentRemaining"),
            "True Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message(&conditions, "NamespaceFinalizersRemaining"),
            "True Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        report(&mut conditions, &Obstacles::default());
        assert_eq!(message(&conditions, "NamespaceContentRemaining"), "False All content successfully removed");
        assert_eq!(conditions.unwrap().len(), 5);
    }
}
