//! What of a CSI volume must outlive the kubelet: a file beside each of a pod's mounts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "vol_data.json";
/// The directories of a pod that hold its CSI volumes, of file systems and of devices.
const PARTS: [&str; 2] = ["volumes/kubernetes.io~csi", "volumeDevices/kubernetes.io~csi"];

/// One pod's use of a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub version: u32,
    pub driver_name: String,
    pub volume_handle: String,
    /// The PersistentVolume; empty for a volume that the pod carries itself.
    pub volume: String,
    pub target: PathBuf,
    pub staging: Option<PathBuf>,
    /// Whether the volume is attached to the node for it.
    pub attached: bool,
    pub block: bool,
}

impl Record {
    /// The volume's name in the node's status.
    pub fn unique(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver_name, self.volume_handle)
    }

    /// Whether both are about one volume.
    pub fn same_volume(&self, other: &Record) -> bool {
        self.driver_name == other.driver_name && self.volume_handle == other.volume_handle
    }

    /// Writes the record whole or not at all.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let fresh = dir.join(".vol_data.json");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        fs::rename(fresh, dir.join(FILE))
    }
}

/// The records of one pod by their directories.
pub fn of_pod(pod: &Path) -> Vec<(PathBuf, Record)> {
    let parts = PARTS.iter().flat_map(|part| fs::read_dir(pod.join(part)).into_iter().flatten().flatten());
    let read = |dir: PathBuf| {
        let text = fs::read(dir.join(FILE)).ok()?;
        let record = serde_json::from_slice(&text);
        record
            .inspect_err(|error| tracing::warn!(dir = %dir.display(), %error, "unreadable record"))
            .ok()
            .map(|it| (dir, it))
    };
    parts.filter_map(|entry| read(entry.path())).collect()
}

/// The records of all pods, by the pod's uid.
pub fn all(pods: &Path) -> Vec<(String, Record)> {
    let pods = fs::read_dir(pods).into_iter().flatten().flatten();
    pods.flat_map(|pod| {
        let uid = pod.file_name().to_string_lossy().into_owned();
        of_pod(&pod.path()).into_iter().map(move |(_, record)| (uid.clone(), record))
    })
    .collect()
}

/// Removes a record and its directory.
pub fn forget(dir: &Path) -> io::Result<()> {
    let gone = |done: io::Result<()>| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(fs::remove_file(dir.join(FILE)))?;
    gone(fs::remove_dir(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_found_by_pod_and_volume() {
        let pods = tempfile::tempdir().unwrap();
        let record = |handle: &str| Record {
            version: 1,
            driver_name: "d".into(),
            volume_handle: handle.into(),
            volume: "v".into(),
            target: "/t".into(),
            staging: None,
            attached: true,
            block: false,
        };
        record("1").write(&pods.path().join("a/volumes/kubernetes.io~csi/v")).unwrap();
        record("1").write(&pods.path().join("b/volumes/kubernetes.io~csi/v")).unwrap();
        record("2").write(&pods.path().join("b/volumeDevices/kubernetes.io~csi/w")).unwrap();
        let mut found = all(pods.path());
        found.sort_by(|a, b| (&a.0, &a.1.volume_handle).cmp(&(&b.0, &b.1.volume_handle)));
        let expected = [("a".to_owned(), record("1")), ("b".to_owned(), record("1")), ("b".to_owned(), record("2"))];
        assert_eq!(found, expected);
        forget(&pods.path().join("b/volumes/kubernetes.io~csi/v")).unwrap();
        assert_eq!(of_pod(&pods.path().join("b")).len(), 1);
    }
}
