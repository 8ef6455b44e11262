//! Reading a log from where it is wanted, and waiting for more of it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures::StreamExt;
use runtime::cri::{ContainerEventType, ContainerState, RuntimeService};
use tokio::sync::mpsc;

use super::changes::Changes;
use super::rotate::rotated;
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
    /// Around the file, where it is compressed.
    unpack: Option<GzDecoder<File>>,
    format: Format,
}

impl Reader {
    fn open(path: &Path, options: &Options) -> io::Result<Reader> {
        let mut file = File::open(path)?;
        if let Some(lines) = options.tail {
            let at = tail_offset(&mut file, lines)?;
            file.seek(SeekFrom::Start(at))?;
        }
        Ok(Reader { file, unpack: None, format: Format::new(options.clone()) })
    }

    /// The next text, or `None` at the present end.
    async fn next(mut self) -> io::Result<(Reader, Option<Bytes>)> {
        let work = move || {
            let mut raw = vec![0; CHUNK];
            let count = match &mut self.unpack {
                Some(unpack) => unpack.read(&mut raw)?,
                None => self.file.read(&mut raw)?,
            };
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
        if let Some(next) = following(&reader.file, path) {
            // What was written before the writer turned to the next one.
            let (mut old, more) = drain(reader, out).await?;
            if !more {
                return Ok(());
            }
            old.unpack = if next.packed { Some(GzDecoder::new(next.file.try_clone()?)) } else { None };
            old.file = next.file;
            reader = old;
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

/// A file of a rotated log.
struct Next {
    file: File,
    packed: bool,
}

/// The file that follows this one, if another has taken the log's place since: the next of those set aside, or the new one.
fn following(file: &File, path: &Path) -> Option<Next> {
    let fresh = File::open(path).ok()?;
    let (old, new) = (file.metadata().ok()?, fresh.metadata().ok()?);
    if old.ino() == new.ino() && old.dev() == new.dev() {
        return None;
    }
    // The kernel knows by what name the file goes now, or last went.
    let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let name = name.to_string_lossy().trim_end_matches(" (deleted)").trim_end_matches(".gz").to_owned();
    let log = path.file_name()?.to_string_lossy().into_owned();
    let aside = rotated(path).unwrap_or_default().into_iter().filter(|other| {
        let other = other.to_string_lossy();
        !other.ends_with(".tmp") && other.trim_end_matches(".gz").rsplit('/').next() > name.rsplit('/').next()
    });
    // A log that was taken away, and not set aside, is followed by the new one.
    let next = aside.min().filter(|_| !name.ends_with(&format!("/{log}")));
    match next {
        Some(next) => Some(Next { file: File::open(&next).ok()?, packed: next.extension().is_some_and(|e| e == "gz") }),
        None => Some(Next { file: fresh, packed: false }),
    }
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
    fn a_reader_that_is_late_goes_through_all_that_was_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("0.log"), "one").unwrap();
        let mut file = File::open(at("0.log")).unwrap();
        assert!(following(&file, &at("0.log")).is_none());
        std::fs::rename(at("0.log"), at("0.log.20240101-000001")).unwrap();
        assert!(following(&file, &at("0.log")).is_none(), "nobody writes to another one yet");
        let packed = File::create(at("0.log.20240101-000002.gz")).unwrap();
        let mut packed = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        packed.write_all(b"two").unwrap();
        packed.finish().unwrap();
        std::fs::write(at("0.log.20240101-000003"), "three").unwrap();
        std::fs::write(at("0.log"), "four").unwrap();
        std::fs::remove_file(at("0.log.20240101-000001")).unwrap();
        let mut read = Vec::new();
        while let Some(next) = following(&file, &at("0.log")) {
            let mut text = String::new();
            match next.packed {
                true => GzDecoder::new(&next.file).read_to_string(&mut text).unwrap(),
                false => (&next.file).read_to_string(&mut text).unwrap(),
            };
            read.push(text);
            file = next.file;
        }
        assert_eq!(read, ["two", "three", "four"]);
    }

    #[test]
    fn the_tail_begins_at_a_line() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\nbb\nccc\n").unwrap();
        for (lines, expected) in [(0, 9), (1, 5), (2, 2), (3, 0), (9, 0)] {
            assert_eq!(tail_offset(&mut file, lines).unwrap(), expected, "{lines}");
        }
    }
}
