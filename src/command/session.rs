//! `session …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::domain::SessionId;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List connections to nodes that are open through a gateway
    #[command(after_help = "session list")]
    List,
    /// End one
    #[command(after_help = "session end 00112233445566778899aabbccddeeff")]
    End {
        /// As 'session list' shows it
        #[arg(value_parser = |text: &str| SessionId::try_from(text.to_owned()))]
        id: SessionId,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => {
            let sessions = context.app.sessions(context.asker)?;
            let now = context.app.now();
            let rows = sessions.iter().map(|session| {
                vec![
                    session.session.clone(),
                    session.account.clone(),
                    session.node.clone(),
                    session.peer.to_string(),
                    session.since.near(now),
                ]
            });
            let headers = ["SESSION", "ACCOUNT", "NODE", "FROM", "SINCE"];
            let text = table(&headers, rows.collect(), context.screen(), "Nothing is open.");
            Ok(Reply::data(&sessions, text))
        }
        Command::End { id } => {
            context.app.end_session(context.asker, id.clone()).await?;
            Ok(Reply::done(&json!({ "session": id }), format!("ended {id}")))
        }
    }
}
