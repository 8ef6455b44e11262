//! Rotation: a log that has grown to its size is renamed and opened anew; old ones are compressed and few are kept.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use runtime::cri::{ContainerFilter, ContainerState, RuntimeService};

const SIZE_MAX: u64 = 10 * 1024 * 1024;
/// Files a container, the one that is written included.
const FILES_MAX: usize = 5;
const EVERY: Duration = Duration::from_secs(10);

/// Looks at the sizes of running containers' logs, for ever.
pub async fn rotate(runtime: Arc<dyn RuntimeService>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
        let Ok(containers) = runtime.list_containers(&running).await else { continue };
        for container in containers {
            let Ok(status) = runtime.container_status(&container.id).await else { continue };
            let path = PathBuf::from(status.log_path);
            if fs::metadata(&path).is_ok_and(|meta| meta.len() >= SIZE_MAX)
                && let Err(error) = turn(&*runtime, &container.id, &path).await
            {
                tracing::warn!(path = %path.display(), %error, "a log cannot be rotated");
            }
        }
    }
}

async fn turn(runtime: &dyn RuntimeService, id: &str, path: &Path) -> io::Result<()> {
    let aside = path.with_file_name(format!(
        "{}.{}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        Timestamp::now().strftime("%Y%m%d-%H%M%S")
    ));
    let old = path.to_owned();
    tokio::task::spawn_blocking(move || tidy(&old)).await.map_err(io::Error::other)??;
    fs::rename(path, &aside)?;
    if let Err(error) = runtime.reopen_container_log(id).await {
        // The container goes on writing to where it did.
        fs::rename(&aside, path)?;
        return Err(io::Error::other(error));
    }
    Ok(())
}

/// The rotated files of a log, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut files: Vec<_> = fs::read_dir(path.parent().unwrap_or(Path::new("/")))?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    files.sort();
    Ok(files)
}

/// Compresses what was rotated before, and removes the oldest to make room for one more.
fn tidy(path: &Path) -> io::Result<()> {
    for file in rotated(path)? {
        let name = file.to_string_lossy().into_owned();
        if name.ends_with(".tmp") {
            fs::remove_file(&file)?;
        } else if !name.ends_with(".gz") {
            let unfinished = PathBuf::from(format!("{name}.tmp"));
            let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::fast());
            io::copy(&mut File::open(&file)?, &mut encoder)?;
            encoder.finish()?;
            fs::rename(&unfinished, format!("{name}.gz"))?;
            fs::remove_file(&file)?;
        }
    }
    let files = rotated(path)?;
    for file in files.iter().take((files.len() + 2).saturating_sub(FILES_MAX)) {
        fs::remove_file(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rotated_logs_are_kept_and_the_older_ones_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4", "0.log.5", "1.log.1"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        tidy(&log).unwrap();
        let kept: Vec<_> = rotated(&log).unwrap();
        let kept: Vec<_> = kept.iter().map(|p| p.file_name().unwrap().to_string_lossy()).collect();
        assert_eq!(kept, ["0.log.3.gz", "0.log.4.gz", "0.log.5.gz"]);
        assert!(dir.path().join("1.log.1").exists());
    }
}
