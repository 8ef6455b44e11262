//! What the kernel says a cluster's processes use.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;

/// The processes of a cluster: the server and its shims.
#[derive(Clone, Debug)]
pub struct Processes {
    server: u32,
}

/// A reading of what was used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// Bytes that went to the disk.
    pub written: u64,
}

impl Processes {
    pub fn new(server: u32) -> Processes {
        Processes { server }
    }

    /// Pids of the server and of its shims: those that share its network namespace, which is this run's own.
    fn pids(&self) -> Result<Vec<u32>> {
        let namespace = |pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let own = namespace(self.server);
        let mut pids = vec![self.server];
        for entry in fs::read_dir("/proc")? {
            let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.split(|b| *b == 0).any(|word| word == b"shim") && namespace(pid) == own {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// Proportional set sizes in bytes: the server's, and that of all shims together with their number.
    pub fn memory(&self) -> Result<(u64, u64, usize)> {
        let (mut server, mut shims, mut count) = (0, 0, 0);
        for pid in self.pids()? {
            let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            let line = text.lines().find(|l| l.starts_with("Pss:")).context("no Pss in smaps_rollup")?;
            let bytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).context("Pss")? * 1024;
            if pid == self.server {
                server += bytes;
            } else {
                shims += bytes;
                count += 1;
            }
        }
        Ok((server, shims, count))
    }

    /// Processor time and bytes written, of the server and its shims.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for pid in self.pids()? {
            usage.cpu += cpu(pid);
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            let written =
                io.lines().find_map(|l| l.strip_prefix("write_bytes: ")).and_then(|n| n.trim().parse::<u64>().ok());
            usage.written += written.unwrap_or(0);
        }
        Ok(usage)
    }
}

impl Usage {
    pub fn since(self, earlier: Usage) -> Usage {
        Usage { cpu: self.cpu.saturating_sub(earlier.cpu), written: self.written.saturating_sub(earlier.written) }
    }
}

/// Processor time of a process with all its threads, also those that have ended, to the nanosecond: idle threads use far
/// less than the tick that `stat` counts in.
pub fn cpu(pid: u32) -> Duration {
    let clock = clock_getcpuclockid(nix::unistd::Pid::from_raw(pid.cast_signed()));
    clock.and_then(|clock| clock.now()).map(Duration::from).unwrap_or_default()
}
