//! The stock kubectl against a server.

mod harness;

use harness::Cluster;

const WEB: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, labels: {app: web}}
data: {color: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'web:1', ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, nodePort: 30100}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_applies_reads_changes_and_deletes() {
    let cluster = Cluster::start().await;
    let applied = ["configmap/settings created", "deployment.apps/web created", "service/web created"].join("\n");
    let steps: &[(&[&str], &str, &str)] = &[
        (&["version"], "", "Server Version: v1.36"),
        (&["get", "namespaces"], "", "kube-system"),
        (&["api-resources"], "", "deployments"),
        (&["apply", "-f", "-"], WEB, &applied),
        (&["apply", "-f", "-"], WEB, "deployment.apps/web unchanged"),
        (&["get", "deployments,services", "-o", "wide"], "", "80:30100/TCP"),
        (&["get", "deployment", "web", "-o", "yaml"], "", "replicas: 2"),
        (&["scale", "deployment", "web", "--replicas=3"], "", "deployment.apps/web scaled"),
        (&["set", "image", "deployment/web", "web=web:2"], "", "image updated"),
        (
            &["get", "deployment", "web", "-o", "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}"],
            "",
            "3 web:2",
        ),
        (&["label", "configmap", "settings", "tier=front"], "", "labeled"),
        (&["annotate", "configmap", "settings", "note=x"], "", "annotated"),
        (
            &[
                "patch",
                "configmap",
                "settings",
                "--type=json",
                "-p",
                r#"[{"op":"replace","path":"/data/color","value":"red"}]"#,
            ],
            "",
            "patched",
        ),
        (&["get", "configmap", "settings", "-o", "jsonpath={.data.color}"], "", "red"),
        (&["get", "all", "-l", "app=web"], "", "service/web"),
        (&["create", "namespace", "other"], "", "created"),
        (&["apply", "--server-side", "--force-conflicts", "-f", "-"], WEB, "serverside-applied"),
        (&["explain", "deployment.spec.replicas"], "", "replicas"),
        (&["auth", "can-i", "create", "pods"], "", "yes"),
        (&["auth", "whoami"], "", "system:masters"),
        (&["delete", "deployment/web", "service/web", "configmap/settings"], "", "service \"web\" deleted"),
        (&["get", "all", "-l", "app=web"], "", ""),
    ];
    let mut failures = Vec::new();
    for (arguments, input, expected) in steps {
        let Some((ok, out, err)) = cluster.kubectl(arguments, input).await else { return };
        if !ok || !out.contains(expected) {
            failures.push(format!("kubectl {arguments:?}: {ok}\n{out}{err}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
