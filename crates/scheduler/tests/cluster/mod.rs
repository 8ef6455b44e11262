//! The scheduler with the real API server in memory.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    future::Future,
    sync::{Arc, Mutex, Once},
    time::Duration,
};

use apiserver::{ApiServer, Config, Pki};
use client::{Caches, Endpoint, Identity};
use k8s_openapi::api::core::v1::{Event, Node, Pod, ServiceAccount};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
    client::Body,
};
use rcgen::{CertificateParams, KeyPair};
use scheduler::Options;
use serde_json::{Value, json};
use store::Store;
use tokio::sync::RwLock;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::service_fn;

pub struct Cluster {
    pub admin: kube::Client,
    pub server: ApiServer,
    options: Options,
    between: Box<dyn Fn(kube::Client) -> kube::Client + Send + Sync>,
    scheduler: Mutex<Option<(DropGuard, Life)>>,
}

/// Whether a scheduler may still write; held for reading by each of its requests.
type Life = Arc<RwLock<bool>>;

/// A client that can do nothing any more once its owner is dead.
fn mortal(inner: kube::Client, life: Life) -> kube::Client {
    let service = service_fn(move |request: http::Request<Body>| {
        let (inner, life) = (inner.clone(), life.clone());
        async move {
            let life = life.read().await;
            if !*life {
                return Err("the scheduler is dead".into());
            }
            inner.send(request).await.map_err(tower::BoxError::from)
        }
    });
    kube::Client::new(service, "default")
}

pub fn parse<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("an object of its kind")
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(Options::default(), |client| client).await
    }

    /// With other options, and with what stands between the scheduler and its server.
    pub async fn start_with(
        options: Options,
        between: impl Fn(kube::Client) -> kube::Client + Send + Sync + 'static,
    ) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap().pem();
        let config = Config {
            store: Store::memory(),
            pki: Pki {
                client_ca: certificate.clone(),
                serving_certificate: certificate,
                serving_key: key.serialize_pem(),
                service_account_key: KeyPair::generate().unwrap().serialize_pem(),
            },
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            node_ports: (30000, 32767),
            advertise: "127.0.0.1:6443".parse().unwrap(),
            kubelet: None,
        };
        let server = ApiServer::new(config).await.unwrap();
        let connect = |identity| client::connect(&Endpoint::Memory(server.acceptor()), identity);
        let admin = connect(Identity::admin("admin"));
        let account = parse(json!({"metadata": {"name": "default"}}));
        // A controller makes it in a whole cluster.
        _ = Api::<ServiceAccount>::namespaced(admin.clone(), "default").create(&PostParams::default(), &account).await;
        let (between, scheduler) = (Box::new(between), Mutex::default());
        let cluster = Self { admin, server, options, between, scheduler };
        cluster.restart().await;
        cluster
    }

    /// Stops the scheduler wherever it is, if it runs, and starts another one that knows nothing. What the old one has asked for
    /// is done or not done by then.
    pub async fn restart(&self) {
        let old = self.scheduler.lock().unwrap().take();
        if let Some((running, life)) = old {
            drop(running);
            *life.write().await = false;
        }
        let connect = |identity| (self.between)(client::connect(&Endpoint::Memory(self.server.acceptor()), identity));
        let (shutdown, life) = (CancellationToken::new(), Arc::new(RwLock::new(true)));
        let client = mortal(connect(Identity::component("system:kube-scheduler")), life.clone());
        let caches = Caches::new(connect(Identity::admin("caches")));
        tokio::spawn(scheduler::run(client, caches, self.options.clone(), shutdown.clone()));
        *self.scheduler.lock().unwrap() = Some((shutdown.drop_guard(), life));
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), "default")
    }

    pub async fn node(&self, name: &str, cpu: &str) {
        let nodes = Api::<Node>::all(self.admin.clone());
        let node = parse(json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}));
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {"allocatable": {"cpu": cpu, "memory": "32Gi", "pods": "110"}}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        // What a node controller does when a node is ready.
        let open = json!({"spec": {"taints": null}});
        nodes.patch(name, &PatchParams::default(), &Patch::Merge(open)).await.unwrap();
    }

    pub async fn pod(&self, name: &str, cpu: &str, spec: Value) {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"containers": [
            {"name": "c", "image": "web", "resources": {"requests": {"cpu": cpu}}}]}});
        pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.pods().create(&PostParams::default(), &parse(pod)).await.unwrap();
    }

    pub async fn node_of(&self, name: &str) -> Option<String> {
        self.pods().get(name).await.unwrap().spec.unwrap().node_name
    }

    /// The pod's condition `PodScheduled`: status, reason, message.
    pub async fn condition(&self, name: &str) -> Option<(String, String, String)> {
        let conditions = self.pods().get(name).await.unwrap().status?.conditions?;
        let it = conditions.into_iter().find(|it| it.type_ == "PodScheduled")?;
        Some((it.status, it.reason.unwrap_or_default(), it.message.unwrap_or_default()))
    }

    /// Makes any object.
    pub async fn create<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::<K>::namespaced(self.admin.clone(), "default")
            .create(&PostParams::default(), &parse(object))
            .await
            .unwrap()
    }

    /// Makes any object of the whole cluster.
    pub async fn create_global<K>(&self, object: Value) -> K
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
        K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope>,
    {
        Api::<K>::all(self.admin.clone()).create(&PostParams::default(), &parse(object)).await.unwrap()
    }

    pub async fn event(&self, pod: &str, reason: &str) -> Option<String> {
        let events = Api::<Event>::namespaced(self.admin.clone(), "default");
        let events = events.list(&ListParams::default()).await.unwrap();
        let about =
            |it: &&Event| it.involved_object.name.as_deref() == Some(pod) && it.reason.as_deref() == Some(reason);
        events.items.iter().find(about).and_then(|it| it.message.clone())
    }
}

/// What is so in the end, or a failure after half a minute.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never {what}"))
}
