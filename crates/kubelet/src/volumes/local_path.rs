//! The node's part of local paths: it says where its volumes are, makes their directories, and removes the data of deleted
//! ones before it lets go of them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::volume::{LOCAL_PATH, LOCAL_PATH_FINALIZER, LOCAL_PATH_ROOT, PROVISIONED_BY};
use client::{Cache, Item};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::blocking;

/// Held on a volume as long as a claim is bound to it.
const IN_USE: &str = "kubernetes.io/pv-protection";
/// Before the API is asked again for a node that has yet to register, or after a failure.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MOST: Duration = Duration::from_secs(30);

/// Where the node keeps volumes, beside its pods' directories.
pub fn directory(pods: &Path) -> PathBuf {
    pods.with_file_name("local-path")
}

/// Whether a volume is one of this provisioner's on this node. Its name alone is believed, and no path that leads elsewhere.
pub fn is_ours(volume: &PersistentVolume, root: &Path) -> bool {
    let meta = &volume.metadata;
    let made = meta.annotations.as_ref().and_then(|all| all.get(PROVISIONED_BY)).is_some_and(|by| by == LOCAL_PATH);
    let local = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
    let named = |path: &Path| {
        let (file, name) = (path.file_name(), meta.name.as_deref());
        let own = file.zip(name).and_then(|(file, name)| file.to_str()?.strip_prefix(name)?.strip_prefix('_'));
        path.parent() == Some(root) && own.is_some()
    };
    made && local.is_some_and(|local| named(Path::new(&local.path)))
}

/// Makes a volume's directory, which any user may write.
pub fn prepare(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

/// Serves for ever.
pub async fn serve(client: kube::Client, node: String, pods: PathBuf, volumes: Cache<PersistentVolume>) {
    let root = directory(&pods);
    announce(&client, &node, &root).await;
    let mut changes = volumes.subscribe();
    let mut failed: Vec<String> = Vec::new();
    loop {
        let retry = async {
            match failed.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN_MOST).await,
            }
        };
        let names = tokio::select! {
            change = changes.next() => vec![change.key.name.to_string()],
            () = retry => std::mem::take(&mut failed),
        };
        for name in names {
            let Some(item) = volumes.get("", &name) else { continue };
            if let Err(error) = settle(&client, &item, &root).await {
                tracing::warn!(volume = name, error, "a deleted volume cannot be cleared away yet");
                failed.push(name);
            }
        }
    }
}

/// Says on the node's object where its volumes are.
async fn announce(client: &kube::Client, node: &str, root: &Path) {
    let nodes: Api<Node> = Api::all(client.clone());
    let patch = json!({"metadata": {"annotations": {LOCAL_PATH_ROOT: root}}});
    let mut pause = AGAIN;
    while let Err(error) = nodes.patch(node, &PatchParams::default(), &Patch::Merge(&patch)).await {
        tracing::debug!(%error, "the node cannot say yet where its local volumes are");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN_MOST);
    }
}

/// Removes the data of a deleted volume that nobody uses any more, and takes the finalizer off.
async fn settle(client: &kube::Client, item: &Item, root: &Path) -> Result<(), String> {
    let has = |name: &str| item.finalizers.iter().any(|it| &**it == name);
    if !item.deleting || !has(LOCAL_PATH_FINALIZER) || has(IN_USE) {
        return Ok(());
    }
    let volume: PersistentVolume = item.parse().map_err(|e| e.to_string())?;
    if !is_ours(&volume, root) {
        return Ok(());
    }
    let spec = volume.spec.unwrap_or_default();
    if let Some(local) = spec.local.filter(|_| spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete")) {
        blocking(move || match fs::remove_dir_all(&local.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await?;
    }
    let kept: Vec<&str> = item.finalizers.iter().map(|it| &**it).filter(|it| *it != LOCAL_PATH_FINALIZER).collect();
    let patch = json!({"metadata": {"resourceVersion": item.resource_version.to_string(), "finalizers": kept}});
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    match volumes.patch(item.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
        // Gone, or changed: then there is news of it.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        answer => answer.map(drop).map_err(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_named_after_their_volume_below_the_root_are_touched() {
        let volume = |by: &str, path: &str| -> PersistentVolume {
            serde_json::from_value(json!({
                "metadata": {"name": "pvc-1", "annotations": {PROVISIONED_BY: by}},
                "spec": {"local": {"path": path}},
            }))
            .unwrap()
        };
        let table = [
            (LOCAL_PATH, "/data/local-path/pvc-1_ns_claim", true),
            ("other", "/data/local-path/pvc-1_ns_claim", false),
            (LOCAL_PATH, "/data/local-path/pvc-12_ns_claim", false),
            (LOCAL_PATH, "/data/local-path/../pvc-1_x", false),
            (LOCAL_PATH, "/data/local-path", false),
            (LOCAL_PATH, "/etc", false),
        ];
        for (by, path, expected) in table {
            assert_eq!(is_ours(&volume(by, path), Path::new("/data/local-path")), expected, "{by} {path}");
        }
    }
}
