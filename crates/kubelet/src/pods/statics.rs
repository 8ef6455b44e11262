//! Static pods: those that a folder of manifests on the node asks for, whatever the API says. The API shows each by a mirror.
//!
//! A file holds one pod or a list of them, in YAML or JSON; names that begin with a dot are skipped. A pod's uid follows from
//! its content and the node's name, so that a changed file is another pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::kind::Registry;
use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::pod::Pod;
use crate::labels;
use crate::logs::Changes;

/// Writers need a moment to finish; what comes meanwhile is taken together.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the folder is read where the kernel does not tell of changes.
const LOOK: Duration = Duration::from_secs(20);

/// Sends the folder's pods, at first and after every change, for as long as somebody listens.
pub async fn watch(folder: PathBuf, node: String, sender: mpsc::UnboundedSender<Vec<Pod>>) {
    let watcher = std::fs::create_dir_all(&folder).and_then(|()| Changes::of(&folder));
    if let Err(error) = &watcher {
        tracing::warn!(folder = %folder.display(), %error, "the folder of static pods cannot be watched, so it is read now and then");
    }
    let watcher = watcher.ok();
    let mut known = None;
    loop {
        let (place, name) = (folder.clone(), node.clone());
        let read = tokio::task::spawn_blocking(move || read(&place, &name)).await.unwrap_or_default();
        let uids: Vec<_> = read.iter().map(|pod| pod.uid.clone()).collect();
        if known.as_ref() != Some(&uids) {
            known = Some(uids);
            if sender.send(read).is_err() {
                return;
            }
        }
        match &watcher {
            Some(watcher) if watcher.next().await.is_ok() => tokio::time::sleep(SETTLE).await,
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}

/// The pods of all files, in the order of the files' names. A file that is none is told of and skipped.
fn read(folder: &Path, node: &str) -> Vec<Pod> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    files.sort();
    let mut pods = BTreeMap::new();
    for file in files {
        let parsed = std::fs::read_to_string(&file).map_err(|error| error.to_string());
        match parsed.and_then(|text| parse(&text, node)) {
            Ok(found) => pods.extend(found.into_iter().map(|pod| ((pod.namespace.clone(), pod.name.clone()), pod))),
            Err(error) => tracing::warn!(file = %file.display(), error, "not a pod's manifest"),
        }
    }
    pods.into_values().collect()
}

/// The pods of one file.
fn parse(text: &str, node: &str) -> Result<Vec<Pod>, String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    match (value["apiVersion"].as_str(), value["kind"].as_str()) {
        (Some("v1"), Some("Pod")) => Ok(vec![pod(value, node)?]),
        (Some("v1"), Some("PodList" | "List")) => {
            let items = value["items"].as_array().cloned().unwrap_or_default();
            items.into_iter().map(|item| pod(item, node)).collect()
        }
        _ => Err("neither a v1 Pod nor a list of them".to_owned()),
    }
}

/// One pod with its defaults, bound to this node.
fn pod(mut value: Value, node: &str) -> Result<Pod, String> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err("the pod has no name".to_owned());
    }
    let uid = uid(&value, node);
    let metadata = &mut value["metadata"];
    if metadata["namespace"].as_str().is_none_or(str::is_empty) {
        metadata["namespace"] = "default".into();
    }
    metadata["name"] = format!("{name}-{}", node.to_lowercase()).into();
    metadata["uid"] = uid.as_str().into();
    let own =
        [(labels::SOURCE, "file"), (labels::CONFIG_HASH, uid.as_str()), (labels::SEEN, &Timestamp::now().to_string())];
    for (key, text) in own {
        metadata["annotations"][key] = text.into();
    }
    value["spec"]["nodeName"] = node.into();
    // Nothing but its file takes it from its node.
    let tolerations = value["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let stays = json!({"operator": "Exists", "effect": "NoExecute"});
    value["spec"]["tolerations"] = tolerations.into_iter().chain([stays]).collect();
    value.as_object_mut().map(|map| map.remove("status"));
    if let Some(kind) = Registry::builtin().by_kind("v1", "Pod") {
        kind.strategy.default(&mut value);
    }
    refuse_references(&value)?;
    serde_json::from_value(value).map(Pod::new).map_err(|error| error.to_string())
}

/// A static pod can run without an API, so it may not need any object of it.
fn refuse_references(value: &Value) -> Result<(), String> {
    let spec = &value["spec"];
    let account =
        ["serviceAccountName", "serviceAccount"].iter().any(|f| spec[f].as_str().is_some_and(|n| !n.is_empty()));
    let needs = |volume: &&Value| {
        ["secret", "configMap", "projected", "persistentVolumeClaim", "ephemeral"].iter().any(|f| !volume[f].is_null())
    };
    if account || spec["volumes"].as_array().into_iter().flatten().any(|volume| needs(&volume)) {
        return Err("static pods can not reference service accounts, secrets, config maps or claims".to_owned());
    }
    Ok(())
}

/// A uid that follows from the manifest and the node, in a uid's form.
fn uid(value: &Value, node: &str) -> String {
    let text = format!("{node}\0{value}");
    let half = |seed: u64| text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let (high, low) = (half(0xcbf2_9ce4_8422_2325), half(0x6c62_272e_07bb_0142));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The object by which the API shows a static pod; the node owns it.
pub fn mirror(node: &v1::Node, pod: &Pod) -> v1::Pod {
    let mut object = pod.whole();
    object.status = None;
    let metadata = &mut object.metadata;
    metadata.uid = None;
    metadata.annotations.get_or_insert_default().insert(labels::MIRROR.to_owned(), pod.uid.clone());
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        ..Default::default()
    }]);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_gives_a_pod_of_this_node_whose_uid_follows_from_its_content() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i}]}\n";
        let pods = parse(text, "Node-1").unwrap();
        let pod = &pods[0];
        assert_eq!((pod.name.as_str(), pod.namespace.as_str()), ("web-node-1", "default"));
        assert!(pod.is_static() && pod.is_critical());
        assert_eq!(pod.spec().node_name.as_deref(), Some("Node-1"));
        assert_eq!(pod.members[0].spec.termination_message_path.as_deref(), Some("/dev/termination-log"));
        assert_eq!(pod.uid, parse(text, "Node-1").unwrap()[0].uid);
        assert_ne!(pod.uid, parse(&text.replace("image: i", "image: j"), "Node-1").unwrap()[0].uid);
        assert_ne!(pod.uid, parse(text, "other").unwrap()[0].uid);
    }

    #[test]
    fn what_is_no_manifest_of_a_pod_is_refused_with_the_reason() {
        for (text, part) in [
            ("kind: Pod", "neither"),
            ("apiVersion: v1\nkind: Pod\nspec: {}", "no name"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {serviceAccountName: b, containers: []}",
                "service accounts",
            ),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [], volumes: [{name: v, secret: {}}]}",
                "secrets",
            ),
        ] {
            let error = parse(text, "n").err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
