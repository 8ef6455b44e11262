//! Container logs in the CRI format: a timestamp, the stream, `F` for a full line or `P` for a part of one, the text.
//!
//! The format is described in kubernetes/design-proposals `kubelet-cri-logging.md`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The most text of one log line. A longer line becomes parts.
pub const LINE_MAX: usize = 16 << 10;

/// Where one container's log goes.
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub fn open(path: &Path) -> io::Result<LogFile> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        Ok(LogFile { path: path.to_owned(), file })
    }

    /// Opens the path anew: the old file was renamed.
    pub fn reopen(&mut self) -> io::Result<()> {
        *self = LogFile::open(&self.path)?;
        Ok(())
    }

    /// Text that a full disk refuses is lost, as the container must go on.
    pub fn write(&mut self, lines: &[u8]) {
        let _ = self.file.write_all(lines);
    }
}

/// Turns the bytes of one stream into log lines.
pub struct Lines {
    stream: &'static str,
    /// The beginning of a line that has no end yet, shorter than `LINE_MAX`.
    pending: Vec<u8>,
}

impl Lines {
    pub fn new(stream: &'static str) -> Lines {
        Lines { stream, pending: Vec::new() }
    }

    /// Appends to `out` what `data` completes, stamped `now`.
    pub fn feed(&mut self, mut data: &[u8], now: &str, out: &mut Vec<u8>) {
        while !data.is_empty() {
            let room = LINE_MAX - self.pending.len();
            let window = &data[..data.len().min(room + 1)];
            match window.iter().position(|b| *b == b'\n') {
                Some(end) => {
                    self.emit('F', &data[..end], now, out);
                    data = &data[end + 1..];
                }
                // A line that is as long as it may be and has no end at the next byte either.
                None if window.len() > room => {
                    self.emit('P', &data[..room], now, out);
                    data = &data[room..];
                }
                None => {
                    self.pending.extend_from_slice(data);
                    return;
                }
            }
        }
    }

    /// The stream ended: what has no line end stays a part, so that readers add none.
    pub fn finish(&mut self, now: &str, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.emit('P', &[], now, out);
        }
    }

    fn emit(&mut self, tag: char, text: &[u8], now: &str, out: &mut Vec<u8>) {
        for part in [now, " ", self.stream, if tag == 'F' { " F " } else { " P " }] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(text);
        out.push(b'\n');
        // Idle containers hold no memory.
        self.pending = Vec::new();
    }
}

/// RFC 3339 with nanoseconds, UTC, always of the same length.
pub fn timestamp(nanoseconds: i64) -> String {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 0000-03-01 in the proleptic Gregorian calendar, whose years then end with the leap day.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(chunks: &[&[u8]]) -> String {
        let (mut lines, mut out) = (Lines::new("stdout"), Vec::new());
        for chunk in chunks {
            lines.feed(chunk, "T", &mut out);
        }
        lines.finish("T", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_put_together_from_any_chunks() {
        for (chunks, expected) in [
            (&[&b"a\nb\n"[..]][..], "T stdout F a\nT stdout F b\n"),
            (&[b"a", b"b\n\n", b"c"], "T stdout F ab\nT stdout F \nT stdout P c\n"),
            (&[b"\n"], "T stdout F \n"),
            (&[], ""),
        ] {
            assert_eq!(logged(chunks), expected);
        }
    }

    #[test]
    fn a_long_line_becomes_parts_and_a_line_of_just_the_limit_does_not() {
        let text = vec![b'x'; LINE_MAX];
        let line = String::from_utf8(text.clone()).unwrap();
        assert_eq!(logged(&[&text, b"\n"]), format!("T stdout F {line}\n"));
        assert_eq!(logged(&[&text, b"y\n"]), format!("T stdout P {line}\nT stdout F y\n"));
        assert_eq!(logged(&[&text, &text, b"\n"]), format!("T stdout P {line}\nT stdout F {line}\n"));
    }

    #[test]
    fn timestamps_are_rfc_3339_with_nine_digits() {
        for (nanoseconds, expected) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_795_262_399_999_999_999, "2026-11-21T11:59:59.999999999Z"),
        ] {
            assert_eq!(timestamp(nanoseconds), expected);
        }
    }
}
