//! `apply` and `dump`: the directory as a file.

use super::{Context, Stop, difference, reply::Reply, text::Text};
use crate::{
    app::{
        App, AppError,
        apply::{Applied, Extent, Plan, Problems, Sign, Step},
    },
    domain::{OrgName, ProjectPath, Version},
    policy::Action,
};
use serde::Serialize;
use serde_json::{Value, json};

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
    /// Delete clusters, volumes and service accounts of described projects that are not described, for good
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
    fn of(plan: &'a Plan) -> Self {
        let [added, changed, removed] = plan.counts();
        let change = |step: &'a Step| Change {
            change: step.sign,
            action: Action::as_str(step.action),
            object: &step.object,
            detail: &step.detail,
        };
        let changes = plan.steps.iter().map(change).collect();
        Self { applied: false, version: plan.from, added, changed, removed, changes }
    }
}

/// A plan, and how it looks.
struct Shown {
    plan: Plan,
    data: Value,
    text: Text,
    plain: String,
}

/// Beside the async threads: a whole directory is large.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Stop> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| AppError::Defect("what it looks like could not be made out").into())
}

pub(crate) async fn run(context: &Context<'_>, args: Apply) -> Result<Reply, Stop> {
    let app = context.app;
    // Whoever may not is told so before anything is read.
    app.may_apply(context.asker).await?;
    let text = context.file(&args.file, MAX_FILE)?.to_owned();
    let file = match App::read_described(text).await? {
        Ok(file) => file,
        Err(problems) => return refused(context, &args, &problems).await,
    };
    for attempt in 0.. {
        let plan = match app.plan_apply(context.asker, &file, args.prune).await? {
            Ok(plan) => plan,
            Err(problems) => return refused(context, &args, &problems).await,
        };
        let screen = context.screen();
        let shown = beside(move || Shown {
            data: serde_json::to_value(Data::of(&plan)).unwrap_or(Value::Null),
            text: difference::text(&plan, screen),
            plain: difference::plain(&plan),
            plan,
        });
        let shown = shown.await?;
        if shown.plan.steps.is_empty() {
            return Ok(Reply::done(&shown.data, "nothing to do: the directory is as described"));
        }
        if args.dry_run {
            let reply = Reply::data(&shown.data, shown.text).note("nothing was changed (--dry-run)");
            return Ok(reply.exit(u8::from(args.exit_code)));
        }
        agree(context, &args, &shown).await?;
        let Shown { plan, data, text, .. } = shown;
        let counts = plan.counts();
        let applied = if attempt < TRIES {
            app.apply(context.asker, plan).await?
        } else {
            // The directory changes faster than a plan for it is made here.
            let agreed = (!args.yes).then_some(plan.difference);
            app.apply_at_once(context.asker, &file, args.prune, agreed).await?
        };
        match applied {
            Applied::Done(version) => return Ok(done(data, text, counts, version, args.yes)),
            Applied::Overtaken if attempt < TRIES => {}
            Applied::Overtaken => break,
        }
    }
    Err(Stop::Refused("the directory is being changed by others; nothing was changed. Try again".into()))
}

async fn refused(context: &Context<'_>, args: &Apply, problems: &Problems) -> Result<Reply, Stop> {
    if !args.dry_run {
        context.app.refuse_apply(context.asker, problems).await?;
    }
    Err(Stop::Refused(problems.to_string()))
}

/// Goes on if a person has seen this very difference and said yes, or `--yes` was given.
async fn agree(context: &Context<'_>, args: &Apply, shown: &Shown) -> Result<(), Stop> {
    if args.yes {
        return Ok(());
    }
    let ending = context.app.sessions_ended_by(&shown.plan).await;
    context.confirm_shown(false, Some(&shown.plain), |again| {
        let changed = if again { "The directory has changed meanwhile; this is the difference now.\n\n" } else { "" };
        let sessions = match ending {
            0 => String::new(),
            1 => "1 open session will end. ".into(),
            n => format!("{n} open sessions will end. "),
        };
        format!("{changed}{}\n{sessions}Apply this?", difference::abridged(&shown.plain))
    })
}

fn done(mut data: Value, text: Text, counts: [usize; 3], version: Version, unseen: bool) -> Reply {
    data["applied"] = true.into();
    data["version"] = version.0.into();
    // At a terminal it has been seen.
    let text = if unseen { text } else { Text::default() };
    let [added, changed, removed] = counts;
    Reply::data(&data, text).note(format!("applied: {added} added, {changed} changed, {removed} removed"))
}

pub(crate) async fn dump(context: &Context<'_>, args: Dump) -> Result<Reply, Stop> {
    let extent = match (args.org, args.project) {
        (Some(org), _) => Extent::Org(org),
        (None, Some(project)) => Extent::Project(project),
        (None, None) => Extent::All,
    };
    let text = context.app.dump(context.asker, extent).await?;
    beside(move || Reply::data(&json!({ "description": text }), text.as_str())).await
}
