//! `session …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::domain::SessionId;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List sessions on nodes, through a gateway and past it
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
                let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
                vec![
                    or_dash(session.session.clone()),
                    session.account.clone(),
                    session.node.clone(),
                    or_dash(session.login.clone()),
                    or_dash(session.peer.map(|peer| peer.to_string())),
                    session.gateway.as_ref().map_or_else(|| "direct".into(), |gateway| format!("gateway {gateway}")),
                    or_dash(session.certificate.map(|serial| serial.to_string())),
                    session.since.near(now),
                ]
            });
            let headers = ["SESSION", "ACCOUNT", "NODE", "LOGIN", "FROM", "VIA", "CERTIFICATE", "SINCE"];
            let text = table(&headers, rows.collect(), context.screen(), "Nothing is open.");
            Ok(Reply::data(&sessions, text))
        }
        Command::End { id } => {
            context.app.end_session(context.asker, id.clone()).await?;
            Ok(Reply::done(&json!({ "session": id }), format!("ended {id}")))
        }
    }
}
