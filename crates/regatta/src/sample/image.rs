//! The sample's images, made from this binary: one file system, two versions of the configuration.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub const REPOSITORY: &str = "regatta.local/webapp";
const VERSIONS: [&str; 2] = ["v1", "v2"];
/// The application runs as a user without any rights.
const USER: u64 = 65_532;

/// Writes both images in the form of `docker save`.
pub fn write(path: &Path) -> Result<()> {
    let mut binary = Vec::new();
    File::open("/proc/self/exe").and_then(|mut f| f.read_to_end(&mut binary)).context("cannot read this program")?;
    let layer = layer(&binary)?;
    let diff_id = format!("sha256:{}", hex(&Sha256::digest(&layer)));
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    let mut manifest = Vec::new();
    append(&mut archive, "layer.tar", &layer)?;
    for version in VERSIONS {
        let name = format!("{version}.json");
        append(&mut archive, &name, config(version, &diff_id).to_string().as_bytes())?;
        manifest
            .push(json!({"Config": name, "RepoTags": [format!("{REPOSITORY}:{version}")], "Layers": ["layer.tar"]}));
    }
    append(&mut archive, "manifest.json", Value::from(manifest).to_string().as_bytes())?;
    archive.into_inner()?.flush()?;
    Ok(())
}

fn config(version: &str, diff_id: &str) -> Value {
    json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": {
            "Entrypoint": ["/regatta", "sample"],
            "Cmd": ["web"],
            "Env": ["PATH=/bin".to_owned(), format!("VERSION={version}")],
            "User": USER.to_string(),
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
}

fn layer(binary: &[u8]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::with_capacity(binary.len() + 8192));
    for (name, owner) in [("bin/", 0), ("data/", USER), ("etc/", 0), ("tmp/", 0)] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(if name == "tmp/" { 0o1777 } else { 0o755 });
        header.set_uid(owner);
        header.set_gid(owner);
        header.set_mtime(0);
        header.set_size(0);
        layer.append_data(&mut header, name, std::io::empty())?;
    }
    let mut header = plain_header(binary.len());
    header.set_mode(0o755);
    layer.append_data(&mut header, "regatta", binary)?;
    for name in super::shell::NAMES {
        let mut header = plain_header(0);
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        layer.append_link(&mut header, format!("bin/{name}"), "/regatta")?;
    }
    let users = format!("root:x:0:0:root:/:/bin/sh\nwebapp:x:{USER}:{USER}:webapp:/:/bin/sh\n");
    layer.append_data(&mut plain_header(users.len()), "etc/passwd", users.as_bytes())?;
    Ok(layer.into_inner()?)
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> Result<()> {
    archive.append_data(&mut plain_header(content.len()), name, content)?;
    Ok(())
}

fn plain_header(size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
