//! The file with which clients reach the cluster, alone or among a user's other clusters.
//!
//! Ours is what carries the cluster's own authority: by that it is found again, whatever it is called, and nothing else in
//! the file is touched.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::data::{DataDir, Settings};
use crate::pki::{Pki, write};

/// What the cluster is called where nothing else has that name.
const NAME: &str = "regatta";

/// A kubeconfig file as it is read before it is changed.
pub struct Kubeconfig {
    path: PathBuf,
    content: Value,
}

impl Kubeconfig {
    /// Reads the file, which need not exist. What is no kubeconfig is refused, unless it lies in the cluster's own directory.
    pub fn open(path: &Path, data: &DataDir) -> Result<Kubeconfig> {
        let shown = path.display();
        // A link stays one.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read the kubeconfig {shown}")),
        };
        let content = match parse(&text) {
            Some(content) => content,
            None if path.starts_with(&data.path) => empty(),
            None => bail!("{shown} is there and is no kubeconfig; name another file with --kubeconfig"),
        };
        Ok(Kubeconfig { path, content })
    }

    /// Writes the administrator's context, which becomes the current one where it is new; gives its name.
    pub fn write_admin(mut self, data: &DataDir, server: &str, pki: &Pki) -> Result<String> {
        let authority = STANDARD.encode(&pki.authority.certificate);
        let name = put(&mut self.content, &data.id, Entry { server, authority: &authority, pki });
        save(&self.path, &self.content).map_err(|e| anyhow!("{e:#}; name another file with --kubeconfig"))?;
        Ok(name)
    }
}

/// Takes the cluster out of every kubeconfig that it was written to. A file that holds nothing else goes.
pub fn remove(data: &DataDir, settings: &Settings) {
    let authority = fs::read_to_string(data.join("pki/ca.crt")).map(|pem| STANDARD.encode(pem)).ok();
    let ours = Ours { authority: authority.as_deref(), name: &settings.context };
    let mut paths = settings.kubeconfigs.clone();
    paths.push(settings.kubeconfig.clone());
    paths.sort();
    paths.dedup();
    for path in paths.into_iter().filter(|path| !path.as_os_str().is_empty()) {
        if let Err(error) = remove_from(&path, &ours) {
            tracing::warn!(path = %path.display(), error = format!("{error:#}"), "the cluster stays in a kubeconfig");
        }
    }
}

fn remove_from(path: &Path, ours: &Ours<'_>) -> Result<()> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let Some(mut content) = parse(&fs::read_to_string(&path)?) else { return Ok(()) };
    match take(&mut content, ours) {
        Left::Unchanged => Ok(()),
        Left::Others => save(&path, &content),
        Left::Nothing => Ok(fs::remove_file(&path)?),
    }
}

fn empty() -> Value {
    json!({"apiVersion": "v1", "kind": "Config", "clusters": [], "users": [], "contexts": [], "preferences": {}})
}

/// The content of a kubeconfig, or `None` where it is something else.
fn parse(text: &str) -> Option<Value> {
    if text.trim().is_empty() {
        return Some(empty());
    }
    let mut content: Value = serde_saphyr::from_str(text).ok()?;
    let lists = ["clusters", "users", "contexts"];
    let object = content.as_object_mut()?;
    let named = object.get("kind").is_some_and(|kind| kind == "Config");
    let listed = lists.iter().all(|list| object.get(*list).is_none_or(|value| value.is_array() || value.is_null()));
    // kubectl reads a file that says neither kind nor version, too.
    if !listed || !(named || (!object.contains_key("kind") && lists.iter().any(|list| object.contains_key(*list)))) {
        return None;
    }
    Some(content)
}

/// The entries of a list, made where it is missing.
fn list<'a>(content: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    let entry = &mut content[name];
    if !entry.is_array() {
        *entry = Value::Array(Vec::new());
    }
    match entry {
        Value::Array(list) => list,
        _ => unreachable!("it has just been made one"),
    }
}

struct Entry<'a> {
    server: &'a str,
    authority: &'a str,
    pki: &'a Pki,
}

/// Puts the cluster's entries in, in place of those of an earlier start; gives the context's name.
fn put(content: &mut Value, id: &str, entry: Entry<'_>) -> String {
    let ours = Ours { authority: Some(entry.authority), name: "" }.clusters(content);
    let taken = |name: &str| {
        ["clusters", "contexts"].iter().any(|list| {
            let entries = content[*list].as_array().into_iter().flatten();
            entries.into_iter().any(|entry| entry["name"] == name)
        })
    };
    let is_new = ours.is_empty();
    let name = match ours.into_iter().next() {
        Some(name) => name,
        None if taken(NAME) => format!("{NAME}-{id}"),
        None => NAME.to_owned(),
    };
    let user = format!("{name}-admin");
    let encode = |pem: &str| STANDARD.encode(pem);
    let (pki, server) = (entry.pki, entry.server);
    upsert(
        list(content, "clusters"),
        &name,
        "cluster",
        json!({"server": server, "certificate-authority-data": entry.authority}),
    );
    let keys = json!({
        "client-certificate-data": encode(&pki.admin.certificate),
        "client-key-data": encode(&pki.admin.key),
    });
    upsert(list(content, "users"), &user, "user", keys);
    upsert(list(content, "contexts"), &name, "context", json!({"cluster": name, "user": user}));
    if is_new || content["current-context"].as_str().unwrap_or_default().is_empty() {
        content["current-context"] = name.clone().into();
    }
    name
}

/// By what the cluster's entries are known.
struct Ours<'a> {
    authority: Option<&'a str>,
    /// Where the authority is lost; empty where nothing is known.
    name: &'a str,
}

impl Ours<'_> {
    /// The names of the cluster's entries among the clusters.
    fn clusters(&self, content: &Value) -> Vec<String> {
        let clusters = content["clusters"].as_array().into_iter().flatten();
        let own = clusters.filter(|entry| match self.authority {
            Some(authority) => entry["cluster"]["certificate-authority-data"] == authority,
            None => !self.name.is_empty() && entry["name"] == self.name,
        });
        own.filter_map(|entry| entry["name"].as_str().map(str::to_owned)).collect()
    }
}

/// Sets the fields of the entry of that name; what a user has added to it (a namespace, say) stays.
fn upsert(entries: &mut Vec<Value>, name: &str, kind: &str, fields: Value) {
    let index = entries.iter().position(|entry| entry["name"] == name).unwrap_or_else(|| {
        entries.push(json!({"name": name}));
        entries.len() - 1
    });
    let entry = &mut entries[index][kind];
    if !entry.is_object() {
        *entry = Value::Object(Map::new());
    }
    if let (Some(entry), Value::Object(fields)) = (entry.as_object_mut(), fields) {
        entry.extend(fields);
    }
}

/// What is left of a kubeconfig without the cluster.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Unchanged,
    Others,
    Nothing,
}

/// Takes out our clusters, their contexts, and the users that only those had.
fn take(content: &mut Value, ours: &Ours<'_>) -> Left {
    let clusters = ours.clusters(content);
    if clusters.is_empty() {
        return Left::Unchanged;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (gone, kept): (Vec<Value>, Vec<Value>) = std::mem::take(list(content, "contexts"))
        .into_iter()
        .partition(|entry| clusters.contains(&text(&entry["context"]["cluster"])));
    let users = |contexts: &[Value]| contexts.iter().map(|entry| text(&entry["context"]["user"])).collect::<Vec<_>>();
    let (lost, used) = (users(&gone), users(&kept));
    let contexts: Vec<String> = gone.iter().map(|entry| text(&entry["name"])).collect();
    *list(content, "contexts") = kept;
    list(content, "clusters").retain(|entry| !clusters.contains(&text(&entry["name"])));
    list(content, "users").retain(|entry| {
        let name = text(&entry["name"]);
        !lost.contains(&name) || used.contains(&name)
    });
    if contexts.contains(&text(&content["current-context"])) {
        content["current-context"] = "".into();
    }
    let is_empty = ["clusters", "users", "contexts"].iter().all(|name| list(content, name).is_empty());
    if is_empty { Left::Nothing } else { Left::Others }
}

/// Writes the file whole. One that is there keeps its owner and mode, a new one only its owner can read.
fn save(path: &Path, content: &Value) -> Result<()> {
    let before = fs::metadata(path).ok();
    let mode = before.as_ref().map_or(0o600, |m| m.permissions().mode() & 0o777);
    let text = serde_saphyr::to_string(content).context("a kubeconfig cannot be written")?;
    write(path, &text, mode)?;
    if let Some(before) = before {
        std::os::unix::fs::chown(path, Some(before.uid()), Some(before.gid()))
            .with_context(|| format!("cannot give {} to its owner", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: &str = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- name: work\n  cluster: {server: \
                           'https://work:6443', certificate-authority-data: QQ==}\nusers:\n- name: me\n  user: {token: \"0123\"}\n\
                           contexts:\n- name: work\n  context: {cluster: work, user: me, namespace: mine}\n";

    struct Place {
        directory: tempfile::TempDir,
        pki: Pki,
    }

    impl Place {
        fn new() -> Place {
            let directory = tempfile::tempdir().expect("directory");
            let pki = Pki::ensure(&directory.path().join("data/pki"), &[], &[]).expect("keys");
            Place { directory, pki }
        }

        fn data(&self) -> DataDir {
            DataDir::at(&self.directory.path().join("data")).expect("path")
        }

        fn write(&self, file: &Path) -> Result<String> {
            Kubeconfig::open(file, &self.data())?.write_admin(&self.data(), "https://127.0.0.1:6443", &self.pki)
        }
    }

    fn read(path: &Path) -> Value {
        parse(&fs::read_to_string(path).expect("file")).expect("a kubeconfig")
    }

    #[test]
    fn where_a_kubeconfig_cannot_be_written_it_is_said_what_to_do() {
        let place = Place::new();
        let file = place.directory.path().join("none/config");
        let why = "No such file or directory (os error 2); name another file with --kubeconfig";
        let error = place.write(&file).expect_err("no directory");
        assert_eq!(format!("{error:#}"), format!("cannot write {}: {why}", file.display()));
    }

    #[test]
    fn a_foreign_kubeconfig_keeps_its_contexts_and_has_them_back_alone_after_a_purge() {
        let (one, two) = (Place::new(), Place::new());
        let file = one.directory.path().join("config");
        fs::write(&file, FOREIGN).expect("file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode");
        let link = one.directory.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("link");
        assert_eq!(one.write(&link).expect("written"), "regatta");
        assert_eq!(read(&file)["current-context"], "regatta");
        // The user goes back to other work; a restart does not change that.
        let mut content = read(&file);
        content["current-context"] = "work".into();
        save(&file, &content).expect("saved");
        assert_eq!(one.write(&file).expect("written"), "regatta");
        assert_eq!(read(&file)["current-context"], "work");
        let second = two.write(&file).expect("written");
        assert_eq!(second, format!("regatta-{}", two.data().id));
        assert_eq!(read(&file)["contexts"].as_array().expect("contexts").len(), 3);
        assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).expect("link").is_symlink());
        let settings = |path: &Path| Settings { kubeconfigs: vec![path.to_owned()], ..Settings::default() };
        remove(&two.data(), &settings(&link));
        remove(&one.data(), &settings(&file));
        remove(&one.data(), &settings(&file));
        let (mut left, foreign) = (read(&file), parse(FOREIGN).expect("a kubeconfig"));
        assert_eq!(left["current-context"], "");
        left["current-context"] = "work".into();
        assert_eq!(left, foreign, "a token of digits must stay a text");
    }

    #[test]
    fn a_kubeconfig_of_ours_alone_goes_with_the_cluster_and_what_is_none_is_refused() {
        let place = Place::new();
        let file = place.directory.path().join("config");
        place.write(&file).expect("written");
        place.write(&file).expect("written");
        assert_eq!(read(&file)["contexts"].as_array().expect("contexts").len(), 1);
        remove(&place.data(), &Settings { kubeconfig: file.clone(), ..Settings::default() });
        assert!(!file.exists());
        // Also where the authority is lost, by the name that was given.
        let context = place.write(&file).expect("written");
        fs::remove_file(place.data().join("pki/ca.crt")).expect("authority");
        remove(&place.data(), &Settings { kubeconfig: file.clone(), context, ..Settings::default() });
        assert!(!file.exists());
        for other in ["hello", "{a: 1}", "kind: Pod\napiVersion: v1\n", "clusters: 3", "\u{1}"] {
            fs::write(&file, other).expect("file");
            let error = place.write(&file).expect_err(other).to_string();
            assert!(error.contains("is no kubeconfig"), "{error}");
            assert_eq!(fs::read_to_string(&file).expect("file"), other);
        }
        // What is damaged in the cluster's own directory is written anew.
        fs::write(place.data().join("kubeconfig.yaml"), "{").expect("file");
        place.write(&place.data().join("kubeconfig.yaml")).expect("written");
    }
}
