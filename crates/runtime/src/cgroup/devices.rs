//! Which devices a group's processes may use: files of version 1, a small BPF program on version 2.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::{Cgroup, CgroupError, Result, write};

/// What may be done with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub read: bool,
    pub write: bool,
    pub make: bool,
}

impl Access {
    pub const ALL: Access = Access { read: true, write: true, make: true };
    pub const MAKE: Access = Access { read: false, write: false, make: true };

    /// From letters of `rwm`.
    pub fn parse(text: &str) -> Access {
        Access { read: text.contains('r'), write: text.contains('w'), make: text.contains('m') }
    }

    fn letters(self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.make, 'm')].iter().filter(|l| l.0).map(|l| l.1).collect()
    }

    /// As the kernel's BPF context has it.
    fn bits(self) -> i32 {
        i32::from(self.make) | i32::from(self.read) << 1 | i32::from(self.write) << 2
    }
}

/// Something that is allowed. `None` stands for any.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub block: bool,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// What every container may have: making nodes without using them, the harmless devices, terminals.
pub fn default_rules() -> Vec<Rule> {
    let any = |block| Rule { block, major: None, minor: None, access: Access::MAKE };
    let character = |major, minor| Rule { block: false, major: Some(major), minor, access: Access::ALL };
    let mut rules = vec![any(false), any(true)];
    rules.extend([3, 5, 7, 8, 9].map(|minor| character(1, Some(minor))));
    rules.extend([0, 1, 2].map(|minor| character(5, Some(minor))));
    rules.push(character(136, None));
    rules
}

impl Cgroup {
    /// Denies all devices but those given. To be set once, before the first process.
    pub fn restrict_devices(&self, rules: &[Rule]) -> Result<()> {
        if self.hierarchies.v2 {
            let directory = self.processes();
            return attach(&directory, &program(rules)).map_err(CgroupError::Devices);
        }
        let directory = self
            .directory("devices")
            .ok_or_else(|| CgroupError::Devices(io::Error::other("the devices controller is not mounted")))?;
        write(&directory.join("devices.deny"), "a")?;
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        rules.iter().try_for_each(|rule| {
            let kind = if rule.block { 'b' } else { 'c' };
            let line = format!("{kind} {}:{} {}", number(rule.major), number(rule.minor), rule.access.letters());
            write(&directory.join("devices.allow"), &line)
        })
    }
}

/// One instruction of BPF, as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Instruction {
    code: u8,
    /// The source register in the high half, the destination in the low.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

/// A program that returns 1 for what a rule allows and 0 for all else. Registers: 2 the device's kind, 3 the access, 4
/// and 5 its numbers.
fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        // BPF_DEVCG_DEV_BLOCK is 1, BPF_DEVCG_DEV_CHAR 2.
        let mut block = vec![
            op(JUMP_UNEQUAL, 2, 0, 0, if rule.block { 1 } else { 2 }),
            op(MOVE_REGISTER, 1, 3, 0, 0),
            op(AND, 1, 0, 0, rule.access.bits()),
            op(JUMP_UNEQUAL_REGISTER, 1, 3, 0, 0),
        ];
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            block.extend(number.map(|number| op(JUMP_UNEQUAL, register, 0, 0, number as i32)));
        }
        block.extend([op(MOVE, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
        let length = block.len();
        for (at, instruction) in block.iter_mut().enumerate() {
            if matches!(instruction.code, JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER) {
                instruction.offset = (length - at - 1) as i16;
            }
        }
        code.extend(block);
    }
    code.extend([op(MOVE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    version: u32,
    flags: u32,
}

/// The head of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the structure begins as the kernel's union does for this command, and its size is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *const T, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// Loads a program and attaches it to a group of version 2, which keeps it.
fn attach(directory: &Path, code: &[Instruction]) -> io::Result<()> {
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        version: 0,
        flags: 0,
    };
    // SAFETY: on success the kernel made the descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(bpf(BPF_PROG_LOAD, &load)?) };
    let group = File::open(directory)?;
    let attach = Attach {
        target: group.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(code: &[Instruction], kind: i64, access: i64, major: i64, minor: i64) -> i64 {
        let context = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0i64; 16], 0);
        loop {
            let Instruction { code: operation, registers: r, offset, immediate } = code[at];
            let (to, from) = ((r & 15) as usize, (r >> 4) as usize);
            at += 1;
            match operation {
                LOAD_WORD => registers[to] = context[offset as usize / 4],
                MOVE_REGISTER => registers[to] = registers[from],
                MOVE => registers[to] = i64::from(immediate),
                AND => registers[to] &= i64::from(immediate),
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_UNEQUAL if registers[to] != i64::from(immediate) => at += offset as usize,
                JUMP_UNEQUAL_REGISTER if registers[to] != registers[from] => at += offset as usize,
                JUMP_UNEQUAL | JUMP_UNEQUAL_REGISTER => {}
                EXIT => return registers[0],
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_allow() {
        let code = program(&default_rules());
        let (block, character) = (1, 2);
        let (make, read, write) = (1, 2, 4);
        for (kind, access, major, minor, allowed) in [
            (character, read | write, 1, 3, true),
            (character, read, 1, 1, false),
            (character, write, 136, 77, true),
            (block, make, 254, 0, true),
            (block, read, 254, 0, false),
            (block, make | read, 254, 0, false),
            (character, read, 10, 229, false),
        ] {
            assert_eq!(run(&code, kind, access, major, minor), i64::from(allowed), "{kind} {access} {major}:{minor}");
        }
    }

    /// Hybrid machines mount a hierarchy of version 2 too, which takes programs without any controller.
    #[test]
    fn the_kernel_takes_the_program_and_a_denied_device_cannot_be_opened() {
        let top = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(Path::new)
            .into_iter()
            .find(|path| path.join("cgroup.controllers").exists());
        let (Some(top), true) = (top, nix::unistd::geteuid().is_root()) else {
            eprintln!("skipped: needs root and cgroup version 2");
            return;
        };
        let directory = top.join(format!("regatta-test-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        attach(&directory, &program(&default_rules())).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs && cat /dev/null && ! head -c1 /dev/kmsg 2>/dev/null && exec 3</dev/zero",
            directory.display()
        );
        let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
        std::fs::remove_dir(&directory).unwrap();
        assert!(status.success());
    }
}
