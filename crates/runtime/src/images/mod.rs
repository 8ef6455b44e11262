//! Images: what a container's root file system and its defaults are made from.
//!
//! On disk, below one directory:
//!
//! ```text
//! index/<hex>.json   one record an image (format version, names, configuration, layers), replaced by rename
//! layers/<hex>/fs    one unpacked layer, named by the digest of its plain archive, shared by all images; its size
//!                    in bytes is in the file `size` beside it
//! use/<hex>/<user>   one empty file a user (a container) of an image
//! work/              downloads and layers being unpacked; emptied when nobody works
//! changing           held while a record is changed
//! lock               held shared while layers are added, exclusively while unused ones are removed
//! ```
//!
//! A layer is in `layers/` only when it is whole, and an image in `index/` only when its layers are, so a crash leaves
//! nothing but work to throw away. Who references a layer is read off the records, never counted. Several processes
//! (the server and the command line) may work on one directory.

mod archive;
mod layer;
mod pull;
mod registries;
mod registry;
mod service;
mod trust;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::image::ImageConfiguration;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

pub use archive::Imported;
pub use layer::digest_of;
pub use oci_client::Reference;
pub use pull::Progress;
pub use registries::{Credentials, Registries, RegistriesError};

/// An image that is present and unpacked.
pub struct Image {
    /// The digest of its configuration, `sha256:...`.
    pub id: String,
    pub config: ImageConfiguration,
    /// Unpacked layers, the lowest first, with overlayfs's whiteouts.
    pub layers: Vec<PathBuf>,
    /// `docker.io/library/nginx:latest`.
    pub repo_tags: Vec<String>,
    /// `docker.io/library/nginx@sha256:...`.
    pub repo_digests: Vec<String>,
    /// Bytes of the unpacked layers.
    pub size: u64,
}

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("invalid image name {name:?}: {message}")]
    Name { name: String, message: String },
    #[error("image {0:?} not found")]
    NotFound(String),
    #[error("failed to pull image {image:?}: {message}")]
    Pull { image: String, message: String },
    #[error("image {image:?} is broken: {message}")]
    Broken { image: String, message: String },
    #[error("{path}: {message}")]
    Archive { path: PathBuf, message: String },
    #[error("image store {path}: {error}")]
    Io { path: PathBuf, error: io::Error },
}

impl ImageError {
    /// What is wrong, for those who have said with which image.
    fn cause(&self) -> String {
        match self {
            ImageError::Pull { message, .. } | ImageError::Broken { message, .. } => message.clone(),
            other => other.to_string(),
        }
    }
}

/// The record of an image as it lies on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    repo_tags: BTreeSet<String>,
    repo_digests: BTreeSet<String>,
    /// The configuration's exact bytes; its digest is the image's id.
    config: String,
    layers: Vec<LayerRecord>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct LayerRecord {
    diff_id: String,
    size: u64,
}

/// What file systems' times may be coarse by, generously.
const CLOCK_TICK: Duration = Duration::from_millis(100);

/// The version of the form on disk that is written. Every earlier one is read.
const FORMAT: u32 = 1;

/// The images of one data directory.
pub struct Images {
    root: PathBuf,
    registries: Registries,
    state: RwLock<State>,
    /// Layers that are being added by this process, by diff id, so that each is unpacked once.
    adding: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Pulls under way, so that equal ones are one.
    pulling: Mutex<HashMap<pull::Asked, Arc<pull::Turn>>>,
    /// Room for layers on their way, of all pulls together.
    fetching: Semaphore,
}

#[derive(Default)]
struct State {
    /// When the index was last read, by the directory's own time.
    read: Option<SystemTime>,
    by_id: HashMap<String, Arc<Image>>,
    /// Tags and digests, normalised.
    by_name: HashMap<String, Arc<Image>>,
}

impl Images {
    /// Opens, and if need be makes, the directory.
    pub fn open(root: impl Into<PathBuf>, registries: Registries) -> Result<Arc<Self>, ImageError> {
        let root = root.into();
        // The process may have installed another default already; either serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let images = Images {
            root,
            registries,
            state: RwLock::default(),
            adding: Mutex::default(),
            pulling: Mutex::default(),
            fetching: Semaphore::new(pull::FETCHES),
        };
        for part in ["index", "layers", "use", "work"] {
            images.io(&images.root.join(part), |path| fs::create_dir_all(path))?;
        }
        images.sweep()?;
        images.refresh()?;
        Ok(Arc::new(images))
    }

    /// The image of that name, digest or id (also a unique prefix of at least 12 hex digits), if it is present.
    pub fn resolve(&self, name: &str) -> Option<Arc<Image>> {
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "cannot read the image index");
        }
        let state = self.state.read();
        if let Some(image) = state.by_id.get(name).or_else(|| state.by_id.get(&format!("sha256:{name}"))) {
            return Some(image.clone());
        }
        if let Some(image) = parse(name).ok().and_then(|reference| state.by_name.get(&local_name(&reference)).cloned())
        {
            return Some(image);
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < 12 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut found = state.by_id.iter().filter(|(id, _)| id["sha256:".len()..].starts_with(hex));
        match (found.next(), found.next()) {
            (Some((_, image)), None) => Some(image.clone()),
            _ => None,
        }
    }

    /// All images, in the order of their names.
    pub fn list(&self) -> Vec<Arc<Image>> {
        if let Err(error) = self.refresh() {
            tracing::warn!(%error, "cannot read the image index");
        }
        let mut images: Vec<_> = self.state.read().by_id.values().cloned().collect();
        images.sort_by(|a, b| (&a.repo_tags, &a.id).cmp(&(&b.repo_tags, &b.id)));
        images
    }

    /// Takes a name away, or with an id all names. The image goes with its last name, at once or, while a container
    /// uses it, when the last one is gone. Gives `false` where there is no such image.
    pub fn remove(&self, name: &str) -> Result<bool, ImageError> {
        let changing = self.changing()?;
        let Some(image) = self.resolve(name) else { return Ok(false) };
        let mut record = self.read_record(&image.id)?;
        match parse(name) {
            Ok(reference) if !image.id.ends_with(name) && record.repo_tags.len() > 1 => {
                record.repo_tags.remove(&local_name(&reference));
            }
            _ => {
                record.repo_tags.clear();
                record.repo_digests.clear();
            }
        }
        self.write_record(&image.id, &record)?;
        drop(changing);
        self.sweep()?;
        self.refresh()?;
        Ok(true)
    }

    /// Says that `user` (a container's id) uses the image, also after a restart, until it is released.
    pub fn hold(&self, id: &str, user: &str) -> Result<(), ImageError> {
        let directory = self.root.join("use").join(hex(id));
        self.io(&directory, |path| fs::create_dir_all(path))?;
        self.io(&directory.join(user), |path| File::create(path).map(drop))
    }

    /// Ends what [`Images::hold`] began. Idempotent.
    pub fn release(&self, id: &str, user: &str) {
        // Sweeping is what needs it, and copes with what is left.
        let _ = fs::remove_file(self.root.join("use").join(hex(id)).join(user));
    }

    /// Forgets every user that is not among those given: what a crash left behind.
    pub fn retain_users(&self, users: &HashSet<String>) -> Result<(), ImageError> {
        for directory in self.entries("use")? {
            for user in self.io(&directory, |path| fs::read_dir(path))?.flatten() {
                if !user.file_name().to_str().is_some_and(|name| users.contains(name)) {
                    let _ = fs::remove_file(user.path());
                }
            }
        }
        self.sweep()
    }

    /// Bytes of all unpacked layers, each counted once.
    pub fn used_bytes(&self) -> u64 {
        let mut sizes = HashMap::new();
        for image in self.list() {
            if let Ok(record) = self.read_record(&image.id) {
                sizes.extend(record.layers.into_iter().map(|l| (l.diff_id, l.size)));
            }
        }
        sizes.values().sum()
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes nameless images that nobody uses, layers that no image has, and abandoned work. Does nothing while
    /// layers are being added: whoever adds sweeps afterwards.
    fn sweep(&self) -> Result<(), ImageError> {
        let Some(_lock) = self.lock(FlockArg::LockExclusiveNonblock)? else { return Ok(()) };
        let mut wanted = HashSet::new();
        for path in self.entries("index")? {
            let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else { continue };
            if path.extension().is_none_or(|e| e != "json") {
                self.io(&path, |p| fs::remove_file(p))?;
                continue;
            }
            let record = match self.read_record(stem) {
                Ok(record) => record,
                Err(error) => {
                    // A record that cannot be read names layers that we do not know: keep them all.
                    tracing::warn!(%error, "an image's record cannot be read; remove it and pull the image again");
                    return Ok(());
                }
            };
            if record.repo_tags.is_empty() && record.repo_digests.is_empty() && !self.is_used(stem) {
                self.io(&path, |p| fs::remove_file(p))?;
                let _ = fs::remove_dir(self.root.join("use").join(stem));
            } else {
                wanted.extend(record.layers.iter().map(|l| hex(&l.diff_id).to_owned()));
            }
        }
        for path in self.entries("layers")? {
            if !path.file_name().and_then(|n| n.to_str()).is_some_and(|n| wanted.contains(n)) {
                let doomed = self.root.join("work").join(path.file_name().unwrap_or_default());
                // By rename first, so that no half of a layer is ever in its place.
                self.io(&path, |p| fs::rename(p, doomed))?;
            }
        }
        for path in self.entries("work")? {
            self.io(&path, |p| if p.is_dir() { fs::remove_dir_all(p) } else { fs::remove_file(p) })?;
        }
        Ok(())
    }

    fn is_used(&self, hex: &str) -> bool {
        fs::read_dir(self.root.join("use").join(hex)).is_ok_and(|mut users| users.next().is_some())
    }

    /// Reads the index again if it changed, by whichever process.
    fn refresh(&self) -> Result<(), ImageError> {
        let index = self.root.join("index");
        let changed = self.io(&index, |path| fs::metadata(path)?.modified())?;
        if self.state.read().read == Some(changed) {
            return Ok(());
        }
        // A change within the same tick of the directory's clock as this reading would not be seen by its time.
        let settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > CLOCK_TICK);
        let mut state = State { read: Some(changed).filter(|_| settled), ..State::default() };
        for path in self.entries("index")? {
            let Some(stem) = path.file_stem().and_then(|s| s.to_str()) else { continue };
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match self.load(stem) {
                Ok(image) => {
                    let image = Arc::new(image);
                    for name in image.repo_tags.iter().chain(&image.repo_digests) {
                        state.by_name.insert(name.clone(), image.clone());
                    }
                    state.by_id.insert(image.id.clone(), image);
                }
                Err(error) => tracing::warn!(%error, "an image's record cannot be read"),
            }
        }
        *self.state.write() = state;
        Ok(())
    }

    fn load(&self, id: &str) -> Result<Image, ImageError> {
        let record = self.read_record(id)?;
        let config = parse_config(&record.config).map_err(|message| broken(id, message))?;
        Ok(Image {
            id: format!("sha256:{}", hex(id)),
            config,
            layers: record.layers.iter().map(|l| self.layer_path(&l.diff_id)).collect(),
            size: record.layers.iter().map(|l| l.size).sum(),
            repo_tags: record.repo_tags.into_iter().collect(),
            repo_digests: record.repo_digests.into_iter().collect(),
        })
    }

    /// Adds names to an image whose layers are all there; a tag is taken from whichever image had it.
    fn record(
        &self,
        config: String,
        layers: Vec<LayerRecord>,
        tag: Option<String>,
        digest: Option<String>,
    ) -> Result<Arc<Image>, ImageError> {
        let id = digest_of(config.as_bytes());
        let _changing = self.changing()?;
        if let Some(tag) = &tag
            && let Some(holder) = self.resolve(tag)
            && holder.id != id
        {
            let mut record = self.read_record(&holder.id)?;
            record.repo_tags.remove(tag);
            self.write_record(&holder.id, &record)?;
        }
        let mut record = match self.read_record(&id) {
            Ok(record) => record,
            Err(_) => {
                Record { version: FORMAT, repo_tags: BTreeSet::new(), repo_digests: BTreeSet::new(), config, layers }
            }
        };
        record.repo_tags.extend(tag);
        record.repo_digests.extend(digest);
        self.write_record(&id, &record)?;
        self.refresh()?;
        self.state
            .read()
            .by_id
            .get(&id)
            .cloned()
            .ok_or_else(|| broken(&id, "it vanished while it was added".to_owned()))
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.root.join("index").join(format!("{}.json", hex(id)))
    }

    fn layer_path(&self, diff_id: &str) -> PathBuf {
        self.root.join("layers").join(hex(diff_id)).join("fs")
    }

    fn read_record(&self, id: &str) -> Result<Record, ImageError> {
        let text = self.io(&self.record_path(id), |path| fs::read(path))?;
        let record: Record = serde_json::from_slice(&text).map_err(|e| broken(id, e.to_string()))?;
        if record.version > FORMAT {
            return Err(broken(id, format!("its record has version {}, made by a newer Regatta", record.version)));
        }
        Ok(record)
    }

    fn write_record(&self, id: &str, record: &Record) -> Result<(), ImageError> {
        let path = self.record_path(id);
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let text = serde_json::to_vec(record).map_err(|e| broken(id, e.to_string()))?;
        self.io(&temporary, |p| {
            fs::write(p, text)?;
            File::open(p)?.sync_all()
        })?;
        self.io(&path, |p| fs::rename(&temporary, p))
    }

    /// The right to read a record and write it again, among all threads and processes.
    fn changing(&self) -> Result<Flock<File>, ImageError> {
        let path = self.root.join("changing");
        let file = self.io(&path, |p| File::create(p))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| ImageError::Io { path, error: error.into() })
    }

    fn lock(&self, how: FlockArg) -> Result<Option<Flock<File>>, ImageError> {
        let path = self.root.join("lock");
        let file = self.io(&path, |p| File::create(p))?;
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(ImageError::Io { path, error: error.into() }),
        }
    }

    fn entries(&self, part: &str) -> Result<Vec<PathBuf>, ImageError> {
        self.io(&self.root.join(part), |path| fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect())
    }

    fn io<T>(&self, path: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> Result<T, ImageError> {
        work(path).map_err(|error| ImageError::Io { path: path.to_owned(), error })
    }
}

/// Parses what a user wrote as an image's name: `nginx` is `docker.io/library/nginx:latest`.
pub fn parse(name: &str) -> Result<Reference, ImageError> {
    name.parse().map_err(|e: oci_client::ParseError| ImageError::Name { name: name.to_owned(), message: e.to_string() })
}

/// The name under which an image is found: with a digest that counts alone, else with the tag.
fn local_name(reference: &Reference) -> String {
    let repository = format!("{}/{}", reference.registry(), reference.repository());
    match reference.digest() {
        Some(digest) => format!("{repository}@{digest}"),
        None => format!("{repository}:{}", reference.tag().unwrap_or("latest")),
    }
}

fn parse_config(text: &str) -> Result<ImageConfiguration, String> {
    ImageConfiguration::from_reader(text.as_bytes()).map_err(|e| format!("its configuration is not valid: {e}"))
}

fn broken(image: &str, message: String) -> ImageError {
    ImageError::Broken { image: image.to_owned(), message }
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}
