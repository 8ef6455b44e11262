//! What the kernel and the machine say about this node.

use std::fs;

use k8s_openapi::api::core::v1::NodeSystemInfo;

pub const KUBELET_VERSION: &str = "v1.36.0+regatta";

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// Total memory in bytes.
pub fn memory() -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Processors that may be used.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Go's name of this architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub fn system_info(runtime_version: String) -> NodeSystemInfo {
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime_version,
        kernel_version: line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        machine_id: line("/etc/machine-id"),
        operating_system: "linux".to_owned(),
        os_image: pretty.trim_matches('"').to_owned(),
        swap: None,
        system_uuid: line("/sys/class/dmi/id/product_uuid"),
    }
}

/// Bytes in all and left to use on the file system of `path`.
pub fn disk(path: &std::path::Path) -> (u64, u64) {
    match nix::sys::statvfs::statvfs(path) {
        Ok(stat) => (stat.blocks() * stat.fragment_size(), stat.blocks_available() * stat.fragment_size()),
        Err(_) => (0, 0),
    }
}
