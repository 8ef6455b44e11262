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

const MANY: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: many}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: many}
---
apiVersion: v1
kind: Secret
metadata: {name: s, namespace: many}
stringData: {password: hunter2}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: cj, namespace: many}
spec:
  schedule: '*/5 * * * *'
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: j, namespace: many}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: many}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds, namespace: many}
spec:
  selector: {matchLabels: {app: ds}}
  template: {metadata: {labels: {app: ds}}, spec: {containers: [{name: c, image: i}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: in, namespace: many}
spec:
  rules: [{host: x.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np, namespace: many}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim, namespace: many}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: pdb, namespace: many}
spec: {minAvailable: 1, selector: {matchLabels: {app: db}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: hpa, namespace: many}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: StatefulSet, name: db}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: many}
rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: rb, namespace: many}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects: [{kind: ServiceAccount, name: robot, namespace: many}]
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: quota, namespace: many}
spec: {hard: {pods: '1', configmaps: '3'}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: lr, namespace: many}
spec: {limits: [{type: Container, default: {cpu: 500m}, defaultRequest: {cpu: 100m}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: many, labels: {app: db}}
spec: {serviceAccountName: robot, containers: [{name: c, image: 'i:1'}]}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: lease, namespace: many}
spec: {holderIdentity: me, leaseDurationSeconds: 15}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: fast}
provisioner: example.com/x
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_with_all_kinds_of_objects() {
    let cluster = Cluster::start().await;
    let second = "apiVersion: v1\nkind: Pod\nmetadata: {name: q, namespace: many}\nspec: {serviceAccountName: robot, containers: [{name: c, image: i}]}\n";
    let steps: &[(&[&str], &str, bool, &str)] = &[
        (&["apply", "-f", "-"], MANY, true, "storageclass.storage.k8s.io/fast created"),
        (&["diff", "-f", "-"], MANY, true, ""),
        (&["apply", "-f", "-"], MANY, true, "pod/p unchanged"),
        (
            &["create", "-f", "-"],
            second,
            false,
            "exceeded quota: quota, requested: pods=1, used: pods=1, limited: pods=1",
        ),
        (&["-n", "many", "get", "quota", "quota", "-o", "jsonpath={.status.used}"], "", true, r#""pods":"1""#),
        (
            &["-n", "many", "get", "pod", "p", "-o", "jsonpath={.spec.containers[0].resources.requests.cpu}"],
            "",
            true,
            "100m",
        ),
        (
            &["-n", "many", "get", "all,ingress,pvc,pdb,hpa,secrets,sa,netpol,roles,rolebindings,leases,limits"],
            "",
            true,
            "cronjob.batch/cj",
        ),
        (&["get", "pods", "-A", "-o", "wide"], "", true, "many"),
        (&["-n", "many", "describe", "pod", "p"], "", true, "Service Account:  robot"),
        (&["-n", "many", "describe", "ns", "many"], "", true, "Resource Quotas"),
        (&["-n", "many", "get", "secret", "s", "-o", "jsonpath={.data.password}"], "", true, "aHVudGVyMg=="),
        (&["-n", "many", "create", "token", "robot"], "", true, "eyJ"),
        (&["-n", "many", "events"], "", true, ""),
        (&["-n", "many", "autoscale", "statefulset", "db", "--name=other", "--max=2"], "", true, "autoscaled"),
        (&["-n", "many", "rollout", "restart", "statefulset/db"], "", true, "restarted"),
        (&["-n", "many", "create", "configmap", "c1", "--from-literal=a=b"], "", true, "created"),
        (&["-n", "many", "create", "job", "manual", "--from=cronjob/cj"], "", true, "created"),
        (&["-n", "many", "run", "r", "--image=i"], "", false, "error looking up service account many/default"),
        (&["-n", "many", "get", "pod", "p", "--show-managed-fields", "-o", "yaml"], "", true, "f:containers:"),
        (&["-n", "many", "explain", "pod.spec.containers.resources"], "", true, "limits"),
        (&["-n", "many", "delete", "pod", "p", "--now"], "", true, "deleted"),
        (&["-n", "many", "wait", "--for=delete", "pod/p", "--timeout=5s"], "", true, ""),
        (&["-n", "many", "get", "quota", "quota", "-o", "jsonpath={.status.used}"], "", true, r#""pods":"0""#),
        (&["-n", "many", "delete", "cm,job,cronjob,statefulset,ds", "--all"], "", true, "deleted"),
        (&["delete", "ns", "many", "--wait=false"], "", true, "deleted"),
        (&["get", "--raw", "/readyz?verbose"], "", true, "readyz check passed"),
        (&["get", "--raw", "/metrics"], "", true, "apiserver_request_total"),
        (&["get", "flowschemas,prioritylevelconfigurations,clusterroles,priorityclasses"], "", true, "cluster-admin"),
        (&["get", "events.events.k8s.io,csr,runtimeclasses,csinodes,endpointslices", "-A"], "", true, "kubernetes"),
    ];
    let mut failures = Vec::new();
    for (arguments, input, works, expected) in steps {
        let Some((ok, out, err)) = cluster.kubectl(arguments, input).await else { return };
        if ok != *works || !(out.contains(expected) || err.contains(expected)) {
            failures.push(format!("kubectl {arguments:?}: {ok}\n{out}{err}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
