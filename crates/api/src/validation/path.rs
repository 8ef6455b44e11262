//! A field's path, built on the stack while an object is walked and written out only for an error.

use std::fmt::{self, Display};

/// A path such as `spec.containers[0].env[2].name` or `metadata.labels[app]`. A step borrows the one before it, so that
/// walking a valid object allocates nothing.
#[derive(Clone, Copy)]
pub struct Path<'a> {
    before: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    /// May itself contain dots.
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub const fn new(name: &'a str) -> Self {
        Path { before: None, step: Step::Name(name) }
    }

    /// A field of the value here.
    pub const fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { before: Some(self), step: Step::Name(name) }
    }

    /// An item of the list here.
    pub const fn index(&self, index: usize) -> Path<'_> {
        Path { before: Some(self), step: Step::Index(index) }
    }

    /// An entry of the map here.
    pub const fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { before: Some(self), step: Step::Key(key) }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(before) = self.before {
            before.fmt(f)?;
        }
        match self.step {
            Step::Name("") => Ok(()),
            // The root may be empty where a kind has its fields at the top: ConfigMap's `data`.
            Step::Name(name) if self.before.is_none_or(Path::is_empty) => f.write_str(name),
            Step::Name(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl Path<'_> {
    fn is_empty(&self) -> bool {
        matches!(self.step, Step::Name("")) && self.before.is_none_or(Path::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_upstream_writes_it() {
        let root = Path::new("spec");
        assert_eq!(root.child("a").index(2).child("b.c").key("k").to_string(), "spec.a[2].b.c[k]");
        assert_eq!(Path::new("").child("data").key("x").to_string(), "data[x]");
    }
}
