//! Image garbage collection: when the disk fills up, images that nothing uses go, the longest unused first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use runtime::cri::{ContainerFilter, Image, ImageFilter, ImageService, ImageSpec, RuntimeService};

use crate::node::facts;

const EVERY: Duration = Duration::from_secs(300);
/// Per cent of the disk in use at which collection begins, and down to which it goes.
const HIGH: u64 = 85;
const LOW: u64 = 80;
/// An image is kept this long at least.
const AGE_MIN: SignedDuration = SignedDuration::from_secs(120);

/// When an image was first seen here and last seen in use.
#[derive(Clone, Copy, Debug)]
struct Record {
    detected: Timestamp,
    used: Timestamp,
}

/// Looks at the disk that holds `data` every five minutes, for ever.
pub async fn images(runtime: Arc<dyn RuntimeService>, images: Arc<dyn ImageService>, data: PathBuf) {
    let mut records = BTreeMap::new();
    loop {
        let all = images.list_images(&ImageFilter::default()).await;
        let containers = runtime.list_containers(&ContainerFilter::default()).await;
        if let (Ok(all), Ok(containers)) = (all, containers) {
            let used: BTreeSet<String> =
                containers.into_iter().flat_map(|c| [c.image.image, c.image_ref, c.image_id]).collect();
            note(&mut records, &all, &used, Timestamp::now());
            let (size, free) = facts::disk(&data);
            let in_use = size.saturating_sub(free);
            if size > 0 && in_use * 100 >= size * HIGH {
                let wanted = in_use.saturating_sub(size * LOW / 100);
                for id in choose(&records, &all, &used, wanted, Timestamp::now()) {
                    tracing::info!(image = id, "removing an image to free disk space");
                    let spec = ImageSpec { image: id, ..Default::default() };
                    if let Err(error) = images.remove_image(&spec).await {
                        tracing::warn!(image = spec.image, %error, "an image cannot be removed");
                    }
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn is_used(image: &Image, used: &BTreeSet<String>) -> bool {
    used.contains(&image.id) || image.repo_tags.iter().chain(&image.repo_digests).any(|name| used.contains(name))
}

fn note(records: &mut BTreeMap<String, Record>, images: &[Image], used: &BTreeSet<String>, now: Timestamp) {
    records.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in images {
        let record = records.entry(image.id.clone()).or_insert(Record { detected: now, used: Timestamp::UNIX_EPOCH });
        if is_used(image, used) {
            record.used = now;
        }
    }
}

/// The images to remove until `wanted` bytes are free.
fn choose(
    records: &BTreeMap<String, Record>,
    images: &[Image],
    used: &BTreeSet<String>,
    wanted: u64,
    now: Timestamp,
) -> Vec<String> {
    let old = |image: &&Image| records.get(&image.id).is_some_and(|r| now.duration_since(r.detected) >= AGE_MIN);
    let mut spare: Vec<_> = images.iter().filter(|i| !i.pinned && !is_used(i, used)).filter(old).collect();
    spare.sort_by_key(|image| records.get(&image.id).map(|r| (r.used, r.detected)));
    let mut freed = 0;
    let needed = spare.into_iter().take_while(|image| {
        let more = freed < wanted;
        freed += image.size;
        more
    });
    needed.map(|image| image.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_images_go_first_and_only_as_many_as_needed() {
        let image = |id: &str, pinned| Image { id: id.to_owned(), size: 10, pinned, ..Default::default() };
        let images =
            [image("new", false), image("old", false), image("older", false), image("used", false), image("pin", true)];
        let used = BTreeSet::from(["used".to_owned()]);
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let mut records = BTreeMap::new();
        note(&mut records, &images[1..], &used, at(0));
        note(&mut records, &images[1..], &BTreeSet::from(["old".to_owned()]), at(100));
        note(&mut records, &images, &used, at(200));
        for (wanted, expected) in
            [(0, vec![]), (5, vec!["older"]), (11, vec!["older", "old"]), (99, vec!["older", "old"])]
        {
            assert_eq!(choose(&records, &images, &used, wanted, at(210)), expected, "{wanted}");
        }
    }
}
