//! `member …`.

use super::{
    Context, Stop, node,
    reply::{Fact, Reply, table},
    table::Cell,
    text::{Tone, count, ending},
};
use crate::{
    app::{Removal, RemoveHow},
    domain::{Email, ProjectPath, Role, Timestamp},
};
use serde_json::{Value, json};
use std::time::Duration;

/// How long `--wait` waits for gateways and nodes.
const WAIT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List who is in a project
    #[command(after_help = "member list acme/ml-training")]
    List {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
    },
    /// Add somebody to a project
    #[command(after_help = "member add acme/ml-training user1@acme.example\n\
                            member add acme/ml-training user1@acme.example --role admin")]
    Add {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Whom
        email: Email,
        /// As what: member or admin
        #[arg(long, default_value = "member")]
        role: Role,
    },
    /// Remove somebody from a project; what they have open ends at once, or after the project's grace period
    #[command(after_help = "member remove acme/ml-training user1@acme.example\n\
                            member remove acme/ml-training user1@acme.example --yes --wait\n\
                            member remove acme/ml-training user1@acme.example --now")]
    Remove {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Whom
        email: Email,
        /// Without asking
        #[arg(long)]
        yes: bool,
        /// Until gateways and nodes have confirmed, at most ten seconds; say which have, and when
        #[arg(long)]
        wait: bool,
        /// Without the project's grace period: what they have open ends at once
        #[arg(long)]
        now: bool,
        /// Also the last admin (operators)
        #[arg(long)]
        force: bool,
    },
    /// Give somebody in a project another role
    #[command(after_help = "member role acme/ml-training user1@acme.example admin")]
    Role {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Whom
        email: Email,
        /// member or admin
        role: Role,
        /// Also the last admin (operators)
        #[arg(long)]
        force: bool,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    let (app, asker) = (context.app, context.asker);
    match command {
        Command::List { project } => {
            let members = app.members(asker, &project)?;
            let rows = members.iter().map(|member| {
                let state = if member.state == "active" { "" } else { &member.state };
                vec![
                    member.email.to_string().into(),
                    member.kind.to_string().into(),
                    member.user.to_string().into(),
                    member.role.as_str().into(),
                    member.since.for_people().into(),
                    member.by.as_str().into(),
                    Cell::new(Tone::Bad, state),
                ]
            });
            let headers = ["EMAIL", "KIND", "USER", "ROLE", "SINCE", "BY", ""];
            let text = table(&headers, rows.collect(), context.screen(), "Nobody.");
            Ok(Reply::data(&members, text))
        }
        Command::Add { project, email, role } => {
            let version = app.add_member(asker, project.clone(), email.clone(), role).await?;
            let data = Fact { version, fact: json!({ "project": project, "email": email, "role": role }) };
            Ok(Reply::done(&data, format!("added {email} to {project} as {role}")))
        }
        Command::Remove { project, email, yes, wait, now, force } => {
            let how = RemoveHow { force, now };
            // Refused before it asks: a question that is answered in vain annoys.
            let removal = app.preview_removal(asker, &project, &email, how).await?;
            context.confirm(yes, || format!("Remove {email} from {project}?{}", what_ends(removal)))?;
            let (until, version) = app.remove_member(asker, project.clone(), email.clone(), how).await?;
            let ends = until.map(|until| format!("; what they have open ends at {}", until.for_people_at(app.now())));
            let sentence = format!("removed {email} from {project}{}", ends.unwrap_or_default());
            let fact = json!({ "project": project, "email": email, "until": until });
            if wait {
                receipts(context, &project, Fact { version, fact }, sentence).await
            } else {
                Ok(Reply::done(&Fact { version, fact }, sentence))
            }
        }
        Command::Role { project, email, role, force } => {
            let version = app.set_role(asker, project.clone(), email.clone(), role, force).await?;
            let data = Fact { version, fact: json!({ "project": project, "email": email, "role": role }) };
            Ok(Reply::done(&data, format!("{email} is {role} of {project} now")))
        }
    }
}

/// For the question.
fn what_ends(removal: Removal) -> String {
    match removal {
        Removal { open: 0, .. } => String::new(),
        Removal { open, grace: None } => ending(open),
        Removal { open, grace: Some(grace) } => {
            format!(" {} will end in {grace}; --now ends what is open at once.", count(open, "open session"))
        }
    }
}

async fn receipts(
    context: &Context<'_>,
    project: &ProjectPath,
    Fact { version, mut fact }: Fact<Value>,
    sentence: String,
) -> Result<Reply, Stop> {
    let receipts = context.app.wait_for_receipts(project, version, WAIT).await;
    let now = context.app.now();
    let gateways = receipts.gateways.iter().map(|receipt| {
        let state = match (receipt.confirmed, receipt.connected) {
            (Some(at), _) => confirmed(at, 0),
            (None, true) => Cell::new(Tone::Bad, "not confirmed"),
            (None, false) => Cell::new(Tone::Bad, "not confirmed: it is not connected"),
        };
        vec![Cell::from(format!("gateway {}", receipt.gateway)), state]
    });
    let nodes = receipts.nodes.iter().map(|receipt| {
        let state = match receipt.confirmed {
            Some(at) => confirmed(at, receipt.ended),
            None => {
                let problem = receipt.problem.as_deref();
                let (_, words) = node::words(receipt.heard, receipt.version, Some(version), problem, now);
                Cell::new(Tone::Bad, format!("not confirmed: {words}"))
            }
        };
        vec![Cell::from(&receipt.node), state]
    });
    let rows = gateways.chain(nodes).collect();
    let text = table(&["WHERE", "RECEIPT"], rows, context.screen(), "No gateways and no nodes to wait for.");
    fact["gateways"] = json!(receipts.gateways);
    fact["receipts"] = json!(receipts.nodes);
    let reply = Reply::data(&Fact { version, fact }, text).note(sentence);
    let missing = receipts.missing();
    if missing == 0 {
        return Ok(reply);
    }
    let warning = format!(
        "{missing} of {} have not confirmed. Nothing new can be opened through a gateway; a gateway that cannot be told ends \
         what is open by itself, and a node refuses at the latest when the last certificate runs out",
        receipts.gateways.len() + receipts.nodes.len()
    );
    Ok(reply.note(warning).exit(1))
}

fn confirmed(at: Timestamp, ended: u32) -> Cell {
    let ended = match ended {
        0 => String::new(),
        ended => format!(", {} ended there", count(ended as usize, "session")),
    };
    Cell::new(Tone::Good, format!("confirmed at {}{ended}", at.to_the_second()))
}
