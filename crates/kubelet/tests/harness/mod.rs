//! A kubelet on a runtime without processes, behind a real API server in memory.
#![allow(dead_code, reason = "each test binary uses its own part of the harness")]

pub mod fake;

use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Config, Pki};
use client::{Caches, Endpoint, Identity};
use fake::Fake;
use futures::FutureExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use kubelet::{Handle, Kubelet};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use store::Store;

pub struct Node {
    pub server: ApiServer,
    pub client: kube::Client,
    pub runtime: Arc<Fake>,
    pub kubelet: Option<Handle>,
    door: Arc<std::sync::Mutex<Option<kubelet::Server>>>,
    pub data: tempfile::TempDir,
}

impl Node {
    pub async fn start() -> Node {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let door: Arc<std::sync::Mutex<Option<kubelet::Server>>> = Arc::default();
        let opened = door.clone();
        let dialer: apiserver::KubeletDialer = Arc::new(move |_| {
            let (near, far) = tokio::io::duplex(64 * 1024);
            opened.lock().unwrap().as_ref().unwrap().accept(far);
            std::future::ready(Ok(Box::new(near) as Box<dyn apiserver::Stream>)).boxed()
        });
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let serving_key = KeyPair::generate().unwrap();
        let serving = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let serving = serving.signed_by(&serving_key, &issuer).unwrap();
        let server = ApiServer::new(Config {
            store: Store::memory(),
            pki: Pki {
                client_ca: ca,
                serving_certificate: serving.pem(),
                serving_key: serving_key.serialize_pem(),
                service_account_key: KeyPair::generate().unwrap().serialize_pem(),
            },
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            advertise: "192.0.2.1:6443".parse().unwrap(),
            kubelet: Some(dialer),
        })
        .await
        .unwrap();
        let client = client::connect(&Endpoint::Memory(server.acceptor()), Identity::admin("admin"));
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        accounts.create(&PostParams::default(), &account).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
        let root = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "x"}});
        maps.create(&PostParams::default(), &serde_json::from_value(root).unwrap()).await.unwrap();
        let data = tempfile::tempdir().unwrap();
        let mut node = Node { server, client, runtime: Fake::new(), kubelet: None, door, data };
        node.boot().await;
        node
    }

    /// Starts the kubelet, or starts it again in place of the one before.
    pub async fn boot(&mut self) {
        self.kubelet = None;
        let endpoint = Endpoint::Memory(self.server.acceptor());
        let caches = Caches::new(client::connect(&endpoint, Identity::admin("caches")));
        let kubelet = Kubelet::run(kubelet::Config {
            node_name: "node".into(),
            node_ips: vec!["192.0.2.1".parse().unwrap()],
            labels: Default::default(),
            taints: Vec::new(),
            client: client::connect(&endpoint, Identity::node("node")),
            pods: caches.get(),
            caches,
            runtime: self.runtime.clone(),
            images: self.runtime.clone(),
            data_dir: self.data.path().to_owned(),
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".into(),
            configuration: kubelet::Configuration::default(),
            manifests: None,
            credential_providers: kubelet::CredentialProviders::default(),
            pod_cgroups: None,
            port: None,
        })
        .await
        .unwrap();
        *self.door.lock().unwrap() = Some(kubelet.server().clone());
        kubelet.ready().await;
        self.kubelet = Some(kubelet);
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates a pod on the node; what the spec does not say is one container `a` that runs.
    pub async fn create(&self, name: &str, mut spec: Value) -> Pod {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "a", "image": "app", "command": ["run"]}]);
        }
        spec["nodeName"] = json!("node");
        let pod =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"l": "1"}}, "spec": spec})).unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Waits until the pod is as `wanted`, and gives it; what it was at the end is in the panic.
    pub async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..5000 {
            last = match self.pods().get_opt(name).await.unwrap() {
                Some(pod) => serde_json::to_value(pod).unwrap(),
                None => Value::Null,
            };
            if wanted(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{}", serde_json::to_string_pretty(&last["status"]).unwrap());
    }

    /// The reasons and messages of the pod's events.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(self.client.clone(), "default");
        let all = events.list(&Default::default()).await.unwrap();
        let mine = all.items.into_iter().filter(|e| e.involved_object.name.as_deref() == Some(name));
        mine.map(|e| format!("{}: {}", e.reason.unwrap_or_default(), e.message.unwrap_or_default())).collect()
    }
}

impl Drop for Node {
    /// Takes the volumes of pods that still run off the machine.
    fn drop(&mut self) {
        self.kubelet = None;
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        for point in
            points.filter(|p| std::path::Path::new(p).starts_with(self.data.path())).collect::<Vec<_>>().iter().rev()
        {
            let _ = nix::mount::umount2(*point, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// Whether the condition is true.
pub fn is(pod: &Value, condition: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == condition && c["status"] == "True")
}

pub fn ready(pod: &Value) -> bool {
    is(pod, "Ready")
}
