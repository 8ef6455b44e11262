//! Configurations as they are written, and what is read from them.

use super::*;

fn parse(fields: &str) -> Result<Configuration, String> {
    let text = format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{fields}");
    Configuration::parse(&text).map_err(|error| error.0)
}

#[test]
fn fields_are_read_and_what_is_wrong_is_named() {
    let read = parse("maxPods: 7\nimageMinimumGCAge: 1m30s\nevictionHard: {memory.available: 5%}").unwrap();
    assert_eq!((read.max_pods, read.image_minimum_gc_age), (7, Duration::from_secs(90)));
    for (fields, part) in [
        ("maxPodz: 7", "\"maxPodz\" is unknown"),
        ("cgroupDriver: systemd", "\"cgroupDriver\" is not supported"),
        ("authentication: {x: {}}", "unknown field `x`"),
        ("imageGCHighThresholdPercent: 101", "between 0 and 100"),
        ("imageGCLowThresholdPercent: 90", "must be less than"),
        ("imageMinimumGCAge: 5", "expected a duration"),
        ("evictionHard: {memory: 5%}", "unknown eviction signal memory"),
        ("evictionSoft: {memory.available: 5%}", "grace period must be specified"),
        ("serializeImagePulls: true\nmaxParallelImagePulls: 3", "cannot be larger than 1"),
        ("systemReserved: {cpu: x}", "quantities"),
        ("enforceNodeAllocatable: [system-reserved]", "enforceNodeAllocatable takes"),
        ("readOnlyPort: 10255", "\"readOnlyPort\" is not supported with the value 10255: there is no server"),
        ("allowedUnsafeSysctls: [vm.*]", "not known to be namespaced"),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 10m}", "between 1s and 300s"),
        ("containerLogMaxSize: many", "positive quantity"),
        ("containerLogMonitorInterval: 2s", "greater than or equal to 3s"),
        ("topologyManagerPolicy: best", "unknown variant"),
        ("cpuManagerPolicy: static", "the static policy requires"),
        ("cpuManagerPolicyOptions: {x: '1'}", "unsupported cpumanager option"),
        ("topologyManagerPolicyOptions: {max-allowable-numa-nodes: '2'}", "should not be less than 8"),
    ] {
        let error = parse(fields).err().unwrap_or_default();
        assert!(error.contains(part), "{fields}: {error}");
    }
    assert!(Configuration::parse("kind: Pod\napiVersion: v1").unwrap_err().0.contains("apiVersion must be"));
}

#[test]
fn what_changes_nothing_is_taken() {
    let read = parse(
        "readOnlyPort: 0\ncgroupDriver: cgroupfs\nsyncFrequency: 1m\nfeatureGates: {X: true}\nlogging: {format: json}\n\
         enforceNodeAllocatable: [pods]\ncpuManagerPolicy: none\nclusterDNS: [10.0.0.10]\npodsPerCore: 10",
    );
    let read = read.unwrap();
    assert_eq!((read.pods_on(4), read.pods_on(64), read.cluster_dns.len()), (40, 110, 1));
}

#[test]
fn logs_are_looked_at_every_ten_seconds_where_no_time_is_set() {
    for (fields, seconds) in [("", 10), ("containerLogMonitorInterval: 0s", 10), ("containerLogMonitorInterval: 3s", 3)]
    {
        assert_eq!(parse(fields).unwrap().container_log_monitor_interval, Duration::from_secs(seconds), "{fields}");
    }
}

#[test]
fn drop_ins_are_laid_over_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, fields: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{fields}")).unwrap();
        path
    };
    let file = write("base.yaml", "maxPods: 1\nevictionHard: {memory.available: 1Mi, pid.available: 1%}");
    write("20.conf", "maxPods: 3");
    write("10.conf", "maxPods: 2\nevictionHard: {memory.available: 2Mi}");
    write("30.txt", "maxPods: 4");
    let read = Configuration::load(Some(&file), Some(directory.path())).unwrap();
    let hard = read.eviction_hard.unwrap();
    assert_eq!((read.max_pods, hard["memory.available"].as_str(), hard["pid.available"].as_str()), (3, "2Mi", "1%"));
}
