//! What Linux has beyond limits: no new privileges, no sockets (seccomp), one file only (Landlock).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where libraries of a program are, what its loader reads, and devices without content.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/ld-musl-x86_64.path",
    "/etc/ld-musl-aarch64.path",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
];

/// Confines this thread and all that come of it: called where it is the only one.
pub(super) fn enter(file: &Path, program: Option<&Path>) -> io::Result<()> {
    // Who asked may be gone before the answer.
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    restrict(file, program)?;
    filter()
}

fn prctl(option: i32, value: u64) -> io::Result<()> {
    #[expect(unsafe_code, reason = "a process is confined by the C library only")]
    // SAFETY: the options that are used here take numbers, no pointers.
    let done = unsafe { libc::prctl(option, value, 0u64, 0u64, 0u64) };
    check(done.into()).map(drop)
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Rights on files, by their bits in the kernel's interface.
const EXECUTE: u64 = 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
/// A rule about what lies below a path.
const PATH_BENEATH: u64 = 1;

/// `landlock_ruleset_attr`; kernels that know fewer fields take it while those are 0.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scoped: u64,
}

/// `landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}

/// The version of Landlock; `None` where the kernel has none, or has it switched off.
pub(super) fn landlock() -> Option<u32> {
    #[expect(unsafe_code, reason = "the C library has no Landlock")]
    // SAFETY: without a structure and with flag 1 the call only tells its version.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            1u32,
        )
    };
    u32::try_from(version).ok().filter(|v| *v > 0)
}

/// Leaves `file` to be read; and what `program` needs to be started, where there is one. Nothing where there is no Landlock.
fn restrict(file: &Path, program: Option<&Path>) -> io::Result<()> {
    let Some(version) = landlock() else { return Ok(()) };
    let since = |first: u32, bits: u64| if version >= first { bits } else { 0 };
    let attr = Ruleset {
        files: ((1 << 13) - 1) | since(2, 1 << 13) | since(3, 1 << 14) | since(5, 1 << 15),
        // To bind and to connect over TCP.
        network: since(4, 3),
        // Abstract sockets, and signals to who is outside.
        scoped: since(6, 3),
    };
    #[expect(unsafe_code, reason = "the C library has no Landlock")]
    // SAFETY: the kernel reads as many bytes of `attr` as it is told, and gives a descriptor that nobody else owns.
    let rules = unsafe {
        let size = size_of::<Ruleset>();
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0u32);
        OwnedFd::from_raw_fd(check(fd)? as i32)
    };
    allow(&rules, file, READ_FILE)?;
    if let Some(program) = program {
        let found = found(program);
        allow(&rules, &found, READ_FILE | EXECUTE)?;
        let libraries = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let own = found
            .parent()
            .and_then(Path::parent)
            .filter(|p| p.parent().is_some());
        let beside = own.iter().flat_map(|p| [p.join("lib"), p.join("lib64")]);
        let system = SYSTEM.iter().map(PathBuf::from);
        for path in system.chain(beside).chain(std::env::split_paths(&libraries)) {
            // What is not there needs no rule.
            let _ = allow(&rules, &path, READ_FILE | READ_DIR | EXECUTE);
        }
    }
    #[expect(unsafe_code, reason = "the C library has no Landlock")]
    // SAFETY: a descriptor and a number, no pointers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) };
    check(done).map(drop)
}

/// A program as the shell would find it, links resolved.
fn found(program: &Path) -> PathBuf {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&paths).map(|dir| dir.join(program));
    let path = match program.components().count() {
        1 => on_path.into_iter().find(|p| p.is_file()),
        _ => None,
    };
    let path = path.unwrap_or_else(|| program.into());
    path.canonicalize().unwrap_or(path)
}

/// Adds a rule about a path. Rights of directories are left out where it is none.
fn allow(rules: &OwnedFd, path: &Path, allowed: u64) -> io::Result<()> {
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)?;
    let directory = file.metadata()?.is_dir();
    let rule = Beneath {
        allowed: if directory { allowed } else { allowed & !READ_DIR },
        parent: file.as_raw_fd(),
    };
    #[expect(unsafe_code, reason = "the C library has no Landlock")]
    // SAFETY: the kernel reads one rule, whose descriptor is open until `file` is dropped.
    let done = unsafe {
        let rules = rules.as_raw_fd();
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules,
            PATH_BENEATH,
            &raw const rule,
            0u32,
        )
    };
    check(done).map(drop)
}

/// Whether calls of the kernel are filtered on this kind of processor.
pub(super) const FILTERED: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Refuses new sockets, and the queue by which one could be had without a call: Landlock knows TCP alone, and old kernels have
/// none.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn filter() -> io::Result<()> {
    #[cfg(target_arch = "x86_64")]
    const ARCH: u32 = 0xC000_003E;
    #[cfg(target_arch = "aarch64")]
    const ARCH: u32 = 0xC000_00B7;
    /// Numbers of x86_64's other interface begin here; the other processor has none so high.
    const X32: u32 = 0x4000_0000;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EACCES as u32;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let (equal, from) = (libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_JMP | libc::BPF_JGE);
    // `seccomp_data` begins with the call's number and the processor's name.
    let mut steps = [
        step(load, 4, 0, 0),
        step(equal, ARCH, 0, 5),
        step(load, 0, 0, 0),
        step(from, X32, 3, 0),
        step(equal, libc::SYS_socket as u32, 2, 0),
        step(equal, libc::SYS_io_uring_setup as u32, 1, 0),
        step(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(libc::BPF_RET, REFUSE, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    #[expect(unsafe_code, reason = "a filter is set by the C library only")]
    // SAFETY: the kernel copies the program, whose steps live until the call is over.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    check(done.into()).map(drop)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn filter() -> io::Result<()> {
    Ok(())
}
