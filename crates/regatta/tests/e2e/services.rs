//! Names and addresses of pods and services: headless services, host names, session affinity, services that nobody
//! serves, and a range of pod addresses that is used up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::cluster::{BUSYBOX, Cluster, Machine, possible};

const OBJECTS: &str = r"
apiVersion: v1
kind: Service
metadata: {name: ring}
spec: {clusterIP: None, selector: {app: ring}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {selector: {app: ring}, sessionAffinity: ClientIP, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: spread}
spec: {selector: {app: ring}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: ring.default.svc.cluster.local}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ring}
spec:
  serviceName: ring
  replicas: 3
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: ring}}
  template:
    metadata: {labels: {app: ring}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: main
          image: IMAGE
          command: [sh, -c, 'hostname > /home/index.html; exec httpd -f -p 8080 -h /home']
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  terminationGracePeriodSeconds: 0
  hostname: known
  subdomain: ring
  setHostnameAsFQDN: true
  hostAliases: [{ip: 192.0.2.7, hostnames: [alias.example, alias]}]
  dnsConfig: {searches: [more.example], options: [{name: ndots, value: '3'}]}
  containers: [{name: main, image: IMAGE, command: [sleep, '1000000']}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: 0
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: IMAGE, command: [sleep, '1000000']}]
";

#[test]
fn pods_and_services_have_names_and_addresses_as_long_as_the_range_lasts() {
    if !possible() {
        return;
    }
    let machine = Machine::new();
    let cluster = Cluster::start(&machine, &["--cluster-cidr", "10.77.0.0/28"]);
    cluster.import_images();
    cluster.apply(&OBJECTS.replace("IMAGE", BUSYBOX));
    cluster.kubectl(&["rollout", "status", "statefulset/ring", "--timeout=60s"]);
    cluster.kubectl(&["wait", "pod/asker", "--for=condition=Ready", "--timeout=60s"]);
    names(&cluster);
    affinity(&cluster);
    nobody(&cluster);
    exhausted(&cluster);
}

fn shell(cluster: &Cluster, script: &str) -> String {
    cluster.kubectl(&["exec", "asker", "--", "sh", "-c", &format!("{script}\ntrue")]).trim_end().to_owned()
}

/// The addresses that a name has.
fn addresses(cluster: &Cluster, name: &str) -> BTreeSet<String> {
    let script = format!("nslookup {name} | awk '/^Name:/ {{named=1}} named && /^Address/ {{print $NF}}'");
    shell(cluster, &script).lines().map(str::to_owned).collect()
}

fn names(cluster: &Cluster) {
    let ips = |selector: &str| -> BTreeSet<String> {
        let listed = cluster.kubectl(&["get", "pods", "-l", selector, "-o", "jsonpath={.items[*].status.podIP}"]);
        listed.split(' ').map(str::to_owned).collect()
    };
    let ring = ips("app=ring");
    assert_eq!(ring.len(), 3);
    let full = "ring.default.svc.cluster.local";
    cluster.wait_for("the headless service's name", || {
        let found = addresses(cluster, full);
        if found == ring { Ok(()) } else { Err(format!("{found:?}, not {ring:?}")) }
    });
    assert_eq!(addresses(cluster, "elsewhere.default.svc.cluster.local"), ring);
    let one = ips("statefulset.kubernetes.io/pod-name=ring-1");
    assert_eq!(addresses(cluster, &format!("ring-1.{full}")), one);
    assert_eq!(shell(cluster, "wget -qO- http://ring-1.ring:8080/"), "ring-1");
    assert_eq!(shell(cluster, "hostname"), format!("known.{full}"));
    let hosts = shell(cluster, "cat /etc/hosts");
    for part in [&format!("\tknown.{full}\tknown"), "192.0.2.7\talias.example\talias"] {
        assert!(hosts.contains(part), "{part:?} is not in {hosts}");
    }
    let resolver = shell(cluster, "cat /etc/resolv.conf");
    for part in ["default.svc.cluster.local svc.cluster.local cluster.local", "more.example", "ndots:3"] {
        assert!(resolver.contains(part), "{part:?} is not in {resolver}");
    }
    let none = shell(cluster, "nslookup none.default.svc.cluster.local 2>&1; true");
    assert!(none.contains("NXDOMAIN"), "{none}");
}

fn affinity(cluster: &Cluster) {
    let who = |service: &str, count: u32| -> BTreeSet<String> {
        let script = format!("for i in $(seq {count}); do wget -qO- http://{service}/; done");
        shell(cluster, &script).lines().map(str::to_owned).collect()
    };
    assert_eq!(who("sticky", 30).len(), 1, "a client stays with its server");
    assert_eq!(who("spread", 60).len(), 3, "without affinity all serve");
    cluster.kubectl(&["patch", "service", "sticky", "-p", r#"{"spec":{"sessionAffinity":"None"}}"#]);
    cluster.wait_for("the affinity to be gone", || {
        let who = who("sticky", 30);
        if who.len() == 3 { Ok(()) } else { Err(format!("{who:?}")) }
    });
}

/// What nobody serves is refused at once, from a pod and from the node.
fn nobody(cluster: &Cluster) {
    let ip = cluster.kubectl(&["get", "service", "empty", "-o", "jsonpath={.spec.clusterIP}"]);
    let began = Instant::now();
    let answer = shell(cluster, &format!("nc -w 10 {ip} 80 </dev/null 2>&1"));
    assert!(answer.contains("Connection refused"), "{answer}");
    let answer = cluster.machine.get(&format!("http://{ip}/")).expect_err("nobody serves");
    assert!(answer.contains("Failed to connect") && !answer.contains("timed out"), "{answer}");
    // The kernel gives an address up that nobody answers for after three seconds.
    assert!(began.elapsed() < Duration::from_secs(2), "refused only after {:?}", began.elapsed());
}

/// More pods than addresses: those without one say so, try again with long pauses, and get the first that is freed.
fn exhausted(cluster: &Cluster) {
    cluster.kubectl(&["scale", "deployment", "many", "--replicas=14"]);
    let waiting = || -> Vec<String> {
        let template = "{range .items[*]}{.metadata.name} {.status.phase} {.status.podIP}\n{end}";
        let listed = cluster.kubectl(&["get", "pods", "-l", "app=many", "-o", &format!("jsonpath={template}")]);
        listed
            .lines()
            .filter(|l| !l.contains(" Running 10."))
            .map(|l| l.split(' ').next().unwrap_or("").to_owned())
            .collect()
    };
    let events = |field: &str| -> Vec<String> {
        let template =
            format!("jsonpath={{range .items[?(@.reason==\"FailedCreatePodSandBox\")]}}{{{field}}}\n{{end}}");
        cluster.kubectl(&["get", "events", "-o", &template]).lines().map(str::to_owned).collect()
    };
    let stuck = cluster.wait_for("some pods to wait for an address and all others to run", || {
        let waiting = waiting();
        let told = events(".involvedObject.name").into_iter().collect::<BTreeSet<_>>();
        if !waiting.is_empty() && waiting.iter().all(|pod| told.contains(pod)) {
            Ok(waiting)
        } else {
            Err(format!("{waiting:?} {told:?}"))
        }
    });
    assert!((2..=6).contains(&stuck.len()), "{stuck:?}");
    assert!(
        events(".message").iter().all(|m| m.contains("no IP addresses available in range set")),
        "{:?}",
        events(".message")
    );
    let condition = "jsonpath={.status.conditions[?(@.type==\"PodReadyToStartContainers\")].status}";
    assert_eq!(cluster.kubectl(&["get", "pod", &stuck[0], "-o", condition]), "False");
    let cpu = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.pid())).expect("stat");
        let fields: Vec<_> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11].parse::<u64>().expect("ticks") + fields[12].parse::<u64>().expect("ticks")
    };
    let tries = || events(".count").iter().filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    let (busy, tried) = (cpu(), tries());
    // A loop would show within a second; what is measured is a span of time.
    std::thread::sleep(Duration::from_secs(3));
    assert!(cpu() - busy < 150, "{} ticks of 10 ms in 3 s", cpu() - busy);
    assert!(tries() - tried <= 2 * stuck.len() as u64, "tried {} times in 3 s", tries() - tried);
    cluster.kubectl(&["delete", "statefulset", "ring"]);
    cluster.wait_for("freed addresses to be used", || {
        let now = waiting();
        if now.len() + 3 <= stuck.len() || now.is_empty() { Ok(()) } else { Err(format!("{now:?}")) }
    });
}
