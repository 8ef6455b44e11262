//! What a server and a shim say to each other.
//!
//! One message is one packet of a `SOCK_SEQPACKET` socket: JSON, with file descriptors beside it where the variant says
//! so. A shim outlives the server that started it, so that both ends must understand the version before theirs: fields
//! are only added, with a default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cri::{IDMapping, LinuxContainerUser};

pub const VERSION: u32 = 1;

/// The most that a message may measure.
pub const MESSAGE_MAX: usize = 128 << 10;

/// A request and the number that its reply will bear.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    pub id: u64,
    pub request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Must come first. Each container is told by a `Container` message before the reply.
    Hello {
        version: u32,
    },
    /// Makes the pod's namespaces, owned by a user namespace of the pod's own, before anything else is made.
    Namespaces(Namespaces),
    /// Makes the process that holds the sandbox's PID namespace.
    Pause {
        cgroups: Vec<PathBuf>,
        /// The user namespace that is to own it, if not the node's.
        #[serde(default)]
        users: Option<PathBuf>,
    },
    /// Makes a container whose process waits for `Start`.
    Create(Create),
    Start {
        container: String,
    },
    Signal {
        container: String,
        signal: i32,
    },
    ReopenLog {
        container: String,
    },
    Resize {
        container: String,
        width: u16,
        height: u16,
    },
    /// Descriptors: where to write stdout and stderr (stdout alone for a terminal). The reply has a descriptor to write
    /// stdin to, if it was asked for.
    Attach {
        container: String,
        stdin: bool,
    },
    /// Descriptors: stdin, stdout, stderr; none for a terminal, whose master comes with the reply.
    Exec(Exec),
    SignalExec {
        exec: u64,
        signal: i32,
    },
    /// Forgets a container that is not running.
    Remove {
        container: String,
    },
    /// Kills all that is left and ends the shim, which closes the connection.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Namespaces {
    pub uids: Vec<IDMapping>,
    pub gids: Vec<IDMapping>,
    /// The kinds, as in `/proc/PID/ns`, and the file that is to pin each; `user` is made in any case.
    pub pins: BTreeMap<String, PathBuf>,
    pub hostname: String,
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    pub container: String,
    /// The OCI bundle with `config.json` and `launch.json`.
    pub bundle: PathBuf,
    /// Where the shim records what becomes of it.
    pub state: PathBuf,
    pub log: Option<PathBuf>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// A cgroup that has all of the container's processes.
    pub cgroup: PathBuf,
    /// The file that counts `oom_kill`.
    pub oom: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    pub container: String,
    /// Chosen by the caller, unique in this shim.
    pub exec: u64,
    pub args: Vec<String>,
    pub tty: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Being made, not yet there.
    #[default]
    Creating,
    Created,
    Running,
    Exited,
}

/// What a shim knows of a container. It is also what it records on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerInfo {
    pub version: u32,
    pub id: String,
    pub phase: Phase,
    pub pid: i32,
    /// Nanoseconds since the epoch, 0 where it has not happened.
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub oom_killed: bool,
    /// Nobody saw how it ended.
    pub lost: bool,
    /// Why it could not be started.
    pub message: String,
    pub user: Option<LinuxContainerUser>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Reply {
        id: u64,
        reply: Reply,
    },
    Failed {
        id: u64,
        message: String,
    },
    /// How a container stands: at `Hello`, and whenever it changes.
    Container(ContainerInfo),
    /// An exec ended.
    ExecExit {
        exec: u64,
        exit_code: i32,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Hello { version: u32, pid: i32 },
    Pid(i32),
    Container(ContainerInfo),
    Done,
}
