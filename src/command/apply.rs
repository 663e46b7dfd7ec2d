//! `apply` and `dump`: the directory as a file.

use super::{Context, Stop, difference, reply::Reply, text::Text};
use crate::{
    app::{
        App,
        apply::{Applied, Described, Extent, Plan, Problems, Sign, Step},
    },
    domain::{OrgName, ProjectPath, Version},
    policy::Action,
};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

/// The largest file, in bytes.
const MAX_FILE: u32 = 32 * 1024 * 1024;

/// How often a plan is made beside the writer for a directory that changes meanwhile, before it is made on it.
const TRIES: usize = 4;

/// Bring the directory to what a file describes: organizations, accounts, projects, members, clusters, volumes (operators)
#[derive(Debug, clap::Args)]
#[command(after_help = "apply teams.toml --dry-run\napply teams.toml\ndump --org acme > acme.toml")]
pub(crate) struct Apply {
    /// The description, in TOML (docs/apply.md); - for standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Without asking
    #[arg(long)]
    yes: bool,
    /// Show the difference and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Exit status 1 if there is a difference
    #[arg(long, requires = "dry_run")]
    exit_code: bool,
    /// Delete clusters and volumes of described projects that are not described
    #[arg(long)]
    prune: bool,
}

/// Print the directory as a file for 'apply' (operators)
#[derive(Debug, clap::Args)]
#[command(after_help = "dump > directory.toml\ndump --project acme/ml-training")]
pub(crate) struct Dump {
    /// One organization: its accounts and projects, and who else is in these
    #[arg(long)]
    org: Option<OrgName>,
    /// One project, and who is in it
    #[arg(long, value_name = "ORG/PROJECT", conflicts_with = "org")]
    project: Option<ProjectPath>,
}

/// What programs are told.
#[derive(Debug, Serialize)]
struct Data<'a> {
    /// Whether it was done.
    applied: bool,
    /// The directory's version: after it was done, or of the directory that was looked at.
    version: Version,
    added: usize,
    changed: usize,
    removed: usize,
    changes: Vec<Change<'a>>,
}

#[derive(Debug, Serialize)]
struct Change<'a> {
    change: Sign,
    action: &'static str,
    object: &'a str,
    detail: &'a str,
}

impl<'a> Data<'a> {
    fn of(plan: &'a Plan, applied: Option<Version>) -> Self {
        let [added, changed, removed] = plan.counts();
        let change = |step: &'a Step| Change {
            change: step.sign,
            action: Action::as_str(step.action),
            object: &step.object,
            detail: &step.detail,
        };
        let changes = plan.steps.iter().map(change).collect();
        Self { applied: applied.is_some(), version: applied.unwrap_or(plan.from), added, changed, removed, changes }
    }
}

pub(crate) async fn run(context: &Context<'_>, args: Apply) -> Result<Reply, Stop> {
    let (app, asker) = (context.app, context.asker);
    // Whoever may not is told so before anything is read.
    app.may_apply(asker).await?;
    let text = context.file(&args.file, MAX_FILE)?.to_owned();
    let file = match App::read_described(text).await? {
        Ok(file) => file,
        Err(problems) => return refused(context, &args, &problems).await,
    };
    for _ in 0..TRIES {
        let plan = match app.plan_apply(asker, &file, args.prune).await? {
            Ok(plan) => plan,
            Err(problems) => return refused(context, &args, &problems).await,
        };
        if let Some(reply) = without_a_change(context, &args, &plan) {
            return Ok(reply);
        }
        agree(context, &args, &plan).await?;
        if let Applied::Done(version) = app.apply(asker, plan.clone()).await? {
            return Ok(done(context, &args, &plan, version));
        }
    }
    last_try(context, &args, &file).await
}

/// The directory changes faster than a plan for it is made beside the writer.
async fn last_try(context: &Context<'_>, args: &Apply, file: &Arc<Described>) -> Result<Reply, Stop> {
    let (app, asker) = (context.app, context.asker);
    let plan = match app.plan_apply(asker, file, args.prune).await? {
        Ok(plan) => plan,
        Err(problems) => return refused(context, args, &problems).await,
    };
    agree(context, args, &plan).await?;
    let agreed = (!args.yes).then(|| plan.difference.clone());
    match app.apply_at_once(asker, file, args.prune, agreed).await? {
        Applied::Done(version) => Ok(done(context, args, &plan, version)),
        Applied::Overtaken => {
            Err(Stop::Refused("the directory is being changed by others; nothing was changed. Try again".into()))
        }
    }
}

async fn refused(context: &Context<'_>, args: &Apply, problems: &Problems) -> Result<Reply, Stop> {
    if !args.dry_run {
        context.app.refuse_apply(context.asker, problems).await?;
    }
    Err(Stop::Refused(problems.to_string()))
}

/// The answer, if nothing is to be done, or nothing shall be.
fn without_a_change(context: &Context<'_>, args: &Apply, plan: &Plan) -> Option<Reply> {
    let data = Data::of(plan, None);
    if plan.steps.is_empty() {
        return Some(Reply::done(&data, "nothing to do: the directory is as described"));
    }
    let exit = u8::from(args.exit_code);
    args.dry_run.then(|| {
        Reply::data(&data, difference::text(plan, context.screen())).note("nothing was changed (--dry-run)").exit(exit)
    })
}

/// Goes on if a person has seen this very difference and said yes, or `--yes` was given.
async fn agree(context: &Context<'_>, args: &Apply, plan: &Plan) -> Result<(), Stop> {
    if args.yes {
        return Ok(());
    }
    let ending = context.app.sessions_ended_by(plan).await;
    let shown = difference::plain(plan);
    context.confirm_shown(false, Some(&shown), |again| {
        let changed = if again { "The directory has changed meanwhile; this is the difference now.\n\n" } else { "" };
        let sessions = match ending {
            0 => String::new(),
            1 => "1 open session will end. ".into(),
            n => format!("{n} open sessions will end. "),
        };
        format!("{changed}{}\n{sessions}Apply this?", difference::abridged(&shown))
    })
}

fn done(context: &Context<'_>, args: &Apply, plan: &Plan, version: Version) -> Reply {
    // At a terminal it has been seen.
    let text = if args.yes { difference::text(plan, context.screen()) } else { Text::default() };
    let [added, changed, removed] = plan.counts();
    let sentence = format!("applied: {added} added, {changed} changed, {removed} removed");
    Reply::data(&Data::of(plan, Some(version)), text).note(sentence)
}

pub(crate) async fn dump(context: &Context<'_>, args: Dump) -> Result<Reply, Stop> {
    let extent = match (args.org, args.project) {
        (Some(org), _) => Extent::Org(org),
        (None, Some(project)) => Extent::Project(project),
        (None, None) => Extent::All,
    };
    let text = context.app.dump(context.asker, extent).await?;
    Ok(Reply::data(&json!({ "description": text }), text.as_str()))
}
