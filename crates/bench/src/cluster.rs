//! The cluster that is measured.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;

use crate::process::Processes;

const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(2);

pub struct Cluster {
    binary: PathBuf,
    directory: TempDir,
    server: Option<Child>,
}

/// How long a start took.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Until the API server answered that it is ready.
    pub server: Duration,
    /// Until the node was Ready.
    pub node: Duration,
}

impl Cluster {
    /// A cluster whose data directory is made below `place`.
    pub fn new(binary: PathBuf, place: &Path) -> Result<Cluster> {
        Ok(Cluster { binary, directory: TempDir::with_prefix_in("regatta-bench", place)?, server: None })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).arg("--data-dir").arg(self.directory.path().join("data"));
        command
    }

    /// Starts the server; gives the times until its API was ready and until it said that the node is.
    pub async fn up(&mut self) -> Result<Started> {
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
            BufReader::new(output).read_line(&mut line).map(|_| (line, Instant::now()))
        });
        let (line, server) = tokio::join!(line, tokio::time::timeout(PATIENCE, self.answers(start)));
        let (line, ready) = line??;
        if line.is_empty() {
            bail!("the cluster does not start: {}", std::fs::read_to_string(self.directory.path().join("log"))?);
        }
        Ok(Started { server: server.context("the API server is never ready")?, node: ready - start })
    }

    /// Asks until the API server is ready.
    async fn answers(&self, start: Instant) -> Duration {
        loop {
            if let Ok(client) = self.client().await {
                let ask = || http::Request::get("/readyz").body(Vec::new());
                while let Ok(request) = ask() {
                    match client.request_text(request).await {
                        Ok(_) => return start.elapsed(),
                        // A restart's file is that of the time before, and as good.
                        Err(_) => tokio::time::sleep(AGAIN).await,
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
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
