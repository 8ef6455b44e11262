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
        (bytes[..bytes.len() / 3].to_vec(), "archive"),
        (b"no archive at all".repeat(100), "archive"),
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
    let entry = "user:$2y$05$7Vnz4oBGkHBBp6MKX9pGyOiECkT0FdcMbxwDhA2gE6W1oQ5GZBFf2\n";
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
    let port = PathBuf::from("127.0.0.1:1");
    let error = images.pull(&format!("{}/x:1", port.display()), None, &|_| {}).await.err().expect("error");
    assert!(error.to_string().contains("cannot connect to 127.0.0.1:1"), "{error}");
    assert!(images.pull("Not A Name", None, &|_| {}).await.is_err());
}
