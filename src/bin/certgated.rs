//! The daemons of a bastion: `certgated authority`, `certgated gateway`.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    certgate::daemon::main(certgate::daemon::Arguments::parse())
}
