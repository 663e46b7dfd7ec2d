//! `cluster …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
    text::count,
};
use crate::domain::{ClusterKind, ClusterName, ClusterPath, ProjectPath};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the clusters of all your projects
    List,
    /// Create a cluster in a project
    Create {
        /// In which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Its name, unique in the organization
        name: ClusterName,
        /// slurm or kubernetes
        #[arg(long, default_value = "slurm")]
        kind: ClusterKind,
    },
    /// Delete a cluster with its nodes; its name is never given out again
    Delete {
        /// Which
        #[arg(value_name = "CLUSTER.ORG")]
        cluster: ClusterPath,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => {
            let clusters = context.app.clusters(context.asker)?;
            let rows = clusters.iter().map(|cluster| {
                vec![
                    cluster.cluster.to_string(),
                    cluster.project.to_string(),
                    cluster.kind.clone(),
                    cluster.nodes.to_string(),
                    cluster.role.clone().unwrap_or_default(),
                ]
            });
            let headers = ["CLUSTER", "PROJECT", "KIND", "NODES", "ROLE"];
            let text = table(&headers, rows.collect(), context.screen(), "No clusters yet.");
            Ok(Reply::data(&clusters, text))
        }
        Command::Create { project, name, kind } => {
            let cluster = context.app.create_cluster(context.asker, project.clone(), name, kind).await?;
            let next = context.program();
            let sentence = format!("created {cluster} in {project}\nNext: {next} node token NODE.{cluster}");
            Ok(Reply::done(&json!({ "cluster": cluster, "project": project, "kind": kind }), sentence))
        }
        Command::Delete { cluster, yes } => {
            let nodes = context.app.preview_cluster_deletion(context.asker, &cluster).await?;
            context.confirm(yes, || format!("Delete {cluster} with {}?", count(nodes, "node")))?;
            let version = context.app.delete_cluster(context.asker, cluster.clone()).await?;
            Ok(Reply::done(&json!({ "cluster": cluster, "version": version }), format!("deleted {cluster}")))
        }
    }
}
