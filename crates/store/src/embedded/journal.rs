//! A look at the database's journals before it opens them.
//!
//! Whatever it cannot read at the end of a journal the database takes for a write that was cut short, and forgets it; so
//! damage in the middle would lose acknowledged writes without a word. Each of our batches begins with a mark and
//! its revision: more than one of them beyond what was recovered means damage.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use super::disk::BATCH_MARK;

/// The revisions of the batches that begin in the journals, in order.
pub(super) struct Marks(Vec<u64>);

impl Marks {
    /// Those after a revision.
    pub(super) fn after(&self, revision: u64) -> &[u64] {
        &self.0[self.0.partition_point(|mark| *mark <= revision)..]
    }
}

/// Finds all marks in the journals of a database, which may not exist yet.
pub(super) fn marks(data: &Path) -> io::Result<Marks> {
    let mut marks = Vec::new();
    let files = match fs::read_dir(data) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Marks(marks)),
        files => files?,
    };
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            find(File::open(path)?, &mut marks)?;
        }
    }
    marks.sort_unstable();
    marks.dedup();
    Ok(Marks(marks))
}

/// Reads in blocks that overlap by what a mark may need of the next one, up to a block of nothing: the space that is
/// allocated ahead.
fn find(mut file: File, marks: &mut Vec<u64>) -> io::Result<()> {
    const NEED: usize = BATCH_MARK.len() + 8;
    let mut block = vec![0; 1 << 20];
    let finder = memchr::memmem::Finder::new(BATCH_MARK);
    let mut kept = 0;
    loop {
        let mut end = kept;
        while end < block.len() {
            match file.read(&mut block[end..])? {
                0 => break,
                read => end += read,
            }
        }
        for at in finder.find_iter(&block[..end]) {
            let number = block[..end].get(at + BATCH_MARK.len()..at + NEED);
            marks.extend(number.and_then(|number| number.try_into().ok()).map(u64::from_le_bytes));
        }
        if end < block.len() || block[kept..end].iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        block.copy_within(end - NEED..end, 0);
        kept = NEED;
    }
}
