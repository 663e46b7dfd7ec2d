//! `user …`.

use super::{
    Context, Stop,
    key::parse_key,
    reply::{Reply, table},
    table::Cell,
    text::{Screen, Text, Tone},
};
use crate::{
    app::{AccountView, CertificateState, KeyView, NewAccount},
    domain::{AccountState, Email, OrgName, UserName},
};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List accounts
    #[command(after_help = "user list")]
    List,
    /// Show everything about an account: keys, projects, what is live and open
    #[command(after_help = "user show user1@acme.example")]
    Show {
        /// Which
        email: Email,
    },
    /// Create an account
    #[command(after_help = "user create user1@acme.example --org acme --name user1 --key \"$(cat KEY.pub)\"")]
    Create {
        /// What people call it
        email: Email,
        /// The organization that it belongs to, which grants nothing
        #[arg(long)]
        org: OrgName,
        /// Its POSIX user name on every node
        #[arg(long)]
        name: UserName,
        /// A public key, as in a .pub file (may be given several times)
        #[arg(long, value_name = "KEY")]
        key: Vec<String>,
    },
    /// Suspend an account: nothing is issued or opened, what is open ends
    #[command(after_help = "user suspend user1@acme.example")]
    Suspend {
        /// Which
        email: Email,
    },
    /// Let a suspended account work again
    #[command(after_help = "user resume user1@acme.example")]
    Resume {
        /// Which
        email: Email,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => {
            let users = context.app.users(context.asker)?;
            let rows = users.iter().map(|user| {
                vec![
                    Cell::from(user.email.to_string()),
                    user.org.as_str().into(),
                    user.user.to_string().into(),
                    user.uid.to_string().into(),
                    user.kind.to_string().into(),
                    state_cell(&user.state),
                    user.keys.to_string().into(),
                    user.projects.to_string().into(),
                ]
            });
            let headers = ["EMAIL", "ORG", "USER", "UID", "KIND", "STATE", "KEYS", "PROJECTS"];
            Ok(Reply::data(&users, table(&headers, rows.collect(), context.screen(), "No accounts yet.")))
        }
        Command::Show { email } => {
            let view = context.app.account(context.asker, &email)?;
            let text = shown(context, &view);
            Ok(Reply::data(&view, text))
        }
        Command::Create { email, org, name, key } => {
            let keys = key.iter().map(|text| parse_key(text)).collect::<Result<Vec<_>, _>>()?;
            let new = NewAccount { email, org, user: name, uid: None, keys };
            let account = context.app.create_account(context.asker, new).await?;
            let sentence = format!("created {} as user {} ({})", account.email, account.user, account.uid);
            let data = json!({ "email": account.email, "user": account.user, "uid": account.uid });
            Ok(Reply::done(&data, sentence))
        }
        Command::Suspend { email } => set(context, email, AccountState::Suspended).await,
        Command::Resume { email } => set(context, email, AccountState::Active).await,
    }
}

/// A state, as it stands out if it is not the usual one.
pub(super) fn state_cell(state: &str) -> Cell {
    Cell::new(if state == "active" { Tone::Plain } else { Tone::Bad }, state)
}

/// Keys in full: type and fingerprint. A comment is nobody's business and is not kept.
pub(super) fn key_table(keys: &[KeyView], screen: Screen) -> Text {
    let rows = keys.iter().map(|key| {
        let mark = if key.current { "this one" } else { "" };
        vec![key.algorithm.clone(), key.fingerprint.to_string(), key.added.for_people(), mark.into()]
    });
    table(&["TYPE", "FINGERPRINT", "ADDED", ""], rows.collect(), screen, "No keys.")
}

fn shown(context: &Context<'_>, view: &AccountView) -> Text {
    let (screen, now) = (context.screen(), context.app.now());
    let mut rows: Vec<Vec<Cell>> = vec![
        vec!["KIND".into(), view.kind.to_string().into()],
        vec!["ORG".into(), view.org.as_str().into()],
        vec!["USER".into(), format!("{} ({})", view.user, view.uid).into()],
        vec!["STATE".into(), state_cell(&view.state)],
        vec!["CREATED".into(), view.created.for_people().into()],
    ];
    if let Some(service) = &view.service {
        let project = service.project.as_ref().map_or_else(|| "deleted".into(), ToString::to_string);
        rows.push(vec!["OWNED BY".into(), project.into()]);
        rows.push(vec!["FROM".into(), service.sources.to_string().into()]);
        let command = service.force_command.as_ref().map(ToString::to_string);
        rows.extend(command.map(|command| vec!["RUNS ONLY".into(), command.into()]));
        rows.push(vec!["CERTIFICATES".into(), format!("{} at most", service.max_ttl).into()]);
    }
    let mut text = table(&["ACCOUNT", view.email.as_str()], rows, screen, "");
    let projects = view.projects.iter().map(|project| {
        vec![project.project.to_string(), project.role.clone(), project.since.for_people(), project.by.clone()]
    });
    let left = view.removed_from.iter().map(|left| {
        let how = if left.deleted { "deleted" } else { "removed" };
        vec![left.project.to_string(), how.into(), left.at.for_people(), left.by.clone()]
    });
    let certificates = view.certificates.iter().map(|certificate| {
        let until = match certificate.state {
            CertificateState::Live => certificate.until.near(now),
            state => state.to_string(),
        };
        vec![certificate.serial.to_string(), certificate.principals.join(" "), certificate.source.clone(), until]
    });
    let sessions = view.sessions.iter().map(|session| {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let from = or_dash(session.peer.map(|peer| peer.to_string()));
        vec![session.session.clone(), session.node.clone(), from, session.since.near(now)]
    });
    let mut part = |more: Text| {
        text.push("\n");
        text.push(more);
    };
    part(key_table(&view.keys, screen));
    part(table(&["PROJECT", "ROLE", "SINCE", "BY"], projects.collect(), screen, "In no project."));
    if !view.removed_from.is_empty() {
        part(table(&["FORMER PROJECT", "", "AT", "BY"], left.collect(), screen, ""));
    }
    let headers = ["CERTIFICATE", "PRINCIPALS", "FROM", "UNTIL"];
    part(table(&headers, certificates.collect(), screen, "No live certificates."));
    part(table(&["SESSION", "NODE", "FROM", "SINCE"], sessions.collect(), screen, "Nothing is open."));
    text
}

async fn set(context: &Context<'_>, email: Email, state: AccountState) -> Result<Reply, Stop> {
    let version = context.app.set_account_state(context.asker, email.clone(), state).await?;
    let data = json!({ "email": email, "state": state, "version": version });
    Ok(Reply::done(&data, format!("{email} is {state} now")))
}
