//! What has to be done before anything else where nobody has done it: the helper begins where C programs do (see the
//! binary), and of what Rust's standard library does before a `main` of its own (library/std/src/sys/pal/unix/mod.rs,
//! `init`) this much matters here.

use std::process::abort;

/// Sees that the three standard descriptors are open, with /dev/null in the place of one that is not, and that a reader of
/// standard output who is gone is an error and no signal.
///
/// Without it the table, or the socket to the agent, could be opened as standard output or standard error, and what is
/// meant for these would go there. The signal would end the program before it has said what was wrong.
pub fn prepare() {
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: no memory is involved; a descriptor that is not open is an error.
        let closed = unsafe { libc::fcntl(standard, libc::F_GETFD) } == -1;
        // The lowest that is free is taken, which is this one: those below it are open by now.
        // SAFETY: a C string that ends in a zero and is never freed.
        if closed && unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } != standard {
            abort();
        }
    }
    // SAFETY: no memory and no function of ours is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}
