//! The ConfigMap `kube-root-ca.crt` of every namespace, by which pods recognise the API server.

use std::collections::BTreeMap;

use client::{Cache, Key};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::{Value, json};

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
        let present = maps.read(namespace, NAME).map(|map| map.data.unwrap_or_default());
        match step(present.as_ref(), &env.root_ca) {
            Step::Nothing => Ok(None),
            Step::Repair(patch) => env.patch::<ConfigMap>(namespace, NAME, "", &patch).await.map(|_| None),
            Step::Create(map) => match env.create::<ConfigMap>(namespace, serde_json::to_vec(&map)?).await {
                Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
                _ => Ok(None),
            },
        }
    };
    work.run(&env, 1, sync).await;
}

#[derive(Debug, PartialEq)]
enum Step {
    Nothing,
    Create(Value),
    Repair(Value),
}

/// What is done so that a namespace has the certificate, and nothing beside it. `present` is the data of its ConfigMap.
fn step(present: Option<&BTreeMap<String, String>>, root_ca: &str) -> Step {
    let mut content = json!({
        "metadata": {"name": NAME, "annotations": {"kubernetes.io/description": DESCRIPTION}},
        "data": {DATA: root_ca},
    });
    match present {
        None => Step::Create(content),
        Some(data) if data.len() == 1 && data.get(DATA).is_some_and(|present| present == root_ca) => Step::Nothing,
        Some(data) => {
            // What does not belong there is taken out.
            for key in data.keys().filter(|key| *key != DATA) {
                content["data"][key] = Value::Null;
            }
            Step::Repair(content)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_the_certificate_and_nothing_beside_it() {
        // The data that are there; those that are written, if any.
        let cases = [
            (None, Some(json!({"ca.crt": "root"}))),
            (Some(json!({"ca.crt": "root"})), None),
            (Some(json!({})), Some(json!({"ca.crt": "root"}))),
            (Some(json!({"ca.crt": "other"})), Some(json!({"ca.crt": "root"}))),
            (Some(json!({"ca.crt": "root", "x": "y"})), Some(json!({"ca.crt": "root", "x": null}))),
        ];
        for (present, expected) in cases {
            let data: Option<BTreeMap<String, String>> =
                present.clone().map(|data| serde_json::from_value(data).unwrap());
            let written = match step(data.as_ref(), "root") {
                Step::Nothing => None,
                Step::Create(map) if data.is_none() => Some(map["data"].clone()),
                Step::Repair(map) if data.is_some() => Some(map["data"].clone()),
                other => panic!("{other:?} for {present:?}"),
            };
            assert_eq!(written, expected, "{present:?}");
        }
    }
}
