//! Who pulled an image: one that came with somebody's secret is only for those who show that secret or can pull it themselves.
//!
//! A record an image, written before its pull and completed after it, so that an image without one was here before or came by
//! the node's administrator.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::credentials::repository;

const VERSION: u32 = 1;

/// A secret, and a hash of what in it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub hash: String,
}

impl Source {
    /// The same credential wherever it is kept, or the same secret whatever it says by now.
    fn same(&self, other: &Source) -> bool {
        let place = |s: &Source| (s.namespace.clone(), s.name.clone(), s.uid.clone());
        self.hash == other.hash || place(self) == place(other)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    version: u32,
    image: String,
    /// By repository, since an image may be public in one and not in another.
    repositories: BTreeMap<String, Access>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Access {
    /// Pulled without a pod's secret.
    everybody: bool,
    secrets: Vec<Source>,
}

/// The records, below one directory.
#[derive(Debug)]
pub struct Pulled {
    directory: PathBuf,
}

impl Pulled {
    pub fn at(directory: PathBuf) -> Pulled {
        Pulled { directory }
    }

    fn path(&self, image: &str) -> PathBuf {
        let digest = Sha256::digest(image);
        self.directory.join(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    fn read(&self, image: &str) -> Option<Record> {
        let text = std::fs::read_to_string(self.path(image)).ok()?;
        serde_json::from_str(&text).ok().filter(|record: &Record| record.version == VERSION)
    }

    /// Notes a pull; `source` is the secret that opened the registry, if one had to.
    pub fn note(&self, image: &str, reference: &str, source: Option<&Source>) -> std::io::Result<()> {
        let mut record = self.read(image).unwrap_or_default();
        (record.version, record.image) = (VERSION, image.to_owned());
        let access = record.repositories.entry(name(reference)).or_default();
        match source {
            None => *access = Access { everybody: true, secrets: Vec::new() },
            Some(_) if access.everybody => {}
            Some(source) => {
                access.secrets.retain(|known| !known.same(source));
                access.secrets.push(source.clone());
            }
        }
        std::fs::create_dir_all(&self.directory)?;
        let (path, text) = (self.path(image), serde_json::to_string(&record)?);
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(temporary, path)
    }

    /// Whether a pod that shows these secrets may use an image that is present.
    pub fn may_use<'a>(&self, image: &str, reference: &str, mut shown: impl Iterator<Item = &'a Source>) -> bool {
        let Some(record) = self.read(image) else { return true };
        let Some(access) = record.repositories.get(&name(reference)) else { return false };
        access.everybody || shown.any(|own| access.secrets.iter().any(|known| known.same(own)))
    }

    /// Forgets the images that are gone.
    pub fn keep(&self, images: impl Iterator<Item = impl AsRef<str>>) {
        let kept: Vec<PathBuf> = images.map(|image| self.path(image.as_ref())).collect();
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// The reference without tag and digest.
fn name(reference: &str) -> String {
    let (host, path) = repository(reference);
    format!("{host}/{}", path.split(':').next().unwrap_or(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_came_with_a_secret_is_for_those_who_have_it() {
        let directory = tempfile::tempdir().unwrap();
        let pulled = Pulled::at(directory.path().join("pulled"));
        let source = |name: &str, hash: &str| Source {
            namespace: "n".to_owned(),
            name: name.to_owned(),
            uid: name.to_owned(),
            hash: hash.to_owned(),
        };
        let (own, other, copy) = (source("own", "1"), source("other", "2"), source("copy", "1"));
        let rotated = source("own", "3");
        let may = |reference: &str, shown: &[&Source]| pulled.may_use("id", reference, shown.iter().copied());
        assert!(may("r.test/a:1", &[]), "was here before");
        pulled.note("id", "r.test/a:1", Some(&own)).unwrap();
        let table = [
            (vec![], false),
            (vec![&other], false),
            (vec![&other, &own], true),
            (vec![&copy], true),
            (vec![&rotated], true),
        ];
        for (shown, expected) in table {
            assert_eq!(may("r.test/a:2", &shown), expected, "{shown:?}");
        }
        assert!(!may("r.test/b:1", &[&own]), "another repository");
        pulled.note("id", "r.test/a@sha256:0", None).unwrap();
        pulled.note("id", "r.test/a", Some(&own)).unwrap();
        assert!(may("r.test/a", &[]), "public by now");
        pulled.keep(["else"].iter());
        assert!(may("r.test/b:1", &[]), "forgotten with its image");
    }
}
