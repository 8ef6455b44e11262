//! Images from archives and from a real registry on loopback (Debian's `docker-registry`; skipped where it is missing).

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use runtime::images::{Credentials, Images, Progress, Registries, digest_of};
use serde_json::json;

fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, content.as_bytes()).expect("entry");
    }
    builder.into_inner().expect("layer")
}

fn config(layers: &[Vec<u8>]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|l| digest_of(l)).collect();
    json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "User": "1000:1000"},
           "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string()
}

fn docker_archive(path: &Path, tags: &[&str], layers: &[Vec<u8>]) {
    let config = config(layers);
    let names: Vec<_> = (0..layers.len()).map(|i| format!("layer{i}/layer.tar")).collect();
    let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).to_string();
    let mut builder = tar::Builder::new(std::fs::File::create(path).expect("archive"));
    let contents = names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice));
    for (name, content) in contents.chain([("config.json", config.as_bytes()), ("manifest.json", manifest.as_bytes())])
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, name, content).expect("entry");
    }
    builder.finish().expect("archive");
}

struct Registry {
    process: Child,
    host: String,
    _directory: tempfile::TempDir,
}

impl Registry {
    /// A registry of its own on loopback, with basic authentication where `htpasswd` is given.
    fn start(htpasswd: Option<&str>) -> Option<Registry> {
        let program = ["/usr/bin/docker-registry", "/usr/bin/registry"].into_iter().find(|p| Path::new(p).exists());
        let Some(program) = program else {
            let whole = ["REGATTA_SPEC", "CI"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!whole, "needs docker-registry");
            eprintln!("skipped: docker-registry is not installed");
            return None;
        };
        let directory = tempfile::tempdir().expect("directory");
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port").port();
        let host = format!("127.0.0.1:{port}");
        let storage = directory.path().join("data");
        let mut text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'}}\n",
            storage.display()
        );
        if let Some(entry) = htpasswd {
            let file = directory.path().join("htpasswd");
            std::fs::write(&file, entry).expect("htpasswd");
            text += &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        }
        let file = directory.path().join("config.yml");
        std::fs::write(&file, text).expect("config");
        let process = Command::new(program)
            .args(["serve", file.to_str().expect("path")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("registry");
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&host).is_err() {
            assert!(Instant::now() < deadline, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Registry { process, host, _directory: directory })
    }

    /// Pushes an image whose layers are gzip, zstd and plain in turn; gives the manifest's digest.
    async fn push(&self, repository: &str, layers: &[Vec<u8>], auth: &RegistryAuth) -> String {
        let packed = layers.iter().enumerate().map(|(i, layer)| match i % 3 {
            0 => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(layer).expect("gzip");
                ImageLayer::oci_v1_gzip(gzip.finish().expect("gzip"), None)
            }
            1 => {
                let zstd = zstd::encode_all(&layer[..], 1).expect("zstd");
                ImageLayer::new(zstd, "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(), None)
            }
            _ => ImageLayer::oci_v1(layer.clone(), None),
        });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let reference: Reference = format!("{}/{repository}", self.host).parse().expect("reference");
        let layers: Vec<_> = packed.collect();
        let config = Config::oci_v1(config_for(&layers).into_bytes(), None);
        client.push(&reference, &layers, config, auth, None).await.expect("push");
        client.fetch_manifest_digest(&reference, auth).await.expect("digest")
    }
}

fn config_for(layers: &[ImageLayer]) -> String {
    let plain: Vec<Vec<u8>> = layers
        .iter()
        .map(|layer| {
            let mut out = Vec::new();
            match &layer.data[..2] {
                [0x1f, 0x8b] => {
                    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&layer.data[..]), &mut out)
                        .expect("gzip");
                }
                [0x28, 0xb5] => out = zstd::decode_all(&layer.data[..]).expect("zstd"),
                _ => out.extend_from_slice(&layer.data),
            }
            out
        })
        .collect();
    config(&plain)
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn open(directory: &Path, mirrors: &str) -> Arc<Images> {
    let file = directory.join("registries.yaml");
    std::fs::write(&file, mirrors).expect("registries");
    Images::open(directory.join("images"), Registries::load(&file).expect("valid")).expect("opens")
}

fn count(directory: &Path, part: &str) -> usize {
    std::fs::read_dir(directory.join("images").join(part)).expect("directory").count()
}

#[tokio::test]
async fn a_docker_archive_is_imported_found_by_each_of_its_names_and_removed_with_the_last() {
    let directory = tempfile::tempdir().expect("directory");
    let images = open(directory.path(), "");
    let archive = directory.path().join("image.tar");
    let shared = layer(&[("etc/base", "1")]);
    docker_archive(&archive, &["web:1", "example.com/team/web:2"], &[shared.clone(), layer(&[("app", "2")])]);
    let imported = images.import(&archive).await.expect("imports");
    assert_eq!(imported.len(), 2);
    let image = images.resolve("web:1").expect("found");
    assert_eq!(images.resolve(&image.id).expect("by id").id, image.id);
    assert_eq!(images.resolve(&image.id[7..20]).expect("by prefix").id, image.id);
    assert_eq!(std::fs::read_to_string(image.layers[1].join("app")).expect("file"), "2");
    docker_archive(&archive, &["other:1"], std::slice::from_ref(&shared));
    images.import(&archive).await.expect("imports");
    assert_eq!((count(directory.path(), "layers"), count(directory.path(), "work")), (2, 0));
    assert!(images.remove("web:1").expect("removes"));
    assert!(images.resolve("web:1").is_none() && images.resolve("example.com/team/web:2").is_some());
    images.hold(&image.id, "container").expect("holds");
    images.remove("example.com/team/web:2").expect("removes");
    assert!(image.layers[1].join("app").exists(), "a used image keeps its layers");
    images.retain_users(&HashSet::new()).expect("forgets");
    assert!(images.resolve(&image.id).is_none());
    assert_eq!(count(directory.path(), "layers"), 1, "the shared layer stays");
    assert!(!images.remove("web:1").expect("is idempotent"));
}

#[tokio::test]
async fn a_tag_moves_to_the_image_that_was_imported_last() {
    let directory = tempfile::tempdir().expect("directory");
    let images = open(directory.path(), "");
    let archive = directory.path().join("image.tar");
    let mut ids = Vec::new();
    for content in ["1", "2"] {
        docker_archive(&archive, &["web"], &[layer(&[("app", content)])]);
        ids.push(images.import(&archive).await.expect("imports")[0].image.id.clone());
    }
    assert_eq!(images.resolve("web").expect("found").id, ids[1]);
    assert_eq!(images.list().len(), 1, "the image without a name is gone");
}

#[tokio::test]
async fn a_broken_archive_is_refused_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let images = open(directory.path(), "");
    let archive = directory.path().join("image.tar");
    docker_archive(&archive, &["web"], &[layer(&[("app", "1")])]);
    let bytes = std::fs::read(&archive).expect("archive");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let cases: [(Vec<u8>, &str); 4] = [
        (bytes[..bytes.len() / 3].to_vec(), "is damaged or cut off"),
        (b"no archive at all".repeat(100), "is no tar archive"),
        (text.replace("\"sha256:", "\"sha256:0000").into_bytes(), ""),
        (layer(&[("readme", "hello")]), "holds neither"),
    ];
    for (content, part) in cases {
        std::fs::write(&archive, content).expect("archive");
        let error = images.import(&archive).await.err().expect("refused").to_string();
        assert!(error.contains(part), "{error}");
        assert_eq!((count(directory.path(), "layers"), count(directory.path(), "work")), (0, 0));
    }
}

#[tokio::test]
async fn an_image_is_pulled_through_a_mirror_by_tag_and_by_digest() {
    let Some(registry) = Registry::start(None) else { return };
    let layers = [layer(&[("a", "1")]), layer(&[("b", "2")]), layer(&[("c", "3")])];
    let digest = registry.push("library/web:1", &layers, &RegistryAuth::Anonymous).await;
    let directory = tempfile::tempdir().expect("directory");
    let images = open(directory.path(), &format!("mirrors: {{docker.io: {{endpoint: ['http://{}']}}}}", registry.host));
    let done = parking_lot::Mutex::new(0);
    let report = |progress| {
        if matches!(progress, Progress::Done { .. }) {
            *done.lock() += 1;
        }
    };
    let image = images.pull("web:1", None, &report).await.expect("pulls");
    assert_eq!(*done.lock(), 3);
    assert_eq!(image.repo_tags, ["docker.io/library/web:1"]);
    assert_eq!(image.repo_digests, [format!("docker.io/library/web@{digest}")]);
    for (layer, (name, content)) in image.layers.iter().zip([("a", "1"), ("b", "2"), ("c", "3")]) {
        assert_eq!(std::fs::read_to_string(layer.join(name)).expect("file"), content);
    }
    let by_digest = images.pull(&format!("web@{digest}"), None, &report).await.expect("pulls");
    assert_eq!(by_digest.id, image.id);
    assert!(images.resolve(&format!("web@{digest}")).is_some());
    assert_eq!(count(directory.path(), "work"), 0);
}

#[tokio::test]
async fn what_a_registry_does_not_have_or_does_not_allow_is_said_clearly() {
    // The password is `right`.
    let entry = "user:$2a$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n";
    let Some(open_registry) = Registry::start(None) else { return };
    let Some(closed) = Registry::start(Some(entry)) else { return };
    let directory = tempfile::tempdir().expect("directory");
    let images = open(directory.path(), "");
    let error = images.pull(&format!("{}/missing:1", open_registry.host), None, &|_| {}).await.err().expect("error");
    assert!(error.to_string().contains("not found") || error.to_string().contains("unknown"), "{error}");
    let credentials =
        Credentials { username: "user".to_owned(), password: "wrong".to_owned(), ..Credentials::default() };
    for auth in [None, Some(credentials)] {
        let error = images.pull(&format!("{}/x:1", closed.host), auth, &|_| {}).await.err().expect("error");
        assert!(
            error.to_string().contains("authorization failed") || error.to_string().contains("authentication"),
            "{error}"
        );
    }
    let right = RegistryAuth::Basic("user".to_owned(), "right".to_owned());
    closed.push("x:1", &[layer(&[("a", "1")])], &right).await;
    let named = Credentials { username: "user".to_owned(), password: "right".to_owned(), ..Credentials::default() };
    // `user:right` in base64, as pull secrets have it.
    let encoded = Credentials { auth: "dXNlcjpyaWdodA==".to_owned(), ..Credentials::default() };
    for auth in [named, encoded] {
        let image = images.pull(&format!("{}/x:1", closed.host), Some(auth), &|_| {}).await.expect("is let in");
        assert!(images.remove(&image.id).expect("removes"));
    }
    let port = PathBuf::from("127.0.0.1:1");
    let error = images.pull(&format!("{}/x:1", port.display()), None, &|_| {}).await.err().expect("error");
    assert!(error.to_string().contains("127.0.0.1:1: cannot connect: Connection refused"), "{error}");
    assert!(images.pull("Not A Name", None, &|_| {}).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_pulls_are_one_and_shared_layers_are_fetched_once() {
    let Some(registry) = Registry::start(None) else { return };
    let base = [layer(&[("base", "1")]), layer(&[("more", "2")])];
    registry.push("one:1", &[base.as_slice(), &[layer(&[("own", "one")])]].concat(), &RegistryAuth::Anonymous).await;
    registry.push("two:1", &[base.as_slice(), &[layer(&[("own", "two")])]].concat(), &RegistryAuth::Anonymous).await;
    let directory = tempfile::tempdir().expect("directory");
    let images = open(directory.path(), "");
    let seen = parking_lot::Mutex::new((0, HashSet::new(), 0));
    let report = |progress| match progress {
        Progress::Resolved { .. } => seen.lock().0 += 1,
        Progress::Fetched { digest, .. } => {
            let mut seen = seen.lock();
            seen.2 += usize::from(seen.1.insert(digest));
        }
        Progress::Done { .. } => {}
    };
    let names = [format!("{}/one:1", registry.host), format!("{}/two:1", registry.host)];
    let pulls = (0..12).map(|number| images.pull(&names[number % 2], None, &report));
    let pulled = futures::future::try_join_all(pulls).await.expect("pulls");
    assert!(pulled.iter().skip(2).zip(&pulled).all(|(later, first)| later.id == first.id));
    let seen = seen.into_inner();
    assert_eq!((seen.0, seen.2), (2, 4), "two manifests and four layers come from the registry");
    assert_eq!((count(directory.path(), "layers"), count(directory.path(), "work")), (4, 0));
    assert_eq!(images.list().len(), 2);
}

/// The program beside the tests that works on images until it is killed.
fn program() -> PathBuf {
    let here = std::env::current_exe().expect("test");
    here.ancestors().nth(2).expect("target").join("examples/server")
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_whole_images_and_no_others() {
    let directory = tempfile::tempdir().expect("directory");
    let shared = layer(&[("base", &"b".repeat(100_000))]);
    let archives = ["one", "two"].map(|name| {
        let path = directory.path().join(format!("{name}.tar"));
        docker_archive(&path, &[&format!("{name}:1")], &[shared.clone(), layer(&[("name", name)])]);
        path
    });
    let root = directory.path().join("images");
    let mut seen = HashSet::new();
    for round in 0..40_u64 {
        let mut command = Command::new(program());
        command.arg("images").arg(&root).args(&archives).stdout(Stdio::piped());
        let mut worker = command.spawn().expect("runs");
        // At another step each time, and at another moment of it.
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(worker.stdout.take().expect("output")));
        for _ in 0..round % 5 {
            lines.next().expect("works on").expect("line");
        }
        tokio::time::sleep(Duration::from_millis(round * 7 % 20)).await;
        worker.kill().expect("kill");
        worker.wait().expect("wait");
        let images = Images::open(&root, Registries::default()).expect("opens");
        images.retain_users(&HashSet::new()).expect("forgets");
        let listed = images.list();
        seen.insert(listed.len());
        let mut layers = HashSet::new();
        for image in &listed {
            let name = image.repo_tags.first().expect("a name").clone();
            assert_eq!(std::fs::read(image.layers[0].join("base")).expect("shared layer").len(), 100_000, "{name}");
            let own = std::fs::read_to_string(image.layers[1].join("name")).expect("own layer");
            assert!(name.ends_with(&format!("/{own}:1")), "{name} {own}");
            layers.extend(image.layers.iter().cloned());
        }
        assert_eq!((count(directory.path(), "layers"), count(directory.path(), "work")), (layers.len(), 0));
    }
    assert!(seen.len() > 1, "the kills came at one and the same moment: {seen:?}");
}
