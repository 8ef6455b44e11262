//! System calls of 32-bit programs on x86-64: they have numbers of their own, which the filters of `seccompiler` answer by
//! killing. The default profile allows them what it allows others.

use std::collections::BTreeSet;

use seccompiler::{BpfProgram, sock_filter};

use super::syscalls::{ALLOWED, BY_CAPABILITY};

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_GREATER: u16 = 0x25;
const IF_NOT_LESS: u16 = 0x35;
const IF_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

/// Where the kernel tells a call's number, its machine and its first argument's low half.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// A test, and how many instructions to leave out if it holds or does not.
fn test(code: u16, k: u32, holds: u8, not: u8) -> sock_filter {
    sock_filter { code, jt: holds, jf: not, k }
}

fn refuse(errno: i32) -> sock_filter {
    op(RETURN, ERRNO | errno as u32)
}

/// A filter that asks `compat` about 32-bit calls and `native` about all others.
pub fn beside(native: BpfProgram, compat: BpfProgram) -> BpfProgram {
    let mut program = vec![op(LOAD, MACHINE), test(IF_EQUAL, AUDIT_ARCH_I386, 0, 1), op(JUMP, native.len() as u32)];
    program.extend(native);
    program.extend(compat);
    program
}

/// Lets everything pass: another filter decides.
pub fn anything() -> BpfProgram {
    vec![op(RETURN, ALLOW)]
}

/// The default profile's answers, by capability. `namespaces` are the flags of `clone` that make some.
pub fn default_filter(has: impl Fn(&str) -> bool, namespaces: u32) -> BpfProgram {
    let by_capability = BY_CAPABILITY.iter().filter(|(name, _)| has(name)).flat_map(|(_, calls)| *calls);
    let names = ALLOWED.iter().chain(WIDER).chain(by_capability);
    let mut allowed: BTreeSet<u32> = names.filter_map(|name| number(name)).collect();
    let mut program = vec![op(LOAD, NUMBER)];
    // A call whose first argument decides: the tests that follow the load say how many answers to leave out.
    let mut by_argument = |name: &str, tests: Vec<sock_filter>| {
        let Some(number) = number(name) else { return };
        let answers = [refuse(libc::EPERM), op(RETURN, ALLOW)];
        program.push(test(IF_EQUAL, number, 0, (1 + tests.len() + answers.len()) as u8));
        program.push(op(LOAD, FIRST_ARGUMENT));
        program.extend(tests);
        program.extend(answers);
    };
    by_argument("socket", vec![test(IF_EQUAL, libc::AF_VSOCK as u32, 0, 1)]);
    let personas = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
    let count = personas.len();
    by_argument("personality", (0..count).map(|at| test(IF_EQUAL, personas[at], (count - at) as u8, 0)).collect());
    if has("SYS_ADMIN") {
        allowed.extend(["clone", "clone3"].into_iter().filter_map(number));
    } else {
        by_argument("clone", vec![test(IF_ANY_BIT, namespaces, 0, 1)]);
        if let Some(clone3) = number("clone3") {
            program.extend([test(IF_EQUAL, clone3, 0, 1), refuse(libc::ENOSYS)]);
        }
    }
    for (first, last) in ranges(&allowed) {
        program.extend([test(IF_NOT_LESS, first, 0, 2), test(IF_GREATER, last, 1, 0), op(RETURN, ALLOW)]);
    }
    program.push(refuse(libc::EPERM));
    program
}

fn ranges(numbers: &BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

fn number(name: &str) -> Option<u32> {
    NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Calls that 32-bit programs make for want of the wider ones, or in their place.
#[rustfmt::skip]
const WIDER: &[&str] = &[
    "_llseek", "_newselect", "chown32", "clock_adjtime64", "clock_getres_time64", "clock_gettime64",
    "clock_nanosleep_time64", "fadvise64_64", "fchown32", "fcntl64", "fstat64", "fstatat64", "fstatfs64",
    "ftruncate64", "futex_time64", "getegid32", "geteuid32", "getgid32", "getgroups32", "getresgid32", "getresuid32",
    "getuid32", "io_pgetevents", "io_pgetevents_time64", "ipc", "lchown32", "lstat64", "mmap2",
    "mq_timedreceive_time64", "mq_timedsend_time64", "nice", "oldfstat", "oldlstat", "oldolduname", "oldstat",
    "olduname", "ppoll_time64", "pselect6_time64", "recvmmsg_time64", "rt_sigtimedwait_time64",
    "sched_rr_get_interval_time64", "semtimedop_time64", "sendfile64", "setfsgid32", "setfsuid32", "setgid32",
    "setgroups32", "setregid32", "setresgid32", "setresuid32", "setreuid32", "setuid32", "sgetmask", "sigaction",
    "signal", "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "socketcall", "ssetmask", "stat64", "statfs64",
    "time", "timer_gettime64", "timer_settime64", "timerfd_gettime64", "timerfd_settime64", "truncate64",
    "ugetrlimit", "utimensat_time64", "waitpid",
];

macro_rules! numbers {
    ($($name:ident = $number:literal)*) => {
        &[$((stringify!($name), $number)),*]
    };
}

#[rustfmt::skip]
const NUMBERS: &[(&str, u32)] = numbers![
    _llseek=140 _newselect=142 accept4=364 access=33 acct=51 adjtimex=124 alarm=27 arch_prctl=384 bind=361 bpf=357
    brk=45 capget=184 capset=185 chdir=12 chmod=15 chown=182 chown32=212 chroot=61 clock_adjtime=343
    clock_adjtime64=405 clock_getres=266 clock_getres_time64=406 clock_gettime=265 clock_gettime64=403
    clock_nanosleep=267 clock_nanosleep_time64=407 clock_settime=264 clone=120 clone3=435 close=6 close_range=436
    connect=362 copy_file_range=377 creat=8 delete_module=129 dup=41 dup2=63 dup3=330 epoll_create=254
    epoll_create1=329 epoll_ctl=255 epoll_pwait=319 epoll_pwait2=441 epoll_wait=256 eventfd=323 eventfd2=328
    execve=11 execveat=358 exit=1 exit_group=252 faccessat=307 faccessat2=439 fadvise64=250 fadvise64_64=272
    fallocate=324 fanotify_init=338 fanotify_mark=339 fchdir=133 fchmod=94 fchmodat=306 fchown=95 fchown32=207
    fchownat=298 fcntl=55 fcntl64=221 fdatasync=148 fgetxattr=231 finit_module=350 flistxattr=234 flock=143 fork=2
    fremovexattr=237 fsconfig=431 fsetxattr=228 fsmount=432 fsopen=430 fspick=433 fstat=108 fstat64=197 fstatat64=300
    fstatfs=100 fstatfs64=269 fsync=118 ftruncate=93 ftruncate64=194 futex=240 futex_time64=422 futex_waitv=449
    futimesat=299 get_mempolicy=275 get_robust_list=312 get_thread_area=244 getcpu=318 getcwd=183 getdents=141
    getdents64=220 getegid=50 getegid32=202 geteuid=49 geteuid32=201 getgid=47 getgid32=200 getgroups=80
    getgroups32=205 getitimer=105 getpeername=368 getpgid=132 getpgrp=65 getpid=20 getppid=64 getpriority=96
    getrandom=355 getresgid=171 getresgid32=211 getresuid=165 getresuid32=209 getrlimit=76 getrusage=77 getsid=147
    getsockname=367 getsockopt=365 gettid=224 gettimeofday=78 getuid=24 getuid32=199 getxattr=229 init_module=128
    inotify_add_watch=292 inotify_init=291 inotify_init1=332 inotify_rm_watch=293 io_cancel=249 io_destroy=246
    io_getevents=247 io_pgetevents=385 io_pgetevents_time64=416 io_setup=245 io_submit=248 ioctl=54 ioperm=101
    iopl=110 ioprio_get=290 ioprio_set=289 ipc=117 kcmp=349 kill=37 landlock_add_rule=445 landlock_create_ruleset=444
    landlock_restrict_self=446 lchown=16 lchown32=198 lgetxattr=230 link=9 linkat=303 listen=363 listxattr=232
    llistxattr=233 lookup_dcookie=253 lremovexattr=236 lseek=19 lsetxattr=227 lstat=107 lstat64=196 madvise=219
    mbind=274 membarrier=375 memfd_create=356 memfd_secret=447 mincore=218 mkdir=39 mkdirat=296 mknod=14 mknodat=297
    mlock=150 mlock2=376 mlockall=152 mmap=90 mmap2=192 modify_ldt=123 mount=21 mount_setattr=442 move_mount=429
    mprotect=125 mq_getsetattr=282 mq_notify=281 mq_open=277 mq_timedreceive=280 mq_timedreceive_time64=419
    mq_timedsend=279 mq_timedsend_time64=418 mq_unlink=278 mremap=163 msgctl=402 msgget=399 msgrcv=401 msgsnd=400
    msync=144 munlock=151 munlockall=153 munmap=91 name_to_handle_at=341 nanosleep=162 nice=34 oldfstat=28
    oldlstat=84 oldolduname=59 oldstat=18 olduname=109 open=5 open_by_handle_at=342 open_tree=428 openat=295
    openat2=437 pause=29 perf_event_open=336 personality=136 pidfd_getfd=438 pidfd_open=434 pidfd_send_signal=424
    pipe=42 pipe2=331 pkey_alloc=381 pkey_free=382 pkey_mprotect=380 poll=168 ppoll=309 ppoll_time64=414 prctl=172
    pread64=180 preadv=333 preadv2=378 prlimit64=340 process_madvise=440 process_mrelease=448 process_vm_readv=347
    process_vm_writev=348 pselect6=308 pselect6_time64=413 ptrace=26 pwrite64=181 pwritev=334 pwritev2=379
    quotactl=131 quotactl_fd=443 read=3 readahead=225 readlink=85 readlinkat=305 readv=145 reboot=88 recvfrom=371
    recvmmsg=337 recvmmsg_time64=417 recvmsg=372 remap_file_pages=257 removexattr=235 rename=38 renameat=302
    renameat2=353 restart_syscall=0 rmdir=40 rseq=386 rt_sigaction=174 rt_sigpending=176 rt_sigprocmask=175
    rt_sigqueueinfo=178 rt_sigreturn=173 rt_sigsuspend=179 rt_sigtimedwait=177 rt_sigtimedwait_time64=421
    rt_tgsigqueueinfo=335 sched_get_priority_max=159 sched_get_priority_min=160 sched_getaffinity=242
    sched_getattr=352 sched_getparam=155 sched_getscheduler=157 sched_rr_get_interval=161
    sched_rr_get_interval_time64=423 sched_setaffinity=241 sched_setattr=351 sched_setparam=154
    sched_setscheduler=156 sched_yield=158 seccomp=354 select=82 semctl=394 semget=393 semtimedop_time64=420
    sendfile=187 sendfile64=239 sendmmsg=345 sendmsg=370 sendto=369 set_mempolicy=276 set_mempolicy_home_node=450
    set_robust_list=311 set_thread_area=243 set_tid_address=258 setdomainname=121 setfsgid=139 setfsgid32=216
    setfsuid=138 setfsuid32=215 setgid=46 setgid32=214 setgroups=81 setgroups32=206 sethostname=74 setitimer=104
    setns=346 setpgid=57 setpriority=97 setregid=71 setregid32=204 setresgid=170 setresgid32=210 setresuid=164
    setresuid32=208 setreuid=70 setreuid32=203 setrlimit=75 setsid=66 setsockopt=366 settimeofday=79 setuid=23
    setuid32=213 setxattr=226 sgetmask=68 shmat=397 shmctl=396 shmdt=398 shmget=395 shutdown=373 sigaction=67
    sigaltstack=186 signal=48 signalfd=321 signalfd4=327 sigpending=73 sigprocmask=126 sigreturn=119 sigsuspend=72
    socket=359 socketcall=102 socketpair=360 splice=313 ssetmask=69 stat=106 stat64=195 statfs=99 statfs64=268
    statx=383 symlink=83 symlinkat=304 sync=36 sync_file_range=314 syncfs=344 sysinfo=116 syslog=103 tee=315
    tgkill=270 time=13 timer_create=259 timer_delete=263 timer_getoverrun=262 timer_gettime=261 timer_gettime64=408
    timer_settime=260 timer_settime64=409 timerfd_create=322 timerfd_gettime=326 timerfd_gettime64=410
    timerfd_settime=325 timerfd_settime64=411 times=43 tkill=238 truncate=92 truncate64=193 ugetrlimit=191 umask=60
    umount2=52 uname=122 unlink=10 unlinkat=301 unshare=310 utime=30 utimensat=320 utimensat_time64=412 utimes=271
    vfork=190 vhangup=111 vmsplice=316 wait4=114 waitid=284 waitpid=7 write=4 writev=146
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a filter as the kernel would.
    fn run(program: &[sock_filter], machine: u32, number: u32, argument: u32) -> u32 {
        let (mut value, mut at) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                LOAD => value = [number, machine, 0, 0, argument][k as usize / 4],
                JUMP => at += k as usize,
                IF_EQUAL => branch(value == k),
                IF_GREATER => branch(value > k),
                IF_NOT_LESS => branch(value >= k),
                IF_ANY_BIT => branch(value & k != 0),
                RETURN => return k,
                other => panic!("{other:x}"),
            }
        }
    }

    #[test]
    fn a_32_bit_call_is_answered_by_its_own_number_and_argument() {
        let native = vec![op(RETURN, 7)];
        let refused = ERRNO | libc::EPERM as u32;
        for (admin, call, argument, expected) in [
            (false, "getpid", 0, ALLOW),
            (false, "socketcall", 0, ALLOW),
            (false, "mount", 0, refused),
            (true, "mount", 0, ALLOW),
            (false, "clone", 0x11, ALLOW),
            (false, "clone", 0x1000_0011, refused),
            (true, "clone", 0x1000_0011, ALLOW),
            (false, "clone3", 0, ERRNO | libc::ENOSYS as u32),
            (false, "personality", 0xffff_ffff, ALLOW),
            (false, "personality", 0, ALLOW),
            (false, "personality", 3, refused),
            (false, "socket", 40, refused),
            (false, "socket", 1, ALLOW),
        ] {
            let compat = default_filter(|name| admin && name == "SYS_ADMIN", 0x7e02_0000);
            let program = beside(native.clone(), compat);
            let answer = run(&program, AUDIT_ARCH_I386, number(call).unwrap(), argument);
            assert_eq!(answer, expected, "{call} {argument:x} {admin}");
            assert_eq!(run(&program, 0xc000_003e, number(call).unwrap(), argument), 7);
        }
    }
}
