//! The service account `default` of every namespace.

use client::{Cache, Key};
use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::frame::{Env, Loop, Synced};

const NAME: &str = "default";

/// Runs the service account controller.
pub(crate) async fn run(env: Env) {
    let namespaces: Cache<Namespace> = env.caches.get();
    let accounts: Cache<ServiceAccount> = env.caches.get();
    let work = Loop::new().on_self(&namespaces).on(&accounts, |change, queue| {
        if change.new.is_none() && &*change.key.name == NAME {
            queue.add(Key { namespace: "".into(), name: change.key.namespace.clone() });
        }
    });
    let sync = async |key: Key| -> Synced {
        let namespace = &key.name;
        let alive = namespaces.get("", namespace).is_some_and(|namespace| !namespace.deleting);
        if !alive || accounts.get(namespace, NAME).is_some() {
            return Ok(None);
        }
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match env.create::<ServiceAccount>(namespace, serde_json::to_vec(&account)?).await {
            Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
            _ => Ok(None),
        }
    };
    work.run(&env, 1, sync).await;
}
