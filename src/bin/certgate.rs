//! The operator's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    certgate::cli::main(std::env::args_os(), certgate::api::client::AdminClient::new)
}
