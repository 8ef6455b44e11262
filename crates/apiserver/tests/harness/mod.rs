//! A server on loopback over a store in memory, with keys of its own, and clients for it.
#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

use std::process::Command;
use std::sync::Once;

use apiserver::{ApiServer, Config, KubeletDialer, Pki};
use client::{Credential, Endpoint, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use store::Store;
use tokio::net::TcpListener;

/// A running server.
pub struct Cluster {
    pub server: ApiServer,
    pub store: Store,
    pub url: String,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> Cluster {
        Self::with(Store::memory(), None).await
    }

    pub async fn with(store: Store, kubelet: Option<KubeletDialer>) -> Cluster {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let ca = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::new(params, key);
        let serving_key = KeyPair::generate().expect("a key");
        let mut params =
            CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("parameters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let serving = params.signed_by(&serving_key, &issuer).expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let config = Config {
            store: store.clone(),
            pki: Pki {
                client_ca: ca.clone(),
                serving_certificate: serving.pem(),
                serving_key: serving_key.serialize_pem(),
                service_account_key: KeyPair::generate().expect("a key").serialize_pem(),
            },
            service_cidr: "10.96.0.0/16".parse().expect("a range"),
            node_ports: (30000, 32767),
            // Endpoints may not be on loopback.
            advertise: "192.0.2.10:6443".parse().expect("an address"),
            kubelet,
        };
        let server = ApiServer::new(config).await.expect("a server");
        let serving = server.clone();
        tokio::spawn(async move { serving.serve_https(listener).await });
        let directory = tempfile::tempdir().expect("a directory");
        Cluster { server, store, url: format!("https://{address}"), ca, issuer, directory }
    }

    /// A client certificate and its key.
    pub fn credentials(&self, user: &str, groups: &[&str]) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, user);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    pub fn connect(&self, credential: Credential) -> kube::Client {
        let url = self.url.parse().expect("a URL");
        let endpoint = Endpoint::https(url, Some(self.ca.as_bytes()), credential).expect("an endpoint");
        client::connect(&endpoint, Identity::anonymous())
    }

    /// A client over HTTPS.
    pub fn https(&self, user: &str, groups: &[&str]) -> kube::Client {
        let (certificate, key) = self.credentials(user, groups);
        self.connect(Credential::Certificate { certificate, key })
    }

    /// A client in memory.
    pub fn memory(&self, identity: Identity) -> kube::Client {
        client::connect(&Endpoint::Memory(self.server.acceptor()), identity)
    }

    pub fn admin(&self) -> kube::Client {
        self.memory(Identity::admin("admin"))
    }

    /// A kubeconfig for an administrator.
    pub fn kubeconfig(&self) -> std::path::PathBuf {
        let (certificate, key) = self.credentials("admin", &["system:masters"]);
        let write = |name: &str, text: &str| {
            let path = self.directory.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let (ca, certificate, key) =
            (write("ca.crt", &self.ca), write("admin.crt", &certificate), write("admin.key", &key));
        let config = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster: {{server: '{}', certificate-authority: '{ca}'}}\n\
             contexts:\n- name: test\n  context: {{cluster: test, user: admin}}\nusers:\n- name: admin\n  user: {{client-certificate: '{certificate}', client-key: '{key}'}}\n",
            self.url
        );
        let path = self.directory.path().join("kubeconfig");
        std::fs::write(&path, config).expect("a file");
        path
    }

    /// Runs the stock kubectl; `None` where there is none. Gives its exit, output and errors.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Option<(bool, String, String)> {
        let Some(program) = std::env::var_os("KUBECTL") else {
            let whole = ["REGATTA_SPEC", "CI"].iter().any(|name| std::env::var_os(name).is_some());
            assert!(!whole, "needs KUBECTL, the stock kubectl");
            eprintln!("skipped: KUBECTL names no stock kubectl");
            return None;
        };
        let path = self.kubeconfig();
        let cache = self.directory.path().join("cache");
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let input = input.to_owned();
        let output = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            let mut child = Command::new(program)
                .env("KUBECONFIG", path)
                .env("KUBECACHEDIR", cache)
                .args(&arguments)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("kubectl starts");
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(input.as_bytes()).expect("kubectl reads");
            }
            child.wait_with_output().expect("kubectl ends")
        })
        .await
        .expect("kubectl ran");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Some((output.status.success(), text(output.stdout), text(output.stderr)))
    }
}

/// Sends a request and gives the status and the body as they are.
pub async fn raw(client: &kube::Client, request: http::Request<Vec<u8>>) -> (u16, http::HeaderMap, String) {
    use http_body_util::BodyExt;
    let response = client.send(request.map(kube::client::Body::from)).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&bytes).into_owned())
}

/// GET of a path.
pub async fn get(client: &kube::Client, path: &str) -> (u16, String) {
    let request = http::Request::get(path).body(Vec::new()).expect("a request");
    let (code, _, body) = raw(client, request).await;
    (code, body)
}

/// A request with a body of JSON, or of what `content` says.
pub async fn send(client: &kube::Client, method: &str, path: &str, content: &str, body: &str) -> (u16, api::Value) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content)
        .body(body.as_bytes().to_vec())
        .expect("a request");
    let (code, _, body) = raw(client, request).await;
    (code, serde_json::from_str(&body).unwrap_or(api::Value::String(body)))
}

/// A request whose answer does not take for ever.
pub async fn ask(client: &kube::Client, method: &str, path: &str, content: &str, body: &[u8]) -> (u16, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content)
        .body(body.to_vec())
        .expect("a request");
    let answered = tokio::time::timeout(std::time::Duration::from_secs(30), raw(client, request)).await;
    let (code, _, body) = answered.unwrap_or_else(|_| panic!("{method} {path} hangs"));
    (code, body)
}

/// What is wrong with an answer to something bad; nothing if all is well.
pub fn complaint(code: u16, body: &str) -> Option<String> {
    if code < 400 {
        return None;
    }
    let status: api::Value = serde_json::from_str(body).unwrap_or_default();
    let whole = status["kind"] == "Status"
        && status["status"] == "Failure"
        && status["code"] == code
        && status["reason"].as_str().is_some_and(|reason| !reason.is_empty())
        && status["message"].as_str().is_some_and(|message| !message.is_empty());
    let fits = match status["reason"].as_str().unwrap_or("") {
        "BadRequest" => code == 400,
        "NotFound" => code == 404,
        "MethodNotAllowed" => code == 405,
        "AlreadyExists" | "Conflict" => code == 409,
        "RequestEntityTooLarge" => code == 413,
        "UnsupportedMediaType" => code == 415,
        "Invalid" => code == 422,
        "Forbidden" => code == 403,
        "NotAcceptable" => code == 406,
        "Gone" | "Expired" => code == 410,
        _ => false,
    };
    (!whole || !fits).then(|| format!("{code} {body:.300}"))
}
