//! `config`: a complete OpenSSH configuration.

use super::{Context, Stop, reply::Reply, ssh_config};
use serde_json::json;

/// Print an OpenSSH configuration that reaches every node
#[derive(Debug, clap::Args)]
#[command(after_help = "ssh BASTION config > ~/.ssh/certgate.conf\n\
                        config known-hosts")]
pub(crate) struct Args {
    /// What to print
    #[arg(value_enum, default_value = "ssh")]
    what: What,
    /// The private key's file, if ssh would not use it by itself
    #[arg(long, value_name = "FILE")]
    identity: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// For ~/.ssh/config, complete
    Ssh,
    /// Only the lines for a known_hosts file
    KnownHosts,
}

pub(crate) fn run(context: &Context<'_>, args: &Args) -> Result<Reply, Stop> {
    let known = context.app.known_hosts(context.asker)?;
    let text = match args.what {
        What::KnownHosts => ssh_config::known_hosts(&known),
        What::Ssh => ssh_config::config(&known, args.identity.as_deref()).map_err(Stop::Refused)?,
    };
    let mut reply = Reply::data(&json!({ "text": text }), text);
    if known.gateways.is_empty() {
        reply = reply.note("no gateway is connected, so its host key is not in there; ask again later");
    }
    if known.clusters.is_empty() {
        reply = reply.note("you can reach no cluster yet; ask again when you are in a project that has one");
    }
    Ok(reply)
}
