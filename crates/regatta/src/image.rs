//! `regatta image`: the node's images, with or without a running cluster.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use parking_lot::Mutex;
use runtime::images::{Images, Progress, Registries};

use crate::cli;
use crate::data::DataDir;

pub async fn run(data_dir: &Path, command: cli::Image) -> Result<()> {
    let data = DataDir::at(data_dir)?;
    let marker = data.marker()?;
    if marker.is_none() {
        bail!("no cluster has been started from {}; run `regatta up` or name its --data-dir", data.path.display());
    }
    let file = match &command {
        cli::Image::Pull { registries: Some(file), .. } => Some(file.clone()),
        _ => marker.and_then(|m| m.settings.registries),
    };
    let registries = file.map_or_else(|| Ok(Registries::default()), |file| Registries::load(&file))?;
    let images = Images::open(data.join("images"), registries)?;
    match command {
        cli::Image::Import { files } => import(&images, &files).await,
        cli::Image::Pull { reference, .. } => pull(&images, &reference).await,
        cli::Image::List => list(&images),
        cli::Image::Remove { reference } => {
            if !images.remove(&reference)? {
                bail!("image {reference:?} not found; see `regatta image list`");
            }
            Ok(())
        }
    }
}

async fn import(images: &Images, files: &[std::path::PathBuf]) -> Result<()> {
    for file in files {
        for imported in images.import(file).await? {
            println!("{}", imported.name.unwrap_or_else(|| imported.image.id.clone()));
        }
    }
    Ok(())
}

/// How far each layer has come.
#[derive(Default)]
struct Bars {
    layers: Vec<String>,
    total: BTreeMap<String, u64>,
    fetched: BTreeMap<String, u64>,
    done: usize,
    drawn: Option<Instant>,
}

async fn pull(images: &Images, reference: &str) -> Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let bars = Mutex::new(Bars::default());
    let start = Instant::now();
    let report = |progress: Progress| {
        let mut bars = bars.lock();
        match progress {
            Progress::Resolved { host, layers } => {
                eprintln!("{reference}: {} layers from {host}", layers.len());
                bars.layers = layers.iter().map(|(digest, _)| digest.clone()).collect();
                bars.total = layers.into_iter().collect();
            }
            Progress::Fetched { digest, bytes } => {
                bars.fetched.insert(digest, bytes);
            }
            Progress::Done { digest } => {
                bars.done += 1;
                let total = bars.total.get(&digest).copied().unwrap_or(0);
                bars.fetched.insert(digest, total);
            }
        }
        if terminal && bars.drawn.is_none_or(|at| at.elapsed() > Duration::from_millis(100)) {
            bars.drawn = Some(Instant::now());
            bars.draw(start);
        }
    };
    let result = images.pull(reference, None, &report).await;
    if terminal {
        bars.lock().draw(start);
        eprintln!();
    }
    println!("{}", result?.id);
    Ok(())
}

impl Bars {
    fn draw(&self, start: Instant) {
        let (fetched, total): (u64, u64) = (self.fetched.values().sum(), self.total.values().sum());
        let rate = fetched as f64 / start.elapsed().as_secs_f64().max(0.001);
        eprint!(
            "\r\x1b[Klayers {}/{}  {} / {}  {}/s",
            self.done,
            self.layers.len(),
            size(fetched),
            size(total),
            size(rate as u64)
        );
        // Nobody is harmed where the terminal has gone.
        let _ = std::io::stderr().flush();
    }
}

fn list(images: &Images) -> Result<()> {
    let mut rows = vec![("IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned())];
    for image in images.list() {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        for name in names {
            rows.push((name.clone(), id.clone(), size(image.size)));
        }
    }
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for (name, id, size) in rows {
        writeln!(out, "{name:width$}  {id:12}  {size}")?;
    }
    Ok(())
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes}B"),
        1_000..1_000_000 => format!("{:.1}kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}MB", bytes as f64 / 1e6),
        _ => format!("{:.2}GB", bytes as f64 / 1e9),
    }
}
