//! From the CRI's log format (`time stream tag content`) to what a reader asked for.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

/// What of a log is wanted, by the query parameters of upstream's kubelet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail: Option<u64>,
    pub limit: Option<u64>,
    pub since: Option<Timestamp>,
    /// Only this stream.
    pub stream: Option<&'static str>,
}

impl Options {
    /// From query parameters; the error says which one is wrong.
    pub fn parse(query: &HashMap<String, Vec<String>>, now: Timestamp) -> Result<Options, String> {
        let get = |name: &str| query.get(name).and_then(|v| v.first()).map(String::as_str).filter(|v| !v.is_empty());
        let flag = |name: &str| match get(name) {
            None => Ok(false),
            Some(text) => match text {
                "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
                "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
                _ => Err(format!("invalid value for {name}: {text:?}")),
            },
        };
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| format!("invalid value for {name}: {text:?}")),
        };
        let since = match (number("sinceSeconds")?, get("sinceTime")) {
            (Some(seconds), _) => {
                Some(now - SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX / 2).min(1 << 32)))
            }
            (None, Some(text)) => Some(text.parse().map_err(|_| format!("invalid value for sinceTime: {text:?}"))?),
            (None, None) => None,
        };
        Ok(Options {
            follow: flag("follow")?,
            previous: flag("previous")?,
            timestamps: flag("timestamps")?,
            tail: number("tailLines")?,
            limit: number("limitBytes")?,
            since,
            stream: match get("stream") {
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                None | Some("All") => None,
                Some(other) => return Err(format!("invalid value for stream: {other:?}")),
            },
        })
    }
}

/// Turns a log's bytes, in whatever pieces they come, into the reader's text.
pub struct Format {
    options: Options,
    /// A record whose end has not come yet.
    rest: Vec<u8>,
    left: Option<u64>,
}

impl Format {
    pub fn new(options: Options) -> Format {
        Format { left: options.limit, options, rest: Vec::new() }
    }

    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends the text of all records that `bytes` completes.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let mut bytes = bytes;
        if !self.rest.is_empty() {
            let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
                self.rest.extend_from_slice(bytes);
                return;
            };
            let mut record = std::mem::take(&mut self.rest);
            record.extend_from_slice(&bytes[..end]);
            self.record(&record, out);
            bytes = &bytes[end + 1..];
        }
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.record(&bytes[..end], out);
            bytes = &bytes[end + 1..];
        }
        self.rest.extend_from_slice(bytes);
    }

    fn record(&mut self, record: &[u8], out: &mut Vec<u8>) {
        let mut parts = record.splitn(4, |b| *b == b' ');
        let (Some(time), Some(stream), Some(tag)) = (parts.next(), parts.next(), parts.next()) else { return };
        let content = parts.next().unwrap_or_default();
        if self.options.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
            // The ones after it are younger still.
            self.options.since = None;
        }
        let start = out.len();
        if self.options.timestamps {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(content);
        if !tag.starts_with(b"P") {
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            let more = ((out.len() - start) as u64).min(*left);
            out.truncate(start + more as usize);
            *left -= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2024-01-01T00:00:00.000000001Z stdout F one\n\
        2024-01-01T00:00:01Z stderr F two\n\
        2024-01-01T00:00:02Z stdout P thr\n\
        2024-01-01T00:00:02Z stdout F ee\n";

    #[test]
    fn options_select_and_shape_the_text_however_the_log_is_cut() {
        let query = |text: &str| {
            let pairs = text.split('&').filter_map(|p| p.split_once('='));
            pairs.map(|(k, v)| (k.to_owned(), vec![v.to_owned()])).collect::<HashMap<_, _>>()
        };
        for (options, expected) in [
            ("", "one\ntwo\nthree\n"),
            ("stream=Stderr", "two\n"),
            ("stream=All", "one\ntwo\nthree\n"),
            ("sinceTime=2024-01-01T00:00:01Z", "two\nthree\n"),
            ("limitBytes=5", "one\nt"),
            ("timestamps=true&stream=Stderr", "2024-01-01T00:00:01Z two\n"),
        ] {
            for step in [1, 7, 1000] {
                let mut format = Format::new(Options::parse(&query(options), Timestamp::UNIX_EPOCH).unwrap());
                let mut out = Vec::new();
                for piece in LOG.as_bytes().chunks(step) {
                    format.feed(piece, &mut out);
                }
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{options} by {step}");
            }
        }
        assert!(Options::parse(&query("tailLines=x"), Timestamp::UNIX_EPOCH).is_err());
    }
}
