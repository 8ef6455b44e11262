//! ControllerRevisions: the versions of a template that StatefulSets and DaemonSets have had.

use std::sync::Arc;

use client::{Cache, Item};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use kube::{Resource, api::DeleteParams};
use serde_json::{Value, json};

use crate::{
    deployment::template,
    frame::{Env, Error},
    owner::{Named, controller_reference, is_controlled_by},
    pods::template_labels,
};

pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// An owner's revisions.
pub(crate) struct History {
    /// That of the present template.
    pub update: ControllerRevision,
    /// All, from the oldest to the newest.
    pub all: Vec<ControllerRevision>,
}

impl History {
    pub fn find(&self, name: &str) -> Option<&ControllerRevision> {
        self.all.iter().find(|revision| revision.name() == name)
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

/// Finds or makes the revision of the present template, as the newest. `whole_name` says whether the hash label of pods is
/// the revision's whole name, as for StatefulSets, or the hash alone, as for DaemonSets.
pub(crate) async fn sync<K>(
    env: &Env,
    cache: &Cache<ControllerRevision>,
    owner: &K,
    template: &PodTemplateSpec,
    whole_name: bool,
) -> Result<History, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let owned = |item: &Arc<Item>| is_controlled_by(item, owner.uid());
    let items = cache.owned_by(owner.uid()).into_iter().filter(owned);
    let mut all: Vec<ControllerRevision> = items.filter_map(|item| cache.parse(&item)).collect();
    all.sort_by(|a, b| (a.revision, a.name()).cmp(&(b.revision, b.name())));
    let newest = all.last().map_or(0, |revision| revision.revision);
    let same = |revision: &ControllerRevision| template_of(revision).is_some_and(|own| template::same(&own, template));
    // Of several of the same template, which somebody must have made, the newest counts.
    let update = match all.iter().rposition(same) {
        Some(at) if all[at].revision == newest => all[at].clone(),
        Some(at) => {
            // An earlier template is wanted again.
            let mut revision = all.remove(at);
            revision.revision = newest + 1;
            let revision = env.api(owner.namespace()).replace(revision.name(), &Default::default(), &revision).await?;
            all.push(revision.clone());
            revision
        }
        None => {
            let revision = create(env, owner, template, newest + 1, whole_name).await?;
            all.push(revision.clone());
            revision
        }
    };
    Ok(History { update, all })
}

async fn create<K>(
    env: &Env,
    owner: &K,
    template: &PodTemplateSpec,
    number: i64,
    whole_name: bool,
) -> Result<ControllerRevision, Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = env.api::<ControllerRevision>(owner.namespace());
    let data = patch(template)?;
    for collisions in 0.. {
        let hash = template::hash(template, (collisions > 0).then_some(collisions));
        let name = format!("{}-{hash}", owner.name());
        let mut labels = template_labels(Some(template));
        labels.insert(HASH_LABEL.to_owned(), if whole_name { name.clone() } else { hash });
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data.clone())),
            revision: number,
        };
        match api.create(&Default::default(), &revision).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                // Ours, which the cache has yet to show; or another template's of the same hash.
                let taken = api.get(&name).await?;
                if template_of(&taken).is_some_and(|own| template::same(&own, template)) {
                    return Ok(taken);
                }
            }
            created => return Ok(created?),
        }
    }
    Err(Error::Message("no name is left for a revision".to_owned()))
}

/// Deletes the oldest revisions beyond the limit that nothing uses any more.
pub(crate) async fn truncate(
    env: &Env,
    history: &History,
    limit: Option<i32>,
    is_used: impl Fn(&ControllerRevision) -> bool,
) -> Result<(), Error> {
    let unused: Vec<_> = history.all.iter().filter(|revision| !is_used(revision)).collect();
    let excess = unused.len().saturating_sub(usize::try_from(limit.unwrap_or(10)).unwrap_or(0));
    for revision in &unused[..excess] {
        let params = DeleteParams::default();
        env.delete::<ControllerRevision>(revision.namespace(), revision.name(), revision.uid(), params).await?;
    }
    Ok(())
}
