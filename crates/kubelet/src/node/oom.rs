//! The kernel's log, for processes that it killed because the whole node was out of memory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use client::events::EventType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::context::Context;

const LOG: &str = "/dev/kmsg";
/// A record's longest, as the kernel has it.
const RECORD_MAX: usize = 8192;

/// Tells of what is killed from now on, for ever. Where the log may not be read, nothing is told.
pub async fn watch(context: Arc<Context>) {
    let open = || {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(LOG)?;
        file.seek(SeekFrom::End(0))?;
        // A file keeps its descriptor, which is all that the newer form is about.
        #[expect(deprecated)]
        AsyncFd::with_interest(file, Interest::READABLE)
    };
    let log = match open() {
        Ok(log) => log,
        Err(error) => return tracing::debug!(%error, "the kernel's log cannot be followed"),
    };
    let mut record = [0; RECORD_MAX];
    loop {
        let read = log.async_io(Interest::READABLE, |mut file: &File| file.read(&mut record)).await;
        match read {
            Ok(length) if length > 0 => {
                if let Some((process, pid)) = victim(&String::from_utf8_lossy(&record[..length])) {
                    let message = format!("System OOM encountered, victim process: {process}, pid: {pid}");
                    context.tell_of_node(EventType::Warning, "SystemOOM", message);
                }
            }
            // What was overwritten meanwhile is lost.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, "the kernel's log cannot be followed"),
        }
    }
}

/// The process that a record says was killed for the whole node's want of memory, not for a group's.
fn victim(record: &str) -> Option<(&str, u32)> {
    let (_, text) = record.split_once(';')?;
    let facts = text.lines().next()?.strip_prefix("oom-kill:")?;
    let fact = |name: &str| facts.split(',').find_map(|fact| fact.strip_prefix(name)?.strip_prefix('='));
    if fact("constraint") == Some("CONSTRAINT_MEMCG") {
        return None;
    }
    Some((fact("task")?, fact("pid")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::victim;

    #[test]
    fn only_what_the_whole_node_lacked_memory_for_is_told() {
        for (record, expected) in [
            (
                "6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,\
                 task_memcg=/a,task=hog,pid=42,uid=0\n",
                Some(("hog", 42)),
            ),
            (
                "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,\
                 task_memcg=/a,task=hog,pid=42,uid=0\n",
                None,
            ),
            ("6,1,2,-;something else\n", None),
            ("", None),
        ] {
            assert_eq!(victim(record), expected, "{record}");
        }
    }
}
