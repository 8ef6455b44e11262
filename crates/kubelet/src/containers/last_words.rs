//! What an ended container leaves behind to be told: its termination message.
//!
//! The files are the container's to write, so that nothing is taken for granted of them: they are opened without waiting, and
//! only what is a plain file is read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use runtime::cri::ContainerStatus;

use crate::labels;

/// A termination message's longest, and that of one taken from the log.
const MESSAGE_MAX: u64 = 4096;
const LOG_MESSAGE_MAX: u64 = 2048;
const LOG_MESSAGE_LINES: usize = 80;

/// What the runtime says of the end, followed by the file that the container wrote, or by the end of its log where its
/// policy says so.
pub async fn of(status: ContainerStatus) -> String {
    let said = status.message.clone();
    let read = tokio::task::spawn_blocking(move || written(&status));
    let words = read.await.unwrap_or_default();
    match (said.is_empty(), words.is_empty()) {
        (true, _) => words,
        (_, true) => said,
        _ => format!("{said}: {words}"),
    }
}

fn written(status: &ContainerStatus) -> String {
    let Some(path) = status.annotations.get(labels::MESSAGE_PATH) else { return String::new() };
    let mount = status.mounts.iter().find(|m| m.container_path == *path);
    let read = mount.map(|m| tail(Path::new(&m.host_path), MESSAGE_MAX));
    let text = match read {
        // It was made for the container; another may have taken it away.
        Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            return format!("Error on reading termination log {path}: {error}");
        }
        Some(Ok(bytes)) => lossy_tail(&bytes, MESSAGE_MAX as usize),
        _ => String::new(),
    };
    let policy = status.annotations.get(labels::MESSAGE_POLICY).map(String::as_str);
    let from_log = policy == Some("FallbackToLogsOnError")
        && status.exit_code != 0
        && status.reason != "ContainerCannotRun"
        && text.is_empty();
    if from_log { log_tail(Path::new(&status.log_path)).unwrap_or_default() } else { text }
}

/// Opens a plain file without waiting for whoever holds the other end of what is none.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
}

/// The last bytes of a file.
fn tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Bytes as text of at most so many bytes: its end.
fn lossy_tail(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let over = text.len().saturating_sub(most);
    text[text.ceil_char_boundary(over)..].to_owned()
}

/// The last lines of a log in the CRI's format, without its prefixes.
fn log_tail(path: &Path) -> io::Result<String> {
    // Prefixes take room too, so more is read than is shown.
    let raw = tail(path, 8 * LOG_MESSAGE_MAX)?;
    let text = String::from_utf8_lossy(&raw);
    let mut shown = String::new();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_MESSAGE_LINES)..] {
        let mut parts = line.splitn(4, ' ').skip(2);
        if let (Some(tag), Some(content)) = (parts.next(), parts.next()) {
            shown.push_str(content);
            if tag.starts_with('F') {
                shown.push('\n');
            }
        }
    }
    Ok(lossy_tail(shown.as_bytes(), LOG_MESSAGE_MAX as usize))
}

#[cfg(test)]
mod tests {
    use runtime::cri::Mount;

    use super::*;

    /// The message of a container whose file is what `make` leaves there.
    async fn message(said: &str, log: &str, make: impl FnOnce(&Path)) -> String {
        let directory = tempfile::tempdir().unwrap();
        let (file, log_path) = (directory.path().join("message"), directory.path().join("0.log"));
        make(&file);
        std::fs::write(&log_path, log).unwrap();
        let annotations = [(labels::MESSAGE_PATH, "/message"), (labels::MESSAGE_POLICY, "FallbackToLogsOnError")];
        let host_path = file.display().to_string();
        let status = ContainerStatus {
            exit_code: 1,
            message: said.to_owned(),
            annotations: annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            mounts: vec![Mount { container_path: "/message".into(), host_path, ..Mount::default() }],
            log_path: log_path.display().to_string(),
            ..ContainerStatus::default()
        };
        let read = tokio::time::timeout(std::time::Duration::from_secs(10), of(status));
        read.await.expect("it does not wait")
    }

    #[tokio::test]
    async fn the_end_of_a_long_message_is_told_and_what_is_no_plain_file_is_not_waited_for() {
        let write = |text: &str| {
            let text = text.to_owned();
            move |path: &Path| std::fs::write(path, text).unwrap()
        };
        assert_eq!(message("", "", write("words")).await, "words");
        assert_eq!(message("killed", "", write("words")).await, "killed: words");
        let long = message("", "", write(&format!("{}end", "x".repeat(5000)))).await;
        assert_eq!((long.len(), &long[4090..]), (4096, "xxxend"));
        let cut = message("", "", write(&"é".repeat(3000))).await;
        assert!(cut.len() <= 4096 && cut.ends_with("éé"), "{}", cut.len());
        let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(message("", "", fifo).await, "Error on reading termination log /message: not a regular file");
        let log = "2024-01-01T00:00:00Z stdout F one\n2024-01-01T00:00:00Z stderr P two\n";
        assert_eq!(message("", log, write("")).await, "one\ntwo");
    }
}
