//! One container as its shim keeps it: its streams, its log, who is attached, what became of it.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::log::{Lines, LogFile, timestamp};
use super::protocol::{ContainerInfo, Create, Phase, VERSION};
use super::sys::{self, Context, Result};

/// Who waits for an answer: a connection and its call.
pub type Waiter = (u64, u64);

/// What is kept for somebody attached who does not read, before the container has to wait for him.
const BACKLOG_MAX: usize = 256 << 10;

pub struct Container {
    pub info: ContainerInfo,
    pub create: Create,
    /// Open from the creation until the program runs.
    pub status: Option<OwnedFd>,
    pub waiter: Option<Waiter>,
    /// The terminal's master.
    pub console: Option<OwnedFd>,
    /// What the container reads as its stdin, for those who attach.
    pub stdin: Option<OwnedFd>,
    /// stdout and stderr, or the terminal alone.
    pub outputs: [Option<Output>; 2],
    pub log: Option<LogFile>,
    pub attached: Vec<Attached>,
}

pub struct Output {
    pub source: OwnedFd,
    lines: Lines,
}

/// Where one who attached gets a copy of the outputs.
pub struct Attached {
    pub sinks: [Option<Sink>; 2],
}

pub struct Sink {
    pub fd: OwnedFd,
    backlog: VecDeque<u8>,
}

/// What one turn of reading may use; shared by all containers, as only one is served at a time.
pub struct Buffers {
    pub read: Vec<u8>,
    pub lines: Vec<u8>,
}

pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The container's ends of its streams.
pub type Streams = [OwnedFd; 3];

impl Container {
    /// Opens the log and the streams. Without a terminal the container's ends are given.
    pub fn new(create: Create) -> Result<(Container, Option<Streams>)> {
        let log = create.log.as_deref().map(|path| LogFile::open(path).context(path.display())).transpose()?;
        let info = ContainerInfo { version: VERSION, id: create.container.clone(), ..ContainerInfo::default() };
        let mut container = Container {
            info,
            status: None,
            waiter: None,
            console: None,
            stdin: None,
            outputs: [None, None],
            log,
            attached: Vec::new(),
            create,
        };
        if container.create.tty {
            return Ok((container, None));
        }
        let input = if container.create.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
            sys::set_nonblocking(&write).context("pipe")?;
            container.stdin = Some(write);
            read
        } else {
            fs::File::open("/dev/null").context("/dev/null")?.into()
        };
        let output = |stream| -> Result<(Output, OwnedFd)> {
            let (read, write) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
            sys::set_nonblocking(&read).context("pipe")?;
            Ok((Output { source: read, lines: Lines::new(stream) }, write))
        };
        let (stdout, stdout_end) = output("stdout")?;
        let (stderr, stderr_end) = output("stderr")?;
        container.outputs = [Some(stdout), Some(stderr)];
        Ok((container, Some([input, stdout_end, stderr_end])))
    }

    /// Takes over the terminal that the container was made with.
    pub fn set_console(&mut self, master: OwnedFd) -> Result<()> {
        sys::set_nonblocking(&master).context("terminal")?;
        let copy = || master.try_clone().context("terminal");
        self.outputs[0] = Some(Output { source: copy()?, lines: Lines::new("stdout") });
        self.stdin = self.create.stdin.then(copy).transpose()?;
        self.console = Some(master);
        Ok(())
    }

    /// Reads what an output has, once. Gives `false` when there is nothing more for now.
    pub fn pump(&mut self, at: usize, buffers: &mut Buffers) -> bool {
        let Some(output) = &mut self.outputs[at] else { return false };
        match nix::unistd::read(&output.source, &mut buffers.read) {
            Ok(length) if length > 0 => {
                let data = &buffers.read[..length];
                if let Some(log) = &mut self.log {
                    buffers.lines.clear();
                    output.lines.feed(data, &timestamp(now()), &mut buffers.lines);
                    log.write(&buffers.lines);
                }
                for attached in &mut self.attached {
                    if attached.sinks[at].as_mut().is_some_and(|sink| !sink.push(data)) {
                        attached.sinks[at] = None;
                    }
                }
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            // The end; a terminal says EIO when its last user is gone.
            _ => {
                self.close_output(at, buffers);
                false
            }
        }
    }

    fn close_output(&mut self, at: usize, buffers: &mut Buffers) {
        if let Some(mut output) = self.outputs[at].take()
            && let Some(log) = &mut self.log
        {
            buffers.lines.clear();
            output.lines.finish(&timestamp(now()), &mut buffers.lines);
            log.write(&buffers.lines);
        }
        for attached in &mut self.attached {
            if attached.sinks[at].as_ref().is_some_and(|sink| sink.backlog.is_empty()) {
                attached.sinks[at] = None;
            }
        }
    }

    /// Whether an output is not to be read for now, since somebody attached has not taken what came before.
    pub fn is_held(&self, at: usize) -> bool {
        self.attached.iter().filter_map(|attached| attached.sinks[at].as_ref()).any(Sink::is_full)
    }

    /// Somebody attached can take more, or has left: which, says whether he was behind when he was asked.
    pub fn served(&mut self, number: usize, at: usize, behind: bool) {
        let over = self.outputs[at].is_none();
        let Some(attached) = self.attached.get_mut(number) else { return };
        let Some(sink) = &mut attached.sinks[at] else { return };
        if !behind || !sink.flush() || (over && !sink.is_behind()) {
            attached.sinks[at] = None;
        }
    }

    /// Forgets those attached who get nothing any more.
    pub fn drop_idle(&mut self) {
        self.attached.retain(|attached| attached.sinks.iter().any(Option::is_some));
    }

    /// The first process ended: reads what is left, and records the end.
    pub fn ended(&mut self, exit_code: i32, buffers: &mut Buffers) {
        for at in 0..2 {
            while self.pump(at, buffers) {}
        }
        self.info.phase = Phase::Exited;
        self.info.pid = 0;
        self.info.exit_code = exit_code;
        self.info.finished_at = now();
        self.info.oom_killed = self.create.oom.as_deref().is_some_and(was_oom_killed);
        self.stdin = None;
        self.console = None;
        self.record();
    }

    /// Writes how it stands to its state file, by rename: a reader sees the old or the new.
    pub fn record(&self) {
        let text = serde_json::to_vec(&self.info).expect("a state is plain data");
        let temporary = self.create.state.with_extension("new");
        // A disk that is full or gone must not end the containers; a server that is connected is told anyway.
        if fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &self.create.state)).is_err() {
            let _ = fs::remove_file(&temporary);
        }
    }

    /// Kills whatever else runs in the container's cgroup: without a PID namespace of its own there may be more.
    pub fn kill_rest(&self) {
        kill_cgroup(&self.create.cgroup);
    }

    /// Lets somebody see the outputs from now on, and gives a descriptor to write to stdin, if it is wanted.
    pub fn attach(&mut self, stdin: bool, sinks: Vec<OwnedFd>) -> Result<Option<OwnedFd>> {
        let input = match (&self.stdin, stdin) {
            (Some(input), true) => Some(input.try_clone().context("stdin")?),
            _ => None,
        };
        if input.is_some() && self.create.stdin_once && !self.create.tty {
            // The only other holder closes it: then the container reads the end.
            self.stdin = None;
        }
        let mut sinks = sinks.into_iter();
        let mut sink = |at: usize| {
            let fd = sinks.next().filter(|_| self.outputs[at].is_some());
            fd.map(|fd| Sink { fd, backlog: VecDeque::new() })
        };
        let sinks = [sink(0), sink(1)];
        if sinks.iter().any(Option::is_some) {
            self.attached.push(Attached { sinks });
        }
        Ok(input)
    }
}

impl Sink {
    /// Whether it takes more than it has been given.
    pub fn is_behind(&self) -> bool {
        !self.backlog.is_empty()
    }

    fn is_full(&self) -> bool {
        self.backlog.len() >= BACKLOG_MAX
    }

    /// Gives `false` when nobody reads any more.
    fn push(&mut self, data: &[u8]) -> bool {
        self.backlog.extend(data);
        self.flush()
    }

    /// Writes as much as is taken. Gives `false` when nobody reads any more.
    pub fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            match nix::unistd::write(&self.fd, self.backlog.as_slices().0) {
                Ok(length) => drop(self.backlog.drain(..length)),
                Err(Errno::EAGAIN) => return true,
                Err(_) => return false,
            }
        }
        self.backlog.shrink_to_fit();
        true
    }
}

/// Whether the kernel killed a process of the cgroup for want of memory. Both cgroup versions count alike.
fn was_oom_killed(file: &Path) -> bool {
    fs::read_to_string(file)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count.trim() != "0")
}

/// Kills all processes of a cgroup; the reaping is others' work.
pub fn kill_cgroup(directory: &Path) {
    if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let list = directory.join("cgroup.procs");
    // A fork bomb may be faster than one round.
    for _ in 0..100 {
        let pids: Vec<i32> =
            fs::read_to_string(&list).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect();
        let alive = pids.iter().filter(|pid| sys::kill(**pid, libc::SIGKILL).is_ok()).count();
        if alive == 0 {
            return;
        }
    }
}

impl Buffers {
    pub fn new() -> Buffers {
        Buffers { read: vec![0; 32 << 10], lines: Vec::new() }
    }

    /// Gives back what a burst needed.
    pub fn shrink(&mut self) {
        self.lines = Vec::new();
    }
}
