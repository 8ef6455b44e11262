//! Images from files: what `docker save` writes, and OCI image layouts in an archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::FlockArg;
use oci_client::client::current_platform_resolver;
use oci_client::manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest, OciManifest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Image, ImageError, Images, LayerRecord, digest_of, layer, local_name, parse, parse_config};

/// An image that came from an archive.
pub struct Imported {
    /// The name it was given there, normalised; an image without one is known by its id.
    pub name: Option<String>,
    pub image: Arc<Image>,
}

/// An entry of `manifest.json` in what `docker save` writes.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image in the opened archive: paths of its files, and what it is called.
struct Found {
    names: Vec<String>,
    config: PathBuf,
    layers: Vec<PathBuf>,
}

impl Images {
    /// Imports every image of the archive (plain, gzip or zstd) that fits this machine.
    pub async fn import(&self, path: &Path) -> Result<Vec<Imported>, ImageError> {
        let adding = self.lock(FlockArg::LockShared)?;
        let opened = self.work_path("import");
        let (from, to) = (path.to_owned(), opened.clone());
        let extracted = tokio::task::spawn_blocking(move || extract(&from, &to)).await;
        let result = match extracted.map_err(|e| bad(path, format!("its reading ended: {e}"))).and_then(|e| e) {
            Ok(()) => self.import_opened(path, &opened).await,
            Err(error) => Err(error),
        };
        let _ = tokio::fs::remove_dir_all(&opened).await;
        drop(adding);
        self.sweep()?;
        result
    }

    async fn import_opened(&self, path: &Path, opened: &Path) -> Result<Vec<Imported>, ImageError> {
        let found = if opened.join("manifest.json").exists() {
            docker_images(opened)
        } else if opened.join("index.json").exists() {
            oci_images(opened)
        } else {
            Err("holds neither manifest.json (docker save) nor index.json (an OCI image layout)".to_owned())
        };
        let mut imported = Vec::new();
        for found in found.map_err(|message| bad(path, message))? {
            let config = fs::read_to_string(&found.config)
                .map_err(|e| bad(path, format!("the image's configuration {}: {e}", found.config.display())))?;
            let parsed = parse_config(&config).map_err(|message| bad(path, message))?;
            let diff_ids = parsed.rootfs().diff_ids();
            if diff_ids.len() != found.layers.len() {
                let message =
                    format!("its manifest has {} layers, its configuration {}", found.layers.len(), diff_ids.len());
                return Err(bad(path, message));
            }
            let layers = self.import_layers(path, &found.layers, diff_ids).await?;
            if self.resolve(&digest_of(config.as_bytes())).is_none() {
                self.settle().await?;
            }
            if found.names.is_empty() {
                let image = self.record(config.clone(), layers.clone(), None, Some(nameless(&config)))?;
                imported.push(Imported { name: None, image });
            }
            for name in &found.names {
                let name = local_name(&parse(name)?);
                let image = self.record(config.clone(), layers.clone(), Some(name.clone()), None)?;
                imported.push(Imported { name: Some(name), image });
            }
        }
        Ok(imported)
    }

    async fn import_layers(
        &self,
        path: &Path,
        blobs: &[PathBuf],
        diff_ids: &[String],
    ) -> Result<Vec<LayerRecord>, ImageError> {
        let mut layers = Vec::new();
        for (blob, diff_id) in blobs.iter().zip(diff_ids) {
            let record = match self.present_layer(diff_id) {
                Some(record) => record,
                None => {
                    // A copy by link, since unpacking takes its archive away and another image may share it.
                    let own = self.work_path(diff_id);
                    self.io(&own, |own| fs::hard_link(blob, own))?;
                    self.add_layer(own, Some(diff_id.clone()), &path.display().to_string()).await?
                }
            };
            layers.push(record);
        }
        Ok(layers)
    }
}

/// The digest under which an image without a name is kept.
fn nameless(config: &str) -> String {
    format!("<none>@{}", digest_of(config.as_bytes()))
}

/// Writes the archive's plain files below `target`; links and devices have no business there.
fn extract(archive: &Path, target: &Path) -> Result<(), ImageError> {
    let unwritten = |error| ImageError::Io { path: target.to_owned(), error };
    let unread = |error: io::Error| bad(archive, format!("cannot be read: {error}"));
    // What the reader says of a header has its bytes.
    let malformed = |read: usize| {
        move |error: io::Error| match (error.raw_os_error(), read) {
            (Some(_), _) => unread(error),
            (None, 0) => bad(archive, "is no tar archive, plain or compressed by gzip or zstd".to_owned()),
            (None, _) => bad(archive, format!("is damaged or cut off behind its file {read}")),
        }
    };
    fs::create_dir(target).map_err(unwritten)?;
    let mut opened = tar::Archive::new(layer::decompressed(archive).map_err(unread)?);
    for (read, entry) in opened.entries().map_err(unread)?.enumerate() {
        let mut entry = entry.map_err(malformed(read))?;
        let path = entry.path().map_err(malformed(read))?.into_owned();
        let plain = path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain {
            return Err(bad(archive, format!("{path:?} is a bad name")));
        }
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_symlink()) {
            continue;
        }
        let place = target.join(&path);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(unwritten)?;
        }
        if let Some(link) = entry.link_name().map_err(malformed(read))?.filter(|_| kind.is_symlink()) {
            // Old `docker save` links equal layers to one another, `../<id>/layer.tar`.
            let source =
                resolve_link(&path, &link).ok_or_else(|| bad(archive, format!("{path:?} leads out of the archive")))?;
            fs::hard_link(target.join(source), place)
                .map_err(|e| bad(archive, format!("{path:?} leads nowhere: {e}")))?;
            continue;
        }
        let mut file = File::create(place).map_err(unwritten)?;
        let mut chunk = vec![0; 64 << 10];
        loop {
            match entry.read(&mut chunk).map_err(unread)? {
                0 => break,
                length => file.write_all(&chunk[..length]).map_err(unwritten)?,
            }
        }
    }
    Ok(())
}

fn resolve_link(from: &Path, link: &Path) -> Option<PathBuf> {
    let mut at = from.parent()?.to_owned();
    for component in link.components() {
        match component {
            Component::Normal(part) => at.push(part),
            Component::CurDir => {}
            Component::ParentDir if at.pop() => {}
            _ => return None,
        }
    }
    Some(at)
}

fn docker_images(opened: &Path) -> Result<Vec<Found>, String> {
    let manifests: Vec<DockerManifest> = read_json(&opened.join("manifest.json"))?;
    manifests
        .into_iter()
        .map(|manifest| {
            Ok(Found {
                names: manifest.repo_tags.unwrap_or_default(),
                config: within(opened, &manifest.config)?,
                layers: manifest.layers.iter().map(|l| within(opened, l)).collect::<Result<_, _>>()?,
            })
        })
        .collect()
}

fn oci_images(opened: &Path) -> Result<Vec<Found>, String> {
    let index: OciImageIndex = read_json(&opened.join("index.json"))?;
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for entry in &index.manifests {
        let Some(manifest) = image_manifest(opened, entry)? else { continue };
        let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .into_iter()
            .find_map(|key| entry.annotations.as_ref()?.get(key).cloned());
        let image = found.entry(manifest.config.digest.clone()).or_insert(Found {
            names: Vec::new(),
            config: blob(opened, &manifest.config.digest)?,
            layers: manifest.layers.iter().map(|l| blob(opened, &l.digest)).collect::<Result<_, _>>()?,
        });
        image.names.extend(names);
    }
    if found.is_empty() {
        return Err(format!("holds no image for linux/{}", std::env::consts::ARCH));
    }
    Ok(found.into_values().collect())
}

/// The manifest behind an index's entry, through a nested index to the one for this machine.
fn image_manifest(opened: &Path, entry: &ImageIndexEntry) -> Result<Option<OciImageManifest>, String> {
    if entry.platform.is_some() && current_platform_resolver(std::slice::from_ref(entry)).is_none() {
        return Ok(None);
    }
    match read_blob(opened, &entry.digest)? {
        OciManifest::Image(manifest) => Ok(Some(manifest)),
        OciManifest::ImageIndex(index) => match current_platform_resolver(&index.manifests) {
            Some(digest) => match read_blob(opened, &digest)? {
                OciManifest::Image(manifest) => Ok(Some(manifest)),
                OciManifest::ImageIndex(_) => Err("has an index inside an index inside an index".to_owned()),
            },
            None => Ok(None),
        },
    }
}

fn read_blob(opened: &Path, digest: &str) -> Result<OciManifest, String> {
    let path = blob(opened, digest)?;
    let bytes = fs::read(&path).map_err(|e| format!("blob {digest}: {e}"))?;
    let actual = digest_of(&bytes);
    if actual != digest {
        return Err(format!("blob {digest} has digest {actual}"));
    }
    serde_json::from_slice(&bytes).map_err(|e| format!("blob {digest}: {e}"))
}

fn blob(opened: &Path, digest: &str) -> Result<PathBuf, String> {
    let (algorithm, hex) = digest.split_once(':').ok_or_else(|| format!("{digest:?} is not a digest"))?;
    within(opened, &format!("blobs/{algorithm}/{hex}"))
}

fn within(opened: &Path, name: &str) -> Result<PathBuf, String> {
    let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    let path = opened.join(name);
    if plain && path.is_file() { Ok(path) } else { Err(format!("misses the file {name:?}")) }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = fs::read(path).map_err(|e| format!("{name}: {e}"))?;
    serde_json::from_slice(&text).map_err(|e| format!("{name}: {e}"))
}

fn bad(path: &Path, message: String) -> ImageError {
    ImageError::Archive { path: path.to_owned(), message }
}
