//! Devices by the Container Device Interface: vendors describe in files what a container with a device of theirs needs, and
//! containers ask for devices by name (`vendor.com/class=device`).
//!
//! A file in a later directory goes before one in an earlier directory; a device that two files of the same directory describe
//! is nobody's. See <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::cri::{CriError, Result};

/// What a container gets for its devices.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    /// `name=value`.
    pub env: Vec<String>,
    pub device_nodes: Vec<DeviceNode>,
    pub mounts: Vec<Mount>,
    #[serde(rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
    hooks: Vec<Value>,
    net_devices: Vec<Value>,
    intel_rdt: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceNode {
    pub path: PathBuf,
    host_path: Option<PathBuf>,
    /// What the node's own device has, where they are not told.
    pub file_mode: Option<u32>,
    pub permissions: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

impl DeviceNode {
    pub fn host_path(&self) -> &Path {
        self.host_path.as_deref().filter(|path| !path.as_os_str().is_empty()).unwrap_or(&self.path)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    pub host_path: PathBuf,
    pub container_path: PathBuf,
    pub options: Vec<String>,
    pub r#type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

impl Edits {
    /// What the devices need together, those of a file once.
    pub fn of(names: &[String], directories: &[PathBuf]) -> Result<Edits> {
        if names.is_empty() {
            return Ok(Edits::default());
        }
        let specs = read(directories);
        let devices = devices(&specs);
        let unknown: Vec<&str> = names.iter().map(String::as_str).filter(|name| !devices.contains_key(*name)).collect();
        if !unknown.is_empty() {
            let unknown = unknown.join(", ");
            return Err(CriError::invalid(format!("CDI device injection failed: unresolvable CDI devices {unknown}")));
        }
        let (mut edits, mut of_files) = (Edits::default(), BTreeSet::new());
        for name in names.iter().collect::<BTreeSet<_>>() {
            let (number, device) = devices[name.as_str()];
            if of_files.insert(number) {
                edits.add(&specs[number].1.container_edits, name)?;
            }
            edits.add(&device.container_edits, name)?;
        }
        Ok(edits)
    }

    fn add(&mut self, more: &Edits, name: &str) -> Result<()> {
        let unable = [
            ("hooks", !more.hooks.is_empty()),
            ("network devices", !more.net_devices.is_empty()),
            ("Intel RDT", more.intel_rdt.is_some()),
        ];
        if let Some((what, _)) = unable.iter().find(|(_, wanted)| *wanted) {
            let message = format!("CDI device injection failed: {name}: {what} are not supported by this runtime");
            return Err(CriError::invalid(message));
        }
        self.env.extend(more.env.iter().cloned());
        self.device_nodes.extend(more.device_nodes.iter().cloned());
        self.mounts.extend(more.mounts.iter().cloned());
        self.additional_gids.extend(more.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }
}

/// Every file that can be read, with the number of its directory.
fn read(directories: &[PathBuf]) -> Vec<(usize, Spec)> {
    let mut specs = Vec::new();
    for (rank, directory) in directories.iter().enumerate() {
        let mut files: Vec<PathBuf> =
            fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let text = match file.extension().and_then(|extension| extension.to_str()) {
                Some("json" | "yaml" | "yml") => fs::read_to_string(&file).map_err(|error| error.to_string()),
                _ => continue,
            };
            // JSON is YAML too.
            match text.and_then(|text| serde_saphyr::from_str::<Spec>(&text).map_err(|error| error.to_string())) {
                Ok(spec) if spec.cdi_version.starts_with(['0', '1']) => specs.push((rank, spec)),
                Ok(spec) => tracing::warn!(file = %file.display(), version = spec.cdi_version, "unknown CDI version"),
                Err(error) => tracing::warn!(file = %file.display(), error, "a CDI file cannot be read"),
            }
        }
    }
    specs
}

/// The devices by their full names, each with the number of its file.
fn devices(specs: &[(usize, Spec)]) -> BTreeMap<String, (usize, &Device)> {
    let mut found: BTreeMap<String, (usize, &Device)> = BTreeMap::new();
    let mut disputed = BTreeSet::new();
    for (number, (rank, spec)) in specs.iter().enumerate() {
        for device in &spec.devices {
            let name = format!("{}={}", spec.kind, device.name);
            let before = found.insert(name.clone(), (number, device)).map(|(number, _)| specs[number].0);
            if before == Some(*rank) {
                disputed.insert(name);
            } else {
                disputed.remove(&name);
            }
        }
    }
    found.retain(|name, _| !disputed.contains(name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_directory_goes_first_and_what_two_files_of_one_describe_is_nobodys() {
        let place = tempfile::tempdir().unwrap();
        let directories = ["etc", "run"].map(|name| place.path().join(name));
        directories.iter().for_each(|directory| fs::create_dir(directory).unwrap());
        let write = |at: usize, file: &str, kind: &str, devices: &[&str], env: &str| {
            let devices: Vec<String> = devices
                .iter()
                .map(|name| format!("  - name: {name}\n    containerEdits:\n      env: [{env}={name}]\n"))
                .collect();
            let text = format!(
                "cdiVersion: 0.6.0\nkind: {kind}\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n{}",
                devices.concat()
            );
            fs::write(directories[at].join(file), text).unwrap();
        };
        write(0, "a.yaml", "v.com/gpu", &["one", "two"], "OLD");
        write(1, "a.yml", "v.com/gpu", &["one", "three"], "NEW");
        write(1, "b.yaml", "v.com/gpu", &["three"], "OTHER");
        fs::write(directories[1].join("c.json"), "{").unwrap();
        let hook = r#"{"cdiVersion": "1.0.0", "kind": "v.com/net", "devices": [{"name": "x",
            "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/bin/x"}]}}]}"#;
        fs::write(directories[1].join("d.json"), hook).unwrap();
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            Edits::of(&names, &directories).map(|edits| edits.env.join(" ")).map_err(|error| error.message)
        };
        assert_eq!(of(&[]), Ok(String::new()));
        assert_eq!(of(&["v.com/gpu=one", "v.com/gpu=one"]), Ok("ALL=1 NEW=one".to_owned()));
        assert_eq!(of(&["v.com/gpu=one", "v.com/gpu=two"]), Ok("ALL=1 NEW=one ALL=1 OLD=two".to_owned()));
        let unknown = "CDI device injection failed: unresolvable CDI devices v.com/gpu=three, v.com/gpu=four";
        assert_eq!(of(&["v.com/gpu=three", "v.com/gpu=four"]), Err(unknown.to_owned()));
        let refused = "CDI device injection failed: v.com/net=x: hooks are not supported by this runtime";
        assert_eq!(of(&["v.com/net=x"]), Err(refused.to_owned()));
    }
}
