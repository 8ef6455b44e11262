//! Image garbage collection: images that nothing has used for too long go, and when the disk fills up, those that nothing uses,
//! the longest unused first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::events::EventType;
use jiff::{SignedDuration, Timestamp};
use runtime::cri::{ContainerFilter, Image, ImageFilter, ImageSpec};

use crate::context::Context;
use crate::node::facts;

const EVERY: Duration = Duration::from_secs(300);

/// When an image was first seen here and last seen in use.
#[derive(Clone, Copy, Debug)]
struct Record {
    detected: Timestamp,
    used: Timestamp,
}

/// What is known of the images, kept from look to look.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<String, Record>);

/// Looks at the images and their disk every five minutes, for ever.
pub async fn images(context: Arc<Context>) {
    let high = context.configuration.image_gc_high_threshold_percent;
    let low = context.configuration.image_gc_low_threshold_percent;
    let mut failing = false;
    loop {
        if let Some((all, used)) = list(&context).await {
            let now = Timestamp::now();
            let old = {
                let mut records = context.image_records.lock();
                note(&mut records.0, &all, &used, now);
                records.aged(&all, &used, context.configuration.image_maximum_gc_age.0, now)
            };
            remove(&context, old).await;
            context.pulls.keep(&all);
            let (size, free) = facts::disk(&context.data);
            let in_use = size.saturating_sub(free);
            if size > 0 && high < 100 && in_use * 100 >= size * high {
                let wanted = in_use.saturating_sub(size * low / 100);
                let least = context.configuration.image_minimum_gc_age.0;
                let chosen = choose(&context.image_records.lock().0, &all, &used, wanted, least, now);
                let freed = remove(&context, chosen).await;
                if freed < wanted && !std::mem::replace(&mut failing, true) {
                    let message = format!(
                        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only \
                         found {freed} bytes eligible to free."
                    );
                    context.tell_of_node(EventType::Warning, "FreeDiskSpaceFailed", message);
                }
            } else {
                failing = false;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Removes every image that nothing uses, whatever its age.
pub async fn remove_unused(context: &Context) {
    let Some((all, used)) = list(context).await else { return };
    let spare = all.iter().filter(|image| !image.pinned && !is_used(image, &used));
    let chosen = spare.map(|image| (image.id.clone(), image.size)).collect();
    remove(context, chosen).await;
}

/// All images, and the names and ids of those that containers use.
async fn list(context: &Context) -> Option<(Vec<Image>, BTreeSet<String>)> {
    let all = context.images.list_images(&ImageFilter::default()).await.ok()?;
    let containers = context.runtime.list_containers(&ContainerFilter::default()).await.ok()?;
    Some((all, containers.into_iter().flat_map(|c| [c.image.image, c.image_ref, c.image_id]).collect()))
}

/// Removes images; gives the bytes that this freed.
async fn remove(context: &Context, images: Vec<(String, u64)>) -> u64 {
    let mut freed = 0;
    for (id, size) in images {
        tracing::info!(image = id, "removing an image that nothing uses");
        let spec = ImageSpec { image: id, ..Default::default() };
        match context.images.remove_image(&spec).await {
            Ok(()) => freed += size,
            Err(error) => tracing::warn!(image = spec.image, %error, "an image cannot be removed"),
        }
    }
    freed
}

impl Records {
    /// The images that have been unused for longer than `most`; none where that is zero.
    fn aged(&self, images: &[Image], used: &BTreeSet<String>, most: Duration, now: Timestamp) -> Vec<(String, u64)> {
        let most = SignedDuration::try_from(most).unwrap_or(SignedDuration::MAX);
        let old = |image: &&Image| {
            let record = self.0.get(&image.id);
            record.is_some_and(|r| now.duration_since(r.used.max(r.detected)) > most)
        };
        let spare = images.iter().filter(|i| !most.is_zero() && !i.pinned && !is_used(i, used)).filter(old);
        spare.map(|image| (image.id.clone(), image.size)).collect()
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
    least: Duration,
    now: Timestamp,
) -> Vec<(String, u64)> {
    let least = SignedDuration::try_from(least).unwrap_or(SignedDuration::MAX);
    let old = |image: &&Image| records.get(&image.id).is_some_and(|r| now.duration_since(r.detected) >= least);
    let mut spare: Vec<_> = images.iter().filter(|i| !i.pinned && !is_used(i, used)).filter(old).collect();
    spare.sort_by_key(|image| records.get(&image.id).map(|r| (r.used, r.detected)));
    let mut freed = 0;
    let needed = spare.into_iter().take_while(|image| {
        let more = freed < wanted;
        freed += image.size;
        more
    });
    needed.map(|image| (image.id.clone(), image.size)).collect()
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
            let chosen = choose(&records, &images, &used, wanted, Duration::from_secs(120), at(210));
            assert_eq!(chosen.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), expected, "{wanted}");
        }
        let aged = |most, second| {
            let aged = Records(records.clone()).aged(&images, &used, Duration::from_secs(most), at(second));
            aged.into_iter().map(|(id, _)| id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(aged(0, 9999), "");
        assert_eq!(aged(150, 260), "old older");
        assert_eq!(aged(150, 240), "older");
    }
}
