//! Pods and the places that they get.

use serde_json::{Value, json};

use super::*;
use crate::config::TopologyManagerPolicy;

fn pod(uid: &str, containers: Value) -> Pod {
    let object = json!({"metadata": {"uid": uid, "name": uid}, "spec": containers});
    Pod::new(serde_json::from_value(object).unwrap())
}

fn container(name: &str, cpu: &str, memory: &str) -> Value {
    json!({"name": name, "resources": {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}})
}

/// Two nodes of two cores with two threads each, of which 0 is reserved.
fn placement(directory: &Path, kind: TopologyManagerPolicy, of_pods: bool, full_cores: bool) -> Placement {
    let machine = machine::sample(2, 2, 2, 100);
    let cpu_rules = cpus::Rules { reserved: [0].into_iter().collect(), full_cores, strict: false };
    let held = Held {
        cpus: Cpus::new(&machine, &cpu_rules),
        memory: Memory { allocatable: machine.nodes.clone(), ..Memory::default() },
    };
    Placement {
        machine,
        directory: directory.to_owned(),
        topology: Policy { kind, prefer_closest: false },
        of_pods,
        cpu_policy: CpuManagerPolicy::Static,
        cpu_rules,
        memory_policy: MemoryManagerPolicy::Static,
        held: Mutex::new(held),
        turn: tokio::sync::Mutex::default(),
        shared_changed: Notify::new(),
    }
}

#[tokio::test]
async fn a_pod_is_placed_as_a_whole_or_refused_and_leaves_nothing() {
    use TopologyManagerPolicy::{BestEffort, None as Free, SingleNumaNode};
    let two = |a: &str, b: &str| json!({"containers": [container("a", a, "10"), container("b", b, "10")]});
    let one = |cpu: &str, memory: &str| json!({"containers": [container("a", cpu, memory)]});
    let affinity = "TopologyAffinityError";
    for (kind, of_pods, full_cores, spec, expected) in [
        (Free, false, false, one("2", "10"), Ok("1,5")),
        (BestEffort, false, false, one("4", "10"), Ok("2-3,6-7")),
        (Free, false, false, one("1500m", "10"), Ok("0-7")),
        (SingleNumaNode, false, false, one("2", "150"), Err(affinity)),
        (SingleNumaNode, false, false, one("5", "10"), Err(affinity)),
        (SingleNumaNode, false, false, two("3", "4"), Ok("1,4-5")),
        (SingleNumaNode, true, false, two("3", "4"), Err(affinity)),
        (SingleNumaNode, true, false, two("2", "2"), Ok("2,6")),
        (Free, false, false, one("8", "10"), Err("UnexpectedAdmissionError")),
        (Free, false, true, one("1", "10"), Err("SMTAlignmentError")),
        (Free, false, true, one("2", "10"), Ok("1,5")),
        (Free, false, true, one("6", "10"), Ok("1-3,5-7")),
        (Free, false, true, one("8", "10"), Err("SMTAlignmentError")),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let devices = Devices::open(directory.path().join("d"), std::sync::Arc::default()).unwrap();
        let placement = placement(directory.path(), kind, of_pods, full_cores);
        let pod = pod("p", spec.clone());
        let outcome = placement.admit(&pod, &devices).await.map_err(|refusal| refusal.reason);
        let found = outcome.map(|()| placement.of("p", "a").0);
        assert_eq!(found.as_deref().map_err(|reason| *reason), expected, "{kind:?} {of_pods} {full_cores} {spec}");
        placement.release("p");
        let held = placement.held.lock();
        assert_eq!((held.cpus.shared.to_string(), held.memory.blocks.len()), ("0-7".to_owned(), 0));
    }
}

#[tokio::test]
async fn a_container_takes_over_what_an_init_container_had_and_a_sidecar_keeps_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let devices = Devices::open(directory.path().join("d"), std::sync::Arc::default()).unwrap();
    let placement = placement(directory.path(), TopologyManagerPolicy::None, false, false);
    let mut sidecar = container("s", "1", "10");
    sidecar["restartPolicy"] = "Always".into();
    let spec =
        json!({"initContainers": [container("i", "4", "10"), sidecar], "containers": [container("a", "3", "10")]});
    placement.admit(&pod("p", spec), &devices).await.unwrap();
    let of = |name: &str| CpuSet::parse(&placement.of("p", name).0).unwrap();
    assert!(of("s").union(&of("a")).without(&of("i")).is_empty(), "{} {} {}", of("i"), of("s"), of("a"));
    assert!(of("s").common(&of("a")).is_empty());
    assert_eq!(placement.of("q", "any").0, placement.held.lock().cpus.shared.to_string());
}

#[tokio::test]
async fn a_pod_that_is_admitted_again_after_a_restart_keeps_its_places() {
    use TopologyManagerPolicy::{Restricted, SingleNumaNode};
    let main = json!({"containers": [container("a", "2", "60")]});
    let whole = json!({"containers": [container("a", "3", "60")]});
    let init = json!({"initContainers": [container("i", "3", "60")], "containers": [container("a", "3", "60")]});
    for (kind, of_pods, spec, expected) in [
        (Restricted, false, &main, "1,5"),
        (SingleNumaNode, false, &whole, "1,4-5"),
        (SingleNumaNode, true, &whole, "1,4-5"),
        (SingleNumaNode, false, &init, "1,4-5"),
        (Restricted, true, &init, "1,4-5"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let devices = Devices::open(directory.path().join("d"), std::sync::Arc::default()).unwrap();
        let placement = placement(directory.path(), kind, of_pods, false);
        placement.admit(&pod("p", spec.clone()), &devices).await.unwrap();
        // The rest of the machine is somebody else's, so that there is no other place.
        placement.admit(&pod("q", json!({"containers": [container("a", "4", "60")]})), &devices).await.unwrap();
        let again = placement.admit(&pod("p", spec.clone()), &devices).await;
        assert_eq!((again, placement.of("p", "a").0.as_str()), (Ok(()), expected), "{kind:?} {of_pods} {spec}");
    }
}

#[tokio::test]
async fn containers_without_processors_of_their_own_never_run_on_those_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let devices = Devices::open(directory.path().join("d"), std::sync::Arc::default()).unwrap();
    let mut placement = placement(directory.path(), TopologyManagerPolicy::None, false, false);
    placement.cpu_rules.strict = true;
    placement.held.get_mut().cpus = Cpus::new(&placement.machine, &placement.cpu_rules);
    assert_eq!(placement.of("q", "a").0, "1-7");
    placement.admit(&pod("p", json!({"containers": [container("a", "7", "10")]})), &devices).await.unwrap();
    assert_eq!((placement.of("p", "a").0.as_str(), placement.of("q", "a").0.as_str()), ("1-7", "0"));
}

#[test]
fn devices_are_near_to_nodes_or_to_none() {
    let near = |pairs: &[(&str, &[usize])]| -> BTreeMap<String, Vec<usize>> {
        pairs.iter().map(|(id, nodes)| ((*id).to_owned(), nodes.to_vec())).collect()
    };
    let ids = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let all = near(&[("a", &[0]), ("b", &[1]), ("c", &[1])]);
    let shown = |free: &str, wanted| {
        device_hints(&all, &ids(free), wanted, &[0, 1])
            .unwrap()
            .into_iter()
            .map(|hint| (hint.nodes.unwrap().nodes().collect::<Vec<_>>(), hint.preferred))
            .collect::<Vec<_>>()
    };
    assert_eq!(shown("a b c", 1), [(vec![0], true), (vec![1], true), (vec![0, 1], false)]);
    assert_eq!(shown("a b", 2), [(vec![0, 1], false)]);
    assert_eq!(shown("a", 2), []);
    assert_eq!(device_hints(&near(&[("a", &[])]), &ids("a"), 1, &[0, 1]), None);
}
