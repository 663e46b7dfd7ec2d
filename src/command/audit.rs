//! `audit …`.

use super::{
    Context, Stop,
    moment::Moment,
    reply::{Reply, table},
    table::Cell,
    text::{Tone, count},
};
use crate::{
    app::{Audited, SavedHead, recorded_actions},
    audit::{Entry, Filter, Head, Outcome, Verdict, What, Who},
    domain::{Fingerprint, PublicKey, SessionId, Timestamp},
};
use serde_json::json;
use std::{collections::BTreeSet, path::PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the end of the audit log, or what of it is asked for
    #[command(after_help = "audit list\n\
                            audit list --what member --who admin1@acme.example --since 3d\n\
                            audit list --outcome refused --since 2026-01-31 --until '2026-01-31 12:00'")]
    List {
        #[command(flatten)]
        only: Only,
        /// Only entries before this number: to go on with where another list began
        #[arg(long, value_name = "NUMBER", default_value_t = u64::MAX, hide_default_value = true)]
        before: u64,
        /// How many entries, the last ones
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        limit: u16,
    },
    /// Print entries as JSON lines, for a system that collects them
    #[command(after_help = "audit export --after 1000 > audit.jsonl")]
    Export {
        #[command(flatten)]
        only: Only,
        /// Only entries after this number: the last one that was collected
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
        /// How many entries at the most
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        limit: u32,
    },
    /// Print the last signed head, to be kept elsewhere
    #[command(after_help = "audit head\n\
                            audit head --sshsig > head.sig")]
    Head {
        /// Print its signature in the format of 'ssh-keygen -Y verify'
        #[arg(long)]
        sshsig: bool,
    },
    /// Check that no entry was altered, removed, inserted or moved, and that the log has every head that was signed
    #[command(after_help = "audit verify\naudit verify --archive /var/lib/certgate/audit/*.jsonl")]
    Verify {
        /// A head that was kept elsewhere (NUMBER:HASH, or a signed one), so that a tail that was cut off is found too
        #[arg(long, value_name = "HEAD", value_parser = saved_head)]
        head: Option<SavedHead>,
        /// Check these files of the archive instead, in their order: here and now, without asking the authority
        #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "head")]
        archive: Vec<PathBuf>,
        /// The audit key that has signed them, as 'ca show' prints it; without it, the one that they name themselves
        #[arg(long, value_name = "KEY", requires = "archive")]
        key: Option<PublicKey>,
    },
}

/// Which entries
#[derive(Debug, clap::Args)]
pub(crate) struct Only {
    /// By whom (an email, a node, a key's SHA256:… fingerprint, uid:0, operator, certgate), or from which address
    #[arg(long)]
    who: Option<Who>,
    /// Which actions: member.remove, or member for all of them
    #[arg(long, value_name = "ACTION")]
    what: Option<What>,
    /// On what: acme/ml, user1@acme.example, login-0.h100.acme, 'serial 7'
    #[arg(long, value_name = "OBJECT")]
    on: Option<String>,
    /// Only what was done, or only what was refused
    #[arg(long, value_name = "done|refused")]
    outcome: Option<Outcome>,
    /// Not before: 2h or 3d (ago), 2026-11-25, '2026-11-25 12:00', or with seconds and zone as in RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,
    /// Before; a day by itself means its beginning
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
    /// About this session, as 'session list' shows it
    #[arg(long, value_parser = |text: &str| SessionId::try_from(text.to_owned()))]
    session: Option<SessionId>,
}

impl Only {
    /// What was mistyped finds nothing, which would look as if nothing had happened.
    fn check(&self) -> Result<(), Stop> {
        let Some(what) = &self.what else { return Ok(()) };
        if recorded_actions().any(|action| what.is(action)) {
            return Ok(());
        }
        let nouns: BTreeSet<&str> = recorded_actions().filter_map(|action| action.split('.').next()).collect();
        let nouns: Vec<&str> = nouns.into_iter().collect();
        Err(Stop::Refused(format!("there is no action {}; the nouns are: {}", what.as_str(), nouns.join(", "))))
    }

    fn filter(self, now: Timestamp) -> Filter {
        let Self { who, what, on, outcome, since, until, session } = self;
        let (since, until) = (since.map(|moment| moment.at(now)), until.map(|moment| moment.at(now)));
        Filter { who, what, on, outcome, since, until, session, certificate: None }
    }
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    let (app, asker) = (context.app, context.asker);
    match command {
        Command::List { only, before, limit } => {
            let limit = usize::from(limit);
            only.check()?;
            let found = app.audit(asker, only.filter(app.now()), before, limit).await?;
            Ok(list(context, &found, limit))
        }
        Command::Export { only, after, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            only.check()?;
            Ok(export(context, &app.export_audit(asker, only.filter(app.now()), after, limit).await?))
        }
        Command::Head { sshsig } => {
            let (signed, key) = app.audit_head(asker).await?;
            let Some(signed) = signed else { return Err(Stop::Refused("no head was signed yet".into())) };
            let armored = signed.to_sshsig(&key).unwrap_or_default();
            let key = PublicKey::from_ed25519(key.to_bytes());
            let data = json!({ "signed": signed, "message": signed.message(), "key": key, "sshsig": armored });
            Ok(Reply::data(&data, if sshsig { armored } else { format!("{signed}\n") }))
        }
        Command::Verify { archive, .. } if !archive.is_empty() => Err(super::local::elsewhere()),
        Command::Verify { head, .. } => Ok(verdict(&app.verify_audit(asker, head).await?)),
    }
}

fn list(context: &Context<'_>, found: &Audited, limit: usize) -> Reply {
    let headers = ["NO", "TIME", "WHO", "KEY", "FROM", "WHAT", "ON", "OUTCOME", "VERSION", "DETAIL"];
    let text = table(&headers, found.entries.iter().map(row).collect(), context.screen(), "Nothing.");
    let reply = Reply::data(&json!({ "entries": found.entries, "more": found.more }), text);
    match found.more {
        Some(before) if found.entries.len() < limit => reply
            .note(format!("this is what was found from entry {before} on; to look further back: --before {before}")),
        _ => reply,
    }
}

fn row(entry: &Entry) -> Vec<Cell> {
    let event = &entry.event;
    let outcome = match (event.outcome, &event.reason) {
        (Outcome::Done, None) => "done".into(),
        (Outcome::Done, Some(reason)) => Cell::new(Tone::Warn, format!("done ({reason})")),
        (Outcome::Refused, reason) => {
            Cell::new(Tone::Bad, format!("refused ({})", reason.as_deref().unwrap_or("no reason")))
        }
    };
    vec![
        entry.seq.to_string().into(),
        event.at.exactly().into(),
        event.actor.in_full().into(),
        event.actor.key().map(short).unwrap_or_default().into(),
        event.source.as_str().into(),
        event.action.as_str().into(),
        event.object.as_str().into(),
        outcome,
        entry.version.to_string().into(),
        event.detail.as_str().into(),
    ]
}

/// Enough of a fingerprint to tell one person's keys apart.
pub(super) fn short(key: Fingerprint) -> String {
    format!("{}…", key.to_string().chars().take(15).collect::<String>())
}

fn export(context: &Context<'_>, found: &Audited) -> Reply {
    // Not both: there may be a hundred thousand entries.
    if context.json {
        return Reply::data(&json!({ "entries": found.entries, "more": found.more }), "");
    }
    let mut lines = String::new();
    for entry in &found.entries {
        // An entry is plain data; null would be seen by whoever collects.
        lines.push_str(&serde_json::to_string(entry).unwrap_or_else(|_| "null".into()));
        lines.push('\n');
    }
    let reply = Reply::data(&(), lines);
    match found.more {
        Some(after) => reply.note(format!("there may be more: --after {after}")),
        None => reply,
    }
}

fn verdict(verdict: &Verdict) -> Reply {
    let Verdict { start, end, entries, signed_heads, last_signed, problems } = verdict;
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let data = json!({
        "intact": problems.is_empty(),
        "after": start.to_string(),
        "entries": entries,
        "head": end.to_string(),
        "signed_heads": signed_heads,
        "last_signed": last_signed,
        "problems": texts,
    });
    if !problems.is_empty() {
        return Reply::done(&data, texts.join("\n")).exit(1);
    }
    let heads = count(usize::try_from(*signed_heads).unwrap_or(usize::MAX), "signed head");
    let keep = last_signed.map_or_else(|| end.to_string(), |signed| signed.to_string());
    let archived = match start.seq {
        0 => String::new(),
        seq => format!("; the entries up to {seq} are in the archive"),
    };
    Reply::done(&data, format!("{entries} entries and {heads}, all intact{archived}\nkeep this head elsewhere: {keep}"))
}

fn saved_head(text: &str) -> Result<SavedHead, String> {
    const FORM: &str = "a head is NUMBER:HASH, or a signed one as 'audit verify' and 'audit head' print it";
    let plain = text.parse::<Head>().map(SavedHead::Plain);
    plain.or_else(|_| text.parse().map(SavedHead::Signed)).map_err(|_| FORM.into())
}
