//! `emptyDir`: a directory that lives as long as its pod, on disk, in memory or in huge pages.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use super::{Ownership, mounts};
use crate::pods::pod::{Pod, Role};
use crate::resources::{self, Amounts};

/// What the directory is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    Disk,
    /// With a limit of so many bytes.
    Memory(Option<i64>),
    /// Pages of this size, as the mount option has it.
    HugePages(String),
}

impl Medium {
    pub fn of(source: &EmptyDirVolumeSource, pod: &Pod, allocatable: &Amounts) -> Result<Medium, String> {
        let limit = source.size_limit.as_ref().map(|q| resources::parse(q).value());
        match source.medium.as_deref().unwrap_or_default() {
            "" => Ok(Medium::Disk),
            "Memory" => Ok(Medium::Memory(memory(limit, pod, allocatable))),
            "HugePages" => Ok(Medium::HugePages(only_page_size(pod)?)),
            other => match other.strip_prefix("HugePages-") {
                Some(size) => Ok(Medium::HugePages(page_size(size)?)),
                None => Err(format!("unknown storage medium {other:?}")),
            },
        }
    }
}

/// The least of the volume's limit, the pod's memory and the node's.
fn memory(limit: Option<i64>, pod: &Pod, allocatable: &Amounts) -> Option<i64> {
    let limit_of = |of: Option<&_>| resources::limits(of).get("memory").copied().unwrap_or(0);
    let running = pod.members.iter().filter(|m| matches!(m.role, Role::Main | Role::Sidecar));
    let containers: i64 = running.map(|m| limit_of(m.spec.resources.as_ref())).sum();
    let whole = limit_of(pod.spec().resources.as_ref());
    let pods = if whole > 0 { whole } else { containers };
    let all = [limit, Some(pods), allocatable.get("memory").copied()];
    all.into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

/// The size of the huge pages that the pod asks for, which must be one.
fn only_page_size(pod: &Pod) -> Result<String, String> {
    let mut sizes: Vec<String> = pod
        .members
        .iter()
        .flat_map(|m| resources::limits(m.spec.resources.as_ref()).into_keys())
        .filter_map(|name| name.strip_prefix("hugepages-").map(str::to_owned))
        .collect();
    sizes.sort();
    sizes.dedup();
    match &sizes[..] {
        [size] => page_size(size),
        [] => Err("no hugepages requested".to_owned()),
        _ => Err("medium \"HugePages\" can only be used if container requests one page size".to_owned()),
    }
}

fn page_size(text: &str) -> Result<String, String> {
    let size = api::quantity::Quantity::parse(text).map_err(|e| format!("page size {text:?}: {e}"))?;
    Ok(format!("{}", size.value()))
}

/// Makes the directory, unless it is there: a restarted kubelet leaves its content and modes as they are.
pub fn prepare(dir: &Path, medium: Medium, ownership: Ownership) -> io::Result<()> {
    match medium {
        Medium::Disk if dir.exists() => return Ok(()),
        Medium::Disk => {
            // It appears complete or not at all.
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            let fresh = dir.with_file_name(format!(".{name}"));
            match fs::remove_dir(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::create_dir_all(&fresh)?,
            }
            open(&fresh, ownership)?;
            return fs::rename(fresh, dir);
        }
        Medium::Memory(size) => {
            if mounts::is_mounted(dir)? {
                return Ok(());
            }
            mounts::tmpfs(dir, size)?;
        }
        Medium::HugePages(size) => {
            if mounts::is_mounted(dir)? {
                return Ok(());
            }
            mounts::hugetlbfs(dir, &size)?;
        }
    }
    open(dir, ownership)
}

/// Lets everybody in, and gives new files to the pod's group.
fn open(dir: &Path, ownership: Ownership) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    ownership.own(dir, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn memory_is_limited_by_the_least_of_volume_pod_and_node() {
        let pod = |limits: serde_json::Value| {
            let object = json!({"spec": {"containers": [{"name": "a", "resources": {"limits": limits}}]}});
            Pod::new(serde_json::from_value(object).unwrap())
        };
        let node = Amounts::from([("memory".to_owned(), 1 << 30)]);
        let source = |size: &str| EmptyDirVolumeSource {
            medium: Some("Memory".into()),
            size_limit: (!size.is_empty())
                .then(|| k8s_openapi::apimachinery::pkg::api::resource::Quantity(size.to_owned())),
        };
        let table = [
            ("", json!({}), 1 << 30),
            ("10Mi", json!({}), 10 << 20),
            ("", json!({"memory": "64Mi"}), 64 << 20),
            ("128Mi", json!({"memory": "64Mi"}), 64 << 20),
            ("2Gi", json!({}), 1 << 30),
        ];
        for (size, limits, expected) in table {
            let medium = Medium::of(&source(size), &pod(limits.clone()), &node);
            assert_eq!(medium, Ok(Medium::Memory(Some(expected))), "{size} {limits}");
        }
        let huge = |medium: &str, limits| {
            Medium::of(&EmptyDirVolumeSource { medium: Some(medium.into()), size_limit: None }, &pod(limits), &node)
        };
        assert_eq!(huge("HugePages", json!({"hugepages-2Mi": "4Mi"})), Ok(Medium::HugePages("2097152".into())));
        assert_eq!(huge("HugePages-1Gi", json!({})), Ok(Medium::HugePages("1073741824".into())));
        assert!(huge("HugePages", json!({})).is_err() && huge("Paper", json!({})).is_err());
    }
}
