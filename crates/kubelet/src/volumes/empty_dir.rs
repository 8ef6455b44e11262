//! `emptyDir`: a directory that lives as long as its pod, on disk or in memory.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;

use super::{Ownership, mounts};
use crate::resources;

pub fn prepare(dir: &Path, source: &EmptyDirVolumeSource, ownership: Ownership) -> io::Result<()> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => fs::create_dir_all(dir)?,
        "Memory" => {
            let size = source.size_limit.as_ref().map(|q| resources::parse(q).value()).filter(|size| *size > 0);
            mounts::tmpfs(dir, size)?;
        }
        other => return Err(io::Error::other(format!("unknown storage medium {other:?}"))),
    }
    let mut mode = 0o777;
    if let Some(group) = ownership.fs_group {
        chown(dir, None, Some(group))?;
        mode |= 0o2000;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}
