//! Reading a log from where it is wanted, and waiting for more of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use runtime::cri::{ContainerEventType, ContainerState, RuntimeService};
use tokio::sync::mpsc;

use super::changes::Changes;
use super::{Format, Options};

const CHUNK: usize = 256 * 1024;
const TAIL_BLOCK: u64 = 64 * 1024;

/// Sends the log at `path` of the container `id` into `out`, following it while the container runs if that is wanted.
/// Ends early when the reader is gone.
pub async fn stream(
    runtime: Arc<dyn RuntimeService>,
    id: String,
    path: PathBuf,
    options: Options,
    out: mpsc::Sender<io::Result<Bytes>>,
) {
    let follow = options.follow;
    let result = if follow {
        follow_log(&*runtime, &id, &path, options, &out).await
    } else {
        read_log(&path, options, &out).await
    };
    if let Err(error) = result {
        let _ = out.send(Err(error)).await;
    }
}

/// An open log and how its bytes are shown.
struct Reader {
    file: File,
    format: Format,
}

impl Reader {
    fn open(path: &Path, options: &Options) -> io::Result<Reader> {
        let mut file = File::open(path)?;
        if let Some(lines) = options.tail {
            let at = tail_offset(&mut file, lines)?;
            file.seek(SeekFrom::Start(at))?;
        }
        Ok(Reader { file, format: Format::new(options.clone()) })
    }

    /// The next text, or `None` at the present end.
    async fn next(mut self) -> io::Result<(Reader, Option<Bytes>)> {
        let work = move || {
            let mut raw = vec![0; CHUNK];
            let count = self.file.read(&mut raw)?;
            let mut text = Vec::new();
            self.format.feed(&raw[..count], &mut text);
            Ok((self, (count > 0).then(|| Bytes::from(text))))
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }
}

/// Sends all that is there; false if the reader is gone or the limit is reached.
async fn drain(mut reader: Reader, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<(Reader, bool)> {
    loop {
        let (next, text) = reader.next().await?;
        reader = next;
        let Some(text) = text else { return Ok((reader, true)) };
        if !text.is_empty() && out.send(Ok(text)).await.is_err() {
            return Ok((reader, false));
        }
        if reader.format.is_full() {
            return Ok((reader, false));
        }
    }
}

async fn read_log(path: &Path, options: Options, out: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    drain(Reader::open(path, &options)?, out).await.map(|_| ())
}

async fn follow_log(
    runtime: &dyn RuntimeService,
    id: &str,
    path: &Path,
    options: Options,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    // Watching begins before reading, so that nothing falls in between.
    let changes = Changes::of(path.parent().unwrap_or(Path::new("/")))?;
    let mut events = runtime.get_container_events().await.map_err(io::Error::other)?;
    let mut reader = Reader::open(path, &options)?;
    loop {
        let status = runtime.container_status(id).await;
        let runs = status.is_ok_and(|s| s.state == ContainerState::Running);
        let (next, more) = drain(reader, out).await?;
        reader = next;
        if !more {
            return Ok(());
        }
        if let Some(file) = rotated(&reader.file, path) {
            reader.file = file;
            continue;
        }
        if !runs {
            return Ok(());
        }
        tokio::select! {
            changed = changes.next() => changed?,
            () = stopped(&mut events, id) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

/// The new file, if another one took the log's place.
fn rotated(file: &File, path: &Path) -> Option<File> {
    let fresh = File::open(path).ok()?;
    let (old, new) = (file.metadata().ok()?, fresh.metadata().ok()?);
    (old.ino() != new.ino() || old.dev() != new.dev()).then_some(fresh)
}

async fn stopped(
    events: &mut futures::stream::BoxStream<'static, runtime::cri::Result<runtime::cri::ContainerEventResponse>>,
    id: &str,
) {
    while let Some(event) = events.next().await {
        match event {
            Ok(event) if event.container_id != id => {}
            Ok(event) if event.container_event_type == ContainerEventType::Started => {}
            // It ended, or an event was missed.
            _ => return,
        }
    }
    std::future::pending().await
}

/// Where the last `lines` lines begin.
fn tail_offset(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    // The end of the last line is not the beginning of one.
    let mut wanted = lines + 1;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(TAIL_BLOCK);
        block.resize((end - start) as usize, 0);
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            wanted -= 1;
            if wanted == 0 {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_tail_begins_at_a_line() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\nbb\nccc\n").unwrap();
        for (lines, expected) in [(0, 9), (1, 5), (2, 2), (3, 0), (9, 0)] {
            assert_eq!(tail_offset(&mut file, lines).unwrap(), expected, "{lines}");
        }
    }
}
