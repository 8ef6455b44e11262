//! Rotation: a log that has grown to its size is renamed and opened anew; old ones are compressed and few are kept.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use runtime::cri::{ContainerFilter, ContainerState, RuntimeService};

use crate::context::Context;

/// Looks at the sizes of running containers' logs, for ever.
pub async fn rotate(context: Arc<Context>) {
    let (runtime, configuration) = (&context.runtime, &context.configuration);
    let (largest, files) = (configuration.log_max_bytes(), configuration.container_log_max_files);
    loop {
        tokio::time::sleep(configuration.container_log_monitor_interval.0).await;
        let running = ContainerFilter { state: Some(ContainerState::Running), ..Default::default() };
        let Ok(containers) = runtime.list_containers(&running).await else { continue };
        for container in containers {
            let Ok(status) = runtime.container_status(&container.id).await else { continue };
            let path = PathBuf::from(status.log_path);
            if fs::metadata(&path).is_ok_and(|meta| meta.len() >= largest)
                && let Err(error) = turn(&**runtime, &container.id, &path, files).await
            {
                tracing::warn!(path = %path.display(), %error, "a log cannot be rotated");
            }
        }
    }
}

async fn turn(runtime: &dyn RuntimeService, id: &str, path: &Path, files: usize) -> io::Result<()> {
    let Some(aside) = aside(path, Timestamp::now())? else { return Ok(()) };
    let old = path.to_owned();
    tokio::task::spawn_blocking(move || tidy(&old, files)).await.map_err(io::Error::other)??;
    fs::rename(path, &aside)?;
    if let Err(error) = runtime.reopen_container_log(id).await {
        // The container goes on writing to where it did.
        fs::rename(&aside, path)?;
        return Err(io::Error::other(error));
    }
    Ok(())
}

/// Where a log is set aside; none where one of the same second is there already, so that it has to wait for the next look.
fn aside(path: &Path, now: Timestamp) -> io::Result<Option<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!("{name}.{}", now.strftime("%Y%m%d-%H%M%S")));
    let taken =
        rotated(path)?.iter().any(|file| file.to_string_lossy().trim_end_matches(".gz") == aside.to_string_lossy());
    Ok((!taken).then_some(aside))
}

/// The rotated files of a log, oldest first.
pub(super) fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut files: Vec<_> = fs::read_dir(path.parent().unwrap_or(Path::new("/")))?
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect();
    files.sort();
    Ok(files)
}

/// Compresses what was rotated before, and removes the oldest to make room for one more. `most` counts the file that is
/// written too.
fn tidy(path: &Path, most: usize) -> io::Result<()> {
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
    for file in files.iter().take((files.len() + 2).saturating_sub(most)) {
        fs::remove_file(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_set_aside_once_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for second in ["20240501-120000", "20240501-120001.gz"] {
            fs::write(dir.path().join(format!("0.log.{second}")), "").unwrap();
        }
        for (second, expected) in [("00", None), ("01", None), ("02", Some("0.log.20240501-120002"))] {
            let now = format!("2024-05-01T12:00:{second}.5Z").parse().unwrap();
            assert_eq!(aside(&log, now).unwrap(), expected.map(|name| dir.path().join(name)), "{second}");
        }
    }

    #[test]
    fn few_rotated_logs_are_kept_and_the_older_ones_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.1", "0.log.2", "0.log.3", "0.log.4", "0.log.5", "1.log.1"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        tidy(&log, 5).unwrap();
        let kept: Vec<_> = rotated(&log).unwrap();
        let kept: Vec<_> = kept.iter().map(|p| p.file_name().unwrap().to_string_lossy()).collect();
        assert_eq!(kept, ["0.log.3.gz", "0.log.4.gz", "0.log.5.gz"]);
        assert!(dir.path().join("1.log.1").exists());
    }
}
