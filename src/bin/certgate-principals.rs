//! The helper that sshd asks for principals; see [`certgate::node::helper`]. It begins where C programs do: before a `main`
//! of its own Rust's library looks for the end of the stack and makes a second one, which takes as long as all that is done
//! here, on every login (benches/helper.rs).

#![no_main]

use std::{
    ffi::{c_char, c_int},
    panic::catch_unwind,
    time::{SystemTime, UNIX_EPOCH},
};

// A binary is the outermost layer: here the clock is read, and handed down as an argument.
#[allow(clippy::disallowed_methods)]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What the C library calls.
// SAFETY: the C library calls it as it is declared, and nothing else in this program has this name.
#[unsafe(no_mangle)]
pub extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    // The library has the arguments by itself. A panic ends with the status that it always has.
    catch_unwind(|| c_int::from(certgate::node::helper::main(now()))).unwrap_or(101)
}
