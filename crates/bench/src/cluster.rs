//! The cluster that is measured.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;

use crate::process::Processes;

pub struct Cluster {
    binary: PathBuf,
    directory: TempDir,
    server: Option<Child>,
}

impl Cluster {
    pub fn new(binary: PathBuf) -> Result<Cluster> {
        Ok(Cluster { binary, directory: TempDir::new()?, server: None })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).arg("--data-dir").arg(self.directory.path().join("data"));
        command
    }

    /// Starts the server; gives the time until it said that it is ready.
    pub async fn up(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let mut child = self
            .command(&["up", "--node-name", "node"])
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(self.directory.path().join("log"))?)
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        self.server = Some(child);
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        })
        .await??;
        if line.is_empty() {
            bail!("the cluster does not start: {}", std::fs::read_to_string(self.directory.path().join("log"))?);
        }
        Ok(start.elapsed())
    }

    /// Stops the server; pods stay.
    pub fn down(&mut self) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(server.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        server.wait()?;
        Ok(())
    }

    pub fn purge(&mut self) -> Result<()> {
        self.down()?;
        let output = self.command(&["down", "--purge"]).output()?;
        if !output.status.success() {
            bail!("down --purge: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Imports the sample's images.
    pub fn import(&self) -> Result<()> {
        let archive = self.directory.path().join("sample.tar");
        let made = Command::new(&self.binary).args(["sample", "image"]).arg(&archive).status()?;
        let imported = self.command(&["image", "import"]).arg(&archive).stdout(Stdio::null()).status()?;
        if !(made.success() && imported.success()) {
            bail!("the sample's images cannot be imported");
        }
        Ok(())
    }

    pub async fn client(&self) -> Result<kube::Client> {
        let file = Kubeconfig::read_from(self.directory.path().join("data/kubeconfig.yaml"))?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(kube::Client::try_from(config)?)
    }

    pub fn processes(&self) -> Result<Processes> {
        let server = self.server.as_ref().context("the server does not run")?.id();
        Ok(Processes::new(server))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.is_some() {
            // An error has ended the run; what is left is removed as far as possible.
            let _ = self.purge();
        }
    }
}
