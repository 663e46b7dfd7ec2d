//! `certgate-node doctor`: reads the machine and says what is wrong, what follows, and what to do. Nothing is changed.
//!
//! [`read`] gathers facts, [`judge`] makes findings of them without any I/O, [`show`] writes them.

mod facts;
mod finding;
mod judge;
mod read;
mod show;

use super::{cli::Placed, run::Clock};
use crate::command::person;
use clap::Args;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// The options of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    placed: Placed,
    /// What the machine is for in its Slurm cluster, if that is not to be guessed
    #[arg(long, value_name = "ROLE")]
    role: Option<facts::Role>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Looks, and says what it has seen. The exit status is that of the worst finding.
pub(super) async fn doctor(args: DoctorArgs, clock: Clock) -> ExitCode {
    let DoctorArgs { placed: Placed { config, sshd, sshd_config, drop_in }, role, json } = args;
    let places = read::Places { config, sshd, sshd_config, drop_in, role };
    let facts = person::attended(read::gather(&places, clock)).await;
    let findings = judge::judge(&facts);
    let text =
        if json { show::for_programs(&facts, &findings) } else { show::for_people(&findings, person::terminal()) };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(finding::worst(&findings).exit()),
        // Whoever does not read it does not know that all is well either.
        Err(_) => ExitCode::from(2),
    }
}
