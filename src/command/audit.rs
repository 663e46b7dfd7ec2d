//! `audit …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::{
    app::AuditFilter,
    audit::{ChainHash, Entry, Head, Outcome},
    domain::Timestamp,
};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the end of the audit log
    #[command(after_help = "audit list\n\
                            audit list --what member --who admin1@acme.example --since 2026-01-31T12:00:00Z")]
    List(List),
    /// Print entries as JSON lines, for a system that collects them
    #[command(after_help = "audit export --after 1000 > audit.jsonl")]
    Export {
        /// Only entries after this number
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// How many entries at the most
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Check that no entry was altered, removed, inserted or moved
    #[command(after_help = "audit verify")]
    Verify {
        /// A head that was printed earlier (NUMBER:HASH), so that a tail that was cut off is found too
        #[arg(long, value_name = "NUMBER:HASH", value_parser = head)]
        head: Option<Head>,
    },
}

/// Which entries
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// By whom (an email or a node), or from which address
    #[arg(long)]
    who: Option<String>,
    /// Which actions: member.remove, or member for all of them
    #[arg(long)]
    what: Option<String>,
    /// Not before, such as 2026-01-31T12:00:00Z
    #[arg(long)]
    since: Option<Timestamp>,
    /// Before
    #[arg(long)]
    until: Option<Timestamp>,
    /// How many entries, the last ones
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List(List { who, what, since, until, limit }) => {
            let filter = AuditFilter { who, what, since, until };
            let entries = context.app.audit(context.asker, &filter, usize::from(limit)).await?;
            let headers = ["NO", "TIME", "WHO", "FROM", "WHAT", "ON", "OUTCOME", "DETAIL"];
            let text = table(&headers, entries.iter().map(row).collect(), context.width(), "Nothing.");
            Ok(Reply::data(&json!({ "entries": entries }), text))
        }
        Command::Export { after, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let entries = context.app.export_audit(context.asker, after, limit).await?;
            let mut lines = String::new();
            for entry in &entries {
                // An entry is plain data; null would be seen by whoever collects.
                lines.push_str(&serde_json::to_string(entry).unwrap_or_else(|_| "null".into()));
                lines.push('\n');
            }
            let reply = Reply::data(&json!({ "entries": entries }), lines);
            Ok(match entries.last() {
                Some(last) if entries.len() == limit => reply.note(format!("there may be more: --after {}", last.seq)),
                _ => reply,
            })
        }
        Command::Verify { head } => match context.app.verify_audit(context.asker, head).await? {
            Ok(end) => {
                let data = json!({ "entries": end.seq, "intact": true, "head": format!("{}:{}", end.seq, end.hash) });
                let note =
                    format!("{} entries, all intact\nkeep this head elsewhere: {}:{}", end.seq, end.seq, end.hash);
                Ok(Reply::done(&data, note))
            }
            Err(error) => {
                let data = json!({ "intact": false, "problem": error.to_string() });
                Ok(Reply::done(&data, error.to_string()).exit(1))
            }
        },
    }
}

fn row(entry: &Entry) -> Vec<String> {
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
}

fn head(text: &str) -> Result<Head, String> {
    const FORM: &str = "a head is NUMBER:HASH, as 'audit verify' prints it";
    let (seq, hash) = text.split_once(':').ok_or(FORM)?;
    let hash: ChainHash = hash.parse().map_err(|_| FORM)?;
    Ok(Head { seq: seq.parse().map_err(|_| FORM)?, hash })
}
