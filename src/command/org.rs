//! `org …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::domain::OrgName;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List organizations
    #[command(after_help = "org list")]
    List,
    /// Create an organization
    #[command(after_help = "org create acme")]
    Create {
        /// Its name: the last part of its nodes' names
        name: OrgName,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => {
            let orgs = context.app.orgs(context.asker)?;
            let rows = orgs.iter().map(|org| vec![org.name.to_string(), org.created.for_people()]).collect();
            Ok(Reply::data(&orgs, table(&["ORGANIZATION", "SINCE"], rows, context.screen(), "No organizations yet.")))
        }
        Command::Create { name } => {
            context.app.create_org(context.asker, name.clone()).await?;
            let sentence = format!("created {name}\nNext: certgate user create EMAIL --org {name} --name USER --key …");
            Ok(Reply::done(&json!({ "org": name }), sentence))
        }
    }
}
