//! The last steps of a process that becomes a container's program: user, capabilities, seccomp, exec.
//!
//! They are the same for a container's first process and for each exec. They run as root with all capabilities that we
//! have, in the container's namespaces, with its root directory.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::sys::{self, Context, Error, Result, describe};
use crate::cri::LinuxContainerUser;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    pub args: Vec<String>,
    /// `name=value`.
    pub env: Vec<String>,
    pub cwd: String,
    pub user: User,
    pub capabilities: Capabilities,
    pub no_new_privs: bool,
    /// Compiled filters in base64, to be installed in this order.
    pub seccomp: Vec<String>,
    /// Resource, soft and hard limit. A refused one is done without.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// AppArmor's profile or SELinux's label for the program.
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
    pub umask: Option<u32>,
}

/// Who to be, with names still to be looked up in the container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    /// `user`, `user:group`, either as name or number, as in an image's configuration. Empty is root.
    pub name: String,
    /// In place of the group that belongs to the user.
    pub gid: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    /// Also those that `/etc/group` gives the user.
    pub merge_groups: bool,
}

/// Bits are the kernel's numbers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Process {
    /// Finds out who the process will be. Fails where a name is unknown.
    pub fn resolve_user(&self) -> Result<(LinuxContainerUser, String)> {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let group = fs::read_to_string("/etc/group").unwrap_or_default();
        self.user.resolve(&passwd, &group)
    }

    /// Becomes the program. Returns only with what went wrong.
    pub fn exec(&self, user: &LinuxContainerUser, home: &str) -> Error {
        match self.try_exec(user, home) {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    fn try_exec(&self, user: &LinuxContainerUser, home: &str) -> Result<std::convert::Infallible> {
        let mut env = self.env.clone();
        let has = |name: &str| self.env.iter().any(|entry| entry.split_once('=').is_some_and(|(key, _)| key == name));
        if !has("HOME") {
            env.push(format!("HOME={home}"));
        }
        let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
        let argument_zero = self.args.first().context("no command specified")?;
        self.enter_working_directory()?;
        let program = look_up(argument_zero, path)?;
        // Until the program runs, `/proc/self/exe` is the host's. The same file that was mounted for the container is its own.
        if sys::place(&program) == sys::place("/proc/self/exe") {
            return Err(Error(format!("exec: {argument_zero:?}: permission denied")));
        }

        for (resource, soft, hard) in &self.rlimits {
            let limit = libc::rlimit { rlim_cur: *soft, rlim_max: *hard };
            sys::set_rlimit(*resource, &limit);
        }
        for fd in 0..3 {
            sys::give_away(fd, user.uid as u32, None);
        }
        if let Some(mask) = self.umask {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
        }
        self.set_label()?;

        let ours = sys::capget().context("capget")?[1];
        let bounding = self.capabilities.bounding & ours;
        for capability in (0..64).filter(|bit| bounding >> bit & 1 == 0) {
            match sys::prctl(libc::PR_CAPBSET_DROP, [capability, 0, 0, 0]) {
                Ok(_) => {}
                // Beyond the last one that the kernel knows.
                Err(Errno::EINVAL) => break,
                Err(error) => return Err(error).context("drop a capability"),
            }
        }
        sys::prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]).context("keep capabilities")?;
        let groups: Vec<u32> = user.supplemental_groups.iter().map(|gid| *gid as u32).collect();
        sys::set_ids(user.uid as u32, user.gid as u32, &groups)
            .context(format_args!("setuid {} gid {}", user.uid, user.gid))?;
        sys::prctl(libc::PR_SET_KEEPCAPS, [0, 0, 0, 0]).context("keep capabilities")?;
        // Effective again, which the change of user took: installing filters needs it.
        sys::capset([ours, ours, 0]).context("capset")?;
        // The container must not outlive who records its end.
        sys::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0]).context("pdeathsig")?;

        let program_name = CString::new(program.as_str()).context("command")?;
        let args = c_strings(&self.args)?;
        let env = c_strings(&env)?;
        let filters: Vec<Vec<u8>> =
            self.seccomp.iter().map(|text| STANDARD.decode(text)).collect::<Result<_, _>>().context("seccomp")?;
        sys::reset_signals();

        if !self.no_new_privs {
            self.install(&filters)?;
        }
        let kept = [self.capabilities.effective & bounding, bounding & self.capabilities.effective];
        let ambient = self.capabilities.ambient & kept[1];
        sys::capset([kept[0], kept[1], self.capabilities.inheritable & ours | ambient]).context("capset")?;
        for capability in (0..64).filter(|bit| ambient >> bit & 1 == 1) {
            sys::prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_RAISE as u64, capability, 0, 0])
                .context("ambient capability")?;
        }
        if self.no_new_privs {
            sys::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).context("no_new_privs")?;
            self.install(&filters)?;
        }
        let Err(errno) = nix::unistd::execve(&program_name, &args, &env);
        Err(Error(format!("exec {program}: {}", describe(errno))))
    }

    fn install(&self, filters: &[Vec<u8>]) -> Result<()> {
        filters.iter().try_for_each(|filter| sys::seccomp(filter).context("install a seccomp filter"))
    }

    fn enter_working_directory(&self) -> Result<()> {
        let cwd = if self.cwd.is_empty() { "/" } else { &self.cwd };
        if !Path::new(cwd).exists() {
            // A read-only root file system refuses; changing into it then says so.
            let _ = fs::create_dir_all(cwd);
        }
        std::env::set_current_dir(cwd).map_err(|error| {
            Error(format!("chdir to cwd ({cwd:?}) set in config.json failed: {}", describe_io(&error)))
        })
    }

    fn set_label(&self) -> Result<()> {
        if let Some(profile) = &self.apparmor {
            let text = format!("exec {profile}");
            fs::write("/proc/self/attr/apparmor/exec", &text)
                .or_else(|_| fs::write("/proc/self/attr/exec", &text))
                .context(format_args!("apparmor profile {profile}"))?;
        }
        if let Some(label) = &self.selinux {
            fs::write("/proc/self/attr/exec", label).context(format_args!("selinux label {label}"))?;
        }
        Ok(())
    }
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>> {
    texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>().context("command")
}

fn describe_io(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |raw| describe(Errno::from_raw(raw)))
}

/// Where a command is, with the messages that Kubernetes' users know.
fn look_up(command: &str, path: &str) -> Result<String> {
    let executable = |file: &str| -> io::Result<()> {
        let metadata = fs::metadata(file)?;
        if metadata.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
        Ok(())
    };
    if command.contains('/') {
        return match executable(command) {
            Ok(()) => Ok(command.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error(format!("exec: {command:?}: stat {command}: no such file or directory")))
            }
            Err(error) => Err(Error(format!("exec: {command:?}: {}", describe_io(&error)))),
        };
    }
    path.split(':')
        .map(|directory| format!("{}/{command}", if directory.is_empty() { "." } else { directory }))
        .find(|file| !command.is_empty() && executable(file).is_ok())
        .ok_or_else(|| Error(format!("exec: {command:?}: executable file not found in $PATH")))
}

impl User {
    /// The ids and the home directory, from the texts of `/etc/passwd` and `/etc/group`.
    fn resolve(&self, passwd: &str, group: &str) -> Result<(LinuxContainerUser, String)> {
        let (name, group_name) = match self.name.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (self.name.as_str(), None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let number = name.parse::<u32>().ok();
        let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
            fields.len() >= 4 && (fields[0] == name || number.is_some() && fields[2].parse().ok() == number)
        });
        let entry_number = |at: usize| entry.as_ref().and_then(|fields| fields[at].parse::<u32>().ok());
        let uid = entry_number(2)
            .or(number)
            .ok_or_else(|| Error(format!("unable to find user {name}: no matching entries in passwd file")))?;
        let gid = match (self.gid, group_name) {
            (Some(gid), _) => gid,
            (None, Some(wanted)) => resolve_group(wanted, group)?,
            (None, None) => entry_number(3).unwrap_or(0),
        };
        let mut groups: BTreeSet<i64> = self.supplemental_groups.iter().map(|gid| i64::from(*gid)).collect();
        // The primary group is one of them, as upstream's runtimes have it.
        groups.insert(i64::from(gid));
        if let (true, Some(entry)) = (self.merge_groups, &entry) {
            groups.extend(group.lines().filter_map(|line| {
                let fields: Vec<_> = line.split(':').collect();
                let member = fields.len() >= 4 && fields[3].split(',').any(|user| user == entry[0]);
                member.then(|| fields[2].parse::<i64>().ok()).flatten()
            }));
        }
        let home = entry.as_ref().and_then(|fields| fields.get(5)).filter(|home| !home.is_empty());
        let user = LinuxContainerUser {
            uid: i64::from(uid),
            gid: i64::from(gid),
            supplemental_groups: groups.into_iter().collect(),
        };
        Ok((user, home.map_or("/", |home| home).to_owned()))
    }
}

fn resolve_group(wanted: &str, group: &str) -> Result<u32> {
    group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 3 && fields[0] == wanted)
        .and_then(|fields| fields[2].parse().ok())
        .or_else(|| wanted.parse().ok())
        .ok_or_else(|| Error(format!("unable to find group {wanted}: no matching entries in group file")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:50:web,root\n";

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        for (name, gid, merge, expected, home) in [
            ("", None, true, Ok((0, 0, vec![0, 50])), "/root"),
            ("web", None, true, Ok((33, 34, vec![34, 50])), "/var/www"),
            ("web", None, false, Ok((33, 34, vec![34])), "/var/www"),
            ("33", Some(7), true, Ok((33, 7, vec![7, 50])), "/var/www"),
            ("web:logs", None, false, Ok((33, 50, vec![50])), "/var/www"),
            ("1000", None, true, Ok((1000, 0, vec![0])), "/"),
            ("1000:1001", None, true, Ok((1000, 1001, vec![1001])), "/"),
            ("nobody", None, true, Err("unable to find user nobody: no matching entries in passwd file"), ""),
            ("0:gone", None, true, Err("unable to find group gone: no matching entries in group file"), ""),
        ] {
            let user = User { name: name.into(), gid, merge_groups: merge, ..User::default() };
            match (user.resolve(PASSWD, GROUP), expected) {
                (Ok((user, found)), Ok((uid, gid, groups))) => {
                    assert_eq!(
                        (user.uid, user.gid, user.supplemental_groups, found.as_str()),
                        (uid, gid, groups, home)
                    );
                }
                (Err(error), Err(expected)) => assert_eq!(error.0, expected),
                (result, expected) => panic!("{name}: {result:?} in place of {expected:?}"),
            }
        }
    }

    #[test]
    fn commands_that_cannot_run_are_told_in_known_words() {
        for (command, expected) in [
            ("regatta-none", "exec: \"regatta-none\": executable file not found in $PATH"),
            ("/regatta/none", "exec: \"/regatta/none\": stat /regatta/none: no such file or directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
            ("/etc", "exec: \"/etc\": is a directory"),
        ] {
            assert_eq!(look_up(command, "/bin:/usr/bin").unwrap_err().0, expected);
        }
        assert_eq!(look_up("sh", "/nowhere:/bin").unwrap(), "/bin/sh");
    }
}
