//! `regatta up --detach`: the same command in a session of its own, with its output in the data directory.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::Up;
use crate::data::DataDir;

/// Starts the cluster in the background. Returns when it is ready, or fails with what it said.
pub fn up(options: &Up) -> Result<()> {
    crate::preflight::root("up")?;
    let data = DataDir::at(&options.data_dir)?;
    std::fs::create_dir_all(&data.path).with_context(|| {
        format!("cannot make the data directory {}; choose another with --data-dir", data.path.display())
    })?;
    let path = data.join("regatta.log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}; choose another directory with --data-dir", path.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("regatta")
        .args(std::env::args_os().skip(1).filter(|argument| argument != "--detach"))
        .arg("--detached");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the background process")?;
    let mut output = child.stdout.take().context("the background process has no output")?;
    // What it says ends with the line that says that the cluster is ready; the end of the output means that it never will be.
    let (begin, mut said, mut part) = (Instant::now(), Vec::new(), [0; 4096]);
    loop {
        let left = PATIENCE.saturating_sub(begin.elapsed());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(output.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => bail!(
                "the cluster has not said within {} s that it is ready; it goes on in the background, see {} and `regatta status`",
                PATIENCE.as_secs(),
                path.display()
            ),
            Err(nix::errno::Errno::EINTR) => continue,
            ready => ready?,
        };
        let count = output.read(&mut part)?;
        said.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&said);
        if text.starts_with(READY) && text.ends_with('\n') {
            print!("{text}");
            return Ok(());
        }
        if text.starts_with(LATE) && text.ends_with('\n') {
            bail!("{}; it goes on in the background, see {} and `regatta status`", text.trim(), path.display());
        }
        if count == 0 {
            break;
        }
    }
    let status = child.wait()?;
    match String::from_utf8_lossy(&said).trim() {
        "" => bail!("the cluster ended at once ({status}); see {}", path.display()),
        reason => bail!("{reason}"),
    }
}

/// How the line begins that says that the cluster is ready.
pub const READY: &str = "Regatta is ready";
/// How the line begins that says why it is not, after the time that a start may take.
pub const LATE: &str = "Regatta runs, but the node is not Ready";
/// How long the background process may say nothing at all.
const PATIENCE: Duration = Duration::from_secs(120);

/// Leaves the session of the process that waits for the start, so that the end of its terminal is not this one's.
pub fn leave() {
    // It fails only where the process leads a session already.
    let _ = nix::unistd::setsid();
}

/// Tells who waits for the start why there is none; the log may be on a disk that is full.
pub fn tell(error: &anyhow::Error) {
    // Nobody listens any more once the cluster was ready.
    let _ = writeln!(std::io::stdout(), "{error:#}");
}
