//! The operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    let programs = || vec![certgate::daemon::grammar(), certgate::node::cli::grammar()];
    certgate::cli::main(std::env::args_os(), certgate::api::client::AdminClient::new, programs)
}
