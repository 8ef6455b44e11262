//! Jobs, StatefulSets and DaemonSets do what their documentation says.

use k8s_openapi::api::{
    apps::v1::{DaemonSet, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{PersistentVolumeClaim, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::harness::Cluster;

fn job(name: &str, phase: &str, spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": name}, "spec": {"template": {
        "metadata": {"annotations": {"test/phase": phase}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "work:1"}]}}}});
    job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    job
}

fn has(job: &Job, kind: &str) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_to_completion_and_counts_each_pod_once() {
    let cluster = Cluster::with_node().await;
    cluster.make::<Job>(job("work", "Succeeded", json!({"completions": 12, "parallelism": 4}))).await;
    let work = cluster.until_one::<Job>("work", "complete", |job| has(job, "Complete")).await;
    let status = work.status.unwrap();
    assert_eq!((status.succeeded, status.failed, status.active), (Some(12), None, None));
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    let pods =
        cluster.until::<Pod>("no finalizers", |pods| pods.iter().all(|pod| pod.metadata.finalizers.is_none())).await;
    assert_eq!(pods.len(), 12);
    cluster.delete::<Job>("work", DeleteParams::background()).await;
    cluster.until::<Pod>("all gone", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_index_of_an_indexed_job_completes_once() {
    let cluster = Cluster::with_node().await;
    let spec = json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed", "ttlSecondsAfterFinished": 0});
    cluster.make::<Job>(job("work", "Succeeded", spec)).await;
    let mut changes = cluster.caches.get::<Pod>().subscribe();
    cluster.until::<Job>("done, and cleaned up after", |jobs| jobs.is_empty()).await;
    let mut names = std::collections::BTreeSet::new();
    while let Some(change) = changes.try_next() {
        names.insert(change.key.name[.."work-0".len()].to_owned());
    }
    assert!(names.len() <= 5 && names.iter().all(|name| name.starts_with("work-")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_says_why() {
    let cluster = Cluster::with_node().await;
    cluster.make::<Job>(job("work", "Failed", json!({"backoffLimit": 0}))).await;
    let work = cluster.until_one::<Job>("work", "failed", |job| has(job, "Failed")).await;
    let conditions = work.status.clone().unwrap().conditions.unwrap();
    let failed = conditions.iter().find(|condition| condition.type_ == "Failed").unwrap();
    assert_eq!(failed.reason.as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(work.status.unwrap().failed, Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_has_names_storage_and_an_order() {
    let cluster = Cluster::with_node().await;
    let template = |image: &str| json!({"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
    cluster
        .make::<StatefulSet>(json!({"metadata": {"name": "db"}, "spec": {"replicas": 3, "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}}, "template": template("db:1"),
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}}]}}))
        .await;
    let settled = |set: &StatefulSet| {
        let status = set.status.clone().unwrap_or_default();
        status.ready_replicas == Some(3)
            && status.updated_replicas == Some(3)
            && status.current_revision == status.update_revision
    };
    cluster.until_one::<StatefulSet>("db", "three ready", settled).await;
    let pods = cluster.until::<Pod>("three", |pods| pods.len() == 3).await;
    let names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    let claims = cluster.until::<PersistentVolumeClaim>("claims", |claims| claims.len() == 3).await;
    assert_eq!(claims[0].metadata.name.as_deref(), Some("data-db-0"));
    let mut changes = cluster.caches.get::<Pod>().subscribe();
    while changes.try_next().is_some() {}
    cluster.patch::<StatefulSet>("db", json!({"spec": {"template": template("db:2")}})).await;
    cluster
        .until::<Pod>("updated", |pods| {
            pods.len() == 3
                && pods.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("db:2"))
        })
        .await;
    cluster.until_one::<StatefulSet>("db", "settled", settled).await;
    let mut gone = Vec::new();
    while let Some(change) = changes.try_next() {
        if change.new.is_none() {
            gone.push(change.key.name.to_string());
        }
    }
    assert_eq!(gone, ["db-2", "db-1", "db-0"], "from the last one down");
    cluster.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    cluster.until::<Pod>("one", |pods| pods.len() == 1).await;
    assert_eq!(cluster.caches.get::<PersistentVolumeClaim>().list_ns("default").len(), 3, "storage is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_runs_on_every_node_that_matches() {
    let cluster = Cluster::with_node().await;
    let template = |image: &str| json!({"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}]}});
    cluster
        .make::<DaemonSet>(json!({"metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": template("agent:1")}}))
        .await;
    let counts = |set: &DaemonSet| {
        let status = set.status.clone().unwrap_or_default();
        (status.desired_number_scheduled, status.number_ready, status.updated_number_scheduled.unwrap_or(0))
    };
    cluster.until_one::<DaemonSet>("agent", "one pod", |set| counts(set) == (1, 1, 1)).await;
    cluster.patch::<DaemonSet>("agent", json!({"spec": {"template": template("agent:2")}})).await;
    cluster
        .until::<Pod>("updated", |pods| {
            pods.len() == 1 && pods[0].spec.as_ref().unwrap().containers[0].image.as_deref() == Some("agent:2")
        })
        .await;
    cluster
        .until_one::<DaemonSet>("agent", "counted", |set| {
            counts(set) == (1, 1, 1) && set.status.as_ref().unwrap().observed_generation == set.metadata.generation
        })
        .await;
    cluster.add_node("node-2").await;
    cluster.until::<Pod>("a second pod, for the second node", |pods| pods.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_that_missed_its_time_runs_once() {
    let cluster = Cluster::with_node().await;
    let mut cron = json!({"metadata": {"name": "cron"}, "spec": {"schedule": "* * * * *"}});
    cron["spec"]["jobTemplate"] = json!({"spec": job("x", "Succeeded", json!({}))["spec"]});
    cluster.make::<CronJob>(cron).await;
    // As if the last run was some time ago.
    let past = json!({"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}});
    cluster.api::<CronJob>().patch_status("cron", &Default::default(), &kube::api::Patch::Merge(past)).await.unwrap();
    let jobs = cluster.until::<Job>("one job", |jobs| jobs.iter().any(|job| has(job, "Complete"))).await;
    assert!(jobs.len() <= 2, "never one for each missed time");
    cluster
        .until_one::<CronJob>("cron", "noted", |cron| {
            let status = cron.status.clone().unwrap_or_default();
            status.last_successful_time.is_some() && status.active.is_none()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_follows_the_pods_that_it_selects() {
    let cluster = Cluster::with_node().await;
    cluster.make::<k8s_openapi::api::apps::v1::Deployment>(crate::workloads::deployment(3, "web:1")).await;
    cluster
        .make::<PodDisruptionBudget>(json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1,
        "selector": {"matchLabels": {"app": "web"}}}}))
        .await;
    cluster
        .until_one::<PodDisruptionBudget>("web", "one may go", |budget| {
            let status = budget.status.clone().unwrap_or_default();
            (status.disruptions_allowed, status.current_healthy, status.desired_healthy, status.expected_pods)
                == (Some(1), Some(3), Some(2), Some(3))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_without_a_selector_says_that_it_allows_nothing() {
    let cluster = Cluster::with_node().await;
    cluster.make::<PodDisruptionBudget>(json!({"metadata": {"name": "none"}, "spec": {"maxUnavailable": 1}})).await;
    cluster
        .until_one::<PodDisruptionBudget>("none", "observed", |budget| {
            let status = budget.status.clone().unwrap_or_default();
            (status.observed_generation, status.disruptions_allowed, status.expected_pods)
                == (Some(1), Some(0), Some(0))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_nobody_manages_are_told_of_and_do_not_close_a_budget() {
    let cluster = Cluster::with_node().await;
    cluster.make::<k8s_openapi::api::apps::v1::Deployment>(crate::workloads::deployment(2, "web:1")).await;
    cluster
        .make::<Pod>(json!({"metadata": {"name": "alone", "labels": {"app": "web", "pod-template-hash": "none"}},
            "spec": {"containers": [{"name": "c", "image": "web:1"}]}}))
        .await;
    cluster
        .make::<PodDisruptionBudget>(json!({"metadata": {"name": "web"}, "spec": {"maxUnavailable": 1,
        "selector": {"matchLabels": {"app": "web"}}}}))
        .await;
    cluster
        .until_one::<PodDisruptionBudget>("web", "open", |budget| {
            let status = budget.status.clone().unwrap_or_default();
            (status.disruptions_allowed, status.current_healthy, status.expected_pods) == (Some(2), Some(3), Some(2))
        })
        .await;
    let told = cluster.until_told("web", "UnmanagedPods").await;
    assert!(told.contains("(selector: &LabelSelector{MatchLabels:map[string]string{app: web,},"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_makes_of_a_cron_job_takes_no_part_in_its_schedule() {
    let cluster = Cluster::with_node().await;
    let mut cron =
        json!({"metadata": {"name": "cron"}, "spec": {"schedule": "0 0 1 1 *", "concurrencyPolicy": "Forbid"}});
    cron["spec"]["jobTemplate"] = json!({"spec": job("x", "Running", json!({}))["spec"]});
    let made = cluster.make::<CronJob>(cron).await;
    // As kubectl create job --from=cronjob/cron does.
    let mut manual = job("manual", "Running", json!({}));
    manual["metadata"]["annotations"] = json!({"cronjob.kubernetes.io/instantiate": "manual"});
    manual["metadata"]["ownerReferences"] = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "cron",
        "uid": made.metadata.uid, "controller": true}]);
    cluster.make::<Job>(manual).await;
    let told = cluster.until_told("cron", "UnexpectedJob").await;
    assert_eq!(told, "UnexpectedJob Saw a job that the controller did not create or forgot: manual");
    let cron = cluster.until_one::<CronJob>("cron", "there", |_| true).await;
    assert_eq!(cron.status.and_then(|status| status.active), None);
}
