//! Regatta: Kubernetes, whole, in one binary. This crate is the command line and the composition of the parts.

mod address;
mod cli;
mod cni;
mod cni_network;
mod containers;
mod cri_server;
mod data;
mod detach;
mod down;
mod image;
mod kubeconfig;
mod network;
mod parts;
mod pki;
mod preflight;
mod renewal;
mod sample;
mod settings;
mod status;
mod up;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use cli::{Cli, Command};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // A shim is small and single-threaded: it is entered before anything else is set up.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "shim") {
        return runtime::shim::main(args);
    }
    let name = std::env::args_os().next().unwrap_or_default();
    if let Some(command) = sample::shell::called(&name) {
        let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        return sample::shell::main(command, arguments);
    }
    if cni::is_plugin() {
        return cni::plugin();
    }
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A log on a full disk takes nothing; the exit code is told all the same.
            let _ = writeln!(std::io::stderr(), "regatta: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    // Either of the two that may be linked serves; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match command {
        Command::Version => {
            println!("regatta {}", cli::VERSION);
            Ok(())
        }
        Command::Up(options) if options.detach => detach::up(&options),
        Command::Up(options) => {
            log();
            let detached = options.detached;
            if detached {
                detach::leave();
            }
            let ended = runtime()?.block_on(up::up(*options));
            if let (true, Err(error)) = (detached, &ended) {
                detach::tell(error);
            }
            ended
        }
        Command::Down(options) => runtime()?.block_on(down::down(&options.place.data_dir, options.purge)),
        Command::Status(place) => runtime()?.block_on(status::status(&place.data_dir)),
        Command::Image { place, command } => {
            log();
            preflight::root("image")?;
            runtime()?.block_on(image::run(&place.data_dir, command))
        }
        Command::Cri(options) => {
            log();
            runtime()?.block_on(cri_server::run(options))
        }
        Command::Sample { command } => runtime()?.block_on(sample::run(command)),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the threads")
}

/// Logs go to standard error, one event a line; `REGATTA_LOG` chooses them (`debug`, `regatta=info,kubelet=debug`, ...).
fn log() {
    let filter = EnvFilter::try_from_env("REGATTA_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // A message about a log that cannot be written would go to that same log, and end the thread.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false).init();
}

/// A client for the cluster's administrator, from the kubeconfig file.
async fn admin_client(settings: &data::Settings) -> Result<kube::Client> {
    let shown = settings.kubeconfig.display();
    if std::fs::File::open(&settings.kubeconfig).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied) {
        anyhow::bail!("only its owner and root may read the kubeconfig {shown}; run the command with sudo");
    }
    let file = kube::config::Kubeconfig::read_from(&settings.kubeconfig)
        .with_context(|| format!("cannot read the kubeconfig {shown}"))?;
    // The file may hold other clusters, and one of them be the current one.
    let context = Some(settings.context.clone()).filter(|name| !name.is_empty());
    let options = kube::config::KubeConfigOptions { context, ..Default::default() };
    let config = kube::Config::from_custom_kubeconfig(file, &options)
        .await
        .with_context(|| format!("the kubeconfig {shown} does not lead to the cluster"))?;
    Ok(kube::Client::try_from(config)?)
}
