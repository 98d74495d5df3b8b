//! Limits that every Unix has.

use std::io;

use super::Confined;

/// Files that a decoder has open at most.
const FILES: u64 = 64;

pub(super) fn set(confined: Confined) -> io::Result<()> {
    lower(libc::RLIMIT_AS, confined.memory)?;
    lower(libc::RLIMIT_CPU, confined.processor)?;
    lower(libc::RLIMIT_NOFILE, FILES)?;
    // Pipes are no files: nothing that a decoder is for writes one.
    lower(libc::RLIMIT_FSIZE, 0)?;
    lower(libc::RLIMIT_CORE, 0)
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Lowers a limit; one that is lower already stays. macOS has no limit of address space that can be set: that is no failure.
fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    #[expect(unsafe_code, reason = "limits are set by the C library only")]
    // SAFETY: `limit` is a valid structure that outlives both calls, which keep no pointer to it.
    let set = unsafe {
        if libc::getrlimit(resource, &raw mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        let most = most.min(limit.rlim_max);
        limit.rlim_cur = most;
        limit.rlim_max = most;
        libc::setrlimit(resource, &raw const limit)
    };
    let failed = io::Error::last_os_error();
    if set == 0 || cfg!(target_os = "macos") && resource == libc::RLIMIT_AS {
        return Ok(());
    }
    Err(failed)
}
