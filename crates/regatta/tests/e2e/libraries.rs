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
