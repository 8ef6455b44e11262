//! The sample application: a web server that counts its visits in a small database. It needs no image from anywhere, since
//! its image is made from this binary.

mod database;
mod image;
pub mod shell;
mod start;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub enum Command {
    /// Serve the web application; reads DATABASE (HOST:PORT), DATABASE_PASSWORD and GREETING
    Web {
        /// Address to listen on
        #[arg(long, default_value = "0.0.0.0:8080")]
        listen: SocketAddr,
    },
    /// Serve the database that the web application counts in; reads DATABASE_PASSWORD
    Database {
        /// Address to listen on
        #[arg(long, default_value = "0.0.0.0:5432")]
        listen: SocketAddr,
        /// Directory that keeps the counts
        #[arg(long, default_value = "/data")]
        directory: PathBuf,
    },
    /// Write the application's images (regatta.local/webapp:v1 and :v2) as an archive for `regatta image import`
    Image {
        /// File to write
        file: PathBuf,
    },
    /// Import the images into a running cluster, apply the application's manifests and wait until it answers
    Start {
        /// The cluster's data directory
        #[arg(long, default_value = crate::cli::DATA_DIR)]
        data_dir: PathBuf,
    },
}

pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Web { listen } => web::serve(listen).await,
        Command::Database { listen, directory } => database::serve(listen, directory).await,
        Command::Image { file } => image::write(&file),
        Command::Start { data_dir } => start::start(&data_dir).await,
    }
}

/// Ends when the container is asked to stop. The first process of a PID namespace gets no signal that it does not handle.
async fn stopped() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
