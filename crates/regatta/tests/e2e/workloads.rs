//! Upstream's walk-throughs of the workloads, with stock kubectl.

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};
use serde_json::Value;

/// Runs until it is told to end.
const IDLE: &str = "[sh, -c, 'trap exit TERM; while true; do sleep 1 & wait; done']";

/// A container of busybox with a command and whatever else.
fn container(command: &str, more: &str) -> String {
    format!("{{name: main, image: '{BUSYBOX}', imagePullPolicy: IfNotPresent, command: {command}{more}}}")
}

fn json(cluster: &Cluster, args: &[&str]) -> Value {
    let mut all = vec!["get", "-o", "json"];
    all.extend(args);
    serde_json::from_str(&cluster.kubectl(&all)).expect("JSON")
}

/// One field of an object, as kubectl's JSONPath gives it.
fn field(cluster: &Cluster, what: &str, path: &str) -> String {
    cluster.kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")])
}

fn until(cluster: &Cluster, what: &str, path: &str, expected: &str) {
    cluster.wait_for(&format!("{path} of {what} to be {expected:?}"), || {
        let found = cluster.try_kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")])?;
        if found == expected { Ok(()) } else { Err(found) }
    });
}

fn pods(cluster: &Cluster, selector: &str) -> Vec<Value> {
    let list = json(cluster, &["pods", "-l", selector]);
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items.into_iter().filter(|pod| pod["metadata"].get("deletionTimestamp").is_none()).collect()
}

fn web(name: &str, track: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec: {{replicas: {replicas}, \
         progressDeadlineSeconds: 15, selector: {{matchLabels: {{app: web, track: {track}}}}}, template: {{metadata: {{labels: \
         {{app: web, track: {track}}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{}]}}}}}}\n",
        container(IDLE, "")
    )
}

#[test]
fn a_deployment_is_updated_undone_paused_and_run_beside_a_canary() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply(&web("web", "stable", 3));
    let rollout = |args: &[&str]| cluster.kubectl(&[&["rollout"], args].concat());
    let done = rollout(&["status", "deployment/web", "--timeout=60s"]);
    assert!(done.contains("deployment \"web\" successfully rolled out"), "{done}");

    cluster.kubectl(&["set", "env", "deployment/web", "VERSION=2"]);
    rollout(&["status", "deployment/web", "--timeout=60s"]);
    let version = |pod: &Value| pod["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap_or("1").to_owned();
    let versions = || -> Vec<String> { pods(&cluster, "track=stable").iter().map(version).collect() };
    assert_eq!(versions(), ["2", "2", "2"]);
    let history = rollout(&["history", "deployment/web"]);
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");

    // An update that cannot work is told within its deadline, and harms nobody.
    cluster.kubectl(&["set", "image", "deployment/web", "main=regatta.test/none:1"]);
    let failed = cluster.try_kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).expect_err("fails");
    assert!(failed.contains("deployment \"web\" exceeded its progress deadline"), "{failed}");
    assert_eq!(field(&cluster, "deployment/web", ".status.readyReplicas"), "3");
    rollout(&["undo", "deployment/web"]);
    rollout(&["status", "deployment/web", "--timeout=60s"]);
    rollout(&["undo", "deployment/web", "--to-revision=1"]);
    rollout(&["status", "deployment/web", "--timeout=60s"]);
    assert_eq!(versions(), ["1", "1", "1"]);

    rollout(&["pause", "deployment/web"]);
    cluster.kubectl(&["set", "env", "deployment/web", "VERSION=5"]);
    cluster.kubectl(&["scale", "deployment/web", "--replicas=4"]);
    until(&cluster, "deployment/web", ".status.readyReplicas", "4");
    assert_eq!(versions(), ["1", "1", "1", "1"]);
    rollout(&["resume", "deployment/web"]);
    rollout(&["status", "deployment/web", "--timeout=60s"]);
    assert_eq!(versions(), ["5", "5", "5", "5"]);

    // A canary takes its share of the Service's requests.
    cluster.kubectl(&["create", "service", "clusterip", "web", "--tcp=80:80"]);
    cluster.apply(&web("canary", "canary", 1));
    rollout(&["status", "deployment/canary", "--timeout=60s"]);
    let endpoints = || {
        let slices = json(&cluster, &["endpointslices", "-l", "kubernetes.io/service-name=web"]);
        let slices = slices["items"].as_array().cloned().unwrap_or_default();
        slices.iter().map(|slice| slice["endpoints"].as_array().map_or(0, Vec::len)).sum::<usize>()
    };
    cluster.wait_for("five endpoints", || if endpoints() == 5 { Ok(()) } else { Err(endpoints().to_string()) });
    cluster.kubectl(&["delete", "deployment", "canary"]);
    cluster.wait_for("four endpoints", || if endpoints() == 4 { Ok(()) } else { Err(endpoints().to_string()) });
}

#[test]
fn a_stateful_set_starts_in_order_keeps_its_storage_and_is_updated_from_the_end() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let main = container(
        "[sh, -c, 'trap exit TERM; hostname >> /data/hosts; while true; do sleep 1 & wait; done']",
        ", volumeMounts: [{name: data, mountPath: /data}]",
    );
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec: {{clusterIP: None, selector: {{app: db}}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec: {{serviceName: db, replicas: 3, selector: {{matchLabels: \
         {{app: db}}}}, template: {{metadata: {{labels: {{app: db}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{main}]}}}}, \
         volumeClaimTemplates: [{{metadata: {{name: data}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: \
         1Mi}}}}}}}}]}}\n"
    ));
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    // Each was ready before the next one was made.
    let all = pods(&cluster, "app=db");
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    assert_eq!(all.iter().map(name).collect::<Vec<_>>(), ["db-0", "db-1", "db-2"]);
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready").expect("a condition");
        ready["lastTransitionTime"].as_str().unwrap_or_default().to_owned()
    };
    for pair in all.windows(2) {
        let (before, after) = (ready(&pair[0]), pair[1]["metadata"]["creationTimestamp"].as_str().unwrap_or_default());
        assert!(
            before.as_str() <= after,
            "{} was ready at {before}, {} made at {after}",
            name(&pair[0]),
            name(&pair[1])
        );
    }
    let claims = || cluster.kubectl(&["get", "pvc", "-o", "name"]).lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(claims(), [0, 1, 2].map(|ordinal| format!("persistentvolumeclaim/data-db-{ordinal}")));

    // A pod that is deleted comes back under its name and with its storage.
    cluster.kubectl(&["delete", "pod", "db-1"]);
    cluster.kubectl(&["wait", "pod/db-1", "--for=condition=Ready", "--timeout=60s"]);
    assert_eq!(cluster.kubectl(&["exec", "db-1", "--", "cat", "/data/hosts"]), "db-1\ndb-1\n");

    cluster.kubectl(&["scale", "statefulset/db", "--replicas=1"]);
    until(&cluster, "statefulset/db", ".status.replicas", "1");
    assert_eq!(pods(&cluster, "app=db").iter().map(name).collect::<Vec<_>>(), ["db-0"]);
    assert_eq!(claims().len(), 3, "storage stays");
    cluster.kubectl(&["scale", "statefulset/db", "--replicas=3"]);
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    assert_eq!(cluster.kubectl(&["exec", "db-2", "--", "cat", "/data/hosts"]), "db-2\ndb-2\n");

    // A phased update from the last one down.
    let partition = |partition: u32| {
        let patch = format!("{{\"spec\":{{\"updateStrategy\":{{\"rollingUpdate\":{{\"partition\":{partition}}}}}}}}}");
        cluster.kubectl(&["patch", "statefulset/db", "-p", &patch]);
    };
    partition(2);
    cluster.kubectl(&["set", "env", "statefulset/db", "VERSION=2"]);
    let told = cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    assert!(told.contains("1 new pods have been updated"), "{told}");
    let versions = || -> Vec<String> {
        let version = |pod: &Value| pod["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap_or("1").to_owned();
        pods(&cluster, "app=db").iter().map(version).collect()
    };
    assert_eq!(versions(), ["1", "1", "2"]);
    partition(0);
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    assert_eq!(versions(), ["2", "2", "2"]);
    cluster.kubectl(&["rollout", "undo", "statefulset/db"]);
    cluster.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    assert_eq!(versions(), ["1", "1", "1"]);
    cluster.kubectl(&["delete", "statefulset", "db", "--cascade=orphan"]);
    assert_eq!(pods(&cluster, "app=db").len(), 3);
}

#[test]
fn jobs_run_in_parallel_by_index_and_by_the_clock() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    let job = |name: &str, spec: &str, command: &str| {
        let main = container(command, "");
        cluster.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{spec}, template: {{spec: {{restartPolicy: Never, \
             containers: [{main}]}}}}}}\n"
        ));
    };
    // The first run comes within a minute, which the rest of the test takes.
    cluster.kubectl(&["create", "cronjob", "clock", "--image", BUSYBOX, "--schedule=*/1 * * * *", "--", "date"]);
    job("parallel", "completions: 5, parallelism: 2", "[sh, -c, 'echo done']");
    cluster.kubectl(&["wait", "job/parallel", "--for=condition=complete", "--timeout=60s"]);
    assert_eq!(field(&cluster, "job/parallel", ".status.succeeded"), "5");
    assert_eq!(pods(&cluster, "job-name=parallel").len(), 5);

    let spec = "completions: 3, parallelism: 3, completionMode: Indexed";
    job("indexed", spec, "[sh, -c, 'set foo bar baz; shift $JOB_COMPLETION_INDEX; echo $1 on $(hostname)']");
    cluster.kubectl(&["wait", "job/indexed", "--for=condition=complete", "--timeout=60s"]);
    assert_eq!(field(&cluster, "job/indexed", ".status.completedIndexes"), "0-2");
    for (index, word) in ["foo", "bar", "baz"].into_iter().enumerate() {
        let selector = format!("batch.kubernetes.io/job-completion-index={index}");
        let told = cluster.kubectl(&["logs", "-l", &selector]);
        assert_eq!(told.trim(), format!("{word} on indexed-{index}"));
    }

    let spec = "completions: 2, parallelism: 2, completionMode: Indexed, backoffLimitPerIndex: 0, maxFailedIndexes: 2";
    job("one-fails", spec, "[sh, -c, 'exit $JOB_COMPLETION_INDEX']");
    cluster.kubectl(&["wait", "job/one-fails", "--for=condition=failed", "--timeout=60s"]);
    let status = json(&cluster, &["job", "one-fails"])["status"].clone();
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&"0".into(), &"1".into()), "{status}");

    job("never", "backoffLimit: 0", "[sh, -c, 'exit 3']");
    cluster.kubectl(&["wait", "job/never", "--for=condition=failed", "--timeout=60s"]);
    let described = cluster.kubectl(&["describe", "job", "never"]);
    assert!(described.contains("BackoffLimitExceeded"), "{described}");

    job("held", "suspend: true, ttlSecondsAfterFinished: 0", "[sh, -c, 'exit 0']");
    until(&cluster, "job/held", ".status.conditions[0].type", "Suspended");
    assert!(pods(&cluster, "job-name=held").is_empty());
    cluster.kubectl(&["patch", "job/held", "-p", "{\"spec\":{\"suspend\":false}}"]);
    cluster.wait_for("the Job to run and go", || match cluster.try_kubectl(&["get", "job", "held"]) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });

    cluster.kubectl(&["create", "job", "by-hand", "--from=cronjob/clock"]);
    cluster.kubectl(&["wait", "job/by-hand", "--for=condition=complete", "--timeout=60s"]);
    cluster.wait_for("the clock", || {
        let events = cluster.try_kubectl(&["get", "events", "--field-selector=involvedObject.name=clock"])?;
        let told = ["SuccessfulCreate", "SawCompletedJob"].iter().all(|reason| events.contains(reason));
        if told { Ok(()) } else { Err(events) }
    });
    assert_ne!(field(&cluster, "cronjob/clock", ".status.lastScheduleTime"), "");
}

#[test]
fn a_node_is_drained_as_far_as_budgets_allow() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);
    cluster.import_images();
    cluster.apply(&web("web", "stable", 2));
    let agent = container(IDLE, "");
    cluster.apply(&format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec: {{selector: {{matchLabels: {{app: agent}}}}, template: \
         {{metadata: {{labels: {{app: agent}}}}, spec: {{terminationGracePeriodSeconds: 1, containers: [{agent}]}}}}}}\n"
    ));
    for what in ["deployment/web", "daemonset/agent"] {
        cluster.kubectl(&["rollout", "status", what, "--timeout=60s"]);
    }
    cluster.kubectl(&["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=1"]);
    until(&cluster, "pdb/web", ".status.disruptionsAllowed", "1");
    let drain = ["drain", "node", "--ignore-daemonsets", "--timeout=8s"];
    let refused = cluster.try_kubectl(&drain).expect_err("one pod has to stay");
    assert!(refused.contains("Cannot evict pod as it would violate the pod's disruption budget"), "{refused}");
    assert_eq!(field(&cluster, "deployment/web", ".status.readyReplicas"), "1");
    assert_eq!(field(&cluster, "node/node", ".spec.unschedulable"), "true");
    assert_eq!(pods(&cluster, "app=agent").len(), 1, "daemons stay");
    cluster.kubectl(&["delete", "pdb", "web"]);
    cluster.kubectl(&drain);
    cluster.kubectl(&["uncordon", "node"]);
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);

    // Daemons are updated and rolled back too.
    cluster.kubectl(&["set", "env", "daemonset/agent", "VERSION=2"]);
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    let version =
        || field(&cluster, "pods", ".items[?(@.metadata.labels.app==\"agent\")].spec.containers[0].env[0].value");
    assert_eq!(version(), "2");
    cluster.kubectl(&["rollout", "undo", "daemonset/agent"]);
    cluster.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    assert_eq!(version(), "");
}
