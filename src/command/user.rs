//! `user …`.

use super::{
    Context, Stop,
    key::parse_key,
    reply::{Reply, table},
    table::Cell,
    text::Tone,
};
use crate::{
    app::NewAccount,
    domain::{AccountState, Email, OrgName, UserName},
};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List accounts
    List,
    /// Create an account
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
    Suspend {
        /// Which
        email: Email,
    },
    /// Let a suspended account work again
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
                let tone = if user.state == "active" { Tone::Plain } else { Tone::Bad };
                vec![
                    Cell::from(user.email.to_string()),
                    user.org.as_str().into(),
                    user.user.to_string().into(),
                    user.uid.to_string().into(),
                    Cell::new(tone, &user.state),
                    user.keys.to_string().into(),
                    user.projects.to_string().into(),
                ]
            });
            let headers = ["EMAIL", "ORG", "USER", "UID", "STATE", "KEYS", "PROJECTS"];
            Ok(Reply::data(&users, table(&headers, rows.collect(), context.screen(), "No accounts yet.")))
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

async fn set(context: &Context<'_>, email: Email, state: AccountState) -> Result<Reply, Stop> {
    let version = context.app.set_account_state(context.asker, email.clone(), state).await?;
    let data = json!({ "email": email, "state": state, "version": version });
    Ok(Reply::done(&data, format!("{email} is {state} now")))
}
