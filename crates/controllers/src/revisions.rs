//! ControllerRevisions: the versions of a template that StatefulSets and DaemonSets have had.

use client::Cache;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use kube::{Resource, api::DeleteParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    claim,
    deployment::template,
    frame::{Env, Error},
    owner::{Named, controller_reference},
    pods::template_labels,
    selector::Selector,
};

/// By which pods are told apart.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
/// By which StatefulSets' revisions are.
const REVISION_HASH_LABEL: &str = "controller.kubernetes.io/hash";
/// The longest owner's name that a revision's name keeps whole.
const LONGEST_PREFIX: usize = 223;

/// An owner's revisions.
pub(crate) struct History {
    /// That of the present template.
    pub update: ControllerRevision,
    /// All, from the oldest to the newest.
    pub all: Vec<ControllerRevision>,
    /// How many names were taken by revisions of other templates so far.
    pub collisions: i32,
}

impl History {
    pub fn find(&self, name: &str) -> Option<&ControllerRevision> {
        self.all.iter().find(|revision| revision.name() == name)
    }

    /// Revisions of the present template beside the one that counts, as adoption may bring.
    pub fn duplicates(&self) -> impl Iterator<Item = &ControllerRevision> {
        let wanted = template_of(&self.update);
        let others = self.all.iter().filter(|revision| revision.name() != self.update.name());
        others.filter(move |revision| match (&wanted, template_of(revision)) {
            (Some(wanted), Some(own)) => template::same(wanted, &own),
            _ => false,
        })
    }
}

/// How the revisions of a kind are labelled, and which of them are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// The label of pods is the hash alone, and the limit counts all earlier revisions.
    DaemonSet,
    /// The label of pods is the revision's whole name, and the limit counts those that nothing uses.
    StatefulSet,
}

/// What is done so that the present template has the newest revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// This one is it.
    Keep(usize),
    /// This one, which becomes the newest by that number.
    Renumber(usize, i64),
    /// A new one of that number.
    Create(i64),
}

/// `all` goes from the oldest to the newest. Of several of the same template, which somebody must have made, the newest
/// counts.
fn step(all: &[ControllerRevision], wanted: &PodTemplateSpec) -> Step {
    let newest = all.last().map_or(0, |revision| revision.revision);
    let same = |revision: &ControllerRevision| template_of(revision).is_some_and(|own| template::same(&own, wanted));
    match all.iter().rposition(same) {
        Some(at) if all[at].revision == newest => Step::Keep(at),
        Some(at) => Step::Renumber(at, newest + 1),
        None => Step::Create(newest + 1),
    }
}

/// The template as `kubectl rollout undo` applies it: a patch that replaces the one that is.
fn patch(template: &PodTemplateSpec) -> Result<Value, serde_json::Error> {
    let mut template = serde_json::to_value(template)?;
    template["$patch"] = "replace".into();
    Ok(json!({"spec": {"template": template}}))
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.get("spec")?.get("template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// The value of the hash label for pods of a revision.
pub(crate) fn hash_of(revision: &ControllerRevision) -> String {
    let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL));
    label.cloned().unwrap_or_else(|| revision.name().to_owned())
}

/// Every revision of an owner, from the oldest to the newest, after adopting those that match and nobody owns: an owner
/// that is made again finds the history that its predecessor left.
pub(crate) async fn list<K>(
    env: &Env,
    cache: &Cache<ControllerRevision>,
    owner: &K,
    selector: &Selector,
) -> Result<Vec<ControllerRevision>, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
{
    let candidates = claim::candidates(cache, owner.namespace(), owner.uid());
    let owned = claim::claim::<K, ControllerRevision>(env, owner, selector, candidates).await?;
    let mut all: Vec<ControllerRevision> = owned.iter().filter_map(|item| cache.parse(item)).collect();
    all.sort_by(|a, b| (a.revision, a.name()).cmp(&(b.revision, b.name())));
    Ok(all)
}

/// Finds or makes the revision of the present template, as the newest. `collisions` is what the owner's status says.
pub(crate) async fn sync<K>(
    env: &Env,
    mut all: Vec<ControllerRevision>,
    owner: &K,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    style: Style,
) -> Result<History, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let mut collisions = collisions.unwrap_or(0);
    let update = match step(&all, template) {
        Step::Keep(at) => all[at].clone(),
        Step::Renumber(at, number) => {
            let old = all.remove(at);
            // A merge patch needs no version, which an adoption a moment ago would have made old.
            let patch = json!({"metadata": {"uid": old.uid()}, "revision": number});
            env.patch::<ControllerRevision>(owner.namespace(), old.name(), "", &patch).await?;
            let revision = ControllerRevision { revision: number, ..old };
            all.push(revision.clone());
            revision
        }
        Step::Create(number) => {
            let revision = create(env, owner, template, number, &mut collisions, style).await?;
            all.push(revision.clone());
            revision
        }
    };
    Ok(History { update, all, collisions })
}

/// A revision of a template, named after it.
fn revision<K>(
    owner: &K,
    template: &PodTemplateSpec,
    number: i64,
    collisions: i32,
    style: Style,
) -> Result<ControllerRevision, serde_json::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let hash = template::hash(template, (collisions > 0).then_some(collisions));
    let prefix = &owner.name()[..owner.name().len().min(LONGEST_PREFIX)];
    let mut labels = template_labels(Some(template));
    let label = if style == Style::DaemonSet { HASH_LABEL } else { REVISION_HASH_LABEL };
    labels.insert(label.to_owned(), hash.clone());
    Ok(ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{prefix}-{hash}")),
            labels: Some(labels),
            // Among them the cause of the change, which the history of a rollout shows.
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(patch(template)?)),
        revision: number,
    })
}

async fn create<K>(
    env: &Env,
    owner: &K,
    template: &PodTemplateSpec,
    number: i64,
    collisions: &mut i32,
    style: Style,
) -> Result<ControllerRevision, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = env.api::<ControllerRevision>(owner.namespace());
    loop {
        let wanted = revision(owner, template, number, *collisions, style)?;
        match api.create(&Default::default(), &wanted).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                // Ours, or our predecessor's, which the cache has yet to show; or another template's of the same hash.
                let taken = api.get(wanted.name()).await?;
                if template_of(&taken).is_some_and(|own| template::same(&own, template)) {
                    return Ok(taken);
                }
                *collisions += 1;
            }
            created => return Ok(created?),
        }
    }
}

/// The oldest revisions beyond the limit that nothing uses any more.
fn excess(
    history: &History,
    limit: Option<i32>,
    is_used: impl Fn(&ControllerRevision) -> bool,
    style: Style,
) -> Vec<&ControllerRevision> {
    let old = history.all.iter().filter(|revision| revision.name() != history.update.name());
    let (used, unused): (Vec<_>, Vec<_>) = old.partition(|revision| is_used(revision));
    let counted = unused.len() + if style == Style::DaemonSet { used.len() } else { 0 };
    // Validation lets nobody write a negative limit.
    let most = usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX);
    unused.into_iter().take(counted.saturating_sub(most)).collect()
}

/// Deletes the [`excess`].
pub(crate) async fn truncate(
    env: &Env,
    history: &History,
    limit: Option<i32>,
    is_used: impl Fn(&ControllerRevision) -> bool,
    style: Style,
) -> Result<(), Error> {
    for revision in excess(history, limit, is_used, style) {
        delete(env, revision).await?;
    }
    Ok(())
}

pub(crate) async fn delete(env: &Env, revision: &ControllerRevision) -> Result<(), Error> {
    let params = DeleteParams::default();
    env.delete::<ControllerRevision>(revision.namespace(), revision.name(), revision.uid(), params).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        let json =
            json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
        serde_json::from_value(json).unwrap()
    }

    fn owner() -> k8s_openapi::api::apps::v1::DaemonSet {
        let json =
            json!({"metadata": {"name": "web", "uid": "u", "annotations": {"kubernetes.io/change-cause": "new"}}});
        serde_json::from_value(json).unwrap()
    }

    /// Revisions `1:a 2:b` of templates by their image, oldest first.
    fn history(text: &str) -> Vec<ControllerRevision> {
        let made = |text: &str| {
            let (number, image) = text.split_once(':').unwrap();
            let mut made = revision(&owner(), &template(image), number.parse().unwrap(), 0, Style::DaemonSet).unwrap();
            made.metadata.name = Some(text.to_owned());
            made
        };
        text.split_whitespace().map(made).collect()
    }

    #[test]
    fn the_present_template_has_the_newest_revision() {
        let cases = [
            ("", Step::Create(1)),
            ("1:a", Step::Keep(0)),
            ("1:b", Step::Create(2)),
            ("1:a 2:b", Step::Renumber(0, 3)),
            ("1:b 2:a", Step::Keep(1)),
            ("1:a 2:a", Step::Keep(1)),
            ("1:a 3:a 7:b", Step::Renumber(1, 8)),
        ];
        for (text, expected) in cases {
            assert_eq!(step(&history(text), &template("a")), expected, "{text}");
        }
    }

    #[test]
    fn a_revision_tells_its_template_its_cause_and_its_hash() {
        let made = |collisions, style| revision(&owner(), &template("a"), 1, collisions, style).unwrap();
        let first = made(0, Style::DaemonSet);
        assert_eq!(template_of(&first), Some(template("a")));
        assert_eq!(first.annotation("kubernetes.io/change-cause"), Some("new"));
        assert_eq!(first.name(), format!("web-{}", hash_of(&first)));
        assert_ne!(first.name(), made(1, Style::DaemonSet).name(), "a name that was taken is not tried again");
        let labels = made(0, Style::StatefulSet).metadata.labels.unwrap();
        assert_eq!(labels["controller.kubernetes.io/hash"], hash_of(&first));
        assert_eq!((labels.get(HASH_LABEL), &*labels["app"]), (None, "web"));
    }

    #[test]
    fn old_revisions_go_when_nothing_uses_them() {
        let cases = [
            // Revisions, limit, used: what goes, for DaemonSets and StatefulSets.
            ("1:a 2:b 3:c", 2, "", "", ""),
            ("1:a 2:b 3:c", 1, "", "1:a", "1:a"),
            ("1:a 2:b 3:c", 1, "1:a", "2:b", ""),
            ("1:a 2:b 3:c", 0, "", "1:a 2:b", "1:a 2:b"),
            ("1:a 2:b 3:c", 0, "1:a 2:b", "", ""),
        ];
        for (text, limit, used, daemons, stateful) in cases {
            for (style, expected) in [(Style::DaemonSet, daemons), (Style::StatefulSet, stateful)] {
                let all = history(text);
                let history = History { update: all[all.len() - 1].clone(), all, collisions: 0 };
                let is_used = |revision: &ControllerRevision| used.contains(revision.name());
                let gone: Vec<&str> =
                    excess(&history, Some(limit), is_used, style).iter().map(|revision| revision.name()).collect();
                assert_eq!(gone.join(" "), expected, "{text} {limit} {used} {style:?}");
            }
        }
    }

    #[test]
    fn of_several_revisions_of_one_template_the_others_are_duplicates() {
        let all = history("1:a 2:b 3:a");
        let history = History { update: all[2].clone(), all, collisions: 0 };
        let names: Vec<&str> = history.duplicates().map(|revision| revision.name()).collect();
        assert_eq!(names, ["1:a"]);
    }
}
