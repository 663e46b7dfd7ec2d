//! `cluster update`: the difference is shown, and what is confirmed is what was shown.

use super::DOCUMENT_LIMIT;
use crate::{
    app::Reconfiguration,
    command::{Context, Stop, reply::Reply, text::Text},
    domain::{ClusterPath, Version},
};
use serde::Serialize;
use similar::TextDiff;

/// Lines around each change that are shown.
const AROUND: usize = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which
    #[arg(value_name = "CLUSTER.ORG")]
    cluster: ClusterPath,
    /// The new configuration, in TOML; - for standard input
    #[arg(default_value = "-")]
    file: String,
    /// Only if this revision is in force, so that nobody's change is undone by accident
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Show the difference and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Without asking
    #[arg(long)]
    yes: bool,
}

/// What programs are told.
#[derive(Debug, Serialize)]
struct Data<'a> {
    cluster: &'a ClusterPath,
    /// The revision in force now.
    revision: u64,
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<Version>,
    diff: &'a str,
}

pub(crate) async fn run(context: &Context<'_>, args: Args) -> Result<Reply, Stop> {
    let Args { cluster, file, revision: expected, dry_run, yes } = args;
    // Who may not is told so before anything is read.
    context.app.may_configure(context.asker, &cluster).await?;
    let text = context.file(&file, DOCUMENT_LIMIT)?;
    // Such as < /dev/null in a script.
    if text.is_empty() {
        let text =
            "there is nothing in it, so nothing was changed; for an empty configuration give a line with a comment (#)";
        return Err(Stop::Refused(text.into()));
    }
    let change = context.app.preview_configuration(context.asker, &cluster, text).await?;
    let revision = change.revision;
    if let Some(expected) = expected.filter(|expected| *expected != revision) {
        return Err(Stop::Refused(format!(
            "{cluster} has revision {revision} of its configuration, not {expected}; nothing was changed. Look at it: {} \
             cluster show {cluster} --config",
            context.program()
        )));
    }
    let diff = difference(&change);
    let unchanged = Data { cluster: &cluster, revision, changed: false, version: None, diff: &diff };
    if diff.is_empty() {
        return Ok(Reply::done(&unchanged, format!("{cluster} is configured like this already (revision {revision})")));
    }
    if dry_run {
        return Ok(Reply::data(&unchanged, Text::written(&diff)).note("nothing was changed (--dry-run)"));
    }
    if !yes && !context.json && context.invocation.terminal.is_none() {
        let hint = format!("nothing was changed; if that is what you want: --yes --revision {revision}");
        return Ok(Reply::data(&unchanged, Text::written(&diff)).note(hint).exit(1));
    }
    // The document comes again with the yes; what it was compared with may be another one by then.
    let shown = format!("{revision} {}", change.proposed.text());
    context.confirm_shown(yes, Some(&shown), |again| {
        let changed = if again { "Somebody else has changed it meanwhile.\n" } else { "" };
        format!("{changed}{diff}Change the configuration of {cluster}, revision {revision}?")
    })?;
    let changed = context.app.configure_cluster(context.asker, cluster.clone(), change.proposed, revision).await?;
    let (revision, version) = changed;
    let data = Data { cluster: &cluster, revision, changed: true, version: Some(version), diff: &diff };
    // At a terminal it has been seen.
    let text = if yes { Text::written(&diff) } else { Text::default() };
    Ok(Reply::data(&data, text).note(format!("changed {cluster}: revision {revision} is in force")))
}

/// As `diff -u` shows it; empty if there is none.
fn difference(change: &Reconfiguration) -> String {
    let (old, new) = (change.current.text(), change.proposed.text());
    let names = (format!("revision {}", change.revision), format!("revision {}", change.revision + 1));
    TextDiff::from_lines(old, new).unified_diff().context_radius(AROUND).header(&names.0, &names.1).to_string()
}
