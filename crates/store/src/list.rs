//! Reading a range at one revision.

use std::{ops::Bound, sync::Arc};

use imbl::OrdMap;

use crate::{Entry, Error};

pub(crate) type Entries = OrdMap<Arc<str>, Arc<Entry>>;

/// Which page of a range.
#[derive(Debug, Clone, Copy, Default)]
pub struct List<'a> {
    /// The revision to read; the current one when none is given.
    pub at: Option<u64>,
    /// The key after which the page begins.
    pub after: Option<&'a str>,
    /// The most entries in the page; 0 means all.
    pub limit: usize,
}

/// One page of a range.
#[derive(Debug)]
pub struct Page {
    /// The entries, in the order of keys.
    pub entries: Vec<Arc<Entry>>,
    /// The revision that was read.
    pub revision: u64,
    /// Whether entries follow.
    pub more: bool,
    /// How many.
    pub remaining: usize,
}

/// A range as it was at one revision, however much is written meanwhile.
pub struct Snapshot {
    pub(crate) entries: Entries,
    pub(crate) range: Range,
    pub(crate) revision: u64,
}

/// All keys under a prefix that ends in `/`, or one exact key; always within one resource.
#[derive(Clone)]
pub(crate) struct Range {
    key: Arc<str>,
    resource: usize,
}

/// The part of a key that names its resource, with the closing slash: `/registry/pods/`. A key with fewer segments is a
/// resource of its own.
pub(crate) fn resource_of(key: &str) -> &str {
    key.bytes().enumerate().filter(|(_, byte)| *byte == b'/').nth(2).map_or(key, |(index, _)| &key[..=index])
}

impl Range {
    pub(crate) fn new(prefix: &str) -> Result<Self, Error> {
        let resource = resource_of(prefix).len();
        if prefix.ends_with('/') && prefix.bytes().filter(|byte| *byte == b'/').count() < 3 {
            return Err(Error::Invalid(format!("{prefix:?} names no resource, as \"/registry/pods/\" does")));
        }
        Ok(Self { key: prefix.into(), resource })
    }

    pub(crate) fn resource(&self) -> &str {
        &self.key[..self.resource]
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        if self.key.ends_with('/') { key.starts_with(&*self.key) } else { key == &*self.key }
    }

    /// Whether the range is the whole of its resource.
    fn is_whole(&self) -> bool {
        self.resource == self.key.len()
    }
}

impl Snapshot {
    /// The revision that is read.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The entries behind a key (all, when none is given), in the order of keys.
    pub fn iter_after(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        let from = match after {
            Some(after) if after >= &*self.range.key => Bound::Excluded(after),
            _ => Bound::Included(&*self.range.key),
        };
        self.entries
            .range::<_, str>((from, Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(|entry| self.range.contains(&entry.key))
    }

    /// The entries, in the order of keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.iter_after(None)
    }

    /// The number of entries.
    pub fn count(&self) -> usize {
        if self.range.is_whole() { self.entries.len() } else { self.iter().count() }
    }

    /// One page, see [`List`].
    pub fn page(&self, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        let mut rest = self.iter_after(after);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut entries = Vec::with_capacity(limit.min(self.entries.len()));
        entries.extend(rest.by_ref().take(limit).cloned());
        let remaining = match after {
            None if self.range.is_whole() => self.entries.len() - entries.len(),
            _ => rest.count(),
        };
        Ok(Page { more: remaining > 0, remaining, revision: self.revision, entries })
    }
}
