//! `certgate-node doctor`: reads the machine and says what is wrong, what follows, and what to do. Nothing is changed.
//!
//! [`read`] gathers facts, [`judge`] makes findings of them without any I/O, [`show`] writes them.

mod facts;
mod finding;
mod judge;
mod read;
mod show;

use super::run::Clock;
use crate::app::{protocol::Terminal, waiting::Waiting};
use clap::Args;
use rustix::termios::tcgetwinsize;
use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

/// The options of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// What `join` wrote
    #[arg(long, value_name = "FILE", default_value = "/etc/certgate/node.toml")]
    config: PathBuf,
    /// sshd itself, by its whole path
    #[arg(long, value_name = "FILE", default_value = "/usr/sbin/sshd")]
    sshd: PathBuf,
    /// sshd's main configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config")]
    sshd_config: PathBuf,
    /// The sshd configuration file that `join` wrote
    #[arg(long, value_name = "FILE", default_value = "/etc/ssh/sshd_config.d/10-certgate.conf")]
    drop_in: PathBuf,
    /// What the machine is for in its Slurm cluster, if that is not to be guessed
    #[arg(long, value_name = "ROLE")]
    role: Option<facts::Role>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Looks, and says what it has seen. The exit status is that of the worst finding.
pub(super) async fn doctor(args: DoctorArgs, clock: Clock) -> ExitCode {
    let DoctorArgs { config, sshd, sshd_config, drop_in, role, json } = args;
    let places = read::Places { config, sshd, sshd_config, drop_in, role };
    let facts = attended(read::gather(&places, clock)).await;
    let findings = judge::judge(&facts);
    let text = if json { show::for_programs(&facts, &findings) } else { show::for_people(&findings, terminal()) };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::from(finding::worst(&findings).exit()),
        // Whoever does not read it does not know that all is well either.
        Err(_) => ExitCode::from(2),
    }
}

/// Awaits; who sits at a terminal is shown each second that something is going on.
async fn attended<T>(answer: impl Future<Output = T>) -> T {
    let person = io::stderr().is_terminal();
    // A terminal that is gone has nobody to tell.
    let tell = |text: &str| drop(io::stderr().write_all(text.as_bytes()));
    let mut answer = pin!(answer);
    let mut waiting = Waiting::default();
    loop {
        tokio::select! {
            answer = &mut answer => {
                tell(&waiting.over());
                return answer;
            }
            () = tokio::time::sleep(Duration::from_secs(1)), if person => tell(&waiting.second()),
        }
    }
}

fn terminal() -> Option<Terminal> {
    let size = io::stdout().is_terminal().then(|| tcgetwinsize(io::stdout()).ok()).flatten()?;
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = !plain && std::env::var("TERM").is_ok_and(|term| Terminal::type_has_colours(&term));
    // A terminal that does not know its width says 0.
    Some(Terminal { columns: if size.ws_col == 0 { 80 } else { size.ws_col }, colours })
}
