//! Client libraries: Python's `kubernetes` and Rust's `kube`.

use crate::cluster::{BUSYBOX, Cluster, Machine, possible, text};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    Api, AttachParams, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchParams,
};
use kube::core::WatchEvent;
use kube::discovery::{Discovery, Scope};
use kube::{Client, Config, Error, config::Kubeconfig};
use serde_json::json;

#[test]
fn pythons_client_works() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = machine.command("timeout");
    command.args(["120", &python, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/libraries/client.py")]);
    command.env("KUBECONFIG", cluster.data.join("kubeconfig.yaml"));
    let output = command.output().expect("Python runs");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out == "done\n", "{out}{err}\n{}", cluster.log());
}

#[test]
fn rusts_client_works() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    // The thread and its runtime are inside the machine's network.
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            machine.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(use_kube(&cluster));
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

async fn use_kube(cluster: &Cluster<'_>) {
    let file = Kubeconfig::read_from(cluster.data.join("kubeconfig.yaml")).expect("kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &Default::default()).await.expect("configuration");
    let client = Client::try_from(config).expect("client");
    assert_eq!(client.apiserver_version().await.expect("version").minor, "36");
    objects(&client).await;
    pods(&client).await;
    dynamic(&client).await;
    messages(&client).await;
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": value}})).expect("a config map")
}

async fn objects(client: &Client) {
    let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let revision = api.list(&ListParams::default()).await.expect("list").metadata.resource_version.expect("revision");
    let made = api.create(&PostParams::default(), &config_map("a", "1")).await.expect("create");
    let again = api.create(&PostParams::default(), &config_map("a", "1")).await.expect_err("it exists");
    assert!(matches!(again, Error::Api(status) if status.reason == "AlreadyExists" && status.code == 409));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &config_map("dry", "1")).await.expect("dry run");
    assert!(api.get_opt("dry").await.expect("get").is_none());
    let mut next = made.clone();
    next.data = Some([("k".to_owned(), "2".to_owned())].into());
    api.replace("a", &PostParams::default(), &next).await.expect("replace");
    let stale = api.replace("a", &PostParams::default(), &next).await.expect_err("it has changed");
    assert!(matches!(stale, Error::Api(status) if status.reason == "Conflict"));
    let merge = Patch::Merge(json!({"metadata": {"labels": {"x": "y"}}}));
    api.patch("a", &PatchParams::default(), &merge).await.expect("merge");
    let mine = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "3"}});
    let refused = api.patch("a", &PatchParams::apply("rust"), &Patch::Apply(&mine)).await.expect_err("a conflict");
    assert!(matches!(refused, Error::Api(status) if status.message.contains("conflict with") && status.code == 409));
    let forced = api.patch("a", &PatchParams::apply("rust").force(), &Patch::Apply(&mine)).await.expect("apply");
    assert_eq!(forced.data.expect("data")["k"], "3");
    let bare = api.get_metadata("a").await.expect("metadata");
    assert_eq!(bare.metadata.labels.expect("labels")["x"], "y");
    let labelled = api.list_metadata(&ListParams::default().labels("x=y")).await.expect("list");
    assert_eq!(labelled.items.len(), 1);
    api.delete("a", &DeleteParams::default()).await.expect("delete");

    let mut seen = Vec::new();
    let watch = WatchParams::default().timeout(20).fields("metadata.name=a");
    let mut events = api.watch(&watch, &revision).await.expect("watch").boxed();
    while let Some(event) = events.try_next().await.expect("event") {
        seen.push(match event {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => break,
            _ => continue,
        });
    }
    assert_eq!(seen, ["added", "modified", "modified", "modified"]);
}

async fn pods(client: &Client) {
    let api: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "tool"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", "echo begun; exec sleep 600"]}]}});
    api.create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod")).await.expect("create");
    let watch = WatchParams::default().fields("metadata.name=tool").timeout(60);
    let mut events = api.watch(&watch, "0").await.expect("watch").boxed();
    loop {
        match events.try_next().await.expect("event").expect("it runs within a minute") {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod)
                if pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running") =>
            {
                break;
            }
            _ => {}
        }
    }
    assert_eq!(api.logs("tool", &Default::default()).await.expect("logs"), "begun\n");
    let mut process =
        api.exec("tool", ["cat"], &AttachParams::interactive_tty().tty(false).stderr(false)).await.expect("exec");
    let mut input = process.stdin().expect("input");
    tokio::io::AsyncWriteExt::write_all(&mut input, b"through\n").await.expect("write");
    let mut output = process.stdout().expect("output");
    let mut read = [0; 8];
    tokio::io::AsyncReadExt::read_exact(&mut output, &mut read).await.expect("read");
    assert_eq!(&read, b"through\n");
    process.abort();
    api.delete("tool", &DeleteParams::default().grace_period(0)).await.expect("delete");
}

async fn dynamic(client: &Client) {
    let discovery = Discovery::new(client.clone()).run_aggregated().await.expect("discovery");
    let group = discovery.get("apps").expect("apps");
    let (resource, abilities) = group.recommended_kind("Deployment").expect("deployments");
    assert!(matches!(abilities.scope, Scope::Namespaced) && abilities.subresources.len() == 2);
    let api: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 0, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": BUSYBOX}]}}}});
    api.patch("web", &PatchParams::apply("rust"), &Patch::Apply(&web)).await.expect("apply");
    let scaled = api.patch_scale("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 2}}))).await;
    assert_eq!(scaled.expect("scale").spec.expect("spec").replicas, Some(2));
    api.delete("web", &DeleteParams::foreground()).await.expect("delete");
}

/// Messages of the published `.proto` files, as far as they are looked at.
mod proto {
    use std::collections::HashMap;

    #[derive(prost::Message)]
    pub struct TypeMeta {
        #[prost(string, tag = "1")]
        pub api_version: String,
        #[prost(string, tag = "2")]
        pub kind: String,
    }

    #[derive(prost::Message)]
    pub struct Unknown {
        #[prost(message, optional, tag = "1")]
        pub type_meta: Option<TypeMeta>,
        #[prost(bytes, tag = "2")]
        pub raw: Vec<u8>,
    }

    #[derive(Clone, prost::Message)]
    pub struct ObjectMeta {
        #[prost(string, tag = "1")]
        pub name: String,
        #[prost(string, tag = "3")]
        pub namespace: String,
        #[prost(string, tag = "5")]
        pub uid: String,
        #[prost(string, tag = "6")]
        pub resource_version: String,
        #[prost(map = "string, string", tag = "11")]
        pub labels: HashMap<String, String>,
    }

    #[derive(prost::Message)]
    pub struct ConfigMap {
        #[prost(message, optional, tag = "1")]
        pub metadata: Option<ObjectMeta>,
        #[prost(map = "string, string", tag = "2")]
        pub data: HashMap<String, String>,
        #[prost(map = "string, bytes", tag = "3")]
        pub binary_data: HashMap<String, Vec<u8>>,
    }

    #[derive(prost::Message)]
    pub struct ListMeta {
        #[prost(string, tag = "2")]
        pub resource_version: String,
        #[prost(string, tag = "3")]
        pub more: String,
    }

    #[derive(prost::Message)]
    pub struct ConfigMapList {
        #[prost(message, optional, tag = "1")]
        pub metadata: Option<ListMeta>,
        #[prost(message, repeated, tag = "2")]
        pub items: Vec<ConfigMap>,
    }

    #[derive(prost::Message)]
    pub struct Status {
        #[prost(string, tag = "3")]
        pub message: String,
        #[prost(string, tag = "4")]
        pub reason: String,
        #[prost(int32, tag = "6")]
        pub code: i32,
    }

    #[derive(prost::Message)]
    pub struct Raw {
        #[prost(bytes, tag = "1")]
        pub raw: Vec<u8>,
    }

    #[derive(prost::Message)]
    pub struct WatchEvent {
        #[prost(string, tag = "1")]
        pub kind: String,
        #[prost(message, optional, tag = "2")]
        pub object: Option<Raw>,
    }
}

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

fn wrapped(kind: &str, message: &impl prost::Message) -> Vec<u8> {
    let type_meta = Some(proto::TypeMeta { api_version: "v1".to_owned(), kind: kind.to_owned() });
    let envelope = proto::Unknown { type_meta, raw: message.encode_to_vec() };
    [MAGIC, &prost::Message::encode_to_vec(&envelope)].concat()
}

fn unwrapped<M: prost::Message + Default>(kind: &str, bytes: &[u8]) -> M {
    let envelope: proto::Unknown =
        prost::Message::decode(bytes.strip_prefix(MAGIC).expect("the magic number")).expect("an envelope");
    assert_eq!(envelope.type_meta.map(|meta| meta.kind).as_deref(), Some(kind));
    M::decode(&envelope.raw[..]).expect("a message")
}

/// One request in protobuf, as those make it who generate their types from the published files.
async fn exchange(client: &Client, method: &str, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header("accept", PROTOBUF).header("content-type", PROTOBUF).body(body.into());
    let response = client.send(request.expect("a request")).await.expect("an answer");
    assert_eq!(response.headers()["content-type"], PROTOBUF, "{method} {path}");
    let code = response.status().as_u16();
    (code, http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes().to_vec())
}

async fn messages(client: &Client) {
    const MAPS: &str = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| proto::ConfigMap {
        metadata: Some(proto::ObjectMeta {
            name: name.to_owned(),
            labels: [("form".to_owned(), "protobuf".to_owned())].into(),
            ..Default::default()
        }),
        data: [("k".to_owned(), "é".to_owned())].into(),
        binary_data: [("b".to_owned(), vec![0, 255, 1])].into(),
    };
    let (code, made) = exchange(client, "POST", MAPS, wrapped("ConfigMap", &map("p1"))).await;
    let made: proto::ConfigMap = unwrapped("ConfigMap", &made);
    let meta = made.metadata.clone().expect("metadata");
    assert!(code == 201 && !meta.uid.is_empty() && meta.namespace == "default", "{code} {meta:?}");
    assert_eq!((made.data, made.binary_data), (map("p1").data, map("p1").binary_data));
    let (code, refused) = exchange(client, "POST", MAPS, wrapped("ConfigMap", &map("p1"))).await;
    let refused: proto::Status = unwrapped("Status", &refused);
    assert_eq!((code, refused.code, refused.reason.as_str()), (409, 409, "AlreadyExists"), "{}", refused.message);
    exchange(client, "POST", MAPS, wrapped("ConfigMap", &map("p2"))).await;
    let (_, page) = exchange(client, "GET", &format!("{MAPS}?labelSelector=form%3Dprotobuf&limit=1"), Vec::new()).await;
    let page: proto::ConfigMapList = unwrapped("ConfigMapList", &page);
    let more = page.metadata.expect("metadata").more;
    let (_, rest) =
        exchange(client, "GET", &format!("{MAPS}?labelSelector=form%3Dprotobuf&limit=1&continue={more}"), Vec::new())
            .await;
    let rest: proto::ConfigMapList = unwrapped("ConfigMapList", &rest);
    let names: Vec<_> = page.items.into_iter().chain(rest.items).filter_map(|m| m.metadata).map(|m| m.name).collect();
    assert_eq!(names, ["p1", "p2"]);
    let changed = proto::ConfigMap {
        metadata: Some(meta.clone()),
        data: [("k".to_owned(), "2".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(exchange(client, "PUT", &format!("{MAPS}/p1"), wrapped("ConfigMap", &changed)).await.0, 200);
    assert_eq!(exchange(client, "PUT", &format!("{MAPS}/p1"), wrapped("ConfigMap", &changed)).await.0, 409);
    let (_, gone) = exchange(client, "DELETE", &format!("{MAPS}/p1"), Vec::new()).await;
    assert!(gone.starts_with(MAGIC));

    let from = &meta.resource_version;
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dp1&resourceVersion={from}");
    let request = http::Request::get(path).header("accept", format!("{PROTOBUF};stream=watch"));
    let response = client.send(request.body(Vec::new().into()).expect("a request")).await.expect("an answer");
    let frames = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    let (mut frames, mut seen) = (&frames[..], Vec::new());
    while let Some((length, rest)) = frames.split_first_chunk::<4>() {
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        let event: proto::WatchEvent = prost::Message::decode(frame).expect("an event");
        let map: proto::ConfigMap = unwrapped("ConfigMap", &event.object.expect("an object").raw);
        seen.push((event.kind, map.data["k"].clone()));
        frames = rest;
    }
    assert_eq!(seen, [("MODIFIED".to_owned(), "2".to_owned()), ("DELETED".to_owned(), "2".to_owned())]);
}
