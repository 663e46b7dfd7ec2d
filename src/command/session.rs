//! `session …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::app::node_sessions::SessionName;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List sessions on nodes, through a gateway and past it
    #[command(after_help = "session list")]
    List,
    /// End one
    #[command(after_help = "session end 00112233445566778899aabbccddeeff\n\
                            session end login-0.h100-cluster-1.acme:4242.98765")]
    End {
        /// As 'session list' shows it
        id: SessionName,
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
                    session.session.clone(),
                    session.account.clone(),
                    session.node.clone(),
                    or_dash(session.login.clone()),
                    or_dash(session.peer.map(|peer| peer.to_string())),
                    session.gateway.as_ref().map_or_else(|| "direct".into(), |gateway| format!("gateway {gateway}")),
                    or_dash(session.certificate.map(|serial| serial.to_string())),
                    match session.until {
                        None => session.since.near(now),
                        Some(until) => format!("{}, ends {}", session.since.near(now), until.near(now)),
                    },
                ]
            });
            let headers = ["SESSION", "ACCOUNT", "NODE", "LOGIN", "FROM", "VIA", "CERTIFICATE", "SINCE"];
            let text = table(&headers, rows.collect(), context.screen(), "Nothing is open.");
            Ok(Reply::data(&sessions, text))
        }
        Command::End { id } => {
            let confirmed = context.app.end_session(context.asker, id.clone()).await?;
            let data = json!({ "session": id.to_string(), "confirmed": confirmed });
            if confirmed {
                return Ok(Reply::done(&data, format!("ended {id}")));
            }
            let warning = "the node was told, but has not said that it is over; 'session list' shows whether it is";
            Ok(Reply::done(&data, warning).exit(1))
        }
    }
}
