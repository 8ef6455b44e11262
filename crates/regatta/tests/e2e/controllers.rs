//! What the controllers promise, as upstream's documents say it, with stock kubectl: strategies, histories, adoption, policies of
//! Jobs and of budgets, taints, certificates, and how objects go.

use std::process::Stdio;

use crate::cluster::objects::name;
use crate::cluster::{BUSYBOX, Cluster, Machine, possible, text};

/// Runs until it is told to end.
const IDLE: &str = "[sh, -c, 'trap exit TERM; while true; do sleep 1 & wait; done']";

/// A pod's template or spec with one container of busybox.
fn spec(command: &str, more: &str) -> String {
    format!(
        "{{terminationGracePeriodSeconds: 1, {more} containers: [{{name: main, image: '{BUSYBOX}', imagePullPolicy: IfNotPresent, \
         command: {command}}}]}}"
    )
}

/// A workload whose pods have the label `app`.
fn workload(api: &str, kind: &str, name: &str, fields: &str) -> String {
    let selector = if kind == "ReplicationController" { "{app: NAME}" } else { "{matchLabels: {app: NAME}}" };
    let template = format!("{{metadata: {{labels: {{app: NAME}}}}, spec: {}}}", spec(IDLE, ""));
    format!(
        "apiVersion: {api}\nkind: {kind}\nmetadata: {{name: NAME}}\nspec: {{{fields}, selector: {selector}, template: {template}}}\n"
    )
    .replace("NAME", name)
}

fn cluster(machine: &Machine) -> Cluster<'_> {
    let cluster = Cluster::start(machine, &[]);
    cluster.import_images();
    cluster
}

fn rolled_out(cluster: &Cluster, what: &str) {
    cluster.kubectl(&["rollout", "status", what, "--timeout=60s"]);
}

#[test]
fn deployments_follow_their_strategy_and_keep_as_much_history_as_they_are_told() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = cluster(&machine);
    recreate(&cluster);
    history(&cluster);
    availability(&cluster);
}

/// `Recreate` ends every old pod before it makes a new one.
fn recreate(cluster: &Cluster) {
    cluster.apply(&workload("apps/v1", "Deployment", "again", "replicas: 2, strategy: {type: Recreate}"));
    rolled_out(cluster, "deployment/again");
    let watch = ["get", "pods", "-l", "app=again", "--watch", "--output-watch-events", "--no-headers"];
    let mut watch = cluster.kubectl_command(&watch).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    let old = cluster.until_pods("app=again", 2);
    cluster.kubectl(&["set", "env", "deployment/again", "VERSION=2"]);
    rolled_out(cluster, "deployment/again");
    watch.kill().expect("kill");
    let seen = text(&watch.wait_with_output().expect("output").stdout);
    // The kind of the event, the pod and its state.
    let events: Vec<(&str, &str, &str)> = seen
        .lines()
        .filter_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            Some((*words.first()?, *words.get(1)?, *words.get(3)?))
        })
        .collect();
    let is_new = |name: &str| old.iter().all(|one| one != name);
    let first_new = events.iter().position(|(kind, name, _)| *kind == "ADDED" && is_new(name)).expect("a new pod");
    // What has ended, or is gone, runs no more.
    let ended = |name: &String| {
        events[..first_new].iter().any(|(kind, event, state)| {
            event == name && (*kind == "DELETED" || matches!(*state, "Error" | "Completed"))
        })
    };
    assert!(old.iter().all(ended), "{seen}");
}

fn history(cluster: &Cluster) {
    cluster.apply(&workload("apps/v1", "Deployment", "short", "replicas: 1, revisionHistoryLimit: 1"));
    rolled_out(cluster, "deployment/short");
    for version in 2..=4 {
        cluster.kubectl(&["set", "env", "deployment/short", &format!("VERSION={version}")]);
        rolled_out(cluster, "deployment/short");
    }
    cluster.wait_for("one old ReplicaSet", || {
        let sets = cluster.try_kubectl(&["get", "rs", "-l", "app=short", "-o", "name"])?;
        if sets.lines().count() == 2 { Ok(()) } else { Err(sets) }
    });
    let told = cluster.kubectl(&["rollout", "history", "deployment/short"]);
    let revisions: Vec<_> =
        told.lines().filter_map(|line| line.split_whitespace().next()?.parse::<u32>().ok()).collect();
    assert_eq!(revisions, [3, 4], "{told}");
}

/// A pod counts only after it has been ready for so long.
fn availability(cluster: &Cluster) {
    cluster.apply(&workload("apps/v1", "Deployment", "slow", "replicas: 1, minReadySeconds: 5"));
    cluster.until_field("deployment/slow", ".status.readyReplicas", "1");
    assert_eq!(cluster.field("deployment/slow", ".status.availableReplicas"), "");
    cluster.until_field("deployment/slow", ".status.availableReplicas", "1");
    let pod = &cluster.pods("app=slow")[0];
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").expect("a condition");
    let ready: jiff::Timestamp = ready["lastTransitionTime"].as_str().and_then(|t| t.parse().ok()).expect("a time");
    let available = cluster.field("deployment/slow", ".status.conditions[?(@.type==\"Available\")].lastTransitionTime");
    let available: jiff::Timestamp = available.parse().expect("a time");
    assert!(available.duration_since(ready).as_secs() >= 4, "ready at {ready}, available at {available}");
}

#[test]
fn replicas_are_adopted_released_ranked_and_refused() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = cluster(&machine);
    for (api, kind, what, own) in [("v1", "ReplicationController", "rc", "ctl"), ("apps/v1", "ReplicaSet", "rs", "set")]
    {
        let object = format!("{what}/{own}");
        let selector = format!("app={own}");
        // A pod that is there already is taken in.
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {own}-first, labels: {{app: {own}}}}}\nspec: {}\n",
            spec(IDLE, "")
        ));
        cluster.apply(&workload(api, kind, own, "replicas: 2"));
        let names = cluster.until_pods(&selector, 2);
        assert!(names.contains(&format!("{own}-first")), "{names:?}");
        assert_eq!(cluster.field(&format!("pod/{own}-first"), ".metadata.ownerReferences[0].name"), own);
        cluster.until_field(&object, ".status.readyReplicas", "2");

        // One that no longer matches is let go, and replaced.
        cluster.kubectl(&["label", "pod", &format!("{own}-first"), "app=free", "--overwrite"]);
        cluster.until_field(&format!("pod/{own}-first"), ".metadata.ownerReferences", "");
        let names = cluster.until_pods(&selector, 2);
        cluster.until_field(&object, ".status.readyReplicas", "2");

        // The cheapest one to delete goes first.
        let cheap = format!("pod/{}", names[0]);
        cluster.kubectl(&["annotate", &cheap, "controller.kubernetes.io/pod-deletion-cost=-5"]);
        cluster.kubectl(&["scale", &object, "--replicas=1"]);
        assert_eq!(cluster.until_pods(&selector, 1), names[1..]);

        // What may not be made is told, and made when it may.
        cluster.kubectl(&["create", "quota", own, &format!("--hard=pods={}", cluster.pods("").len())]);
        cluster.until_field(&format!("quota/{own}"), ".status.used.pods", &cluster.pods("").len().to_string());
        cluster.kubectl(&["scale", &object, "--replicas=2"]);
        let reason = ".status.conditions[?(@.type==\"ReplicaFailure\")].reason";
        cluster.until_field(&object, reason, "FailedCreate");
        cluster.kubectl(&["delete", "quota", own]);
        cluster.until_pods(&selector, 2);
        cluster.until_field(&object, reason, "");

        // Its pods go with it, or stay.
        let cascade = if kind == "ReplicaSet" { "--cascade=orphan" } else { "--cascade=foreground" };
        cluster.kubectl(&["delete", &object, cascade]);
        let left = if kind == "ReplicaSet" { 2 } else { 0 };
        let left = cluster.until_pods(&selector, left);
        for pod in left {
            cluster.until_field(&format!("pod/{pod}"), ".metadata.ownerReferences", "");
        }
    }
}

#[test]
fn sets_update_on_deletion_surge_start_elsewhere_and_let_storage_go() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = cluster(&machine);
    let version = |pod: &str| cluster.field(&format!("pod/{pod}"), ".spec.containers[0].env[0].value");

    // A daemon whose pods change when they are deleted.
    cluster.apply(&workload("apps/v1", "DaemonSet", "agent", "updateStrategy: {type: OnDelete}"));
    cluster.until_field("ds/agent", ".status.numberReady", "1");
    cluster.kubectl(&["set", "env", "ds/agent", "VERSION=2"]);
    cluster.until_field("ds/agent", ".status.observedGeneration", "2");
    let old = cluster.until_pods("app=agent", 1);
    assert_eq!((version(&old[0]), cluster.field("ds/agent", ".status.updatedNumberScheduled")), Default::default());
    cluster.kubectl(&["delete", "pod", &old[0]]);
    cluster.until_field("ds/agent", ".status.updatedNumberScheduled", "1");
    assert_eq!(version(&cluster.until_pods("app=agent", 1)[0]), "2");

    // One that surges: the old one goes when the new one is ready.
    let surge = "updateStrategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}";
    cluster.apply(&workload("apps/v1", "DaemonSet", "surge", surge));
    cluster.until_field("ds/surge", ".status.numberReady", "1");
    let old = cluster.until_pods("app=surge", 1);
    // Of pods made in the same second it would be their names that say which is the older one.
    cluster.wait_for("the second to be over", || {
        let made = cluster.field(&format!("pod/{}", old[0]), ".metadata.creationTimestamp");
        let age = jiff::Timestamp::now().duration_since(made.parse().map_err(|e| format!("{made}: {e}"))?);
        if age.as_secs() > 0 { Ok(()) } else { Err(made) }
    });
    let broken = ["set", "image", "ds/surge", "main=regatta.test/none:1"];
    cluster.kubectl(&broken);
    cluster.until_pods("app=surge", 2);
    assert_eq!(cluster.field("ds/surge", ".status.numberAvailable"), "1");
    assert_eq!(cluster.field(&format!("pod/{}", old[0]), ".status.phase"), "Running");
    cluster.kubectl(&["set", "image", "ds/surge", &format!("main={BUSYBOX}")]);
    rolled_out(&cluster, "ds/surge");
    cluster.until_pods("app=surge", 1);

    // One that no node matches has no pod, until one does.
    let elsewhere = workload("apps/v1", "DaemonSet", "disks", "minReadySeconds: 0");
    cluster.apply(&elsewhere.replace("containers:", "nodeSelector: {disk: ssd}, containers:"));
    cluster.until_field("ds/disks", ".status.observedGeneration", "1");
    assert_eq!(cluster.field("ds/disks", ".status.desiredNumberScheduled"), "0");
    cluster.kubectl(&["label", "node", "node", "disk=ssd"]);
    cluster.until_field("ds/disks", ".status.numberReady", "1");
    cluster.kubectl(&["label", "node", "node", "disk-"]);
    cluster.until_pods("app=disks", 0);

    // A stateful set that starts at 5, all at once, and lets go of the storage of what is scaled away.
    let storage = "volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: \
                   {storage: 1Mi}}}}]";
    let fields = format!(
        "serviceName: db, replicas: 3, podManagementPolicy: Parallel, ordinals: {{start: 5}}, updateStrategy: {{type: OnDelete}}, \
         persistentVolumeClaimRetentionPolicy: {{whenScaled: Delete, whenDeleted: Delete}}, {storage}"
    );
    cluster.apply(&workload("apps/v1", "StatefulSet", "db", &fields));
    cluster.until_field("sts/db", ".status.readyReplicas", "3");
    assert_eq!(cluster.until_pods("app=db", 3), ["db-5", "db-6", "db-7"]);
    assert_eq!(cluster.field("pod/db-6", ".metadata.labels.apps\\.kubernetes\\.io/pod-index"), "6");
    cluster.kubectl(&["scale", "sts/db", "--replicas=2"]);
    cluster.until_pods("app=db", 2);
    cluster.until_gone("pvc/data-db-7");
    cluster.kubectl(&["set", "env", "sts/db", "VERSION=2"]);
    cluster.until_field("sts/db", ".status.observedGeneration", "3");
    assert_eq!(version("db-5"), "");
    cluster.kubectl(&["delete", "pod", "db-5"]);
    cluster.until_field("sts/db", ".status.updatedReplicas", "1");
    assert_eq!((version("db-5"), version("db-6")), ("2".to_owned(), String::new()));
    cluster.kubectl(&["delete", "sts", "db"]);
    cluster.until_gone("pvc/data-db-5");
    cluster.until_gone("pvc/data-db-6");
}

#[test]
fn jobs_end_as_their_policies_say() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = cluster(&machine);
    // Runs of the clock take up to two minutes, which the rest of the test takes too.
    for policy in ["Forbid", "Replace"] {
        cluster.apply(&format!(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: {}}}\nspec: {{schedule: '* * * * *', concurrencyPolicy: {policy}, \
             jobTemplate: {{spec: {{template: {{metadata: {{labels: {{app: {0}}}}}, spec: {}}}}}}}}}\n",
            policy.to_lowercase(),
            spec(IDLE, "restartPolicy: Never,")
        ));
    }
    clocks(&cluster);

    let job = |name: &str, fields: &str, command: &str| {
        cluster.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{{fields}, template: {{metadata: {{labels: {{app: \
             {name}}}}}, spec: {}}}}}\n",
            spec(command, "restartPolicy: Never,")
        ));
    };
    let ended = |name: &str, how: &str, reason: &str| {
        let what = format!("job/{name}");
        cluster.kubectl(&["wait", &what, &format!("--for=condition={how}"), "--timeout=60s"]);
        assert_eq!(cluster.field(&what, &format!(".status.conditions[?(@.type==\"{how}\")].reason")), reason);
    };

    let rule = "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}";
    job("fatal", &format!("backoffLimit: 6, {rule}"), "[sh, -c, 'exit 42']");
    ended("fatal", "Failed", "PodFailurePolicy");
    assert_eq!(cluster.field("job/fatal", ".status.failed"), "1");

    // A pod that is evicted is no failure of a Job that says so.
    let rule = "podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}";
    job("moved", &format!("backoffLimit: 0, {rule}"), "[sh, -c, 'trap \"exit 1\" TERM; sleep 1000 & wait']");
    let first = cluster.until_pods("app=moved", 1);
    cluster.kubectl(&["wait", &format!("pod/{}", first[0]), "--for=condition=Ready", "--timeout=60s"]);
    let eviction = format!(
        "{{\"apiVersion\": \"policy/v1\", \"kind\": \"Eviction\", \"metadata\": {{\"name\": \"{}\", \"namespace\": \"default\"}}}}",
        first[0]
    );
    let file = cluster.data.with_extension("eviction");
    std::fs::write(&file, eviction).expect("write");
    let path = format!("/api/v1/namespaces/default/pods/{}/eviction", first[0]);
    cluster.kubectl(&["create", "--raw", &path, "-f", file.to_str().expect("path")]);
    cluster.wait_for("another pod", || {
        let names: Vec<_> = cluster.pods("app=moved").iter().map(name).collect();
        if names.len() == 1 && names != first { Ok(()) } else { Err(format!("{names:?}")) }
    });
    assert_eq!(cluster.field("job/moved", ".status.conditions"), "");

    let policy =
        "completions: 3, parallelism: 3, completionMode: Indexed, successPolicy: {rules: [{succeededIndexes: '0'}]}";
    let command = "[sh, -c, 'trap exit TERM; [ $JOB_COMPLETION_INDEX = 0 ] || { sleep 1000 & wait; }']";
    job("leader", policy, command);
    ended("leader", "Complete", "SuccessPolicy");
    assert_eq!(cluster.field("job/leader", ".status.succeeded"), "1");

    job("late", "activeDeadlineSeconds: 1", IDLE);
    ended("late", "Failed", "DeadlineExceeded");
    cluster.until_pods("app=late", 0);

    job("others", "managedBy: example.com/someone", IDLE);
    job("held", "parallelism: 2, suspend: true", IDLE);
    cluster.until_field("job/held", ".status.conditions[0].type", "Suspended");
    cluster.kubectl(&["patch", "job/held", "-p", "{\"spec\":{\"suspend\":false}}"]);
    cluster.until_field("job/held", ".status.ready", "2");
    cluster.kubectl(&["patch", "job/held", "-p", "{\"spec\":{\"suspend\":true}}"]);
    cluster.until_pods("app=held", 0);
    assert_eq!(cluster.field("job/held", ".status.failed"), "", "suspension is no failure");
    assert_eq!(cluster.field("job/others", ".status"), "{}", "another controller's Job is let alone");

    // A failing pod is replaced only when it has ended.
    job(
        "patient",
        "podReplacementPolicy: Failed, backoffLimit: 3",
        "[sh, -c, 'trap \"sleep 3; exit 1\" TERM; sleep 1000 & wait']",
    );
    let slow = cluster.until_pods("app=patient", 1);
    cluster.kubectl(&["wait", &format!("pod/{}", slow[0]), "--for=condition=Ready", "--timeout=60s"]);
    cluster.kubectl(&["delete", "pod", &slow[0], "--wait=false", "--grace-period=10"]);
    cluster.until_field("job/patient", ".status.terminating", "1");
    assert_eq!(cluster.pods("app=patient").len(), 0);
    cluster.until_pods("app=patient", 1);

    missed(&cluster);
    // The second run of the clock was forbidden here, and took the first one's place there.
    let told = |object: &str, reason: &str| {
        let field = format!("--field-selector=involvedObject.name={object},reason={reason}");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(150);
        while cluster.kubectl(&["get", "events", &field, "-o", "name"]).is_empty() {
            assert!(
                std::time::Instant::now() < deadline,
                "no {reason} of {object}: {}",
                cluster.kubectl(&["get", "events"])
            );
            std::thread::sleep(std::time::Duration::from_millis(500));
        }
    };
    told("forbid", "JobAlreadyActive");
    assert_eq!(cluster.until_pods("app=forbid", 1).len(), 1);
    told("replace", "SuccessfulDelete");
    cluster.until_pods("app=replace", 1);
    assert_eq!(
        cluster.json(&["jobs"])["items"]
            .as_array()
            .map_or(0, |jobs| { jobs.iter().filter(|job| name(job).starts_with("replace-")).count() }),
        1
    );
}

fn clock(cluster: &Cluster, name: &str, fields: &str, command: &str) {
    cluster.apply(&format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: {name}}}\nspec: {{{fields}, jobTemplate: {{spec: {{backoffLimit: 0, \
         template: {{spec: {}}}}}}}}}\n",
        spec(command, "restartPolicy: Never,")
    ));
}

/// Schedules in a time zone, and histories of what ran. Runs by hand count in the histories too.
fn clocks(cluster: &Cluster) {
    let refused = ["create", "cronjob", "x", "--image=x", "--schedule=TZ=UTC 0 * * * *"];
    let refused = cluster.try_kubectl(&refused).expect_err("no time zone in a schedule");
    assert!(refused.contains("cannot use TZ or CRON_TZ in schedule"), "{refused}");
    let now = jiff::Timestamp::now();
    // In Nepal it is a quarter to when it is a full hour elsewhere: a time of the day that is now only there.
    let there = now.in_tz("Asia/Kathmandu").expect("a time zone");
    let at = |after: i64| {
        let time = there.saturating_add(jiff::SignedDuration::from_mins(after));
        format!("schedule: '{} {} * * *'", time.minute(), time.hour())
    };
    clock(cluster, "there", &format!("{}, timeZone: Asia/Kathmandu", at(1)), "[sh, -c, 'exit 0']");
    clock(cluster, "here", &at(1), "[sh, -c, 'exit 0']");
    for (name, command, limits) in [
        ("well", "exit 0", "successfulJobsHistoryLimit: 1"),
        ("badly", "exit 1", "failedJobsHistoryLimit: 2"),
        ("nothing", "exit 0", "successfulJobsHistoryLimit: 0"),
    ] {
        clock(cluster, name, &format!("schedule: '0 0 1 1 *', {limits}"), &format!("[sh, -c, '{command}']"));
        for number in 0..3 {
            cluster.kubectl(&["create", "job", &format!("{name}-{number}"), &format!("--from=cronjob/{name}")]);
        }
    }
    for (name, kept) in [("well", 1), ("badly", 2), ("nothing", 0)] {
        cluster.wait_for(&format!("{kept} Jobs of {name}"), || {
            let jobs = cluster.try_kubectl(&["get", "jobs", "--no-headers"])?;
            let own: Vec<&str> = jobs.lines().filter(|line| line.starts_with(name)).collect();
            let over = own.iter().all(|line| line.contains("Complete") || line.contains("Failed"));
            if own.len() == kept && over { Ok(()) } else { Err(jobs) }
        });
    }
    // Those that have yet to miss a time.
    for (name, deadline) in [("patient", ""), ("strict", ", startingDeadlineSeconds: 10")] {
        clock(cluster, name, &format!("schedule: '* * * * *', suspend: true{deadline}"), "[sh, -c, 'exit 0']");
    }
}

/// Who is suspended while its time comes makes up for it later, unless that is too late.
fn missed(cluster: &Cluster) {
    // Well after a full minute that both have missed, and well before the next one.
    cluster.wait_for("a time between two minutes", || {
        let made: jiff::Timestamp =
            cluster.field("cronjob/strict", ".metadata.creationTimestamp").parse().map_err(|e| format!("{e}"))?;
        let now = jiff::Timestamp::now();
        let (minute, second) = (now.as_second() / 60, now.as_second() % 60);
        if minute > made.as_second() / 60 && (15..45).contains(&second) { Ok(()) } else { Err(now.to_string()) }
    });
    let resume = |name: &str| cluster.kubectl(&["patch", "cronjob", name, "-p", "{\"spec\":{\"suspend\":false}}"]);
    let last = |name: &str| cluster.field(&format!("cronjob/{name}"), ".status.lastScheduleTime");
    let minute = jiff::Timestamp::now().as_second() / 60;
    resume("strict");
    resume("patient");
    cluster.wait_for("the missed run", || if last("patient").is_empty() { Err("none".to_owned()) } else { Ok(()) });
    let ran: jiff::Timestamp = last("patient").parse().expect("a time");
    assert_eq!(ran.as_second(), minute * 60);
    if jiff::Timestamp::now().as_second() / 60 == minute {
        assert_eq!(last("strict"), "", "it is too late for this one");
    }
    assert_ne!(last("there"), "");
    assert_eq!(last("here"), "");
}

#[test]
fn accounts_certificates_and_quotas_are_kept_as_they_should_be() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &[]);

    // A namespace's account and certificate come back, whatever becomes of them.
    cluster.kubectl(&["create", "namespace", "own"]);
    let of_own = |what: &str, path: &str| {
        cluster.try_kubectl(&["-n", "own", "get", what, "-o", &format!("jsonpath={{{path}}}")]).unwrap_or_default()
    };
    let until = |what: &str, path: &str, test: &dyn Fn(&str) -> bool| {
        cluster.wait_for(&format!("{path} of {what}"), || {
            let found = of_own(what, path);
            if test(&found) { Ok(found) } else { Err(found) }
        })
    };
    let uid = until("serviceaccount/default", ".metadata.uid", &|uid| !uid.is_empty());
    cluster.kubectl(&["-n", "own", "delete", "serviceaccount", "default"]);
    until("serviceaccount/default", ".metadata.uid", &|now| !now.is_empty() && now != uid);
    let map = "configmap/kube-root-ca.crt";
    let ca = until(map, ".data.ca\\.crt", &|ca| ca.starts_with("-----BEGIN CERTIFICATE-----"));
    cluster.kubectl(&["-n", "own", "patch", map, "-p", "{\"data\":{\"ca.crt\":\"wrong\",\"more\":\"x\"}}"]);
    until(map, ".data", &|data| data.contains("BEGIN") && !data.contains("more"));
    cluster.kubectl(&["-n", "own", "delete", map]);
    until(map, ".data.ca\\.crt", &|now| now == ca);

    // A Secret of an account gets its token, by which the account is known, and goes with it.
    cluster.apply(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot, namespace: own}\n---\napiVersion: v1\nkind: Secret\nmetadata: \
         {name: robot-token, namespace: own, annotations: {kubernetes.io/service-account.name: robot}}\ntype: \
         kubernetes.io/service-account-token\n",
    );
    let token = until("secret/robot-token", ".data.token", &|token| !token.is_empty());
    let token = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, token).expect("base64");
    let token = String::from_utf8(token).expect("a token");
    let server = cluster.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let as_robot = [
        "--kubeconfig=/dev/null",
        &format!("--server={server}"),
        "--insecure-skip-tls-verify",
        &format!("--token={token}"),
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ];
    assert_eq!(cluster.kubectl(&as_robot), "system:serviceaccount:own:robot");
    // The day of its last use is noted, and one that has been marked as old is not believed.
    let today = jiff::Timestamp::now().strftime("%F").to_string();
    let label = ".metadata.labels.kubernetes\\.io/legacy-token-last-used";
    until("secret/robot-token", label, &|day| *day >= *today);
    let tracking = "configmap/kube-apiserver-legacy-service-account-token-tracking";
    let since = cluster.kubectl(&["-n", "kube-system", "get", tracking, "-o", "jsonpath={.data.since}"]);
    assert!(since <= today, "{since}");
    let mark = |label: &str| cluster.kubectl(&["-n", "own", "label", "secret", "robot-token", label]);
    mark("kubernetes.io/legacy-token-invalid-since=2026-01-01");
    let refused = cluster.try_kubectl(&as_robot).expect_err("an old token");
    assert!(refused.contains("Unauthorized"), "{refused}");
    mark("kubernetes.io/legacy-token-invalid-since-");
    assert_eq!(cluster.kubectl(&as_robot), "system:serviceaccount:own:robot");
    // An account that lists a token loses it with its Secret.
    let listed = "{\"secrets\":[{\"name\":\"robot-token\"},{\"name\":\"other\"}]}";
    cluster.kubectl(&["-n", "own", "patch", "serviceaccount", "default", "-p", listed]);
    cluster.kubectl(&["-n", "own", "delete", "serviceaccount", "robot"]);
    until("secret/robot-token", ".metadata.name", &str::is_empty);
    until("serviceaccount/default", ".secrets[*].name", &|names| names == "other");
    let refused = cluster.try_kubectl(&as_robot).expect_err("nobody's token");
    assert!(refused.contains("Unauthorized"), "{refused}");

    // A quota is counted anew when somebody has written another count, and as objects come and go.
    cluster.kubectl(&["-n", "own", "create", "quota", "few", "--hard=count/configmaps=3,requests.storage=1Gi"]);
    let used = ".status.used.count/configmaps";
    until("quota/few", used, &|used| used == "1");
    cluster.kubectl(&["-n", "own", "create", "configmap", "a"]);
    cluster.kubectl(&["-n", "own", "create", "configmap", "b"]);
    let refused = cluster.try_kubectl(&["-n", "own", "create", "configmap", "c"]).expect_err("too many");
    let expected =
        "exceeded quota: few, requested: count/configmaps=1, used: count/configmaps=3, limited: count/configmaps=3";
    assert!(refused.contains(expected), "{refused}");
    let wrong = "{\"status\":{\"used\":{\"count/configmaps\":\"9\"}}}";
    cluster.kubectl(&["-n", "own", "patch", "quota", "few", "--subresource=status", "-p", wrong]);
    let more = "[{\"op\":\"replace\",\"path\":\"/spec/hard/count~1configmaps\",\"value\":\"7\"}]";
    cluster.kubectl(&["-n", "own", "patch", "quota", "few", "--type=json", "-p", more]);
    until("quota/few", ".status.hard.count/configmaps", &|hard| hard == "7");
    until("quota/few", used, &|used| used == "3");
    cluster.kubectl(&["-n", "own", "delete", "configmap", "a"]);
    until("quota/few", used, &|used| used == "2");

    // An owner in another namespace is none, and that is told; one that never was is gone.
    cluster.kubectl(&["create", "configmap", "owner"]);
    let uid = cluster.field("configmap/owner", ".metadata.uid");
    let owned = |name: &str, namespace: &str, uid: &str| {
        cluster.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}, ownerReferences: [{{apiVersion: v1, kind: \
             ConfigMap, name: owner, uid: {uid}}}]}}\n"
        ));
    };
    owned("abroad", "own", &uid);
    cluster.wait_for("the mistake to be told", || {
        let field = "--field-selector=involvedObject.name=abroad,reason=OwnerRefInvalidNamespace";
        let told = cluster.try_kubectl(&["-n", "own", "get", "events", field, "-o", "jsonpath={.items[*].message}"])?;
        let expected = format!(
            "ownerRef [v1/ConfigMap, namespace: own, name: owner, uid: {uid}] does not exist in namespace \"own\""
        );
        if told.contains(&expected) { Ok(()) } else { Err(told) }
    });
    until("configmap/abroad", ".metadata.name", &str::is_empty);
    owned("fatherless", "default", "00000000-0000-0000-0000-000000000000");
    cluster.until_gone("configmap/fatherless");

    // Two that own each other go together with the first of them.
    owned("child", "default", &uid);
    let child = cluster.field("configmap/child", ".metadata.uid");
    let patch = format!(
        "{{\"metadata\":{{\"ownerReferences\":[{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"name\":\"child\",\"uid\":\"{child}\",\
         \"blockOwnerDeletion\":true}}]}}}}"
    );
    cluster.kubectl(&["patch", "configmap", "owner", "-p", &patch]);
    cluster.kubectl(&["delete", "configmap", "owner", "--cascade=foreground", "--wait=false"]);
    cluster.until_gone("configmap/owner");
    cluster.until_gone("configmap/child");
}

#[test]
fn taints_certificates_roles_and_deletions_have_their_effects() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = cluster(&machine);
    taints(&cluster);
    certificates(&cluster);
    roles(&cluster);
    deletions(&cluster);
}

/// Who does not tolerate a taint goes at once, who does for a while goes then, who does stays.
fn taints(cluster: &Cluster) {
    let pod = |name: &str, tolerations: &str| {
        let spec = spec(IDLE, &format!("tolerations: [{tolerations}],"));
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    cluster.apply(
        &[
            pod("goes", ""),
            pod("waits", "{key: k, operator: Exists, effect: NoExecute, tolerationSeconds: 3}"),
            pod("stays", "{key: k, operator: Exists, effect: NoExecute}"),
        ]
        .concat(),
    );
    cluster.kubectl(&["wait", "pod/goes", "pod/waits", "pod/stays", "--for=condition=Ready", "--timeout=60s"]);
    cluster.kubectl(&["taint", "node", "node", "k=v:NoExecute"]);
    let since = std::time::Instant::now();
    cluster.until_gone("pod/goes");
    cluster.told("goes", "TaintManagerEviction", "Marking for deletion Pod default/goes");
    cluster.until_gone("pod/waits");
    assert!(since.elapsed().as_secs() >= 2, "gone after {:?}", since.elapsed());
    assert_eq!(cluster.field("pod/stays", ".status.phase"), "Running");
    cluster.kubectl(&["taint", "node", "node", "k-"]);
}

fn certificates(cluster: &Cluster) {
    use base64::Engine;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "jane");
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "people");
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = parameters.serialize_request(&key).and_then(|request| request.pem()).expect("a request");
    let request = base64::engine::general_purpose::STANDARD.encode(request);
    for name in ["jane", "denied"] {
        cluster.apply(&format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec: {{request: {request}, \
             signerName: kubernetes.io/kube-apiserver-client, expirationSeconds: 3600, usages: [client auth]}}\n"
        ));
    }
    assert!(cluster.kubectl(&["get", "csr", "jane"]).contains("Pending"));
    cluster.kubectl(&["certificate", "deny", "denied"]);
    cluster.kubectl(&["certificate", "approve", "jane"]);
    cluster.wait_for("the certificate", || {
        let shown = cluster.try_kubectl(&["get", "csr"])?;
        if shown.contains("Approved,Issued") && shown.contains("Denied") { Ok(()) } else { Err(shown) }
    });
    let certificate = cluster.field("csr/jane", ".status.certificate");
    let certificate = base64::engine::general_purpose::STANDARD.decode(certificate).expect("base64");
    let (crt, pem) = (cluster.data.with_extension("crt"), cluster.data.with_extension("key"));
    std::fs::write(&crt, certificate).expect("write");
    std::fs::write(&pem, key.serialize_pem()).expect("write");
    let (crt, pem) = (crt.to_str().expect("path"), pem.to_str().expect("path"));
    let config = cluster.data.with_extension("jane.yaml");
    std::fs::copy(cluster.data.join("kubeconfig.yaml"), &config).expect("copy");
    let config = format!("--kubeconfig={}", config.display());
    let user = cluster.kubectl(&["config", "view", "-o", "jsonpath={.users[0].name}"]);
    cluster.kubectl(&["config", &config, "unset", &format!("users.{user}")]);
    let keys = [format!("--client-certificate={crt}"), format!("--client-key={pem}")];
    cluster.kubectl(&["config", &config, "set-credentials", &user, &keys[0], &keys[1]]);
    let who = cluster.kubectl(&[&config, "auth", "whoami"]);
    assert!(who.contains("jane") && who.contains("people"), "{who}");
}

/// A role that is made of others has their rules, as they come and go.
fn roles(cluster: &Cluster) {
    cluster.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: whole}\naggregationRule: {clusterRoleSelectors: \
         [{matchLabels: {into: whole}}]}\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: part, \
         labels: {into: whole}}\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n",
    );
    cluster.until_field("clusterrole/whole", ".rules[0].resources[0]", "pods");
    cluster.kubectl(&["delete", "clusterrole", "part"]);
    cluster.until_field("clusterrole/whole", ".rules", "");
}

/// A namespace says what it waits for; owners take their dependents along, wait for them, or leave them.
fn deletions(cluster: &Cluster) {
    cluster.kubectl(&["create", "namespace", "full"]);
    cluster.until_field("namespace/full", ".status.phase", "Active");
    cluster.wait_for("the authority's certificate", || {
        cluster.try_kubectl(&["-n", "full", "get", "configmap", "kube-root-ca.crt"])
    });
    cluster.apply(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, namespace: full, finalizers: [example.com/hold]}\n",
    );
    cluster.kubectl(&["delete", "namespace", "full", "--wait=false"]);
    let reason = ".status.conditions[?(@.type==\"NamespaceFinalizersRemaining\")].message";
    let expected = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
    cluster.until_field("namespace/full", reason, expected);
    let refused = cluster.try_kubectl(&["-n", "full", "create", "configmap", "more"]).expect_err("it is going");
    assert!(refused.contains("because it is being terminated"), "{refused}");
    cluster.kubectl(&[
        "-n",
        "full",
        "patch",
        "configmap",
        "held",
        "--type=merge",
        "-p",
        "{\"metadata\":{\"finalizers\":null}}",
    ]);
    cluster.until_gone("namespace/full");

    let owned = |owner: &str, name: &str| {
        let uid = cluster.field(&format!("configmap/{owner}"), ".metadata.uid");
        cluster.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, finalizers: [example.com/hold], ownerReferences: [{{apiVersion: \
             v1, kind: ConfigMap, name: {owner}, uid: {uid}, blockOwnerDeletion: true}}]}}\n"
        ));
    };
    let release = |name: &str| {
        cluster.kubectl(&["patch", "configmap", name, "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"]);
    };
    for (owner, cascade) in [("first", "background"), ("last", "foreground"), ("never", "orphan")] {
        cluster.kubectl(&["create", "configmap", owner]);
        let dependent = format!("of-{owner}");
        owned(owner, &dependent);
        let dependent = format!("configmap/{dependent}");
        cluster.kubectl(&["delete", "configmap", owner, &format!("--cascade={cascade}"), "--wait=false"]);
        if cascade == "foreground" {
            cluster.wait_for("the dependent to go", || {
                let time = cluster.try_kubectl(&["get", &dependent, "-o", "jsonpath={.metadata.deletionTimestamp}"])?;
                if time.is_empty() { Err("it stays".to_owned()) } else { Ok(()) }
            });
            assert_eq!(cluster.field("configmap/last", ".metadata.finalizers[0]"), "foregroundDeletion");
            release("of-last");
            cluster.until_gone(&dependent);
        }
        cluster.until_gone(&format!("configmap/{owner}"));
        if cascade == "background" {
            release("of-first");
            cluster.until_gone(&dependent);
        }
        if cascade == "orphan" {
            cluster.until_field(&dependent, ".metadata.ownerReferences", "");
            release("of-never");
            assert_eq!(cluster.field(&dependent, ".metadata.deletionTimestamp"), "");
        }
    }
}
