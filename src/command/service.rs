//! `service …`: accounts for automation.

use super::{
    Context, Stop,
    key::parse_key,
    reply::{Fact, Reply, table},
    table::Cell,
    text::{Text, Tone, count, ending},
    user::{key_table, state_cell},
};
use crate::{
    app::{CommandChange, NewService, ServiceView, TermsChange},
    domain::{Email, Fingerprint, ForceCommand, Networks, ProjectPath, ServiceName, Ttl},
};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the service accounts of a project
    #[command(after_help = "service list acme/ml-training")]
    List {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
    },
    /// Show a service account: where it may be used from, for what, and its keys
    #[command(after_help = "service show ci@ml-training.acme.service")]
    Show {
        /// Which
        email: Email,
    },
    /// Create a service account in a project; its public key is read from standard input
    #[command(after_help = "service create acme/ml ci --source-address 192.0.2.0/24 < ci.pub\n\
        service create acme/ml sync --source-address 192.0.2.7 --force-command 'rsync --server -logDtpr . /data' < sync.pub")]
    Create(Create),
    /// Bound a service account differently; certificates that said more are revoked
    Update(Update),
    /// Its keys: add the new one before you remove the old one
    #[command(subcommand)]
    Key(KeyCommand),
    /// Delete a service account, for good; what it has open ends at once
    #[command(after_help = "service delete ci@ml-training.acme.service")]
    Delete {
        /// Which
        email: Email,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// In which; it can be in no other
    #[arg(value_name = "ORG/PROJECT")]
    project: ProjectPath,
    /// What it is called there; its email will be NAME@PROJECT.ORG.service
    name: ServiceName,
    /// From where it may be used: addresses and networks, separated by commas
    #[arg(long, value_name = "NET[,NET…]")]
    source_address: Networks,
    /// What its sessions on nodes run, whatever they ask for
    #[arg(long, value_name = "COMMAND")]
    force_command: Option<ForceCommand>,
    /// The longest that one of its certificates lives; as long as anybody's if not said
    #[arg(long, value_name = "TTL")]
    max_ttl: Option<Ttl>,
    /// Its public key, as in a .pub file, if not on standard input
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("bounds").required(true).multiple(true)
    .args(["source_address", "force_command", "no_force_command", "max_ttl"]))]
#[command(after_help = "service update ci@ml-training.acme.service --source-address 192.0.2.0/24,198.51.100.7")]
pub(crate) struct Update {
    /// Which
    email: Email,
    /// From where it may be used: addresses and networks, separated by commas
    #[arg(long, value_name = "NET[,NET…]")]
    source_address: Option<Networks>,
    /// What its sessions on nodes run, whatever they ask for
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_force_command")]
    force_command: Option<ForceCommand>,
    /// Its sessions run what they ask for
    #[arg(long)]
    no_force_command: bool,
    /// The longest that one of its certificates lives
    #[arg(long, value_name = "TTL")]
    max_ttl: Option<Ttl>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum KeyCommand {
    /// List them
    #[command(after_help = "service key list ci@ml-training.acme.service")]
    List {
        /// Whose
        email: Email,
    },
    /// Register a public key, read from standard input
    #[command(after_help = "service key add ci@ml-training.acme.service < new.pub")]
    Add {
        /// Whose
        email: Email,
        /// The key, as in a .pub file, if not on standard input
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Remove a key; it stops working everywhere
    #[command(
        after_help = "service key remove ci@ml-training.acme.service SHA256:WIZy2bwZ4nYlRc5IXMt4fYRzf3EE+3mRRBjYoZ8CVIc"
    )]
    Remove {
        /// Whose
        email: Email,
        /// As 'service key list' shows it
        fingerprint: Fingerprint,
        /// Without asking, also if it is the last one
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List { project } => {
            let services = context.app.services(context.asker, &project)?;
            let headers = ["EMAIL", "USER", "FROM", "RUNS ONLY", "TTL", "KEYS", "STATE"];
            let text = table(&headers, services.iter().map(row).collect(), context.screen(), "No service accounts.");
            Ok(Reply::data(&services, text))
        }
        Command::Show { email } => show(context, &email),
        Command::Create(args) => create(context, args).await,
        Command::Update(args) => update(context, args).await,
        Command::Key(command) => key(context, command).await,
        Command::Delete { email, yes } => {
            let open = context.app.preview_service_deletion(context.asker, &email).await?;
            context.confirm(yes, || format!("Delete {email}, for good?{}", ending(open)))?;
            let version = context.app.delete_service(context.asker, email.clone()).await?;
            let data = Fact { version, fact: json!({ "email": email }) };
            Ok(Reply::done(&data, format!("deleted {email}; its keys are refused from now on")))
        }
    }
}

fn row(view: &ServiceView) -> Vec<Cell> {
    vec![
        view.email.to_string().into(),
        view.user.to_string().into(),
        view.sources.to_string().into(),
        view.force_command.as_ref().map(ToString::to_string).unwrap_or_default().into(),
        view.max_ttl.to_string().into(),
        view.keys.len().to_string().into(),
        state_cell(&view.state),
    ]
}

fn show(context: &Context<'_>, email: &Email) -> Result<Reply, Stop> {
    let view = context.app.service(context.asker, email)?;
    let command = view.force_command.as_ref().map_or_else(|| "what it asks for".into(), ToString::to_string);
    let rows: Vec<Vec<Cell>> = vec![
        vec!["PROJECT".into(), view.project.to_string().into()],
        vec!["USER".into(), format!("{} ({})", view.user, view.uid).into()],
        vec!["STATE".into(), state_cell(&view.state)],
        vec!["FROM".into(), view.sources.to_string().into()],
        vec!["RUNS".into(), command.into()],
        vec!["CERTIFICATES".into(), format!("{} live, {} at most", view.certificates, view.max_ttl).into()],
        vec!["OPEN".into(), count(view.sessions, "session").into()],
        vec!["CREATED".into(), format!("{} by {}", view.created.for_people(), view.by).into()],
    ];
    let mut text = table(&["SERVICE ACCOUNT", view.email.as_str()], rows, context.screen(), "");
    text.push("\n");
    text.push(key_table(&view.keys, context.screen()));
    Ok(Reply::data(&view, text))
}

async fn create(context: &Context<'_>, args: Create) -> Result<Reply, Stop> {
    let Create { project, name, source_address, force_command, max_ttl, key } = args;
    let key = parse_key(given(context, key.as_deref())?)?;
    let fingerprint = key.fingerprint();
    let new = NewService { name, sources: source_address, force_command, max_ttl, key, user: None, uid: None };
    let (account, terms) = context.app.create_service(context.asker, project.clone(), new).await?;
    let data = json!({
        "email": account.email,
        "user": account.user,
        "uid": account.uid,
        "project": project,
        "key": fingerprint,
        "sources": terms.sources,
        "force_command": terms.force_command,
        "max_ttl": terms.max_ttl,
    });
    let sentence = format!(
        "created {} as user {} ({}): {terms}\nNext, from there and with its key: {} config > ~/.ssh/certgate.conf",
        account.email,
        account.user,
        account.uid,
        context.way_in(),
    );
    Ok(Reply::done(&data, sentence))
}

async fn update(context: &Context<'_>, args: Update) -> Result<Reply, Stop> {
    let force_command = match (args.force_command, args.no_force_command) {
        (Some(command), _) => CommandChange::Force(command),
        (None, true) => CommandChange::Lift,
        (None, false) => CommandChange::Keep,
    };
    let change = TermsChange { sources: args.source_address, force_command, max_ttl: args.max_ttl };
    let done = context.app.update_service(context.asker, args.email.clone(), change).await?;
    let serials: Vec<_> = done.revoked.iter().map(|record| record.serial).collect();
    let fact = json!({
        "email": args.email,
        "sources": done.terms.sources,
        "force_command": done.terms.force_command,
        "max_ttl": done.terms.max_ttl,
        "revoked": serials,
    });
    let reply =
        Reply::done(&Fact { version: done.version, fact }, format!("{} is bounded now: {}", args.email, done.terms));
    let Some(last) = done.revoked.iter().map(|record| record.valid_before).max() else { return Ok(reply) };
    let note = format!(
        "revoked {} that said more. Where one is kept, nodes refuse it until it runs out ({}) or is fetched anew: rm \
         ~/.ssh/certgate/*/cert.pub",
        count(serials.len(), "certificate"),
        last.near(context.app.now()),
    );
    Ok(reply.note(Text::toned(Tone::Warn, &note, context.screen())))
}

async fn key(context: &Context<'_>, command: KeyCommand) -> Result<Reply, Stop> {
    match command {
        KeyCommand::List { email } => {
            let keys = context.app.service(context.asker, &email)?.keys;
            Ok(Reply::data(&keys, key_table(&keys, context.screen())))
        }
        KeyCommand::Add { email, key } => {
            let key = parse_key(given(context, key.as_deref())?)?;
            let algorithm = key.algorithm();
            let fingerprint = context.app.add_service_key(context.asker, email.clone(), key).await?;
            let data = json!({ "email": email, "algorithm": algorithm, "fingerprint": fingerprint });
            Ok(Reply::done(&data, format!("registered {algorithm} {fingerprint} for {email}")))
        }
        KeyCommand::Remove { email, fingerprint, yes } => {
            let last = context.app.preview_service_key_removal(context.asker, &email, fingerprint).await?;
            if last {
                context.confirm(yes, || {
                    format!("{fingerprint} is the last key; without one {email} cannot connect. Remove it?")
                })?;
            }
            let version = context.app.remove_service_key(context.asker, email.clone(), fingerprint).await?;
            let data = Fact { version, fact: json!({ "email": email, "fingerprint": fingerprint }) };
            Ok(Reply::done(&data, format!("removed {fingerprint}; it is refused from now on")))
        }
    }
}

/// A key that is one of the words, or comes on standard input.
fn given<'c>(context: &'c Context<'_>, key: Option<&'c str>) -> Result<&'c str, Stop> {
    key.map_or_else(|| context.input(), Ok)
}
