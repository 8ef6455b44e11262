//! The shim: the small process that keeps the containers of one pod while servers come and go.
//!
//! It is the binary itself, entered by [`main`] before anything else is set up. It has one thread and sleeps in `poll`.
//! It is the parent (by being their subreaper) of its containers' processes, holds their streams, writes their logs and
//! records how they end. It needs no server to do so; one that starts connects to its socket and learns how things stand.

mod container;
mod create;
mod exec;
mod launch;
pub mod log;
mod pause;
mod process;
mod progress;
pub mod protocol;
mod service;
pub(crate) mod sys;
mod users;

use std::ffi::OsString;
use std::process::ExitCode;

pub use container::kill_cgroup;
pub use launch::{ImageMount, Launch, Rootfs, Users};
pub use process::{Capabilities, Process, User};

use sys::{Context, Result};

/// The socket's name in a sandbox's directory.
pub const SOCKET: &str = "shim.sock";

/// Runs a shim until it is shut down. `args` are what follows `regatta shim`.
///
/// Its standard input is the socket that it listens on, its standard output a first connection.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    if args.first().is_none_or(|arg| arg != "run") {
        eprintln!("the shim is started by the server");
        return ExitCode::from(2);
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    // A session of its own: what ends the server's terminal or group does not end it.
    let _ = nix::unistd::setsid();
    sys::ignore_signals();
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0]).context("subreaper")?;
    sys::prctl(libc::PR_SET_NAME, [c"regatta-shim".as_ptr() as u64, 0, 0, 0]).context("name")?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    std::env::set_current_dir("/").context("/")?;
    // Whatever else the server let pass is not ours to hold.
    sys::keep_only(Vec::new()).context("close descriptors")?;
    let (listener, first) = (sys::moved(0)?, sys::moved(1)?);
    service::Service::new(listener, first)?.run()
}
