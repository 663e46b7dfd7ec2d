//! `cert`: a certificate on standard output, everything else on standard error.

use super::{Context, Stop, reply::Reply};
use crate::{
    domain::{ClusterPath, Fingerprint, ProjectPath, Ttl},
    policy::{IssueRequest, Narrowing},
};
use serde_json::json;

/// Get a certificate for the key that you connected with
#[derive(Debug, clap::Args)]
#[command(after_help = "ssh BASTION cert > ~/.ssh/id_ed25519-cert.pub\n\
                        ssh BASTION cert --cluster h100-cluster-1.acme --ttl 2m")]
pub(crate) struct Args {
    /// Only for this project (may be given several times)
    #[arg(long, value_name = "ORG/PROJECT", conflicts_with = "cluster")]
    project: Vec<ProjectPath>,
    /// Only for this cluster
    #[arg(long, value_name = "CLUSTER.ORG")]
    cluster: Option<ClusterPath>,
    /// For how long, such as 90s or 5m
    #[arg(long)]
    ttl: Option<Ttl>,
    /// For another key of your account, as 'key list' shows them
    #[arg(long, value_name = "FINGERPRINT")]
    key: Option<Fingerprint>,
}

pub(crate) async fn run(context: &Context<'_>, args: Args) -> Result<Reply, Stop> {
    let narrow = match (args.cluster, args.project) {
        (Some(cluster), _) => Some(Narrowing::Cluster(cluster)),
        (None, projects) if projects.is_empty() => None,
        (None, projects) => Some(Narrowing::Projects(projects)),
    };
    let request = IssueRequest { narrow, ttl: args.ttl, key: args.key };
    let issued = context.app.issue(context.asker, request).await?;
    let data = json!({
        "certificate": issued.text,
        "serial": issued.serial,
        "principals": issued.principals,
        "until": issued.until,
    });
    let now = context.app.now();
    let (until, left) = (issued.until.for_people_at(now), issued.until.near(now));
    let note = format!("serial {}, until {until} ({left}), as {}", issued.serial, issued.principals.join(" "));
    Ok(Reply::data(&data, issued.text + "\n").note(note))
}
