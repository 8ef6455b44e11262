//! The few mounts that volumes need.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a tmpfs at `dir` unless one is there already. Without a size the kernel's default holds.
pub fn tmpfs(dir: &Path, size: Option<i64>) -> io::Result<()> {
    if is_mounted(dir)? {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let options = size.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RELATIME;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Mounts huge pages of a size at `dir`.
pub fn hugetlbfs(dir: &Path, page_size: &str) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let options = format!("pagesize={page_size}");
    mount(Some("nodev"), dir, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Mount options as `mount(8)` knows them: those that are flags, and the file system's own.
pub fn options(all: &[String]) -> (MsFlags, Vec<String>) {
    const FLAGS: &[(&str, MsFlags)] = &[
        ("ro", MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("sync", MsFlags::MS_SYNCHRONOUS),
        ("noatime", MsFlags::MS_NOATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME),
        ("relatime", MsFlags::MS_RELATIME),
        ("strictatime", MsFlags::MS_STRICTATIME),
    ];
    let (mut flags, mut rest) = (MsFlags::empty(), Vec::new());
    for option in all.iter().flat_map(|text| text.split(',')) {
        match FLAGS.iter().find(|(name, _)| *name == option) {
            Some((_, flag)) => flags |= *flag,
            None if matches!(option, "rw" | "defaults" | "") => {}
            None => rest.push(option.to_owned()),
        }
    }
    (flags, rest)
}

/// Mounts `source` at `target`, which must exist and be of the same sort.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// Whether something is mounted exactly here.
pub fn is_mounted(dir: &Path) -> io::Result<bool> {
    Ok(mounted_below(dir)?.iter().any(|mount| mount == dir))
}

/// The mount points at or below `dir`, in the order of mounting.
pub fn mounted_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// Unmounts all at or below `dir`, last mounted first.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    for point in mounted_below(dir)?.iter().rev() {
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

/// Undoes the octal escapes of the mount table.
fn unescape(field: &str) -> PathBuf {
    let mut out = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}
