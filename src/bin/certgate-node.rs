//! The agent of a node; see [`certgate::node`].

use certgate::domain::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

// A binary is the outermost layer: here the clock is read, and handed down as an argument.
#[allow(clippy::disallowed_methods)]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn main() -> std::process::ExitCode {
    certgate::node::cli::main(now)
}
