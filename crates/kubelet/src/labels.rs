//! Labels and annotations that tie sandboxes and containers to their pods, named as upstream's.

use std::collections::BTreeMap;

use crate::pods::pod::{Member, Pod};

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub const HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Where a pod comes from: `file`, or `api` as if there were none.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// When the kubelet first saw a pod from a file.
pub const SEEN: &str = "kubernetes.io/config.seen";
/// What identifies the content of a pod from a file; its uid.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// On a pod of the API: it only shows a pod from a file, the one with this hash.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

fn owner(pod: &Pod) -> BTreeMap<String, String> {
    [(POD_NAME, &pod.name), (POD_NAMESPACE, &pod.namespace), (POD_UID, &pod.uid)]
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .into()
}

/// The pod's own labels and who it is.
pub fn sandbox(pod: &Pod) -> BTreeMap<String, String> {
    let mut labels = pod.object.metadata.labels.clone().unwrap_or_default();
    labels.extend(owner(pod));
    labels
}

pub fn container(pod: &Pod, member: &Member) -> BTreeMap<String, String> {
    let mut labels = owner(pod);
    labels.insert(CONTAINER_NAME.to_owned(), member.spec.name.clone());
    labels
}

/// What a restarted kubelet must know of a container without its pod.
pub fn annotations(pod: &Pod, member: &Member, attempt: u32) -> BTreeMap<String, String> {
    let spec = &member.spec;
    let path = spec.termination_message_path.clone().unwrap_or_default();
    let policy = spec.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned());
    [
        (HASH, crate::containers::hash(spec)),
        (RESTART_COUNT, attempt.to_string()),
        (MESSAGE_PATH, path),
        (MESSAGE_POLICY, policy),
        (POD_GRACE, pod.grace().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}
