//! The ConfigMap `kube-root-ca.crt` of every namespace, by which pods recognise the API server.

use client::{Cache, Key};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::json;

use crate::frame::{Env, Loop, Synced};

const NAME: &str = "kube-root-ca.crt";
const DATA: &str = "ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
                           the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of \
                           Kubernetes clusters.";

/// Runs the publisher of the root certificate.
pub(crate) async fn run(env: Env) {
    let namespaces: Cache<Namespace> = env.caches.get();
    let maps: Cache<ConfigMap> = env.caches.select(&format!("metadata.name={NAME}"));
    let work = Loop::new().on_self(&namespaces).on(&maps, |change, queue| {
        queue.add(Key { namespace: "".into(), name: change.key.namespace.clone() });
    });
    let sync = async |key: Key| -> Synced {
        let namespace = &key.name;
        if namespaces.get("", namespace).is_none_or(|namespace| namespace.deleting) {
            return Ok(None);
        }
        let present = maps.read(namespace, NAME);
        let content = json!({
            "metadata": {"name": NAME, "annotations": {"kubernetes.io/description": DESCRIPTION}},
            "data": {DATA: env.root_ca},
        });
        match present.map(|map| map.data.unwrap_or_default()) {
            Some(data) if data.len() == 1 && data.get(DATA) == Some(&env.root_ca) => Ok(None),
            Some(data) => {
                // What does not belong there is taken out.
                let mut patch = content;
                for key in data.keys().filter(|key| *key != DATA) {
                    patch["data"][key] = serde_json::Value::Null;
                }
                env.patch::<ConfigMap>(namespace, NAME, "", &patch).await.map(|_| None)
            }
            None => match env.create::<ConfigMap>(namespace, serde_json::to_vec(&content)?).await {
                Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
                _ => Ok(None),
            },
        }
    };
    work.run(&env, 1, sync).await;
}
