//! The helper that sshd asks for principals; see [`certgate::node::helper`].

use std::time::{SystemTime, UNIX_EPOCH};

// A binary is the outermost layer: here the clock is read, and handed down as an argument.
#[allow(clippy::disallowed_methods)]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn main() -> std::process::ExitCode {
    certgate::node::helper::main(now())
}
