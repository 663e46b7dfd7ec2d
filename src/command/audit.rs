//! `audit …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::audit::Outcome;
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the end of the audit log
    List {
        /// How many entries
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
    },
    /// Check that no entry was altered, removed, inserted or moved
    Verify,
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List { limit } => {
            let view = context.app.audit(context.asker, usize::from(limit)).await?;
            let rows = view.entries.iter().map(|entry| {
                let event = &entry.event;
                let outcome = match event.outcome {
                    Outcome::Done => "done",
                    Outcome::Refused => "refused",
                };
                vec![
                    entry.seq.to_string(),
                    event.at.to_string(),
                    event.actor.to_string(),
                    event.source.clone(),
                    event.action.clone(),
                    event.object.clone(),
                    outcome.into(),
                    event.detail.clone(),
                ]
            });
            let headers = ["NO", "TIME", "WHO", "FROM", "WHAT", "ON", "OUTCOME", "DETAIL"];
            Ok(Reply::data(&view, table(&headers, rows.collect(), context.width(), "Nothing yet.")))
        }
        Command::Verify => match context.app.verify_audit(context.asker).await? {
            Ok(count) => {
                Ok(Reply::done(&json!({ "entries": count, "intact": true }), format!("{count} entries, all intact")))
            }
            Err(error) => {
                let data = json!({ "intact": false, "problem": error.to_string() });
                Ok(Reply::done(&data, error.to_string()).exit(1))
            }
        },
    }
}
