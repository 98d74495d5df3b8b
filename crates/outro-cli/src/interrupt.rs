//! What is said when a run is stopped by Ctrl-C or by a scheduler, which ends the program as ever.

/// From now on a stop is followed by a line that the same command goes on.
#[cfg(unix)]
#[expect(unsafe_code, reason = "a signal's handler can only be set by the C library")]
pub(crate) fn say_that_it_goes_on() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler makes only calls that a handler may make. A signal that is ignored, as nohup has it, stays so.
        unsafe {
            let handler = stopped as extern "C" fn(libc::c_int);
            if libc::signal(signal, handler as libc::sighandler_t) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
}

#[cfg(unix)]
#[expect(unsafe_code, reason = "write and _exit are what a signal's handler may call")]
extern "C" fn stopped(signal: libc::c_int) {
    const TEXT: &[u8] =
        b"\nnote: stopped; every answer so far is in the log, and the same command goes on from there\n";
    // SAFETY: the buffer lives as long as the program; both calls may be made in a handler.
    unsafe {
        libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), TEXT.len());
        libc::_exit(128 + signal);
    }
}

/// Elsewhere nothing is said.
#[cfg(not(unix))]
pub(crate) fn say_that_it_goes_on() {}
