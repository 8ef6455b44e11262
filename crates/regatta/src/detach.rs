//! `regatta up --detach`: the same command in a session of its own, with its output in the data directory.

use std::fs::File;
use std::io::{BufRead, BufReader};
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
    let start = log.metadata()?.len();
    let mut command = Command::new("/proc/self/exe");
    command.arg0("regatta").args(std::env::args_os().skip(1).filter(|argument| argument != "--detach"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the background process")?;
    let output = child.stdout.take().context("the background process has no output")?;
    // The line that says that the cluster is ready; the end of the output means that it never will be.
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    if !line.is_empty() {
        print!("{line}");
        return Ok(());
    }
    let status = child.wait()?;
    let text = std::fs::read(&path).unwrap_or_default();
    let said = String::from_utf8_lossy(&text[usize::try_from(start)?.min(text.len())..]).into_owned();
    match said.lines().last().and_then(|line| line.strip_prefix("regatta: ")) {
        Some(reason) => bail!("{reason}"),
        None => bail!("the cluster ended at once ({status}); see {}", path.display()),
    }
}
