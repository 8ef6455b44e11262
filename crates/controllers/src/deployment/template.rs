//! Pod templates: when two are the same, and the hash that names a ReplicaSet after its template.

use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::PodTemplateSpec};

pub(crate) const HASH_LABEL: &str = "pod-template-hash";

/// Without what makes no difference: the hash label, and empty maps that mean the same as none.
fn normal(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    if let Some(labels) = &mut meta.labels {
        labels.remove(HASH_LABEL);
    }
    meta.labels.take_if(|labels| labels.is_empty());
    meta.annotations.take_if(|annotations| annotations.is_empty());
    meta.creation_timestamp = None;
    template
}

/// Whether both describe the same pods.
pub(crate) fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    normal(a) == normal(b)
}

/// Whether a ReplicaSet is of this template.
pub(super) fn is_of(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    set.spec.as_ref().and_then(|spec| spec.template.as_ref()).is_some_and(|own| same(own, template))
}

/// A short name for a template. After a collision the count makes it another.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut hash = Fnv::new();
    // A template came from JSON, so it can be written as JSON; were it not, all would collide and be told apart by count.
    hash.write(&serde_json::to_vec(&normal(template)).unwrap_or_default());
    if let Some(collisions) = collisions {
        hash.write(&collisions.to_le_bytes());
    }
    safe(hash.0)
}

/// FNV-1a, 32 bits.
struct Fnv(u32);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0x811c_9dc5)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }
}

/// The number's digits in letters without vowels and look-alikes.
fn safe(number: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    number.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(json: &str) -> PodTemplateSpec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_hash_label_makes_no_difference_and_everything_else_does() {
        let a = template(r#"{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#);
        let labelled = r#"{"metadata":{"labels":{"a":"b","pod-template-hash":"x"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#;
        let b = template(labelled);
        let c = template(r#"{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i:2"}]}}"#);
        assert!(same(&a, &b) && !same(&a, &c));
        assert_eq!(hash(&a, None), hash(&b, None));
        assert_ne!(hash(&a, None), hash(&c, None));
        assert_ne!(hash(&a, None), hash(&a, Some(1)));
    }

    #[test]
    fn hashes_are_written_in_safe_letters() {
        assert!(safe(u32::MAX).bytes().all(|letter| b"bcdfghjklmnpqrstvwxz2456789".contains(&letter)));
    }
}
