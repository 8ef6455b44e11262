//! `hostPath`: a file or directory of the node, checked or made as its type says.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

pub fn prepare(source: &HostPathVolumeSource) -> io::Result<PathBuf> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        // Unchecked; upstream's runtimes make a missing one a directory.
        "" if !path.exists() => fs::create_dir_all(path)?,
        "DirectoryOrCreate" if !path.exists() => {
            fs::create_dir_all(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        "FileOrCreate" if !path.exists() => {
            fs::File::create_new(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
        }
        _ => {}
    }
    let (wanted, fits): (_, fn(&fs::FileType) -> bool) = match kind {
        "Directory" | "DirectoryOrCreate" => ("a directory", |t| t.is_dir()),
        "File" | "FileOrCreate" => ("a file", |t| t.is_file()),
        "Socket" => ("a socket file", |t| t.is_socket()),
        "CharDevice" => ("a character device", |t| t.is_char_device()),
        "BlockDevice" => ("a block device", |t| t.is_block_device()),
        "" => return Ok(path.to_owned()),
        other => return Err(io::Error::other(format!("{other} is an invalid volume type"))),
    };
    match fs::metadata(path) {
        Ok(meta) if fits(&meta.file_type()) => Ok(path.to_owned()),
        _ => Err(io::Error::other(format!("hostPath type check failed: {} is not {wanted}", path.display()))),
    }
}
