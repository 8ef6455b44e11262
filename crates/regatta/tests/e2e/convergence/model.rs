//! What was asked for, and what therefore must be.

use std::{collections::BTreeMap, time::Duration};

use hyper::Request;
use rand::{Rng, rngs::StdRng};
use serde_json::{Value, json};

use super::world::{NAMESPACE, NODES, World};

/// What is wanted of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    replicas: u64,
    image: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
}

const KINDS: [Kind; 5] = [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet, Kind::ReplicaSet, Kind::Job];

impl Kind {
    fn plural(self) -> &'static str {
        match self {
            Kind::Deployment => "deployments",
            Kind::StatefulSet => "statefulsets",
            Kind::DaemonSet => "daemonsets",
            Kind::ReplicaSet => "replicasets",
            Kind::Job => "jobs",
        }
    }

    fn path(self) -> String {
        let group = if self == Kind::Job { "batch" } else { "apps" };
        format!("/apis/{group}/v1/namespaces/{NAMESPACE}/{}", self.plural())
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Deployment => "web",
            Kind::StatefulSet => "db",
            Kind::DaemonSet => "agent",
            Kind::ReplicaSet => "bare",
            Kind::Job => "work",
        }
    }

    fn object(self, wanted: &Wanted) -> Value {
        let name = self.name();
        let mut template = json!({"metadata": {"labels": {"app": name}}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image(wanted)}]}});
        let spec = match self {
            Kind::Job => {
                template["spec"]["restartPolicy"] = "Never".into();
                json!({"completions": wanted.replicas, "parallelism": 3, "template": template})
            }
            Kind::DaemonSet => json!({"selector": {"matchLabels": {"app": name}}, "template": template,
                "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}),
            Kind::StatefulSet => json!({"replicas": wanted.replicas, "serviceName": name,
                "selector": {"matchLabels": {"app": name}}, "template": template}),
            _ => json!({"replicas": wanted.replicas, "selector": {"matchLabels": {"app": name}}, "template": template}),
        };
        json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
    }
}

fn image(wanted: &Wanted) -> String {
    format!("image:{}", wanted.image)
}

/// All that was asked for: what is wanted, and none for what was wanted once and is to be gone.
#[derive(Debug, Default)]
pub struct Model {
    objects: BTreeMap<Kind, Option<Wanted>>,
    service: bool,
}

impl Model {
    /// Asks for something at random, until it is granted.
    pub async fn ask(&mut self, random: &mut StdRng, world: &World) {
        if !self.service {
            self.service = true;
            let service =
                json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
            insist(world, "POST", format!("/api/v1/namespaces/{NAMESPACE}/services"), service).await;
            let budget = json!({"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
            insist(world, "POST", format!("/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets"), budget).await;
            let quota = json!({"metadata": {"name": "all"}, "spec": {"hard": {"pods": "1000", "count/replicasets.apps": "1000"}}});
            insist(world, "POST", format!("/api/v1/namespaces/{NAMESPACE}/resourcequotas"), quota).await;
        }
        let kind = KINDS[random.random_range(0..KINDS.len())];
        let present = self.objects.get(&kind).cloned().flatten();
        let path = format!("{}/{}", kind.path(), kind.name());
        let wanted = match present {
            None => {
                // One of that name may still be on its way out.
                let wanted = Wanted { replicas: random.random_range(0..6), image: 1 };
                insist(world, "POST", kind.path(), kind.object(&wanted)).await;
                Some(wanted)
            }
            Some(_) if random.random_bool(0.15) => {
                insist(world, "DELETE", path, json!({"propagationPolicy": "Background"})).await;
                None
            }
            // A Job's template never changes.
            Some(wanted) if kind == Kind::Job => Some(wanted),
            Some(Wanted { image, .. }) if kind != Kind::DaemonSet && random.random_bool(0.5) => {
                let wanted = Wanted { replicas: random.random_range(0..6), image };
                insist(world, "PATCH", path, json!({"spec": {"replicas": wanted.replicas}})).await;
                Some(wanted)
            }
            // A bare ReplicaSet replaces no pods that it has.
            Some(wanted) if kind == Kind::ReplicaSet => Some(wanted),
            Some(Wanted { replicas, image: before }) => {
                // Back to an earlier one now and then.
                let wanted = Wanted { replicas, image: if random.random_bool(0.3) { 1 } else { before + 1 } };
                let containers = json!([{"name": "c", "image": image(&wanted)}]);
                insist(world, "PATCH", path, json!({"spec": {"template": {"spec": {"containers": containers}}}})).await;
                Some(wanted)
            }
        };
        self.objects.insert(kind, wanted);
    }

    /// All that is not as it must be.
    pub async fn check(&self, world: &World) -> Vec<String> {
        let mut wrong = Vec::new();
        let seen = match Seen::read(world).await {
            Ok(seen) => seen,
            Err(error) => return vec![format!("the server does not answer: {error}")],
        };
        for kind in KINDS {
            self.check_kind(kind, &seen, &mut wrong);
        }
        self.check_all(&seen, &mut wrong);
        wrong
    }

    fn check_kind(&self, kind: Kind, seen: &Seen, wrong: &mut Vec<String>) {
        let name = kind.name();
        let pods: Vec<&Value> = seen.pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == name).collect();
        let object = seen.objects[&kind].iter().find(|object| object["metadata"]["name"] == name);
        let Some(wanted) = self.objects.get(&kind).cloned().flatten() else {
            if let Some(object) = object {
                wrong.push(format!("{kind:?} is still there: {object}"));
            }
            if !pods.is_empty() {
                wrong.push(format!("{} pods of the deleted {kind:?}", pods.len()));
            }
            return;
        };
        let Some(object) = object else { return wrong.push(format!("{kind:?} is not there")) };
        let count = if kind == Kind::DaemonSet { NODES.len() as u64 } else { wanted.replicas };
        let mut must = |holds: bool, what: &str| {
            if !holds {
                wrong.push(format!("{kind:?} of {count}: {what}: {}", object["status"]));
            }
        };
        must(pods.len() as u64 == count, &format!("{} pods", pods.len()));
        must(pods.iter().all(|pod| pod["metadata"].get("deletionTimestamp").is_none()), "a pod on its way out");
        let uid = match kind {
            Kind::Deployment => {
                let set = seen.objects[&Kind::ReplicaSet].iter().find(|set| {
                    set["spec"]["replicas"].as_u64() == Some(count)
                        && set["spec"]["template"]["spec"]["containers"][0]["image"] == image(&wanted)
                        && set["metadata"]["ownerReferences"][0]["uid"] == object["metadata"]["uid"]
                });
                set.map_or(Value::Null, |set| set["metadata"]["uid"].clone())
            }
            _ => object["metadata"]["uid"].clone(),
        };
        must(pods.iter().all(|pod| pod["metadata"]["ownerReferences"][0]["uid"] == uid), "a pod of somebody else");
        let of_image = |pod: &&Value| pod["spec"]["containers"][0]["image"] == image(&wanted);
        must(pods.iter().all(of_image), "a pod of another template");
        let status = &object["status"];
        let number = |field: &str| status[field].as_u64().unwrap_or(0);
        if kind == Kind::Job {
            must(number("succeeded") == count && number("failed") == 0 && number("active") == 0, "counts");
            must(pods.iter().all(|pod| pod["metadata"].get("finalizers").is_none()), "a pod that is held");
            let done = |condition: &Value| condition["type"] == "Complete" && condition["status"] == "True";
            must(status["conditions"].as_array().is_some_and(|all| all.iter().any(done)), "not complete");
            return;
        }
        must(status["observedGeneration"] == object["metadata"]["generation"], "an old status");
        let fields: &[&str] = match kind {
            Kind::DaemonSet => {
                &["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled"]
            }
            Kind::ReplicaSet => &["replicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas"],
            _ => &["replicas", "readyReplicas", "availableReplicas", "updatedReplicas"],
        };
        for field in fields {
            must(number(field) == count, field);
        }
        must(number("unavailableReplicas") == 0 && number("terminatingReplicas") == 0, "too much");
        match kind {
            Kind::StatefulSet => {
                let mut names: Vec<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
                names.sort_unstable();
                must(names == (0..count).map(|ordinal| format!("{name}-{ordinal}")).collect::<Vec<_>>(), "other names");
                must(status["currentRevision"] == status["updateRevision"], "two revisions");
            }
            Kind::DaemonSet => {
                let mut nodes: Vec<&str> = pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
                nodes.sort_unstable();
                must(nodes == NODES, "other nodes");
            }
            Kind::Deployment => {
                let others = seen.objects[&Kind::ReplicaSet].iter().filter(|set| set["metadata"]["uid"] != uid);
                let others: Vec<_> = others.filter(|set| set["metadata"]["labels"]["app"] == name).collect();
                must(others.iter().all(|set| set["spec"]["replicas"] == 0), "an old set with pods");
            }
            _ => {}
        }
    }

    fn check_all(&self, seen: &Seen, wrong: &mut Vec<String>) {
        let mut must = |holds: bool, what: String| {
            if !holds {
                wrong.push(what);
            }
        };
        for pod in &seen.pods {
            let known = pod["spec"]["nodeName"].as_str().is_some_and(|node| NODES.contains(&node));
            must(known, format!("a pod is nowhere: {}", pod["metadata"]["name"]));
        }
        let ready = |pod: &&Value| pod["metadata"]["labels"]["app"] == "web" && pod["status"]["phase"] == "Running";
        let mut addresses: Vec<&str> =
            seen.pods.iter().filter(ready).filter_map(|pod| pod["status"]["podIP"].as_str()).collect();
        addresses.sort_unstable();
        let of_web = |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web";
        let endpoints =
            seen.slices.iter().filter(of_web).flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let serving = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
        let mut served: Vec<&str> = serving.filter_map(|endpoint| endpoint["addresses"][0].as_str()).collect();
        served.sort_unstable();
        must(served == addresses, format!("endpoints are {served:?}, not {addresses:?}"));
        for budget in &seen.budgets {
            let healthy = budget["status"]["currentHealthy"].as_u64().unwrap_or(0);
            must(healthy == addresses.len() as u64, format!("the budget counts {healthy}: {}", budget["status"]));
        }
        let active = seen.pods.iter().filter(|pod| pod["status"]["phase"] != "Succeeded").count();
        let sets = seen.objects[&Kind::ReplicaSet].len();
        for quota in &seen.quotas {
            let used = &quota["status"]["used"];
            must(
                used["pods"].as_str() == Some(active.to_string().as_str()),
                format!("the quota counts {used}, not {active} pods"),
            );
            must(
                used["count/replicasets.apps"].as_str() == Some(sets.to_string().as_str()),
                format!("the quota counts {used}, not {sets} sets"),
            );
        }
        // What nobody owns any more is garbage.
        let owners: Vec<&Value> = seen.objects.values().flatten().map(|object| &object["metadata"]["uid"]).collect();
        for object in seen.pods.iter().chain(&seen.objects[&Kind::ReplicaSet]) {
            let owner = &object["metadata"]["ownerReferences"][0]["uid"];
            let is_owned = owner.is_null() || owners.contains(&owner);
            must(is_owned, format!("nobody owns {}", object["metadata"]["name"]));
        }
    }
}

/// The cluster as the user sees it.
struct Seen {
    pods: Vec<Value>,
    objects: BTreeMap<Kind, Vec<Value>>,
    slices: Vec<Value>,
    budgets: Vec<Value>,
    quotas: Vec<Value>,
}

impl Seen {
    async fn read(world: &World) -> kube::Result<Seen> {
        let list = async |path: String| -> kube::Result<Vec<Value>> {
            let list = world.get(&path).await?;
            Ok(list["items"].as_array().cloned().unwrap_or_default())
        };
        let mut objects = BTreeMap::new();
        for kind in KINDS {
            objects.insert(kind, list(kind.path()).await?);
        }
        Ok(Seen {
            pods: list(format!("/api/v1/namespaces/{NAMESPACE}/pods")).await?,
            objects,
            slices: list(format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")).await?,
            budgets: list(format!("/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets")).await?,
            quotas: list(format!("/api/v1/namespaces/{NAMESPACE}/resourcequotas")).await?,
        })
    }
}

/// Sends a request until it is granted, or until it shows that it was although the answer was lost.
async fn insist(world: &World, method: &str, path: String, body: Value) {
    let mut lost = false;
    for _ in 0..2000 {
        let kind = if method == "PATCH" { "application/strategic-merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(&path).header("content-type", kind);
        let request = request.body(serde_json::to_vec(&body).expect("JSON")).expect("a request");
        match world.client.request::<Value>(request).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if method == "DELETE" && status.code == 404 => return,
            Err(kube::Error::Api(status)) if lost && status.reason == "AlreadyExists" => return,
            Err(kube::Error::Api(status))
                if (400..500).contains(&status.code) && status.code != 409 && status.code != 429 =>
            {
                panic!("{method} {path} {body}: {status:?}")
            }
            Err(error) => {
                lost |= !matches!(error, kube::Error::Api(_));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    panic!("{method} {path} is never granted");
}
