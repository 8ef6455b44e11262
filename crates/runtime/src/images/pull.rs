//! Pulling an image from a registry or its mirrors.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt};
use nix::fcntl::FlockArg;
use oci_client::Reference;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use tokio::io::AsyncWriteExt;

use super::registries::{Credentials, Endpoint};
use super::registry::{Registry, Resolved};
use super::{Image, ImageError, Images, LayerRecord, broken, digest_of, hex, layer, local_name, parse, parse_config};

/// Layers of one image that are fetched at once.
const PARALLEL: usize = 3;
/// Layers of all images that are fetched at once.
pub(super) const FETCHES: usize = 8;
/// A configuration larger than this is refused.
const CONFIG_LIMIT: i64 = 4 << 20;

/// How far a pull has come.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The manifest was found at this host; these are the layers (digest, compressed bytes), the lowest first.
    Resolved { host: String, layers: Vec<(String, u64)> },
    /// So many bytes of the layer have come.
    Fetched { digest: String, bytes: u64 },
    /// The layer is unpacked, or was there already.
    Done { digest: String },
}

/// Told of each step; called often, so it must not block.
type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// What a pull is asked for. With other credentials it is another: they may be worth less.
pub(super) type Asked = (String, Option<Credentials>);

/// One pull of its kind at a time, and what the last one gave and when.
pub(super) type Turn = tokio::sync::Mutex<Option<(Instant, Arc<Image>)>>;

impl Images {
    /// Pulls the image, from the first of its endpoints that has it. `auth` goes before the registries file's. Who asks
    /// while an equal pull is under way gets what that one gives.
    pub async fn pull(
        &self,
        name: &str,
        auth: Option<Credentials>,
        report: Report<'_>,
    ) -> Result<Arc<Image>, ImageError> {
        let asked = Instant::now();
        let turn = {
            let mut pulling = self.pulling.lock();
            pulling.retain(|_, turn| Arc::strong_count(turn) > 1);
            pulling.entry((name.to_owned(), auth.clone())).or_default().clone()
        };
        let mut last = turn.lock().await;
        if let Some((done, image)) = &*last
            && *done >= asked
        {
            return Ok(image.clone());
        }
        let image = self.pull_anew(name, auth, report).await?;
        *last = Some((Instant::now(), image.clone()));
        Ok(image)
    }

    async fn pull_anew(
        &self,
        name: &str,
        auth: Option<Credentials>,
        report: Report<'_>,
    ) -> Result<Arc<Image>, ImageError> {
        let reference = parse(name)?;
        let mut errors = Vec::new();
        for endpoint in self.registries.endpoints(reference.registry(), reference.repository()) {
            let credentials = auth.as_ref().or(endpoint.auth.as_ref());
            match self.pull_from(&reference, &endpoint, credentials, report).await {
                Ok(image) => {
                    self.sweep()?;
                    return Ok(image);
                }
                Err(error) => errors.push(format!("{}: {}", endpoint.host, error.cause())),
            }
        }
        let message = errors.join("; ");
        Err(ImageError::Pull { image: name.to_owned(), message })
    }

    async fn pull_from(
        &self,
        reference: &Reference,
        endpoint: &Endpoint,
        credentials: Option<&Credentials>,
        report: Report<'_>,
    ) -> Result<Arc<Image>, ImageError> {
        let _adding = self.lock(FlockArg::LockShared)?;
        let text = local_name(reference);
        let failed = |message: String| ImageError::Pull { image: text.clone(), message };
        let source = Registry::new(endpoint, credentials).map_err(failed)?;
        let wanted = reference.digest().or(reference.tag()).unwrap_or("latest");
        let Resolved { manifest, digest } = source.resolve(wanted).await.map_err(failed)?;
        let layers = manifest.layers.iter().map(|l| (l.digest.clone(), l.size.max(0) as u64)).collect();
        report(Progress::Resolved { host: endpoint.host.clone(), layers });
        let (config, diff_ids) = self.fetch_config(&text, &source, &manifest).await?;
        let fetches: Vec<_> = manifest
            .layers
            .iter()
            .zip(&diff_ids)
            .map(|(descriptor, diff_id)| self.fetch_layer(&text, &source, descriptor, diff_id, report))
            .collect();
        let layers = futures::stream::iter(fetches).buffered(PARALLEL).try_collect().await?;
        if self.resolve(&digest_of(config.as_bytes())).is_none() {
            self.settle().await?;
        }
        let tag = reference.digest().is_none().then(|| text.clone());
        self.record(config, layers, tag, Some(format!("{}/{}@{digest}", reference.registry(), reference.repository())))
    }

    /// The configuration's text and the diff ids of its layers.
    async fn fetch_config(
        &self,
        text: &str,
        source: &Registry<'_>,
        manifest: &OciImageManifest,
    ) -> Result<(String, Vec<String>), ImageError> {
        let failed = |message: String| ImageError::Pull { image: text.to_owned(), message };
        if manifest.config.size > CONFIG_LIMIT {
            return Err(broken(text, format!("its configuration is larger than {CONFIG_LIMIT} bytes")));
        }
        let mut bytes = Vec::new();
        let mut stream = std::pin::pin!(source.blob(&manifest.config).await.map_err(failed)?);
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(failed)?);
            if bytes.len() as i64 > CONFIG_LIMIT {
                return Err(broken(text, format!("its configuration is larger than {CONFIG_LIMIT} bytes")));
            }
        }
        let config = String::from_utf8(bytes).map_err(|_| broken(text, "its configuration is not UTF-8".to_owned()))?;
        let parsed = parse_config(&config).map_err(|message| broken(text, message))?;
        let diff_ids = parsed.rootfs().diff_ids().clone();
        if diff_ids.len() != manifest.layers.len() {
            let message =
                format!("its manifest has {} layers, its configuration {}", manifest.layers.len(), diff_ids.len());
            return Err(broken(text, message));
        }
        Ok((config, diff_ids))
    }

    async fn fetch_layer(
        &self,
        text: &str,
        source: &Registry<'_>,
        descriptor: &OciDescriptor,
        diff_id: &str,
        report: Report<'_>,
    ) -> Result<LayerRecord, ImageError> {
        let gate = {
            let mut adding = self.adding.lock();
            adding.retain(|_, gate| Arc::strong_count(gate) > 1);
            adding.entry(diff_id.to_owned()).or_default().clone()
        };
        let _turn = gate.lock().await;
        let done = || report(Progress::Done { digest: descriptor.digest.clone() });
        if let Some(record) = self.present_layer(diff_id) {
            done();
            return Ok(record);
        }
        // Never closed.
        let _room = self.fetching.acquire().await;
        let failed = |message: String| ImageError::Pull { image: text.to_owned(), message };
        let blob = self.work_path(&descriptor.digest);
        let mut file =
            tokio::fs::File::create(&blob).await.map_err(|error| ImageError::Io { path: blob.clone(), error })?;
        let mut stream = std::pin::pin!(source.blob(descriptor).await.map_err(failed)?);
        let mut bytes = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| failed(format!("layer {}: {e}", descriptor.digest)))?;
            bytes += chunk.len() as u64;
            if i64::try_from(bytes).is_ok_and(|bytes| bytes > descriptor.size) {
                return Err(failed(format!("layer {} is larger than its manifest says", descriptor.digest)));
            }
            file.write_all(&chunk).await.map_err(|error| ImageError::Io { path: blob.clone(), error })?;
            report(Progress::Fetched { digest: descriptor.digest.clone(), bytes });
        }
        file.flush().await.map_err(|error| ImageError::Io { path: blob.clone(), error })?;
        drop(file);
        let record = self.add_layer(blob, Some(diff_id.to_owned()), text).await?;
        done();
        Ok(record)
    }

    /// Returns when the layers that were added would survive a power cut: a record must never name what could be lost. Those
    /// that no record names are removed before anything is made of them.
    pub(super) async fn settle(&self) -> Result<(), ImageError> {
        let path = self.root.join("layers");
        let synced = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                let directory = std::fs::File::open(path)?;
                nix::unistd::syncfs(&directory).map_err(io::Error::from)
            })
        };
        synced.await.map_err(io::Error::other).and_then(|done| done).map_err(|error| ImageError::Io { path, error })
    }

    /// The layer, if it is there already.
    pub(super) fn present_layer(&self, diff_id: &str) -> Option<LayerRecord> {
        let size = std::fs::read_to_string(self.layer_path(diff_id).with_file_name("size")).ok()?;
        Some(LayerRecord { diff_id: diff_id.to_owned(), size: size.parse().ok()? })
    }

    /// A path for work on that digest by this process.
    pub(super) fn work_path(&self, digest: &str) -> PathBuf {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        self.root.join("work").join(format!("{}-{}-{n}", hex(digest), std::process::id()))
    }

    /// Unpacks the archive at `blob`, which is removed, and puts it into its place if its digest is the expected one.
    pub(super) async fn add_layer(
        &self,
        blob: PathBuf,
        expected: Option<String>,
        image: &str,
    ) -> Result<LayerRecord, ImageError> {
        let target = blob.with_extension("fs");
        let (from, to) = (blob.clone(), target.clone());
        let result = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(to.join("fs"))?;
            let unpacked = layer::unpack(&from, &to.join("fs"))?;
            std::fs::write(to.join("size"), unpacked.size.to_string())?;
            io::Result::Ok(unpacked)
        })
        .await
        .map_err(io::Error::other)
        .and_then(|unpacked| unpacked);
        let _ = tokio::fs::remove_file(&blob).await;
        let outcome = result
            .map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    ImageError::Io { path: target.clone(), error }
                }
                _ => broken(image, format!("a layer cannot be unpacked: {error}")),
            })
            .and_then(|unpacked| {
                if let Some(expected) = expected.filter(|e| *e != unpacked.diff_id) {
                    let message =
                        format!("a layer's content has digest {}, its configuration says {expected}", unpacked.diff_id);
                    return Err(broken(image, message));
                }
                let place = self.root.join("layers").join(hex(&unpacked.diff_id));
                match std::fs::rename(&target, &place) {
                    // Another process was first; its copy is the same.
                    Err(_) if place.is_dir() => {}
                    other => other.map_err(|error| ImageError::Io { path: place.clone(), error })?,
                }
                Ok(LayerRecord { diff_id: unpacked.diff_id, size: unpacked.size })
            });
        let _ = tokio::fs::remove_dir_all(&target).await;
        outcome
    }
}
