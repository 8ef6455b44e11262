//! Volumes that may be another machine's. A share whose server is gone answers nobody, so they are asked with bounded patience.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;

use super::{Used, VolumeUsage, is_remote, volume};
use crate::context::Context;
use crate::pods::pod::Pod;
use crate::volumes::Source;

/// How long a volume may take to say how full it is.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many may wait for one path; each keeps a thread.
const ASKERS: usize = 2;

/// How many wait for which paths.
#[derive(Clone, Debug, Default)]
pub struct Asked(Arc<Mutex<HashMap<PathBuf, usize>>>);

impl Asked {
    /// What `read` finds at a path; nothing where it takes too long, or where others wait for it as it is.
    async fn ask<T: Send + 'static>(
        &self,
        path: PathBuf,
        patience: Duration,
        read: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Option<T> {
        {
            let mut asked = self.0.lock();
            let askers = asked.entry(path.clone()).or_default();
            if *askers >= ASKERS {
                return None;
            }
            *askers += 1;
        }
        let asked = self.clone();
        let work = move || {
            let found = read(&path);
            asked.answered(&path);
            found
        };
        tokio::time::timeout(patience, tokio::task::spawn_blocking(work)).await.ok()?.ok()
    }

    fn answered(&self, path: &Path) {
        let mut asked = self.0.lock();
        if let Some(askers) = asked.get_mut(path) {
            *askers -= 1;
            if *askers == 0 {
                asked.remove(path);
            }
        }
    }
}

/// The mounted volumes of a pod that may be another machine's, as far as they answer.
pub async fn remote(context: &Context, pod: &Pod) -> Vec<VolumeUsage> {
    let mounted: Vec<_> = {
        let made = context.volumes.made.lock();
        let theirs = pod.spec().volumes.iter().flatten().filter(|v| is_remote(v));
        let mounted = theirs.filter_map(|spec| match made.get(&(pod.uid.clone(), spec.name.clone()))? {
            Source::Path { path, .. } => Some((spec.clone(), path.clone())),
            Source::Image { .. } | Source::Device { .. } => None,
        });
        mounted.collect()
    };
    let asked = mounted.into_iter().map(|(spec, path)| {
        let name = pod.name.clone();
        context.asked.ask(path, PATIENCE, move |path| volume(&spec, &name, path, |_| Used::default()))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_that_does_not_answer_holds_up_few_and_those_not_for_long() {
        let (asked, at) = (Asked::default(), |name: &str| PathBuf::from(name));
        let patience = Duration::from_millis(1);
        let mut held = Vec::new();
        for _ in 0..ASKERS {
            let (answer, wait) = std::sync::mpsc::channel::<()>();
            held.push(answer);
            assert_eq!(asked.ask(at("/dead"), patience, move |_| wait.recv().is_ok()).await, None);
        }
        assert_eq!(asked.ask(at("/dead"), PATIENCE * 30, |_| true).await, None, "others wait for it");
        assert_eq!(asked.ask(at("/alive"), PATIENCE * 30, |_| true).await, Some(true));
        drop(held);
        while !asked.0.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.ask(at("/dead"), PATIENCE * 30, |_| true).await, Some(true), "it has come back");
    }
}
