//! A node and pods made of network namespaces that only the test's threads are in; they end with the test.
#![allow(dead_code, reason = "each test file uses a part")]

use net::{AttachRequest, Config, PodNetwork, PortMapping, Ranges, Served};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// Runs a test on a thread in a fresh network namespace with nothing but a loopback interface.
pub fn on_a_node(test: impl AsyncFnOnce() + Send + 'static) {
    let work = move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(work).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program in the calling thread's namespace and gives its output.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

pub fn config(directory: &std::path::Path) -> Config {
    Config {
        id: "abc123xyz".into(),
        directory: directory.join("net"),
        run: directory.join("run/abc123xyz"),
        ranges: Ranges {
            pods: vec!["10.42.0.0/24".parse().unwrap()],
            cluster: vec!["10.42.0.0/16".parse().unwrap()],
            services: vec!["10.96.0.0/16".parse().unwrap()],
        },
        plugins: false,
        served: Served { addresses: vec!["10.96.0.10".parse().unwrap()], port: 53 },
        mtu: 1500,
    }
}

/// A network namespace.
pub struct Namespace(File);

impl Namespace {
    pub fn new() -> Namespace {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Namespace(File::open("/proc/thread-self/ns/net").unwrap())
        };
        std::thread::spawn(make).join().unwrap()
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Runs `work` inside.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let fd = self.0.try_clone().unwrap();
        let inside = move || {
            setns(&fd, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::spawn(inside).join().unwrap()
    }

    /// Answers each TCP connection and UDP packet to the port with `name@<the client's address>`.
    pub fn serve(&self, port: u16, name: &'static str) {
        self.enter(move || serve(SocketAddr::from(([0, 0, 0, 0], port)), name));
    }

    pub fn ask(&self, target: &str) -> io::Result<String> {
        let target = target.to_owned();
        self.enter(move || ask(&target))
    }

    pub fn ask_udp(&self, target: &str) -> io::Result<String> {
        let target = target.to_owned();
        self.enter(move || ask_udp(&target))
    }
}

pub fn serve(address: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let peer = connection.peer_addr().unwrap().ip();
            let _ = connection.write_all(format!("{name}@{peer}").as_bytes());
        }
    });
    let socket = UdpSocket::bind(address).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name}@{}", peer.ip()).as_bytes(), peer);
        }
    });
}

pub fn ask(target: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target.parse().unwrap(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

pub fn ask_udp(target: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    ask_from(&socket, target)
}

pub fn ask_from(socket: &UdpSocket, target: &str) -> io::Result<String> {
    ask_briefly(socket, target, PATIENCE)
}

/// For asking again and again: the kernel tells a sender only some times a second that nobody is there.
pub fn ask_briefly(socket: &UdpSocket, target: &str, patience: Duration) -> io::Result<String> {
    socket.connect(target)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The connection was refused, and at once.
#[track_caller]
pub fn refused(answer: io::Result<String>) {
    assert_eq!(answer.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
}

pub async fn pod(network: &PodNetwork, name: &str, ports: Vec<PortMapping>) -> (Namespace, IpAddr) {
    let namespace = Namespace::new();
    let request = AttachRequest {
        sandbox_id: name.into(),
        namespace: "default".into(),
        name: name.into(),
        netns: namespace.path(),
        port_mappings: ports,
    };
    let addresses = network.attach(request).await.unwrap();
    (namespace, addresses[0])
}
