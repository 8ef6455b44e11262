//! Pulling from registries of every kind: how they ask who is there, which certificates they show and want, indices for several
//! platforms, paths, and content that is not what it is said to be. The registry is a small one made here.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use runtime::images::{Credentials, Images, Registries, digest_of};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{ConfigBuilder, RootCertStore, ServerConfig, ServerConnection, StreamOwned, WantsVerifier};
use serde_json::json;

/// What the registry answers a request with.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer { status: 200, headers: Vec::new(), body: body.into() }
    }

    fn status(status: u16, headers: &[(&str, &str)]) -> Answer {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Answer { status, headers, body: Vec::new() }
    }
}

/// A request, as far as it matters.
#[derive(Clone, Debug)]
struct Request {
    method: String,
    path: String,
    authorization: String,
    body: String,
}

type Decide = dyn Fn(&Request) -> Option<Answer> + Send + Sync;

struct Registry {
    host: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Registry {
    /// Answers with what `decide` says, else with the content that is under the path.
    fn start(
        content: HashMap<String, Vec<u8>>,
        tls: Option<ServerConfig>,
        decide: impl Fn(&str) -> Box<Decide>,
    ) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let host = listener.local_addr().expect("address").to_string();
        let (seen, tls) = (Arc::new(Mutex::new(Vec::new())), tls.map(Arc::new));
        let (content, decide, noted) = (Arc::new(content), Arc::new(decide(&host)), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (content, decide, noted, tls) = (content.clone(), decide.clone(), noted.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => serve(stream, &content, &**decide, &noted),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).expect("connection");
                        serve(StreamOwned::new(connection, stream), &content, &**decide, &noted);
                    }
                });
            }
        });
        Registry { host, seen }
    }

    fn open(content: HashMap<String, Vec<u8>>) -> Registry {
        Registry::start(content, None, |_| Box::new(|_| None))
    }
}

fn serve(stream: impl Read + Write, content: &HashMap<String, Vec<u8>>, decide: &Decide, seen: &Mutex<Vec<Request>>) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    // A client that does not trust the certificate goes away.
    if stream.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).expect("header");
        match header.trim().split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = value.to_owned(),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().expect("length")
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("body");
    let request = Request { method, path, authorization, body: String::from_utf8(body).expect("text") };
    seen.lock().expect("lock").push(request.clone());
    let found = || content.get(&request.path).map_or(Answer::status(404, &[]), |body| Answer::ok(body.clone()));
    let answer = decide(&request).unwrap_or_else(found);
    let mut head =
        format!("HTTP/1.1 {} Answer\r\nconnection: close\r\ncontent-length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let stream = stream.get_mut();
    let _ = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(&answer.body));
    let _ = stream.flush();
}

/// The paths and contents of an image with one file, `which`, and its digest.
fn image(base: &str, which: &str) -> (HashMap<String, Vec<u8>>, String) {
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(which.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    layer.append_data(&mut header, "which", which.as_bytes()).expect("entry");
    let layer = layer.into_inner().expect("layer");
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]}})
            .to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": digest_of(config.as_bytes())},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": layer.len(), "digest": digest_of(&layer)}],
    })
    .to_string();
    let digest = digest_of(manifest.as_bytes());
    let content = HashMap::from([
        (format!("{base}/blobs/{}", digest_of(config.as_bytes())), config.into_bytes()),
        (format!("{base}/blobs/{}", digest_of(&layer)), layer),
        (format!("{base}/manifests/1"), manifest.clone().into_bytes()),
        (format!("{base}/manifests/{digest}"), manifest.into_bytes()),
    ]);
    (content, digest)
}

fn images(directory: &Path, registries: &str) -> Arc<Images> {
    let file = directory.join("registries.yaml");
    std::fs::write(&file, registries).expect("registries");
    Images::open(directory.join("images"), Registries::load(&file).expect("valid")).expect("opens")
}

/// What the pulled image holds, or why there is none.
async fn pull(registries: &str, name: &str, auth: Option<Credentials>) -> Result<String, String> {
    let directory = tempfile::tempdir().expect("directory");
    let images = images(directory.path(), registries);
    let image = images.pull(name, auth, &|_| {}).await.map_err(|error| error.to_string())?;
    Ok(std::fs::read_to_string(image.layers[0].join("which")).expect("file"))
}

fn user(name: &str, password: &str) -> Credentials {
    Credentials { username: name.to_owned(), password: password.to_owned(), ..Credentials::default() }
}

/// `user:secret`
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[tokio::test]
async fn a_registry_is_answered_as_it_asks_who_is_there() {
    let closed = |host: &str| -> Box<Decide> {
        let challenge =
            format!("Bearer realm=\"http://{host}/token\",service=\"the registry\",scope=\"repository:web:pull\"");
        Box::new(move |request| {
            let token = |allowed: bool| match allowed {
                true => Answer::ok(r#"{"token": "short", "expires_in": 60}"#),
                false => Answer::status(401, &[]),
            };
            if request.path.starts_with("/token?") {
                assert!(
                    request.path.contains("service=the%20registry")
                        && request.path.contains("scope=repository%3Aweb%3Apull")
                );
                return Some(token(request.authorization == BASIC));
            }
            if request.path == "/token" {
                let fields = [
                    "grant_type=refresh_token",
                    "refresh_token=long%2F",
                    "client_id=regatta",
                    "service=the%20registry",
                ];
                let allowed = request.method == "POST" && fields.iter().all(|field| request.body.contains(field));
                return Some(token(allowed));
            }
            let known = ["Bearer short", "Bearer given"].contains(&request.authorization.as_str());
            (!known).then(|| Answer::status(401, &[("www-authenticate", &challenge)]))
        })
    };
    let basic = |_: &str| -> Box<Decide> {
        Box::new(|request| {
            (request.authorization != BASIC).then(|| Answer::status(401, &[("www-authenticate", "Basic realm=\"x\"")]))
        })
    };
    let bearer = Registry::start(image("/v2/web", "bearer").0, None, closed);
    let plain = Registry::start(image("/v2/web", "basic").0, None, basic);
    let with = |token: &str, identity: &str| Credentials {
        token: token.to_owned(),
        identity_token: identity.to_owned(),
        ..Credentials::default()
    };
    let encoded = Credentials { auth: "dXNlcjpzZWNyZXQ=".to_owned(), ..Credentials::default() };
    for (host, auth, expected) in [
        (&bearer.host, Some(user("user", "secret")), Ok("bearer")),
        (&bearer.host, Some(encoded.clone()), Ok("bearer")),
        (&bearer.host, Some(with("", "long/")), Ok("bearer")),
        (&bearer.host, Some(with("given", "")), Ok("bearer")),
        (&bearer.host, Some(user("user", "wrong")), Err("authorization failed")),
        (&bearer.host, Some(with("", "other")), Err("authorization failed")),
        (&bearer.host, Some(with("taken", "")), Err("authorization failed")),
        (&bearer.host, None, Err("authorization failed")),
        (&plain.host, Some(user("user", "secret")), Ok("basic")),
        (&plain.host, Some(encoded), Ok("basic")),
        (&plain.host, Some(user("user", "wrong")), Err("authorization failed")),
        (&plain.host, None, Err("authorization failed")),
    ] {
        let name = format!("{host}/web:1");
        match (pull("", &name, auth.clone()).await, expected) {
            (Ok(which), Ok(expected)) => assert_eq!(which, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{auth:?}: {error}"),
            (got, expected) => panic!("{auth:?}: {got:?} in place of {expected:?}"),
        }
    }
    // The same from the registries file, by the host's name and for all.
    for (place, host) in [(bearer.host.as_str(), &bearer.host), ("*", &plain.host)] {
        let file = format!("configs: {{'{place}': {{auth: {{username: user, password: secret}}}}}}");
        pull(&file, &format!("{host}/web:1"), None).await.expect("is let in");
    }
    // A token is asked for once a pull, or a little more where layers come side by side.
    let asked = bearer.seen.lock().expect("lock").iter().filter(|request| request.path.starts_with("/token")).count();
    assert!(asked <= 10, "{asked} tokens");
}

#[tokio::test]
async fn content_that_is_not_what_its_digest_says_is_refused() {
    let (good, digest) = image("/v2/web", "good");
    let mut blobs: Vec<_> = good.keys().filter(|path| path.contains("/blobs/")).cloned().collect();
    blobs.push(format!("/v2/web/manifests/{digest}"));
    for path in blobs {
        let mut content = good.clone();
        let bytes = content.get_mut(&path).expect("content");
        let at = bytes.len() / 2;
        bytes[at] = bytes[at].wrapping_add(1);
        let registry = Registry::open(content);
        let error = pull("", &format!("{}/web@{digest}", registry.host), None).await.expect_err("refused");
        let wanted = path.rsplit('/').next().expect("digest");
        assert!(error.contains("digest") && error.contains(wanted), "{path}: {error}");
    }
    let registry = Registry::open(good);
    assert_eq!(pull("", &format!("{}/web@{digest}", registry.host), None).await.as_deref(), Ok("good"));
}

#[tokio::test]
async fn of_an_index_this_machines_platform_is_taken_and_the_index_gives_the_digest() {
    let (own, own_digest) = image("/v2/web", "own");
    let (other, other_digest) = image("/v2/web", "other");
    let mut content = own;
    content.extend(other);
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let entry = |digest: &str, arch: &str| json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": arch}});
    let index = |entries: serde_json::Value| {
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries})
            .to_string()
    };
    let all = index(json!([entry(&other_digest, "s390x"), entry(&own_digest, arch)]));
    let foreign = index(json!([entry(&other_digest, "s390x")]));
    content.insert("/v2/web/manifests/1".to_owned(), all.clone().into_bytes());
    content.insert("/v2/web/manifests/2".to_owned(), foreign.into_bytes());
    let registry = Registry::open(content);
    let directory = tempfile::tempdir().expect("directory");
    let images = images(directory.path(), "");
    let image = images.pull(&format!("{}/web:1", registry.host), None, &|_| {}).await.expect("pulls");
    assert_eq!(std::fs::read_to_string(image.layers[0].join("which")).expect("file"), "own");
    assert_eq!(image.repo_digests, [format!("{}/web@{}", registry.host, digest_of(all.as_bytes()))]);
    let error =
        images.pull(&format!("{}/web:2", registry.host), None, &|_| {}).await.err().expect("refused").to_string();
    assert!(error.contains("no image for linux/"), "{error}");
}

#[tokio::test]
async fn why_a_pull_failed_is_said_once() {
    let registry = Registry::open(HashMap::new());
    let directory = tempfile::tempdir().expect("directory");
    let file = format!("mirrors: {{'127.0.0.1:9': {{endpoint: ['http://{}']}}}}", registry.host);
    let images = images(directory.path(), &file);
    let error = images.pull("127.0.0.1:9/web:1", None, &|_| {}).await.err().expect("refused");
    let why = format!("{}: not found; 127.0.0.1:9: cannot connect: Connection refused (os error 111)", registry.host);
    assert_eq!(error.to_string(), format!("failed to pull image \"127.0.0.1:9/web:1\": {why}"));
    assert_eq!(runtime::cri::CriError::from(error).message, why);
}

#[tokio::test]
async fn a_mirror_below_a_path_is_asked_there() {
    let registry = Registry::open(image("/v2/cache/library/web", "cached").0);
    for endpoint in [format!("http://{}/v2/cache", registry.host), format!("http://{}/v2/cache/", registry.host)] {
        let file = format!("mirrors: {{docker.io: {{endpoint: ['{endpoint}']}}}}");
        assert_eq!(pull(&file, "web:1", None).await.as_deref(), Ok("cached"));
    }
    let behind = Registry::open(image("/artifacts/v2/hub/web", "behind").0);
    let file = format!(
        "mirrors: {{docker.io: {{endpoint: ['http://{}/artifacts/v2'], rewrite: {{'^library/(.*)': 'hub/$1'}}}}}}",
        behind.host
    );
    assert_eq!(pull(&file, "web:1", None).await.as_deref(), Ok("behind"));
}

/// An authority, and the files of a certificate that it has signed, for a server on loopback or a client.
struct Keys {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Keys {
    fn new() -> Keys {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
        let directory = tempfile::tempdir().expect("directory");
        std::fs::write(directory.path().join("ca.crt"), authority.pem()).expect("file");
        let keys = Keys { directory, authority };
        for name in ["server", "client"] {
            let key = KeyPair::generate().expect("key");
            let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
            let certificate = params.signed_by(&key, &keys.authority).expect("certificate");
            std::fs::write(keys.path(&format!("{name}.crt")), certificate.pem()).expect("file");
            std::fs::write(keys.path(&format!("{name}.key")), key.serialize_pem()).expect("file");
        }
        keys
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn server(&self, wants_certificate: bool) -> ServerConfig {
        let builder = server();
        let builder = match wants_certificate {
            false => builder.with_no_client_auth(),
            true => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_file(self.path("ca.crt")).expect("authority")).expect("root");
                builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("verifier"),
                )
            }
        };
        shows(builder, &self.path("server.crt"), &self.path("server.key"))
    }
}

fn server() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    ServerConfig::builder()
}

fn shows(builder: ConfigBuilder<ServerConfig, WantsServerCert>, certificate: &Path, key: &Path) -> ServerConfig {
    let chain = vec![CertificateDer::from_pem_file(certificate).expect("certificate")];
    builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).expect("key")).expect("config")
}

#[tokio::test]
async fn a_certificate_that_the_file_names_itself_is_believed_for_its_name_and_its_time() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: String| directory.path().join(name);
    let mut opened = Vec::new();
    let (authority, plain) = (IsCa::Ca(BasicConstraints::Unconstrained), IsCa::NoCa);
    for (number, (is_ca, name, until, expected)) in [
        (authority, "127.0.0.1", 4000, Ok("own")),
        (plain, "127.0.0.1", 4000, Ok("own")),
        (authority, "elsewhere.example", 4000, Err("not valid for name")),
        (authority, "127.0.0.1", 2000, Err("expired")),
        (plain, "127.0.0.1", 2000, Err("expired")),
    ]
    .into_iter()
    .enumerate()
    {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("params");
        (params.is_ca, params.not_after) = (is_ca, rcgen::date_time_ymd(until, 1, 1));
        let (certificate, key_file) = (path(format!("{number}.crt")), path(format!("{number}.key")));
        std::fs::write(&certificate, params.self_signed(&key).expect("certificate").pem()).expect("file");
        std::fs::write(&key_file, key.serialize_pem()).expect("file");
        let tls = shows(server().with_no_client_auth(), &certificate, &key_file);
        let registry = Registry::start(image("/v2/web", "own").0, Some(tls), |_| Box::new(|_| None));
        opened.push((registry.host, certificate, expected));
    }
    for (host, own, expected) in &opened {
        for (_, named, _) in &opened {
            let file = format!("configs: {{'{host}': {{tls: {{ca_file: {}}}}}}}", named.display());
            match (pull(&file, &format!("{host}/web:1"), None).await, expected) {
                (Ok(_), _) if named != own => panic!("{own:?} is believed by {named:?}"),
                (Ok(which), Ok(expected)) => assert_eq!(which, *expected),
                (Err(error), Err(part)) if named == own => assert!(error.contains(part), "{own:?}: {error}"),
                (Err(error), _) => assert!(named != own && error.contains("certificate"), "{own:?}: {error}"),
                (got, expected) => panic!("{own:?}: {got:?} in place of {expected:?}"),
            }
        }
    }
}

#[tokio::test]
async fn certificates_are_checked_shown_and_passed_over_as_the_file_says() {
    let keys = Keys::new();
    let open = Registry::start(image("/v2/web", "tls").0, Some(keys.server(false)), |_| Box::new(|_| None));
    let mutual = Registry::start(image("/v2/web", "mutual").0, Some(keys.server(true)), |_| Box::new(|_| None));
    let shown = |name: &str| keys.path(name).display().to_string();
    let (authority, certificate, key) = (shown("ca.crt"), shown("client.crt"), shown("client.key"));
    let pair = format!("cert_file: {certificate}, key_file: {key}");
    for (host, tls, expected) in [
        (&open.host, "insecure_skip_verify: false".to_owned(), Err("cannot connect")),
        (&open.host, "insecure_skip_verify: true".to_owned(), Ok("tls")),
        (&open.host, format!("ca_file: {authority}"), Ok("tls")),
        (&open.host, "ca_file: /none".to_owned(), Err("ca_file /none")),
        (&mutual.host, format!("ca_file: {authority}"), Err("")),
        (&mutual.host, format!("ca_file: {authority}, {pair}"), Ok("mutual")),
        (
            &mutual.host,
            format!("ca_file: {authority}, cert_file: {certificate}, key_file: {authority}"),
            Err("cannot be used"),
        ),
    ] {
        let file = format!("configs: {{'{host}': {{tls: {{{tls}}}}}}}");
        match (pull(&file, &format!("{host}/web:1"), None).await, expected) {
            (Ok(which), Ok(expected)) => assert_eq!(which, expected),
            (Err(error), Err(part)) => assert!(error.contains(part), "{tls}: {error}"),
            (got, expected) => panic!("{tls}: {got:?} in place of {expected:?}"),
        }
    }
}

#[tokio::test]
async fn why_an_archive_cannot_be_imported_is_said_without_its_bytes() {
    let directory = tempfile::tempdir().expect("directory");
    let images = images(directory.path(), "");
    let mut whole = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    whole.append_data(&mut header, "file", &b"text"[..]).expect("entry");
    let whole = whole.into_inner().expect("archive");
    let noise: Vec<u8> = (0..2048_u32).map(|n| (n * 7 % 251) as u8).collect();
    let damaged = [&whole[..1024], &noise].concat();
    for (content, part) in [
        (noise, "is no tar archive, plain or compressed by gzip or zstd"),
        (damaged, "is damaged or cut off behind its file 1"),
        (whole, "holds neither manifest.json (docker save) nor index.json (an OCI image layout)"),
    ] {
        let path = directory.path().join("archive.tar");
        std::fs::write(&path, content).expect("file");
        let error = images.import(&path).await.err().expect("refused").to_string();
        assert_eq!(error, format!("{}: {part}", path.display()));
    }
    let error = images.import(Path::new("/none.tar")).await.err().expect("refused").to_string();
    assert_eq!(error, "/none.tar: cannot be read: No such file or directory (os error 2)");
}

/// A disk of one megabyte, unmounted at its end.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Disk {
        let disk = Disk(tempfile::tempdir().expect("directory"));
        let options = Some("size=1m");
        nix::mount::mount(Some("tmpfs"), disk.0.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), options)
            .expect("mount");
        disk
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_not_said_to_be_the_archives_or_the_layers_fault() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may mount a small disk");
        return;
    }
    // The first does not fit as it is, the other when it is unpacked.
    for compressed in [false, true] {
        let disk = Disk::new();
        let images = images(disk.0.path(), "");
        let mut content = image("", &"x".repeat(2 << 20)).0;
        let manifest = content.remove("/manifests/1").expect("manifest");
        let mut parsed: serde_json::Value = serde_json::from_slice(&manifest).expect("manifest");
        let digest = parsed["layers"][0]["digest"].as_str().expect("digest").to_owned();
        let mut layer = content.remove(&format!("/blobs/{digest}")).expect("layer");
        if compressed {
            layer = zstd::encode_all(&layer[..], 1).expect("compressed");
            parsed["layers"][0]["digest"] = digest_of(&layer).into();
        }
        let manifest = parsed.to_string().into_bytes();
        let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": parsed["mediaType"],
            "digest": digest_of(&manifest), "size": manifest.len()}]});
        let outside = tempfile::NamedTempFile::new().expect("archive");
        let mut archive = tar::Builder::new(outside.as_file());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).expect("entry");
        };
        add("index.json", index.to_string().as_bytes());
        let blobs = content.into_iter().filter(|(path, _)| path.contains("/blobs/")).map(|(_, bytes)| bytes);
        for bytes in blobs.chain([manifest, layer]) {
            add(&format!("blobs/{}", digest_of(&bytes).replace(':', "/")), &bytes);
        }
        archive.finish().expect("archive");
        let error = images.import(outside.path()).await.err().expect("refused").to_string();
        let store = format!("image store {}", disk.0.path().join("images/work").display());
        assert!(error.starts_with(&store) && error.contains("No space left on device"), "{compressed}: {error}");
        assert_eq!(error.matches("No space").count(), 1, "{error}");
    }
}

#[tokio::test]
async fn an_oci_archive_is_imported_by_its_name_also_through_a_nested_index() {
    let (content, digest) = image("", "packed");
    let (other, other_digest) = image("", "other");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let entry = |digest: &str, arch: &str| json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": arch}});
    let nested = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry(&other_digest, "s390x"), entry(&digest, arch)]})
    .to_string();
    let nested_digest = digest_of(nested.as_bytes());
    let plain = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
        "annotations": {"org.opencontainers.image.ref.name": "example.com/plain:1"}});
    let through = json!({"mediaType": "application/vnd.oci.image.index.v1+json", "digest": nested_digest, "size": 1,
        "annotations": {"io.containerd.image.name": "example.com/nested:1"}});
    let directory = tempfile::tempdir().expect("directory");
    for (entry, name) in [(plain, "example.com/plain:1"), (through, "example.com/nested:1")] {
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        let path = directory.path().join("archive.tar");
        let mut archive = tar::Builder::new(std::fs::File::create(&path).expect("archive"));
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, bytes).expect("entry");
        };
        add("oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#);
        add("index.json", index.as_bytes());
        add(&format!("blobs/sha256/{}", &nested_digest["sha256:".len()..]), nested.as_bytes());
        for (place, bytes) in content.iter().chain(&other) {
            let hex = place.rsplit(':').next().filter(|hex| hex.len() == 64);
            if let Some(hex) = hex {
                add(&format!("blobs/sha256/{hex}"), bytes);
            }
        }
        archive.into_inner().expect("archive");
        let place = tempfile::tempdir().expect("directory");
        let images = images(place.path(), "");
        let imported = images.import(&path).await.expect("imports");
        assert_eq!(imported.iter().map(|image| image.name.as_deref()).collect::<Vec<_>>(), [Some(name)]);
        let image = images.resolve(name).expect("found");
        assert_eq!(std::fs::read_to_string(image.layers[0].join("which")).expect("file"), "packed");
    }
}
