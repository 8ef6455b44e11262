//! The shim's loop: requests, output, exits. One thread, no timers; it sleeps until something happens.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, accept4, socketpair};
use nix::sys::wait::WaitPidFlag;

use super::container::{Buffers, Container, Waiter};
use super::create::{self, Creation};
use super::exec::{self, Execution};
use super::launch::GO;
use super::pause;
use super::protocol::{Call, Create, Exec, MESSAGE_MAX, Message, Phase, Reply, Request, VERSION};
use super::sys::{self, Context, Error, Fork, Result};
use super::users;

/// Everything that a shim keeps.
pub struct Service {
    listener: OwnedFd,
    pub(super) signals: SignalFd,
    pub(super) connections: BTreeMap<u64, OwnedFd>,
    next_connection: u64,
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) execs: BTreeMap<u64, Running>,
    pub(super) pause: Option<Running>,
    /// Ends of processes that nobody has claimed yet: a process may end before its pid is told.
    pub(super) unclaimed: HashMap<i32, i32>,
    pub(super) buffers: Buffers,
    /// Something was made since memory was last given back.
    worked: bool,
}

/// A process other than a container's first one.
#[derive(Default)]
pub(super) struct Running {
    pub pid: i32,
    /// Open until the program runs.
    pub status: Option<OwnedFd>,
    pub waiter: Option<Waiter>,
    /// The terminal, until it is handed to who asked.
    pub console: Option<OwnedFd>,
}

/// What a descriptor that woke us is.
enum Source {
    Listener,
    Signals,
    Connection(u64),
    Output(String, usize),
    Sink { container: String, number: usize, at: usize, behind: bool },
    ContainerStatus(String),
    ExecStatus(u64),
    PauseStatus,
}

/// What a request comes to: an answer now, or one later.
enum Outcome {
    Now(Reply, Option<OwnedFd>),
    Later,
}

impl Service {
    pub fn new(listener: OwnedFd, first: OwnedFd) -> Result<Service> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().context("block SIGCHLD")?;
        let signals =
            SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).context("signalfd")?;
        sys::set_nonblocking(&first).context("fcntl")?;
        Ok(Service {
            listener,
            signals,
            connections: BTreeMap::from([(0, first)]),
            next_connection: 1,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            pause: None,
            unclaimed: HashMap::new(),
            buffers: Buffers::new(),
            worked: true,
        })
    }

    /// Serves until it is shut down.
    pub fn run(&mut self) -> Result<()> {
        loop {
            for source in self.wait()? {
                self.handle(source);
            }
            self.buffers.shrink();
            if self.worked && !self.is_making() {
                self.worked = false;
                sys::forget_program();
            }
            self.containers.values_mut().for_each(Container::drop_idle);
        }
    }

    /// Whether a process is being made.
    pub(super) fn is_making(&self) -> bool {
        self.containers.values().any(|container| container.waiter.is_some())
            || self.execs.values().chain(&self.pause).any(|process| process.status.is_some())
    }

    fn wait(&self) -> Result<Vec<Source>> {
        let mut polls = Polls::default();
        polls.add(Source::Listener, &self.listener, PollFlags::POLLIN);
        polls.add(Source::Signals, &self.signals, PollFlags::POLLIN);
        for (id, socket) in &self.connections {
            polls.add(Source::Connection(*id), socket, PollFlags::POLLIN);
        }
        if let Some(status) = self.pause.as_ref().and_then(|pause| pause.status.as_ref()) {
            polls.add(Source::PauseStatus, status, PollFlags::POLLIN);
        }
        for (id, exec) in &self.execs {
            if let Some(status) = &exec.status {
                polls.add(Source::ExecStatus(*id), status, PollFlags::POLLIN);
            }
        }
        for (id, container) in &self.containers {
            if let Some(status) = &container.status {
                polls.add(Source::ContainerStatus(id.clone()), status, PollFlags::POLLIN);
            }
            for (at, output) in container.outputs.iter().enumerate() {
                if let Some(output) = output.as_ref().filter(|_| !container.is_held(at)) {
                    polls.add(Source::Output(id.clone(), at), &output.source, PollFlags::POLLIN);
                }
            }
            for (number, attached) in container.attached.iter().enumerate() {
                for (at, sink) in attached.sinks.iter().enumerate() {
                    if let Some(sink) = sink {
                        // Without anything to write it is watched for its reader's leaving.
                        let flags = if sink.is_behind() { PollFlags::POLLOUT } else { PollFlags::empty() };
                        let behind = sink.is_behind();
                        polls.add(Source::Sink { container: id.clone(), number, at, behind }, &sink.fd, flags);
                    }
                }
            }
        }
        polls.wait()
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.reap(),
            Source::Connection(id) => self.serve(id),
            Source::Output(id, at) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.pump(at, &mut self.buffers);
                }
            }
            Source::Sink { container, number, at, behind } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.served(number, at, behind);
                }
            }
            Source::ContainerStatus(id) => self.container_status(&id),
            Source::ExecStatus(id) => self.exec_status(id),
            Source::PauseStatus => self.pause_status(),
        }
    }

    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        if let Ok(fd) = accept4(self.listener.as_raw_fd(), flags) {
            self.connections.insert(self.next_connection, sys::accepted(fd));
            self.next_connection += 1;
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(socket) = self.connections.get(&id) else { return };
        let mut packet = vec![0; MESSAGE_MAX];
        let (length, fds) = match sys::receive(socket.as_fd(), &mut packet) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Ok((0, _)) | Err(_) => {
                self.connections.remove(&id);
                return;
            }
            Ok(received) => received,
        };
        let Ok(call) = serde_json::from_slice::<Call>(&packet[..length]) else {
            self.connections.remove(&id);
            return;
        };
        drop(packet);
        let waiter = (id, call.id);
        self.worked = true;
        match self.answer(waiter, call.request, fds) {
            Ok(Outcome::Now(reply, fd)) => self.send(id, &Message::Reply { id: call.id, reply }, fd),
            Ok(Outcome::Later) => {}
            Err(error) => self.send(id, &Message::Failed { id: call.id, message: error.0 }, None),
        }
    }

    fn answer(&mut self, waiter: Waiter, request: Request, fds: Vec<OwnedFd>) -> Result<Outcome> {
        let done = Ok(Outcome::Now(Reply::Done, None));
        match request {
            Request::Hello { .. } => {
                let infos: Vec<_> = self.containers.values().map(|container| container.info.clone()).collect();
                for info in infos {
                    self.send(waiter.0, &Message::Container(info), None);
                }
                let pid = nix::unistd::getpid().as_raw();
                Ok(Outcome::Now(Reply::Hello { version: VERSION, pid }, None))
            }
            // Nothing else goes on in a sandbox that is being made.
            Request::Namespaces(wanted) => users::make(&wanted).map(|()| Outcome::Now(Reply::Done, None)),
            Request::Pause { cgroups, users } => {
                let (ours, theirs) = status_pair()?;
                spawn(move || pause::run(theirs, cgroups, users))?;
                self.pause = Some(Running { status: Some(ours), waiter: Some(waiter), ..Running::default() });
                Ok(Outcome::Later)
            }
            Request::Create(create) => self.create(waiter, create),
            Request::Start { container } => self.start(waiter, &container),
            Request::Signal { container, signal } => {
                let container = self.container(&container)?;
                if container.info.pid > 0 {
                    // It may have ended this very moment; its pid is ours until we reap it.
                    let _ = sys::kill(container.info.pid, signal);
                }
                done
            }
            Request::ReopenLog { container } => {
                let container = self.container(&container)?;
                if let Some(log) = &mut container.log {
                    log.reopen().context("reopen the log")?;
                }
                done
            }
            Request::Resize { container, width, height } => {
                if let Some(console) = &self.container(&container)?.console {
                    sys::set_window_size(console.as_fd(), width, height).context("resize")?;
                }
                done
            }
            Request::Attach { container, stdin } => {
                let container = self.container(&container)?;
                if container.info.phase != Phase::Running {
                    return Err(Error("container is not running".into()));
                }
                let input = container.attach(stdin, fds)?;
                Ok(Outcome::Now(Reply::Done, input))
            }
            Request::Exec(exec) => self.exec(waiter, exec, fds),
            Request::SignalExec { exec, signal } => {
                if let Some(exec) = self.execs.get(&exec).filter(|exec| exec.pid > 0) {
                    let _ = sys::kill(exec.pid, signal);
                }
                done
            }
            Request::Remove { container } => {
                if self.containers.get(&container).is_some_and(|c| c.info.phase == Phase::Running) {
                    return Err(Error(format!("container {container} is running")));
                }
                // A created one sees the socket close and ends.
                self.containers.remove(&container);
                done
            }
            Request::Shutdown => self.shut_down(),
        }
    }

    fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).context(format_args!("container {id} not found"))
    }

    fn create(&mut self, waiter: Waiter, create: Create) -> Result<Outcome> {
        let (id, bundle) = (create.container.clone(), create.bundle.clone());
        let (ours, theirs) = status_pair()?;
        let (mut container, streams) = Container::new(create)?;
        let creation = Creation { id: id.clone(), bundle, status: theirs, streams };
        spawn(move || create::run(creation))?;
        container.status = Some(ours);
        container.waiter = Some(waiter);
        self.containers.insert(id, container);
        Ok(Outcome::Later)
    }

    fn start(&mut self, waiter: Waiter, id: &str) -> Result<Outcome> {
        let container = self.container(id)?;
        let status = container.status.as_ref().filter(|_| container.info.phase == Phase::Created);
        let status = status.context(format_args!("container {id} is not in the created state"))?;
        sys::send(status.as_fd(), GO, &[]).context("start")?;
        container.waiter = Some(waiter);
        Ok(Outcome::Later)
    }

    fn exec(&mut self, waiter: Waiter, exec: Exec, fds: Vec<OwnedFd>) -> Result<Outcome> {
        let container = self.container(&exec.container)?;
        if container.info.phase != Phase::Running {
            return Err(Error(format!("cannot exec in a stopped container: {}", exec.container)));
        }
        let (ours, theirs) = status_pair()?;
        let execution = Execution {
            bundle: container.create.bundle.clone(),
            pid: container.info.pid,
            args: exec.args,
            status: theirs,
            streams: (!exec.tty).then_some(fds),
        };
        spawn(move || exec::run(execution))?;
        let running = Running { status: Some(ours), waiter: Some(waiter), ..Running::default() };
        self.execs.insert(exec.exec, running);
        Ok(Outcome::Later)
    }

    /// Kills whatever is left, records its end, and ends the shim.
    fn shut_down(&mut self) -> Result<Outcome> {
        for container in self.containers.values_mut() {
            if container.info.pid > 0 {
                let _ = sys::kill(container.info.pid, libc::SIGKILL);
            }
            container.status = None;
            container.kill_rest();
        }
        for process in self.execs.values().chain(&self.pause).filter(|process| process.pid > 0) {
            let _ = sys::kill(process.pid, libc::SIGKILL);
        }
        while self.reap_one(WaitPidFlag::empty()) {}
        sys::exit(0)
    }

    /// Sends to one connection. Who does not read is let go, and asks again when he is back.
    pub(super) fn send(&mut self, connection: u64, message: &Message, fd: Option<OwnedFd>) {
        let Some(socket) = self.connections.get(&connection) else { return };
        let text = serde_json::to_vec(message).expect("a message is plain data");
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        if sys::send(socket.as_fd(), &text, &fds).is_err() {
            self.connections.remove(&connection);
        }
    }
}

/// The socket between the shim and the children that make a process; the first end is the shim's.
fn status_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).context("socketpair")?;
    sys::set_nonblocking(&ours).context("fcntl")?;
    Ok((ours, theirs))
}

/// Forks a child that runs `body`, which does not return, and drops what `body` holds here.
fn spawn(body: impl FnOnce()) -> Result<()> {
    match sys::fork(false, 0).context("fork")? {
        Fork::Parent(_) => Ok(()),
        Fork::Child => {
            body();
            sys::exit(0)
        }
    }
}

#[derive(Default)]
struct Polls<'a> {
    sources: Vec<Source>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> Polls<'a> {
    fn add(&mut self, source: Source, fd: &'a impl AsFd, flags: PollFlags) {
        self.sources.push(source);
        self.fds.push(PollFd::new(fd.as_fd(), flags));
    }

    fn wait(mut self) -> Result<Vec<Source>> {
        loop {
            match poll(&mut self.fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                result => {
                    result.context("poll")?;
                    break;
                }
            }
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_none_or(|events| !events.is_empty());
        Ok(self.sources.into_iter().zip(&self.fds).filter(|(_, fd)| ready(fd)).map(|(source, _)| source).collect())
    }
}
