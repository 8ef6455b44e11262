//! Pulling an image from a registry or its mirrors.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use futures::{StreamExt, TryStreamExt};
use nix::fcntl::FlockArg;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OciDescriptor, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::io::AsyncWriteExt;

use super::registries::{Credentials, Endpoint};
use super::{Image, ImageError, Images, LayerRecord, broken, hex, layer, local_name, parse, parse_config};

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
                Err(error) => errors.push(format!("{}: {}", endpoint.host, error)),
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
        let client = client(endpoint).map_err(failed)?;
        let mut source = Reference::with_tag(
            reference.registry().to_owned(),
            endpoint.repository.clone(),
            reference.tag().unwrap_or("latest").to_owned(),
        );
        if let Some(digest) = reference.digest() {
            source = source.clone_with_digest(digest.to_owned());
        }
        source.set_mirror_registry(endpoint.host.clone());
        let auth = registry_auth(credentials).map_err(failed)?;
        let (manifest, digest, index_digest) = client
            .pull_image_manifest_and_list_digest(&source, &auth)
            .await
            .map_err(|e| failed(explain(e, endpoint)))?;
        let layers = manifest.layers.iter().map(|l| (l.digest.clone(), l.size.max(0) as u64)).collect();
        report(Progress::Resolved { host: endpoint.host.clone(), layers });
        let (config, diff_ids) = self.fetch_config(&client, &source, &manifest, endpoint).await?;
        let fetches: Vec<_> = manifest
            .layers
            .iter()
            .zip(&diff_ids)
            .map(|(descriptor, diff_id)| self.fetch_layer(&client, &source, descriptor, diff_id, endpoint, report))
            .collect();
        let layers = futures::stream::iter(fetches).buffered(PARALLEL).try_collect().await?;
        let digest = index_digest.unwrap_or(digest);
        let tag = reference.digest().is_none().then(|| text.clone());
        self.record(config, layers, tag, Some(format!("{}/{}@{digest}", reference.registry(), reference.repository())))
    }

    /// The configuration's text and the diff ids of its layers.
    async fn fetch_config(
        &self,
        client: &Client,
        source: &Reference,
        manifest: &OciImageManifest,
        endpoint: &Endpoint,
    ) -> Result<(String, Vec<String>), ImageError> {
        let text = local_name(source);
        if manifest.config.size > CONFIG_LIMIT {
            return Err(broken(&text, format!("its configuration is larger than {CONFIG_LIMIT} bytes")));
        }
        let mut bytes = Vec::new();
        client
            .pull_blob(source, &manifest.config, &mut bytes)
            .await
            .map_err(|e| ImageError::Pull { image: text.clone(), message: explain(e, endpoint) })?;
        let config =
            String::from_utf8(bytes).map_err(|_| broken(&text, "its configuration is not UTF-8".to_owned()))?;
        let parsed = parse_config(&config).map_err(|message| broken(&text, message))?;
        let diff_ids = parsed.rootfs().diff_ids().clone();
        if diff_ids.len() != manifest.layers.len() {
            let message =
                format!("its manifest has {} layers, its configuration {}", manifest.layers.len(), diff_ids.len());
            return Err(broken(&text, message));
        }
        Ok((config, diff_ids))
    }

    async fn fetch_layer(
        &self,
        client: &Client,
        source: &Reference,
        descriptor: &OciDescriptor,
        diff_id: &str,
        endpoint: &Endpoint,
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
        let text = local_name(source);
        let failed = |message: String| ImageError::Pull { image: text.clone(), message };
        let blob = self.work_path(&descriptor.digest);
        let mut file =
            tokio::fs::File::create(&blob).await.map_err(|source| ImageError::Io { path: blob.clone(), source })?;
        let mut stream = client.pull_blob_stream(source, descriptor).await.map_err(|e| failed(explain(e, endpoint)))?;
        let mut bytes = 0;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|e| failed(format!("layer {}: {e}", descriptor.digest)))?;
            bytes += chunk.len() as u64;
            file.write_all(&chunk).await.map_err(|source| ImageError::Io { path: blob.clone(), source })?;
            report(Progress::Fetched { digest: descriptor.digest.clone(), bytes });
        }
        file.flush().await.map_err(|source| ImageError::Io { path: blob.clone(), source })?;
        drop(file);
        let record = self.add_layer(blob, Some(diff_id.to_owned()), &text).await?;
        done();
        Ok(record)
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
        let outcome =
            result.map_err(|e| broken(image, format!("a layer cannot be unpacked: {e}"))).and_then(|unpacked| {
                if let Some(expected) = expected.filter(|e| *e != unpacked.diff_id) {
                    let message =
                        format!("a layer's content has digest {}, its configuration says {expected}", unpacked.diff_id);
                    return Err(broken(image, message));
                }
                let place = self.root.join("layers").join(hex(&unpacked.diff_id));
                match std::fs::rename(&target, &place) {
                    // Another process was first; its copy is the same.
                    Err(_) if place.is_dir() => {}
                    other => other.map_err(|source| ImageError::Io { path: place.clone(), source })?,
                }
                Ok(LayerRecord { diff_id: unpacked.diff_id, size: unpacked.size })
            });
        let _ = tokio::fs::remove_dir_all(&target).await;
        outcome
    }
}

/// A client for one endpoint.
fn client(endpoint: &Endpoint) -> Result<Client, String> {
    let mut extra_root_certificates = Vec::new();
    if let Some(path) = &endpoint.tls.ca_file {
        let data = std::fs::read(path).map_err(|e| format!("cannot read ca_file {}: {e}", path.display()))?;
        extra_root_certificates.push(Certificate { encoding: CertificateEncoding::Pem, data });
    }
    let protocol = match endpoint.plain_http {
        true => ClientProtocol::HttpsExcept(vec![endpoint.host.clone()]),
        false => ClientProtocol::Https,
    };
    let config = ClientConfig {
        protocol,
        accept_invalid_certificates: endpoint.tls.insecure_skip_verify,
        extra_root_certificates,
        connect_timeout: Some(Duration::from_secs(10)),
        read_timeout: Some(Duration::from_secs(60)),
        user_agent: concat!("regatta/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    Client::try_from(config).map_err(|e| explain(e, endpoint))
}

fn registry_auth(credentials: Option<&Credentials>) -> Result<RegistryAuth, String> {
    let Some(credentials) = credentials else { return Ok(RegistryAuth::Anonymous) };
    if !credentials.identity_token.is_empty() {
        return Ok(RegistryAuth::Bearer(credentials.identity_token.clone()));
    }
    if !credentials.auth.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(&credentials.auth).map_err(|e| e.to_string());
        let text = decoded.and_then(|raw| String::from_utf8(raw).map_err(|e| e.to_string()));
        let text = text.map_err(|e| format!("the registry's auth is not base64 of username:password: {e}"))?;
        let (user, password) = text.split_once(':').ok_or("the registry's auth is not base64 of username:password")?;
        return Ok(RegistryAuth::Basic(user.to_owned(), password.to_owned()));
    }
    if credentials.username.is_empty() {
        return Ok(RegistryAuth::Anonymous);
    }
    Ok(RegistryAuth::Basic(credentials.username.clone(), credentials.password.clone()))
}

/// A registry's error in words that say what to do about it.
fn explain(error: OciDistributionError, endpoint: &Endpoint) -> String {
    use std::error::Error;
    match &error {
        OciDistributionError::ImageManifestNotFoundError(_) => "not found".to_owned(),
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            "authorization failed: the image may not exist or may need other credentials".to_owned()
        }
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .map(|e| if e.message.is_empty() { format!("{:?}", e.code) } else { e.message.clone() })
            .collect::<Vec<_>>()
            .join(", "),
        OciDistributionError::ServerError { code, .. } => format!("the registry answered {code}"),
        OciDistributionError::RequestError(request) if request.is_connect() => {
            let mut cause: &dyn Error = request;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            format!("cannot connect to {}: {cause}", endpoint.host)
        }
        other => other.to_string(),
    }
}
