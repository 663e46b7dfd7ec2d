//! `ca …`.

use super::{Context, Stop, reply::Reply};
use crate::domain::PublicKey;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the public keys: the CAs' and the one that signs the audit log
    #[command(after_help = "ca show")]
    Show,
}

pub(crate) fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::Show => {
            let keys = context.app.ca_keys(context.asker)?;
            let line = |key: &PublicKey, what: &str| format!("{key} {what} {}\n", key.fingerprint());
            let text = line(&keys.user, "user CA") + &line(&keys.host, "host CA") + &line(&keys.audit, "audit log");
            Ok(Reply::data(&keys, text))
        }
    }
}
