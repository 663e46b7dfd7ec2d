//! `ca …`.

use super::{Context, Stop, reply::Reply};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the CA's public keys
    #[command(after_help = "ca show")]
    Show,
}

pub(crate) fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::Show => {
            let keys = context.app.ca_keys(context.asker)?;
            let text = format!(
                "{} user CA {}\n{} host CA {}\n",
                keys.user,
                keys.user.fingerprint(),
                keys.host,
                keys.host.fingerprint()
            );
            Ok(Reply::data(&json!({ "user": keys.user, "host": keys.host }), text))
        }
    }
}
