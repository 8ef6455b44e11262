//! What the kernel and the machine say about this node.

use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{NodeSwapStatus, NodeSystemInfo};
use runtime::cri::NetworkInterfaceUsage;

pub const KUBELET_VERSION: &str = "v1.36.0+regatta";

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// `/proc/meminfo`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub inactive_file: u64,
    pub anonymous: u64,
    pub swap_total: u64,
    pub swap_free: u64,
}

impl Memory {
    pub fn read() -> Memory {
        Memory::parse(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Memory {
        let get = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
            kib.unwrap_or(0) * 1024
        };
        Memory {
            total: get("MemTotal"),
            free: get("MemFree"),
            inactive_file: get("Inactive(file)"),
            anonymous: get("AnonPages"),
            swap_total: get("SwapTotal"),
            swap_free: get("SwapFree"),
        }
    }

    pub fn used(&self) -> u64 {
        self.total.saturating_sub(self.free)
    }

    /// What cannot be given back easily.
    pub fn working_set(&self) -> u64 {
        self.used().saturating_sub(self.inactive_file)
    }

    pub fn available(&self) -> u64 {
        self.total.saturating_sub(self.working_set())
    }
}

/// Total memory in bytes.
pub fn memory() -> i64 {
    i64::try_from(Memory::read().total).unwrap_or(i64::MAX)
}

/// Processors that may be used.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Nanoseconds that all processors have worked since the machine started.
pub fn cpu_nanoseconds() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers: Vec<u64> = text.lines().next().unwrap_or_default().split_whitespace().flat_map(str::parse).collect();
    // The fourth is idle and the fifth idle while a disk works; guests are in the first two already.
    let busy: u64 = numbers.iter().take(8).enumerate().filter(|(i, _)| !matches!(i, 3 | 4)).map(|(_, n)| n).sum();
    busy * 10_000_000
}

/// When the machine started, in seconds since the epoch.
pub fn boot_time() -> i64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

/// Threads that there are, and that there may be.
pub fn processes() -> Option<(u64, u64)> {
    let load = line("/proc/loadavg");
    let running = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"].map(|path| line(path).parse::<u64>());
    Some((running, limits.into_iter().flatten().min()?))
}

/// The node's interfaces but the loopback.
pub fn interfaces() -> Vec<NetworkInterfaceUsage> {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let rows = text.lines().filter_map(|line| line.split_once(':'));
    rows.filter(|(name, _)| name.trim() != "lo")
        .filter_map(|(name, rest)| {
            let numbers: Vec<u64> = rest.split_whitespace().flat_map(str::parse).collect();
            let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = numbers[..] else { return None };
            Some(NetworkInterfaceUsage { name: name.trim().to_owned(), rx_bytes, rx_errors, tx_bytes, tx_errors })
        })
        .collect()
}

/// Pages of one size that are set aside: their bytes, and how many there are.
pub fn huge_pages() -> Vec<(u64, u64)> {
    let pools = fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let mut pools: Vec<_> = pools
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?.trim().parse().ok()?;
            Some((kib * 1024, count))
        })
        .collect();
    pools.sort_unstable();
    pools
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
    let boot_id = line("/proc/sys/kernel/random/boot_id");
    let machine_id = line("/etc/machine-id");
    let uuid = line("/sys/class/dmi/id/product_uuid");
    let swap = i64::try_from(Memory::read().swap_total).ok().filter(|total| *total > 0);
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        container_runtime_version: runtime_version,
        kernel_version: line("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: KUBELET_VERSION.to_owned(),
        operating_system: "linux".to_owned(),
        os_image: pretty.trim_matches('"').to_owned(),
        swap: swap.map(|total| NodeSwapStatus { capacity: Some(total) }),
        // A machine without firmware tables is known by its own id, as upstream knows it.
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
        machine_id,
        boot_id,
    }
}

/// A file system, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub capacity: u64,
    /// Without what is kept back for the administrator.
    pub available: u64,
    pub free: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Disk {
    /// The file system of `path`; `None` where it cannot be read.
    pub fn at(path: &Path) -> Option<Disk> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let unit = stat.fragment_size();
        Some(Disk {
            capacity: stat.blocks() * unit,
            available: stat.blocks_available() * unit,
            free: stat.blocks_free() * unit,
            inodes: stat.files(),
            inodes_free: stat.files_free(),
        })
    }
}

/// Bytes in all and left to use on the file system of `path`.
pub fn disk(path: &Path) -> (u64, u64) {
    Disk::at(path).map_or((0, 0), |disk| (disk.capacity, disk.available))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_page_cache_can_give_back_is_available() {
        let text = "MemTotal: 100 kB\nMemFree:  20 kB\nInactive(file):   30 kB\nAnonPages: 5 kB\nSwapTotal: 0 kB\n";
        let memory = Memory::parse(text);
        assert_eq!((memory.working_set(), memory.available()), (50 * 1024, 50 * 1024));
        assert_eq!((memory.anonymous, memory.swap_total), (5 * 1024, 0));
    }
}
