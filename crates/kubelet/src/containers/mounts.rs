//! A container's mounts: its volumes with their sub-paths, `/etc/hosts` and the termination message's file.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use runtime::cri::{Device, ImageSpec, KeyValue, Mount, MountPropagation};

use super::Makings;
use super::env::Environment;
use super::expansion::expand;
use crate::devices::Needs;
use crate::dns;
use crate::pods::status::private;
use crate::volumes::{self, Source};

pub fn resolve(makings: &Makings<'_>, env: &Environment) -> Result<Vec<Mount>, String> {
    let spec = &makings.member.spec;
    let mut mounts = Vec::new();
    for (index, mount) in spec.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume(makings, env, index, mount)?);
    }
    let taken = |path: &str, mounts: &[Mount]| mounts.iter().any(|m| m.container_path == path);
    if !taken("/etc/hosts", &mounts) {
        mounts.push(Mount {
            container_path: "/etc/hosts".into(),
            host_path: hosts(makings)?.to_string_lossy().into_owned(),
            ..Default::default()
        });
    }
    let message = spec.termination_message_path.as_deref().unwrap_or_default();
    if !message.is_empty() && !taken(message, &mounts) {
        mounts.push(Mount {
            container_path: message.into(),
            host_path: message_file(makings)?.to_string_lossy().into_owned(),
            ..Default::default()
        });
    }
    Ok(mounts)
}

fn volume(makings: &Makings<'_>, env: &Environment, index: usize, mount: &v1::VolumeMount) -> Result<Mount, String> {
    let source = makings.volumes.sources.get(&mount.name);
    let source = source.ok_or_else(|| format!("cannot find volume {:?} to mount into container", mount.name))?;
    let sub = match (&mount.sub_path, &mount.sub_path_expr) {
        (_, Some(text)) if !text.is_empty() => {
            let missing = RefCell::new(BTreeSet::new());
            let sub = expand(text, |name| {
                let value = env.get(name).filter(|value| !value.is_empty());
                if value.is_none() {
                    missing.borrow_mut().insert(name.to_owned());
                }
                value
            });
            let missing = missing.into_inner();
            if !missing.is_empty() {
                return Err(format!("missing value for {}", Vec::from_iter(missing).join(", ")));
            }
            sub
        }
        (Some(sub), _) => sub.clone(),
        _ => String::new(),
    };
    if Path::new(&sub).is_absolute() {
        return Err(format!("error SubPath `{sub}` must not be an absolute path"));
    }
    if Path::new(&sub).components().any(|c| c == std::path::Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{sub}`: must not contain '..'"));
    }
    let read_only = mount.read_only.unwrap_or(false);
    let recursive = mount.recursive_read_only.as_deref();
    let able = makings.context.host.recursive_read_only;
    let possible = able && private(mount);
    if recursive == Some("Enabled") && !able {
        return Err(format!("recursive read-only mount {:?} is not supported by the runtime", mount.mount_path));
    }
    let mut out = Mount {
        container_path: if mount.mount_path.starts_with('/') {
            mount.mount_path.clone()
        } else {
            format!("/{}", mount.mount_path)
        },
        readonly: read_only,
        recursive_read_only: read_only
            && (recursive == Some("Enabled") || (recursive == Some("IfPossible") && possible)),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        },
        ..Default::default()
    };
    match source {
        Source::Image { reference } => {
            let image = makings.image.volumes.get(&mount.name).unwrap_or(reference).clone();
            out.image = Some(ImageSpec { image, user_specified_image: reference.clone(), ..Default::default() });
            out.image_sub_path = sub;
            out.readonly = true;
        }
        Source::Path { path, read_only } => {
            out.readonly |= *read_only;
            let path = if sub.is_empty() { path.clone() } else { sub_path(makings, path, &sub, index, mount)? };
            out.host_path = path.to_string_lossy().into_owned();
        }
        Source::Device { .. } => {
            return Err(format!("volume {:?} is a block device and cannot be mounted into container", mount.name));
        }
    }
    Ok(out)
}

/// The block volumes of the container.
pub fn devices(makings: &Makings<'_>) -> Result<Vec<Device>, String> {
    let wanted = makings.member.spec.volume_devices.iter().flatten();
    let one = |wanted: &v1::VolumeDevice| match makings.volumes.sources.get(&wanted.name) {
        Some(Source::Device { path, read_only }) => Ok(Device {
            container_path: wanted.device_path.clone(),
            host_path: path.to_string_lossy().into_owned(),
            permissions: if *read_only { "r" } else { "mrw" }.to_owned(),
        }),
        _ => Err(format!("cannot find block volume {:?} to pass into container", wanted.name)),
    };
    wanted.map(one).collect()
}

/// Adds what a container needs for devices that it was given; what its spec says goes first.
pub fn grant(
    needs: Needs,
    mounts: &mut Vec<Mount>,
    devices: &mut Vec<Device>,
    envs: &mut Vec<KeyValue>,
    annotations: &mut BTreeMap<String, String>,
) {
    for mount in needs.mounts {
        if !mounts.iter().any(|m| m.container_path == mount.container_path) {
            let (container_path, host_path, readonly) = (mount.container_path, mount.host_path, mount.read_only);
            mounts.push(Mount { container_path, host_path, readonly, ..Default::default() });
        }
    }
    devices.extend(needs.devices.into_iter().map(|node| Device {
        container_path: node.container_path,
        host_path: node.host_path,
        permissions: node.permissions,
    }));
    for (key, value) in needs.envs {
        if !envs.iter().any(|known| known.key == key) {
            envs.push(KeyValue { key, value });
        }
    }
    for (key, value) in needs.annotations {
        annotations.entry(key).or_insert(value);
    }
}

/// Pins a path below a volume by a mount of its own, so that a link put there later cannot lead out of the volume.
fn sub_path(
    makings: &Makings<'_>,
    root: &Path,
    sub: &str,
    index: usize,
    mount: &v1::VolumeMount,
) -> Result<PathBuf, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "failed to prepare subPath for volumeMount {:?} of container {:?}: {error}",
            mount.name, makings.member.spec.name
        )
    };
    let volume = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(root)
        .map_err(|e| failed(&e))?;
    let how = || {
        OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    };
    let opened = match openat2(&volume, sub, how()) {
        Err(nix::errno::Errno::ENOENT) => {
            make_below(&volume, sub).map_err(|e| failed(&e))?;
            openat2(&volume, sub, how())
        }
        opened => opened,
    };
    let opened = opened.map_err(|e| failed(&e))?;
    let link = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let is_dir = fs::metadata(&link).map_err(|e| failed(&e))?.is_dir();
    let target = volumes::pod_dir(&makings.context.volumes.root, &makings.pod.uid)
        .join("volume-subpaths")
        .join(&mount.name)
        .join(&makings.member.spec.name)
        .join(index.to_string());
    // One of a container before this one may show what has been replaced since.
    volumes::unmount_below(&target).map_err(|e| failed(&e))?;
    let made = match is_dir {
        true => fs::create_dir_all(&target),
        false => fs::create_dir_all(target.parent().unwrap_or(&target))
            .and_then(|()| fs::OpenOptions::new().create(true).append(true).open(&target).map(|_| ())),
    };
    made.and_then(|()| volumes::bind(&link, &target)).map_err(|e| failed(&e))?;
    Ok(target)
}

/// Makes the missing directories of a sub-path with the volume's own mode, never through a link that leads out of the volume.
fn make_below(volume: &fs::File, sub: &str) -> nix::Result<()> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    let mut at = openat2(volume, ".", OpenHow::new().flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve))?;
    let mode = volume.metadata().map_or(0o755, |meta| meta.permissions().mode() & 0o7777);
    let mut done = PathBuf::new();
    for part in Path::new(sub).components() {
        done.push(part);
        let how = || OpenHow::new().flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(resolve);
        at = match openat2(volume, &done, how()) {
            Err(nix::errno::Errno::ENOENT) => {
                let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
                nix::sys::stat::mkdirat(&at, part.as_os_str(), mode)?;
                let made = openat2(volume, &done, how())?;
                // The umask has no say in it.
                nix::sys::stat::fchmod(&made, mode)?;
                made
            }
            found => found?,
        };
    }
    Ok(())
}

/// Writes the pod's `/etc/hosts`.
fn hosts(makings: &Makings<'_>) -> Result<PathBuf, String> {
    let context = makings.context;
    let dir = volumes::pod_dir(&context.volumes.root, &makings.pod.uid);
    let path = dir.join("etc-hosts");
    let node = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let text = dns::hosts_file(makings.pod, &makings.addresses.pod_ips, &context.cluster_dns, &node);
    let write = || {
        fs::create_dir_all(&dir)?;
        // Rewritten in place, since running containers have this very file mounted.
        if fs::read_to_string(&path).is_ok_and(|old| old == text) { Ok(()) } else { fs::write(&path, &text) }
    };
    write().map_err(|e| format!("write {}: {e}", path.display()))?;
    Ok(path)
}

/// The file that the container may leave its last words in, one for each run.
fn message_file(makings: &Makings<'_>) -> Result<PathBuf, String> {
    let dir = volumes::pod_dir(&makings.context.volumes.root, &makings.pod.uid)
        .join("containers")
        .join(&makings.member.spec.name);
    let path = dir.join(format!("termination-log-{}", makings.attempt));
    let make = || {
        fs::create_dir_all(&dir)?;
        fs::write(&path, "")?;
        // Whoever the container runs as must be able to write it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
    };
    make().map_err(|e| format!("write {}: {e}", path.display()))?;
    Ok(path)
}
