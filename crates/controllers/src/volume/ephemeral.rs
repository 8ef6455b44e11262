//! The claims of generic ephemeral volumes: each is made for its pod, named after it, and goes with it.

use client::{Cache, Key};
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod, Volume},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    frame::{Env, Error, Loop, Synced},
    owner::{Named, controller_reference, is_controlled_by},
    pods,
};

/// Runs the controller of ephemeral volumes.
pub(crate) async fn run(env: Env) {
    let pods: Cache<Pod> = env.caches.get();
    let claims: Cache<PersistentVolumeClaim> = env.caches.get();
    let work = Loop::new().on_self(&pods).on_owned(&claims, "Pod");
    let sync = async |key: Key| -> Synced {
        let Some(item) = pods.get(&key.namespace, &key.name).filter(|pod| pods::is_active(pod)) else {
            return Ok(None);
        };
        // Nearly all pods have none, and are not parsed for it.
        if !item.mentions("\"ephemeral\":") {
            return Ok(None);
        }
        let Some(pod) = pods.parse(&item) else { return Ok(None) };
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if let Err(error) = ensure(&env, &claims, &pod, volume).await {
                let message = format!("ephemeral volume {}: {}", volume.name, error.message());
                env.recorder.warning(&pod, "FailedBinding", message);
                return Err(error);
            }
        }
        Ok(None)
    };
    work.run(&env, 4, sync).await;
}

/// Makes the claim of a volume where it is missing.
async fn ensure(env: &Env, claims: &Cache<PersistentVolumeClaim>, pod: &Pod, volume: &Volume) -> Result<(), Error> {
    let Some(claim) = claim(pod, volume) else { return Ok(()) };
    if let Some(present) = claims.get(pod.namespace(), claim.name()) {
        return if is_controlled_by(&present, pod.uid()) { Ok(()) } else { Err(foreign(pod, claim.name())) };
    }
    match env.create::<PersistentVolumeClaim>(pod.namespace(), serde_json::to_vec(&claim)?).await {
        Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
        _ => Ok(()),
    }
}

fn foreign(pod: &Pod, claim: &str) -> Error {
    let (space, pod) = (pod.namespace(), pod.name());
    Error::Message(format!("PVC {space}/{claim} was not created for pod {space}/{pod} (pod is not owner)"))
}

/// The claim of a volume that a pod carries in its own specification; none for any other volume.
fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.name(), volume.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_made_of_its_template_and_owned_by_its_pod() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "n", "uid": "u"}})).unwrap();
        let volume = |volume| serde_json::from_value(volume).unwrap();
        assert_eq!(claim(&pod, &volume(json!({"name": "v", "emptyDir": {}}))), None);
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "fast"}});
        let made = claim(&pod, &volume(json!({"name": "v", "ephemeral": {"volumeClaimTemplate": template}}))).unwrap();
        assert_eq!((made.name(), &made.metadata.labels.clone().unwrap()["a"]), ("web-v", &"b".to_owned()));
        assert_eq!(made.spec.unwrap().storage_class_name.as_deref(), Some("fast"));
        let owner = &made.metadata.owner_references.unwrap()[0];
        assert_eq!((&*owner.kind, &*owner.uid, owner.controller), ("Pod", "u", Some(true)));
        assert_eq!(foreign(&pod, "web-v").to_string(), "PVC n/web-v was not created for pod n/web (pod is not owner)");
    }
}
