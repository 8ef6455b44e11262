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
        let deleting = namespaces.get("", namespace).map(|namespace| namespace.deleting);
        if !is_missing(deleting, accounts.get(namespace, NAME).is_some()) {
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

/// Whether the account is to be made: `deleting` tells of the namespace, if there is one.
fn is_missing(deleting: Option<bool>, present: bool) -> bool {
    deleting == Some(false) && !present
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_that_stays_has_its_account() {
        let cases =
            [(Some(false), false, true), (Some(false), true, false), (Some(true), false, false), (None, false, false)];
        for (deleting, present, expected) in cases {
            assert_eq!(is_missing(deleting, present), expected, "{deleting:?} {present}");
        }
    }
}
