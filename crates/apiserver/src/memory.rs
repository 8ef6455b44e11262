//! Gives memory back to the system. The allocator keeps what was freed after much has been written or listed; once it is
//! quiet again, what nobody uses goes back.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// So much must have passed through before it is worth a look.
const WORTH: usize = 32 << 20;
/// It is quiet when less than [`WORTH`] passes in this time.
const QUIET: Duration = Duration::from_secs(5);

/// Counts what passes through. Clones share.
#[derive(Clone, Default)]
pub struct Memory(Arc<State>);

#[derive(Default)]
struct State {
    passed: AtomicUsize,
    waits: AtomicBool,
}

impl Memory {
    /// Notes that so many bytes were made and freed, or soon will be.
    pub fn note(&self, bytes: usize) {
        if self.0.passed.fetch_add(bytes, Ordering::Relaxed) + bytes > WORTH
            && !self.0.waits.swap(true, Ordering::Relaxed)
        {
            let this = self.clone();
            tokio::spawn(async move {
                while this.0.passed.swap(0, Ordering::Relaxed) > WORTH {
                    tokio::time::sleep(QUIET).await;
                }
                this.0.waits.store(false, Ordering::Relaxed);
                // It takes the allocator's locks for some milliseconds.
                let _ = tokio::task::spawn_blocking(give_back).await;
            });
        }
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it has no preconditions; it only returns free pages of the allocator's own to the system.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn give_back() {}
