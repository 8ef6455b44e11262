//! A class of volume attributes stays while a claim or a volume has it or is to have it.

use client::{Cache, Key};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::VolumeAttributesClass,
};
use serde::Deserialize;

use crate::{
    frame::{Env, Loop, Synced},
    protection::{Step, add_finalizer, remove_finalizer, step},
};

const FINALIZER: &str = "kubernetes.io/vac-protection";

/// Where claims and volumes name classes.
#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    volume_attributes_class_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    current_volume_attributes_class_name: Option<String>,
    modify_volume_status: Target,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Target {
    target_volume_attributes_class_name: Option<String>,
}

impl User {
    fn classes(self) -> impl Iterator<Item = String> {
        let Status { current_volume_attributes_class_name: current, modify_volume_status: target } = self.status;
        [self.spec.volume_attributes_class_name, current, target.target_volume_attributes_class_name]
            .into_iter()
            .flatten()
            .filter(|name| !name.is_empty())
    }
}

fn classes(item: &client::Item) -> impl Iterator<Item = String> {
    item.parse::<User>().unwrap_or_default().classes()
}

/// Runs the protection of classes of volume attributes.
pub(crate) async fn run(env: Env) {
    let all: Cache<VolumeAttributesClass> = env.caches.get();
    let claims: Cache<PersistentVolumeClaim> = env.caches.get();
    let volumes: Cache<PersistentVolume> = env.caches.get();
    let freed = |change: &client::Change, queue: &client::WorkQueue<Key>| {
        for name in change.old.iter().flat_map(|item| classes(item)) {
            queue.add(Key::new("", &name));
        }
    };
    let work = Loop::new().on_self(&all).on(&claims, freed).on(&volumes, freed);
    let sync = async |key: Key| -> Synced {
        let Some(class) = all.get("", &key.name) else { return Ok(None) };
        match step(&class, FINALIZER) {
            Step::Nothing => return Ok(None),
            Step::Protect => return add_finalizer::<VolumeAttributesClass>(&env, &class, FINALIZER, false).await,
            Step::FreeIfUnused => {}
        }
        let users = claims.list().into_iter().chain(volumes.list());
        let in_use = users.flat_map(|item| classes(&item).collect::<Vec<_>>()).any(|name| *name == *key.name);
        if !in_use {
            remove_finalizer::<VolumeAttributesClass>(&env, &class, FINALIZER).await?;
        }
        Ok(None)
    };
    work.run(&env, 1, sync).await;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::tests::item;

    #[test]
    fn a_class_is_used_by_what_has_it_or_is_to_have_it() {
        let cases = [
            (json!({}), ""),
            (json!({"spec": {"volumeAttributesClassName": "gold"}}), "gold"),
            (json!({"spec": {"volumeAttributesClassName": ""}}), ""),
            (json!({"status": {"currentVolumeAttributesClassName": "silver"}}), "silver"),
            (json!({"status": {"modifyVolumeStatus": {"targetVolumeAttributesClassName": "bronze"}}}), "bronze"),
            (
                json!({"spec": {"volumeAttributesClassName": "gold"},
                    "status": {"currentVolumeAttributesClassName": "silver"}}),
                "gold silver",
            ),
        ];
        for (mut user, expected) in cases {
            user["metadata"] = json!({"name": "u"});
            assert_eq!(classes(&item(user.clone())).collect::<Vec<_>>().join(" "), expected, "{user}");
        }
    }
}
