//! Sets of completion indexes, written as `1,3-5,7`.

use std::{collections::BTreeSet, fmt};

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads a list, without those that are not below `limit`. What cannot be read is left out.
    pub fn parse(text: &str, limit: i32) -> Indexes {
        let mut all = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.trim().parse::<i32>(), last.trim().parse::<i32>()) {
                all.extend(first.max(0)..=last.min(limit - 1));
            }
        }
        Indexes(all)
    }

    pub fn insert(&mut self, index: i32) {
        self.0.insert(index);
    }

    pub fn contains(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn common(&self, other: &Indexes) -> i32 {
        i32::try_from(self.0.intersection(&other.0).count()).unwrap_or(i32::MAX)
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(indexes: I) -> Indexes {
        Indexes(indexes.into_iter().collect())
    }
}

impl fmt::Display for Indexes {
    /// Two neighbours are a list, more are a range.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut indexes = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = indexes.next() {
            let mut last = first;
            while indexes.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_the_shortest_way() {
        let cases = [
            ("", 10, ""),
            ("3", 10, "3"),
            ("1,3-5,7", 10, "1,3-5,7"),
            ("0-9", 4, "0-3"),
            ("1-2", 9, "1,2"),
            ("5", 5, ""),
        ];
        for (text, limit, expected) in cases {
            assert_eq!(Indexes::parse(text, limit).to_string(), expected, "{text}");
        }
        assert_eq!([4, 1, 2, 3].into_iter().collect::<Indexes>().to_string(), "1-4");
    }
}
