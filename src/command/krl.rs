//! `krl`: a key revocation list on standard output, for sshds that do not run the helper.

use super::{Context, Stop, reply::Reply};
use crate::domain::{ClusterPath, Timestamp};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

/// Print an OpenSSH key revocation list (RevokedKeys) for sshds that do not run the helper
#[derive(Debug, clap::Args)]
#[command(after_help = "ssh BASTION krl h100-cluster-1.acme > revoked_keys.new && mv revoked_keys.new revoked_keys\n\
                        krl > revoked_keys.new && mv revoked_keys.new revoked_keys")]
pub(crate) struct Args {
    /// For the nodes of this cluster: also whoever was removed from its project only. Without it, what is revoked
    /// everywhere
    #[arg(value_name = "CLUSTER.ORG")]
    cluster: Option<ClusterPath>,
}

pub(crate) fn run(context: &Context<'_>, args: &Args) -> Result<Reply, Stop> {
    let list = context.app.krl(context.asker, args.cluster.as_ref())?;
    if context.invocation.terminal.is_some() && !context.json {
        let text = "the list is not text; send it to a file, and read that with ssh-keygen -Q -l -f FILE";
        return Err(Stop::Refused(text.into()));
    }
    let bytes = list.to_bytes();
    let generated: Timestamp = list.generated;
    let data = json!({
        "krl": STANDARD.encode(&bytes),
        "version": list.version,
        "generated": generated,
        "serials": list.serials.len(),
        "keys": list.keys.len(),
    });
    let note = format!("version {}: {} certificates and {} keys", list.version, list.serials.len(), list.keys.len());
    Ok(Reply::binary(&data, bytes).note(note))
}
