//! Unpacking one layer: an archive, possibly compressed, becomes a directory that overlayfs can stack.
//!
//! OCI whiteouts (`.wh.name`, `.wh..wh..opq`) become overlayfs's own: a character device 0:0 and the xattr
//! `trusted.overlay.opaque`. What the archive names stays inside the directory whatever its names and links say.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use sha2::{Digest, Sha256};

/// `sha256:<hex>` of everything read through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
    pub(super) bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Hashing { inner, hasher: Sha256::new(), bytes: 0 }
    }

    pub(super) fn digest(self) -> String {
        format_digest(&self.hasher.finalize())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// The digest of some bytes, as `sha256:<hex>`.
pub fn digest_of(bytes: &[u8]) -> String {
    format_digest(&Sha256::digest(bytes))
}

fn format_digest(raw: &[u8]) -> String {
    use std::fmt::Write;
    raw.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The decompressed content of a file, by its first bytes: gzip, zstd, or as it is.
pub(super) fn decompressed(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut magic = [0u8; 4];
    let n = file.read(&mut magic)?;
    let file = BufReader::with_capacity(1 << 16, File::open(path)?);
    Ok(match &magic[..n] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

/// What unpacking a layer found.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The digest of the uncompressed archive.
    pub(super) diff_id: String,
    /// Its size in bytes.
    pub(super) size: u64,
}

/// Unpacks the archive at `blob` into `target`, an empty directory.
pub(super) fn unpack(blob: &Path, target: &Path) -> io::Result<Unpacked> {
    let mut reader = Hashing::new(decompressed(blob)?);
    let mut archive = tar::Archive::new(&mut reader);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    // Times of directories would change with what is put into them, and a read-only directory must still be filled:
    // as tar itself does, they come last.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = inside(&entry.path()?)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() && !path.as_os_str().is_empty() {
            directories.push(entry);
            continue;
        }
        put(&mut entry, &path, target).map_err(|e| annotate(e, &path))?;
    }
    directories.sort_by_key(|d| std::cmp::Reverse(d.path_bytes().into_owned()));
    for mut entry in directories {
        let path = inside(&entry.path()?)?;
        make_way(target, &path, true).map_err(|e| annotate(e, &path))?;
        entry.unpack_in(target).map_err(|e| annotate(e, &path))?;
        // The archive reader sets no times of directories.
        let time = TimeSpec::new(entry.header().mtime()? as i64, 0);
        utimensat(AT_FDCWD, &target.join(&path), &time, &time, UtimensatFlags::NoFollowSymlink)?;
    }
    io::copy(&mut reader, &mut io::sink())?;
    let size = reader.bytes;
    Ok(Unpacked { diff_id: reader.digest(), size })
}

/// The error with the entry's name and the causes that the archive reader keeps inside.
fn annotate(error: io::Error, path: &Path) -> io::Error {
    let mut text = format!("{}: {error}", path.display());
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text += &format!(": {inner}");
        cause = inner.source();
    }
    io::Error::new(error.kind(), text)
}

/// Puts one entry that is no directory into place.
fn put<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path, target: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    let parent = path.parent().unwrap_or(Path::new(""));
    make_way(target, parent, true)?;
    if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
        if hidden == b".wh..opq" {
            return set_opaque(&target.join(parent));
        }
        if hidden.starts_with(b".wh.") || hidden.is_empty() {
            return Ok(());
        }
        let whiteout = target.join(parent).join(std::ffi::OsStr::from_bytes(hidden));
        return match mknod(&whiteout, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)) {
            // The layer itself brings what it also hides below.
            Err(nix::errno::Errno::EEXIST) => Ok(()),
            other => other.map_err(io::Error::from),
        };
    }
    let full = target.join(path);
    clear(&full)?;
    let header = entry.header();
    let kind = header.entry_type();
    let special = match kind {
        tar::EntryType::Char => Some(SFlag::S_IFCHR),
        tar::EntryType::Block => Some(SFlag::S_IFBLK),
        tar::EntryType::Fifo => Some(SFlag::S_IFIFO),
        _ => None,
    };
    if let Some(special) = special {
        let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        return match mknod(&full, special, mode, makedev(major.into(), minor.into())) {
            Ok(()) => std::os::unix::fs::lchown(&full, Some(header.uid()? as u32), Some(header.gid()? as u32)),
            // Without the privilege the layer goes without its device: containers get theirs from the runtime.
            Err(nix::errno::Errno::EPERM) if special != SFlag::S_IFIFO => Ok(()),
            Err(error) => Err(error.into()),
        };
    }
    if kind.is_hard_link()
        && let Some(source) = entry.link_name()?
    {
        // A link's source is a name of the archive, not of the host.
        let source = inside(&source)?;
        make_way(target, source.parent().unwrap_or(Path::new("")), false)?;
        return fs::hard_link(target.join(source), full);
    }
    if entry.unpack_in(target)? { Ok(()) } else { Err(io::Error::other("the name leads out of the layer")) }
}

/// Removes what an earlier entry left at the place of a later one.
fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The archive's name as a relative path without `.`; a name that climbs is refused.
fn inside(name: &Path) -> io::Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: the name leads out of the layer", name.display()),
                ));
            }
        }
    }
    Ok(path)
}

/// Walks to `path` below `target`, making missing directories; a link on the way is refused, since following it could
/// lead out.
fn make_way(target: &Path, path: &Path, create: bool) -> io::Result<()> {
    let mut at = target.to_path_buf();
    for component in path.components() {
        at.push(component);
        match fs::symlink_metadata(&at) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) if create => {
                // A later entry makes a directory of what was a file or link in this layer.
                fs::remove_file(&at)?;
                fs::create_dir(&at)?;
            }
            Ok(_) => return Err(io::Error::other("a link is in the way")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => fs::create_dir(&at)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn set_opaque(directory: &Path) -> io::Result<()> {
    set_xattr(directory, c"trusted.overlay.opaque", b"y")
}

#[allow(unsafe_code)]
fn set_xattr(path: &Path, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both names are NUL-terminated and the value's pointer and length belong to one live slice.
    let result = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if kind.is_dir() { 0o555 } else { 0o4755 });
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(7);
            if matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link) {
                header.set_size(0);
                builder.append_link(&mut header, path, content).expect("link");
            } else {
                header.set_size(content.len() as u64);
                let raw = path.as_bytes();
                header.as_mut_bytes()[..raw.len()].copy_from_slice(raw);
                header.set_cksum();
                builder.append(&header, content.as_bytes()).expect("entry");
            }
        }
        builder.into_inner().expect("archive")
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, io::Result<Unpacked>) {
        let directory = tempfile::tempdir().expect("directory");
        let blob = directory.path().join("blob");
        fs::write(&blob, bytes).expect("blob");
        let target = directory.path().join("fs");
        fs::create_dir(&target).expect("target");
        let result = unpack(&blob, &target);
        (directory, result)
    }

    use tar::EntryType::{Directory, Link, Regular, Symlink};

    #[test]
    fn a_layer_keeps_modes_links_and_times_and_its_digest_is_that_of_the_plain_archive() {
        let plain = archive(&[
            ("bin/", Directory, ""),
            ("bin/sh", Regular, "x"),
            ("bin/ash", Link, "bin/sh"),
            ("sh", Symlink, "/bin/sh"),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).expect("gzip");
        let packed = [plain.clone(), gzip.finish().expect("gzip"), zstd::encode_all(&plain[..], 1).expect("zstd")];
        for blob in packed {
            let (directory, result) = unpacked(&blob);
            assert_eq!(result.expect("unpacks").diff_id, digest_of(&plain));
            let root = directory.path().join("fs");
            let shell = fs::metadata(root.join("bin/sh")).expect("file");
            assert_eq!((shell.permissions().mode() & 0o7777, shell.nlink(), shell.mtime()), (0o4755, 2, 7));
            let bin = fs::metadata(root.join("bin")).expect("dir");
            assert_eq!((bin.permissions().mode() & 0o7777, bin.mtime()), (0o555, 7));
            assert_eq!(fs::read_link(root.join("sh")).expect("link"), Path::new("/bin/sh"));
        }
    }

    #[test]
    fn a_whiteout_becomes_a_device_0_0() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let (directory, result) =
            unpacked(&archive(&[("etc/.wh.passwd", Regular, ""), ("var/.wh..wh..opq", Regular, "")]));
        result.expect("unpacks");
        let meta = fs::symlink_metadata(directory.path().join("fs/etc/passwd")).expect("whiteout");
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
    }

    #[test]
    fn a_name_that_leads_out_of_the_layer_is_refused() {
        let (directory, result) = unpacked(&archive(&[("../escaped", Regular, "x")]));
        assert!(result.expect_err("refused").to_string().contains("leads out of the layer"));
        assert!(!directory.path().join("escaped").exists());
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let (directory, result) = unpacked(&archive(&[("out", Symlink, ".."), ("out/escaped", Regular, "x")]));
        result.expect("replaced by a directory");
        assert!(directory.path().join("fs/out/escaped").exists());
        assert!(!directory.path().join("escaped").exists());
        let (_directory, result) = unpacked(&archive(&[("out", Symlink, "/etc"), ("copy", Link, "out/passwd")]));
        assert!(result.is_err());
    }
}
