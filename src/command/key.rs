//! `key …`.

use super::{Context, Stop, reply::Reply, user::key_table};
use crate::domain::{Email, Fingerprint, PublicKey};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the keys of your account
    #[command(after_help = "ssh BASTION key list\n\
                            key list --account user1@acme.example")]
    List {
        /// Another account (operators)
        #[arg(long, value_name = "EMAIL")]
        account: Option<Email>,
    },
    /// Register a public key, read from standard input: key add < ~/.ssh/id_ed25519.pub
    #[command(after_help = "ssh BASTION key add < ~/.ssh/id_ed25519.pub\n\
                            key add --account user1@acme.example < KEY.pub")]
    Add {
        /// Another account (operators)
        #[arg(long, value_name = "EMAIL")]
        account: Option<Email>,
    },
    /// Remove a key; it stops working everywhere
    #[command(after_help = "ssh BASTION key remove SHA256:WIZy2bwZ4nYlRc5IXMt4fYRzf3EE+3mRRBjYoZ8CVIc\n\
                            key remove SHA256:WIZy2bwZ4nYlRc5IXMt4fYRzf3EE+3mRRBjYoZ8CVIc --account user1@acme.example --yes")]
    Remove {
        /// As 'key list' shows it
        fingerprint: Fingerprint,
        /// Another account (operators)
        #[arg(long, value_name = "EMAIL")]
        account: Option<Email>,
        /// Without asking, also if it is the last one
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List { account } => {
            let keys = context.app.keys(context.asker, account.as_ref())?;
            Ok(Reply::data(&keys, key_table(&keys, context.screen())))
        }
        Command::Add { account } => {
            let key: PublicKey = parse_key(context.input()?)?;
            let algorithm = key.algorithm();
            let fingerprint = context.app.add_key(context.asker, account, key).await?;
            let data = json!({ "algorithm": algorithm, "fingerprint": fingerprint });
            Ok(Reply::done(&data, format!("registered {algorithm} {fingerprint}")))
        }
        Command::Remove { fingerprint, account, yes } => {
            let last = context.app.preview_key_removal(context.asker, account.as_ref(), fingerprint).await?;
            if last {
                context.confirm(yes, || {
                    format!("{fingerprint} is the last key; without one nobody can connect as this account. Remove it?")
                })?;
            }
            let version = context.app.remove_key(context.asker, account, fingerprint).await?;
            let data = json!({ "fingerprint": fingerprint, "version": version });
            Ok(Reply::done(&data, format!("removed {fingerprint}; it is refused from now on")))
        }
    }
}

/// Reads a key that somebody gave. What was given is never repeated: it may be a private key.
pub(crate) fn parse_key(text: &str) -> Result<PublicKey, Stop> {
    text.parse().map_err(|error: crate::domain::KeyError| Stop::Refused(error.to_string()))
}
