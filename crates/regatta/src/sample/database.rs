//! The sample's database: counters over TCP, one command a line.
//!
//! `AUTH <password>` answers `OK`; then `INCR <name>` answers the new count. Anything else answers `ERR <why>`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

struct Database {
    directory: PathBuf,
    password: String,
    /// Held while a count is read and written.
    writing: Mutex<()>,
}

pub async fn serve(listen: SocketAddr, directory: PathBuf) -> Result<()> {
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot use {}", directory.display()))?;
    let password = std::env::var("DATABASE_PASSWORD").unwrap_or_default();
    let database = Arc::new(Database { directory, password, writing: Mutex::new(()) });
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("database listening on {listen}");
    let accept = async {
        loop {
            let (stream, peer) = listener.accept().await?;
            let database = database.clone();
            tokio::spawn(async move {
                if let Err(error) = database.converse(stream).await {
                    eprintln!("{peer}: {error}");
                }
            });
        }
    };
    tokio::select! {
        result = accept => result,
        result = super::stopped() => result,
    }
}

impl Database {
    async fn converse(&self, stream: TcpStream) -> Result<()> {
        let mut stream = BufReader::new(stream);
        let mut trusted = self.password.is_empty();
        let mut line = String::new();
        while stream.read_line(&mut line).await? > 0 {
            let answer = match line.trim().split_once(' ') {
                Some(("AUTH", password)) => {
                    trusted = password == self.password;
                    if trusted { "OK".to_owned() } else { "ERR wrong password".to_owned() }
                }
                _ if !trusted => "ERR not signed in".to_owned(),
                Some(("INCR", name)) if name.chars().all(|c| c.is_ascii_alphanumeric()) => {
                    self.increment(name).await.map_or_else(|e| format!("ERR {e}"), |n| n.to_string())
                }
                _ => "ERR unknown command".to_owned(),
            };
            stream.write_all(format!("{answer}\n").as_bytes()).await?;
            line.clear();
        }
        Ok(())
    }

    async fn increment(&self, name: &str) -> Result<u64> {
        let _writing = self.writing.lock().await;
        let path = self.directory.join(name);
        let count = read_count(&path)? + 1;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, count.to_string())?;
        std::fs::rename(&temporary, &path)?;
        Ok(count)
    }
}

fn read_count(path: &Path) -> Result<u64> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} is damaged", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}
