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
        if !holds(&item.bytes, b"\"ephemeral\":") {
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

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Makes the claim of a volume where it is missing.
async fn ensure(env: &Env, claims: &Cache<PersistentVolumeClaim>, pod: &Pod, volume: &Volume) -> Result<(), Error> {
    let Some(template) = volume.ephemeral.as_ref().and_then(|it| it.volume_claim_template.as_ref()) else {
        return Ok(());
    };
    let name = format!("{}-{}", pod.name(), volume.name);
    if let Some(claim) = claims.get(pod.namespace(), &name) {
        if is_controlled_by(&claim, pod.uid()) {
            return Ok(());
        }
        let space = pod.namespace();
        return Err(Error::Message(format!(
            "PVC {space}/{name} was not created for pod {space}/{} (pod is not owner)",
            pod.name()
        )));
    }
    let meta = template.metadata.clone().unwrap_or_default();
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    };
    match env.create::<PersistentVolumeClaim>(pod.namespace(), serde_json::to_vec(&claim)?).await {
        Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error),
        _ => Ok(()),
    }
}
