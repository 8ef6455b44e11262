//! Claims: the node's path behind a bound claim of a local or hostPath volume.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;

pub async fn resolve(client: &kube::Client, namespace: &str, claim: &str) -> Result<PathBuf, String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let found = claims.get_opt(claim).await.map_err(|e| e.to_string())?;
    let found = found.ok_or_else(|| format!("persistentvolumeclaim {claim:?} not found"))?;
    let bound = found.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let volume = found.spec.and_then(|s| s.volume_name).filter(|_| bound);
    let volume = volume.ok_or_else(|| format!("PVC {namespace}/{claim} is not bound"))?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes.get(&volume).await.map_err(|e| e.to_string())?;
    let spec = volume.spec.unwrap_or_default();
    if let Some(local) = spec.local {
        return Ok(PathBuf::from(local.path));
    }
    if let Some(source) = spec.host_path {
        return super::host_path::prepare(&source).map_err(|e| e.to_string());
    }
    Err("the persistent volume's type is not supported by this node".to_owned())
}
