//! Where a value is inside its object, kept on the stack while walking and written out only for an error.

use std::fmt;

/// At most so many unknown and duplicate fields are named, as upstream's decoder does.
pub const MAX_STRICT_ERRORS: usize = 100;

/// A place in an object: `spec.containers[0].name`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    pub const ROOT: Path<'static> = Path { parent: None, step: Step::Root };

    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// The path as Go's decoder writes it: without indexes.
    pub fn plain(&self) -> String {
        let mut text = self.parent.map(Path::plain).unwrap_or_default();
        if let Step::Key(key) = self.step {
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(key);
        }
        text
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Key(key) if self.parent.is_some_and(|p| !matches!(p.step, Step::Root)) => write!(f, ".{key}"),
            Step::Key(key) => f.write_str(key),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}
