//! Adoption and release: which dependents belong to an owner by its selector.

use std::sync::Arc;

use client::{Cache, Item};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    frame::{Env, Error},
    owner::{Named, controller_reference},
    selector::Selector,
};

/// What an owner makes of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the owner's already.
    Keep,
    /// It matches and nobody owns it.
    Adopt,
    /// It is the owner's and no longer matches.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// Decides by the owner's uid and selector.
pub(crate) fn decide(item: &Item, uid: &str, owner_deleting: bool, selector: &Selector) -> Claim {
    let matches = selector.matches(&item.labels);
    match item.controller() {
        Some(owner) if &*owner.uid != uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || item.deleting => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// All that an owner may have a claim to: what it owns, and what nobody does. It is found without looking at what others
/// own, however much of that there is in the namespace.
pub(crate) fn candidates<K: 'static>(cache: &Cache<K>, namespace: &str, uid: &str) -> Vec<Arc<Item>> {
    let mut all = cache.owned_by(uid);
    // One that names the owner, but not as the one that manages it, is among both.
    let known: std::collections::HashSet<_> = all.iter().map(|item| item.key.clone()).collect();
    all.extend(cache.adoptable(namespace).into_iter().filter(|item| !known.contains(&item.key)));
    all
}

/// The objects among the [`candidates`] that are the owner's, after adopting what matches and
/// releasing what no longer does.
pub(crate) async fn claim<O, K>(
    env: &Env,
    owner: &O,
    selector: &Selector,
    candidates: Vec<Arc<Item>>,
) -> Result<Vec<Arc<Item>>, Error>
where
    O: Resource<DynamicType = ()> + DeserializeOwned,
    K: Resource<DynamicType = ()>,
{
    claim_held::<O, K>(env, owner, selector, candidates, None).await
}

/// As [`claim`], for owners that hold their dependents with a finalizer: what is released is let go of in the same write, since
/// nobody else would.
pub(crate) async fn claim_held<O, K>(
    env: &Env,
    owner: &O,
    selector: &Selector,
    candidates: Vec<Arc<Item>>,
    finalizer: Option<&str>,
) -> Result<Vec<Arc<Item>>, Error>
where
    O: Resource<DynamicType = ()> + DeserializeOwned,
    K: Resource<DynamicType = ()>,
{
    let mut mine = Vec::new();
    let mut may_adopt = false;
    for item in candidates {
        match decide(&item, owner.uid(), owner.is_deleting(), selector) {
            Claim::Keep => mine.push(item),
            Claim::Ignore => {}
            Claim::Adopt => {
                if !may_adopt {
                    may_adopt = is_alive(env, owner).await?;
                }
                if may_adopt && adopt::<O, K>(env, owner, &item).await? {
                    mine.push(item);
                }
            }
            Claim::Release => release::<K>(env, owner.uid(), &item, finalizer).await?,
        }
    }
    Ok(mine)
}

/// Whether the server, not just the cache, still has this owner. Without it the garbage collector would delete what was
/// adopted by an owner that is going.
async fn is_alive<O: Resource<DynamicType = ()> + DeserializeOwned>(env: &Env, owner: &O) -> Result<bool, Error> {
    let request = kube::core::Request::new(O::url_path(&(), owner.meta().namespace.as_deref()));
    let request = request.get(owner.name(), &kube::api::GetParams::default()).map_err(kube::Error::BuildRequest)?;
    match env.client.request::<O>(request).await {
        Ok(fresh) => Ok(fresh.uid() == owner.uid() && !fresh.is_deleting()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// False if the object is gone.
async fn adopt<O, K>(env: &Env, owner: &O, item: &Item) -> Result<bool, Error>
where
    O: Resource<DynamicType = ()>,
    K: Resource<DynamicType = ()>,
{
    let others = item.owners.iter().filter(|known| *known.uid != *owner.uid());
    let mut owners: Vec<serde_json::Value> = others.map(reference).collect();
    owners.push(serde_json::to_value(controller_reference(owner))?);
    // The resourceVersion makes sure that no other owner came first.
    let version = item.resource_version.to_string();
    let patch = json!({"metadata": {"uid": &*item.uid, "resourceVersion": version, "ownerReferences": owners}});
    tracing::info!(object = %item.key, owner = owner.name(), "adopting");
    gone_is_fine(env.patch::<K>(item.namespace(), item.name(), "", &patch).await.map(|_| true), false)
}

async fn release<K: Resource<DynamicType = ()>>(
    env: &Env,
    uid: &str,
    item: &Item,
    finalizer: Option<&str>,
) -> Result<(), Error> {
    let owners: Vec<_> = item.owners.iter().filter(|owner| &*owner.uid != uid).map(reference).collect();
    let version = item.resource_version.to_string();
    let mut patch = json!({"metadata": {"uid": &*item.uid, "resourceVersion": version, "ownerReferences": owners}});
    if finalizer.is_some() {
        let others = item.finalizers.iter().map(|name| &**name).filter(|name| Some(*name) != finalizer);
        patch["metadata"]["finalizers"] = others.collect();
    }
    tracing::info!(object = %item.key, "releasing");
    gone_is_fine(env.patch::<K>(item.namespace(), item.name(), "", &patch).await.map(|_| ()), ())
}

fn gone_is_fine<T>(answer: Result<T, Error>, gone: T) -> Result<T, Error> {
    match answer {
        Err(error) if error.is_not_found() => Ok(gone),
        answer => answer,
    }
}

fn reference(owner: &client::Owner) -> serde_json::Value {
    let client::Owner { api_version, kind, name, uid, controller, block_owner_deletion } = owner;
    json!({
        "apiVersion": api_version, "kind": kind, "name": name, "uid": uid,
        "controller": controller, "blockOwnerDeletion": block_owner_deletion,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn an_owner_keeps_adopts_and_releases_by_its_selector() {
        let selector = Selector::new(&serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap()).unwrap();
        // The object's label, who manages it, whether it is being deleted, whether the owner is.
        let cases = [
            ("web", Some("me"), false, false, Claim::Keep),
            ("web", Some("me"), true, true, Claim::Keep),
            ("web", None, false, false, Claim::Adopt),
            ("web", None, true, false, Claim::Ignore),
            ("web", None, false, true, Claim::Ignore),
            ("other", None, false, false, Claim::Ignore),
            ("other", Some("me"), false, false, Claim::Release),
            ("other", Some("me"), false, true, Claim::Ignore),
            ("web", Some("another"), false, false, Claim::Ignore),
            ("other", Some("another"), false, false, Claim::Ignore),
        ];
        for (label, owner, deleting, owner_deleting, expected) in cases {
            let mut object = json!({"metadata": {"name": "o", "labels": {"app": label}}});
            if let Some(uid) = owner {
                object["metadata"]["ownerReferences"] =
                    json!([{"apiVersion": "v1", "kind": "K", "name": "o", "uid": uid, "controller": true}]);
            }
            if deleting {
                object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            let claimed = decide(&item(object), "me", owner_deleting, &selector);
            assert_eq!(claimed, expected, "{label} {owner:?} {deleting} {owner_deleting}");
        }
    }

    #[test]
    fn one_that_owns_without_managing_may_be_adopted() {
        let selector = Selector::new(&serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap()).unwrap();
        let owners = json!([{"apiVersion": "v1", "kind": "K", "name": "o", "uid": "another"}]);
        let object = item(json!({"metadata": {"name": "o", "labels": {"app": "web"}, "ownerReferences": owners}}));
        assert_eq!(decide(&object, "me", false, &selector), Claim::Adopt);
    }
}
