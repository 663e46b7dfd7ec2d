//! The operator's command.

use certgate::domain::Timestamp;
use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

// A binary is the outermost layer: here the clock is read, and handed down as an argument.
#[allow(clippy::disallowed_methods)]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn main() -> ExitCode {
    let programs = || vec![certgate::daemon::grammar(), certgate::node::cli::grammar()];
    certgate::cli::main(std::env::args_os(), certgate::api::client::AdminClient::new, programs, now)
}
