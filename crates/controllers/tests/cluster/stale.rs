//! Controllers whose caches are behind make nothing twice and delete nothing too much.
//!
//! Each test watches through caches of its own, which are not late, while those of the controllers are, each kind by another
//! time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod},
    },
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, PostParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{harness::Cluster, workloads::deployment};

const LAG: Duration = Duration::from_millis(400);

/// What became of the pods in the course of a test, from a watch of every change in its order.
#[derive(Clone)]
struct Course {
    pods: Api<Pod>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone, Default)]
struct Seen {
    /// The uids of those that are neither over nor on their way out, by name.
    active: BTreeMap<String, String>,
    /// The names of all that ever were, by uid.
    made: BTreeMap<String, String>,
    most: usize,
    least: usize,
}

/// The name and uid of a pod, and whether it counts.
fn facts(pod: &Pod) -> (String, String, bool) {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let counts = pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"));
    (pod.metadata.name.clone().unwrap(), pod.metadata.uid.clone().unwrap(), counts)
}

impl Course {
    async fn of(cluster: &Cluster) -> Course {
        let (pods, seen) = (cluster.api::<Pod>(), Arc::<Mutex<Seen>>::default());
        let mut changes = pods.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        let noting = seen.clone();
        tokio::spawn(async move {
            while let Some(Ok(change)) = changes.next().await {
                let (pod, gone) = match change {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
                    WatchEvent::Deleted(pod) => (pod, true),
                    _ => continue,
                };
                let (name, uid, counts) = facts(&pod);
                let mut seen = noting.lock().unwrap();
                seen.made.insert(uid.clone(), name.clone());
                if counts && !gone {
                    seen.active.insert(name, uid);
                } else {
                    seen.active.remove(&name);
                }
                let count = seen.active.len();
                (seen.most, seen.least) = (seen.most.max(count), seen.least.min(count));
            }
        });
        Course { pods, seen }
    }

    /// What has been seen once it is all that the server has.
    async fn so_far(&self) -> Seen {
        loop {
            let all = self.pods.list(&ListParams::default()).await.unwrap();
            let counting = all.items.iter().map(facts).filter(|(_, _, counts)| *counts);
            let present: BTreeMap<String, String> = counting.map(|(name, uid, _)| (name, uid)).collect();
            let seen = self.seen.lock().unwrap().clone();
            if seen.active == present && all.items.iter().all(|pod| seen.made.contains_key(&facts(pod).1)) {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Counts the most and the least from here on.
    async fn count_anew(&self) {
        self.so_far().await;
        let mut seen = self.seen.lock().unwrap();
        (seen.most, seen.least) = (seen.active.len(), seen.active.len());
    }
}

/// How many of a kind the server has.
async fn count<K>(cluster: &Cluster) -> usize
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
{
    cluster.api::<K>().list(&ListParams::default()).await.unwrap().items.len()
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}})
}

fn set(spec: Value) -> Value {
    let mut set = json!({"metadata": {"name": "x"}, "spec": {"selector": {"matchLabels": {"app": "x"}}, "template": template("x")}});
    set["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    set
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_set_never_has_more_pods_than_it_should_nor_fewer() {
    let cluster = Cluster::with_lag(LAG).await;
    let course = Course::of(&cluster).await;
    let size = |count: i32| {
        move |set: &ReplicaSet| set.status.clone().unwrap_or_default().ready_replicas.unwrap_or(0) == count
    };
    cluster.make::<ReplicaSet>(deployment(20, "web:1")).await;
    cluster.until_one::<ReplicaSet>("web", "twenty", size(20)).await;
    assert_eq!(course.so_far().await.made.len(), 20);
    cluster.patch::<ReplicaSet>("web", json!({"spec": {"replicas": 7}})).await;
    cluster.until_one::<ReplicaSet>("web", "seven", size(7)).await;
    cluster.until::<Pod>("seven pods", |pods| pods.len() == 7).await;
    let seen = course.so_far().await;
    assert_eq!((seen.made.len(), seen.most, seen.active.len()), (20, 20, 7));
    course.count_anew().await;
    for pod in seen.active.keys().take(3) {
        cluster.delete::<Pod>(pod, Default::default()).await;
    }
    cluster
        .until::<Pod>("seven again", |pods| {
            pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count() == 7
        })
        .await;
    cluster.until_one::<ReplicaSet>("web", "seven again", size(7)).await;
    let seen = course.so_far().await;
    assert_eq!((seen.made.len(), seen.most), (23, 7), "three came in the place of three");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_makes_one_set_for_each_template_and_keeps_within_its_bounds() {
    let cluster = Cluster::with_lag(LAG).await;
    let mut web = deployment(6, "web:1");
    web["spec"]["strategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}});
    cluster.make::<Deployment>(web).await;
    let rolled_out = |web: &Deployment| {
        let status = web.status.clone().unwrap_or_default();
        let is_all = |count: Option<i32>| count == Some(6);
        status.observed_generation == web.metadata.generation
            && is_all(status.updated_replicas)
            && is_all(status.available_replicas)
            && is_all(status.replicas)
    };
    cluster.until_one::<Deployment>("web", "rolled out", rolled_out).await;
    let course = Course::of(&cluster).await;
    course.count_anew().await;
    for image in ["web:2", "web:3"] {
        let mut next = deployment(6, image);
        cluster.patch::<Deployment>("web", json!({"spec": {"template": next["spec"]["template"].take()}})).await;
        cluster.until_one::<Deployment>("web", "rolled out", rolled_out).await;
    }
    cluster.until::<Pod>("six", |pods| pods.len() == 6).await;
    let seen = course.so_far().await;
    assert_eq!(count::<ReplicaSet>(&cluster).await, 3);
    assert_eq!(seen.made.len(), 18, "six of each template");
    assert!(seen.most <= 8 && seen.least >= 5, "{} {}", seen.most, seen.least);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stateful_set_changes_one_pod_at_a_time() {
    let cluster = Cluster::with_lag(LAG).await;
    let course = Course::of(&cluster).await;
    let claim = json!({"metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.make::<StatefulSet>(set(json!({"serviceName": "x", "replicas": 4, "volumeClaimTemplates": [claim]}))).await;
    let settled = |replicas: i32| {
        move |set: &StatefulSet| {
            let status = set.status.clone().unwrap_or_default();
            status.observed_generation == set.metadata.generation
                && status.ready_replicas == Some(replicas)
                && status.replicas == replicas
                && status.current_revision == status.update_revision
        }
    };
    cluster.until_one::<StatefulSet>("x", "four", settled(4)).await;
    let seen = course.so_far().await;
    assert_eq!((seen.made.len(), seen.most), (4, 4));
    let mut next = template("x");
    next["spec"]["containers"][0]["image"] = "x:2".into();
    course.count_anew().await;
    cluster.patch::<StatefulSet>("x", json!({"spec": {"template": next}})).await;
    cluster.until_one::<StatefulSet>("x", "updated", settled(4)).await;
    let seen = course.so_far().await;
    assert_eq!((seen.made.len(), seen.most, seen.least), (8, 4, 3), "each once, one at a time");
    cluster.patch::<StatefulSet>("x", json!({"spec": {"replicas": 2}})).await;
    cluster.until_one::<StatefulSet>("x", "two", settled(2)).await;
    let seen = course.so_far().await;
    assert_eq!(seen.active.keys().collect::<Vec<_>>(), ["x-0", "x-1"]);
    assert_eq!((seen.made.len(), seen.least), (8, 2));
    assert_eq!(count::<PersistentVolumeClaim>(&cluster).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_set_has_one_pod_a_node() {
    let cluster = Cluster::with_lag(LAG).await;
    cluster.add_node("node-2").await;
    cluster.add_node("node-3").await;
    let course = Course::of(&cluster).await;
    cluster.make::<DaemonSet>(set(json!({}))).await;
    let made = |set: &DaemonSet| set.status.as_ref().is_some_and(|status| status.current_number_scheduled == 3);
    cluster.until_one::<DaemonSet>("x", "three", made).await;
    let seen = course.so_far().await;
    assert_eq!((seen.made.len(), seen.most), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_makes_as_many_pods_as_it_completes() {
    let cluster = Cluster::with_lag(LAG).await;
    let course = Course::of(&cluster).await;
    let mut template = template("job");
    template["metadata"]["annotations"] = json!({"test/phase": "Succeeded"});
    template["spec"]["restartPolicy"] = "Never".into();
    let spec = json!({"completions": 12, "parallelism": 4, "template": template});
    cluster.make::<Job>(json!({"metadata": {"name": "work"}, "spec": spec})).await;
    let done = |job: &Job| {
        let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Complete")
    };
    let work = cluster.until_one::<Job>("work", "complete", done).await;
    let status = work.status.unwrap();
    assert_eq!((status.succeeded, status.failed), (Some(12), None));
    let seen = course.so_far().await;
    assert_eq!(seen.made.len(), 12);
    assert!(seen.most <= 4, "{}", seen.most);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_job_makes_one_job_for_its_time() {
    let cluster = Cluster::with_lag(LAG).await;
    let mut template = template("job");
    template["spec"]["restartPolicy"] = "Never".into();
    let spec = json!({"schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}}});
    cluster.make::<CronJob>(json!({"metadata": {"name": "cron"}, "spec": spec})).await;
    let past = json!({"status": {"lastScheduleTime": "2020-01-01T00:00:00Z"}});
    cluster.api::<CronJob>().patch_status("cron", &Default::default(), &kube::api::Patch::Merge(past)).await.unwrap();
    cluster
        .until_one::<CronJob>("cron", "noted", |cron| {
            let status = cron.status.clone().unwrap_or_default();
            status.active.is_some_and(|active| active.len() == 1)
        })
        .await;
    assert_eq!(count::<Job>(&cluster).await, 1);
    assert!(cluster.events("cron").await.iter().all(|event| !event.starts_with("UnexpectedJob")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_has_each_address_in_one_slice() {
    use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice, networking::v1::IPAddress};
    let cluster = Cluster::with_lag(LAG).await;
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80}]});
    for number in 0..10 {
        cluster.make::<Service>(json!({"metadata": {"name": format!("s{number}")}, "spec": spec})).await;
    }
    cluster.make::<ReplicaSet>(deployment(5, "web:1")).await;
    let addresses = |slices: &[EndpointSlice], service: &str| -> Vec<String> {
        let of = |slice: &&EndpointSlice| {
            slice.metadata.labels.as_ref().and_then(|all| all.get("kubernetes.io/service-name").cloned())
                == Some(service.to_owned())
        };
        let endpoints = slices.iter().filter(of).flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints.flat_map(|endpoint| endpoint.addresses.clone()).collect()
    };
    let slices = cluster
        .until::<EndpointSlice>("five addresses each", |slices| {
            (0..10).all(|number| addresses(slices, &format!("s{number}")).len() == 5)
        })
        .await;
    for number in 0..10 {
        let all = addresses(&slices, &format!("s{number}"));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 5, "{all:?}");
        assert!(cluster.events(&format!("s{number}")).await.iter().all(|event| !event.contains("not allocated")));
    }
    // Services and their addresses go together, whatever the caches of the two say meanwhile.
    for number in 0..10 {
        cluster.delete::<Service>(&format!("s{number}"), Default::default()).await;
    }
    cluster
        .until_anywhere::<IPAddress>("only the API's own is left", |all| {
            all.iter().all(|address| address.spec.parent_ref.name == "kubernetes")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_one_claim_for_each_of_its_own_volumes_and_devices() {
    use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
    let cluster = Cluster::with_lag(LAG).await;
    let request = json!({"name": "r", "exactly": {"deviceClassName": "gpu"}});
    let spec = json!({"spec": {"devices": {"requests": [request]}}});
    cluster.make::<ResourceClaimTemplate>(json!({"metadata": {"name": "gpus"}, "spec": spec})).await;
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    for number in 0..5 {
        let mut pod = json!({"metadata": {"name": format!("p{number}")}, "spec": template("x")["spec"]});
        pod["spec"]["volumes"] = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": claim}}]);
        pod["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimTemplateName": "gpus"}]);
        cluster.make::<Pod>(pod).await;
    }
    let has_claim = |pod: &Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.resource_claim_statuses.clone());
        statuses.is_some_and(|all| all.iter().any(|status| status.resource_claim_name.is_some()))
    };
    cluster.until::<Pod>("each has its claim", |pods| pods.iter().all(has_claim)).await;
    cluster.until::<PersistentVolumeClaim>("five", |claims| claims.len() == 5).await;
    let claims = (count::<PersistentVolumeClaim>(&cluster).await, count::<ResourceClaim>(&cluster).await);
    assert_eq!(claims, (5, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_made_again_keeps_what_is_in_it() {
    let cluster = Cluster::with_lag(LAG).await;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "team");
    let (namespace, map) = (json!({"metadata": {"name": "team"}}), json!({"metadata": {"name": "mine"}}));
    let namespace: Namespace = serde_json::from_value(namespace).unwrap();
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    for _ in 0..3 {
        // The one before it may be on its way out.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) = namespaces.create(&PostParams::default(), &namespace).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        maps.create(&PostParams::default(), &map).await.unwrap();
        // It stays until all that the controller has yet to see is seen.
        tokio::time::sleep(LAG * 3).await;
        assert!(maps.get_opt("mine").await.unwrap().is_some(), "it went with the namespace before");
        namespaces.delete("team", &DeleteParams::default()).await.unwrap();
    }
}
