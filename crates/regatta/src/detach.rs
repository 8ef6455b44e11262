//! `regatta up --detach`: the same command in a session of its own, with its output in the data directory.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cli::Up;
use crate::data::DataDir;

/// Starts the cluster in the background. Returns when it is ready, or fails with what it said.
pub fn up(options: &Up) -> Result<()> {
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
        .process_group(0)
        .spawn()
        .context("cannot start the background process")?;
    let mut output = child.stdout.take().context("the background process has no output")?;
    // What it says ends with the line that says that the cluster is ready; the end of the output means that it never will be.
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let count = output.read(&mut part)?;
        said.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&said);
        if text.starts_with(READY) && text.ends_with('\n') {
            print!("{text}");
            return Ok(());
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

/// Tells who waits for the start why there is none; the log may be on a disk that is full.
pub fn tell(error: &anyhow::Error) {
    // Nobody listens any more once the cluster was ready.
    let _ = writeln!(std::io::stdout(), "{error:#}");
}
