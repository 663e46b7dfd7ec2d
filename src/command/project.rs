//! `project …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
    text::{count, ending},
};
use crate::{
    app::{LimitsChange, ProjectView},
    domain::{Email, Extension, Grace, Limits, ProjectPath, Ttl},
};
use serde_json::json;
use std::str::FromStr;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List your projects
    #[command(after_help = "project list")]
    List,
    /// Show one project
    #[command(after_help = "project show acme/ml-training")]
    Show {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
    },
    /// Create a project; you become its first admin
    #[command(after_help = "ssh BASTION project create acme/ml-training\n\
                            project create acme/ml-training --admin admin1@acme.example")]
    Create {
        /// Its name
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Its first admin (operators)
        #[arg(long, value_name = "EMAIL")]
        admin: Option<Email>,
    },
    /// Change what certificates and sessions of a project may, within what the site allows
    #[command(after_help = "project update acme/ml-training --max-ttl 2m --forbid agent-forwarding\n\
                            project update acme/ml-training --max-ttl none --allow agent-forwarding\n\
                            project update acme/ml-training --max-session 12h --grace 10m")]
    Update {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// The longest that one lives, such as 2m; none for as long as the site lets them
        #[arg(long, value_name = "TTL", value_parser = or_none::<Ttl>, required_unless_present_any = ["forbid", "allow", "max_session", "grace"])]
        max_ttl: Option<OrNone<Ttl>>,
        /// The longest that a session through the gateway lasts, such as 12h; none for as long as people like
        #[arg(long, value_name = "TTL", value_parser = or_none::<Ttl>)]
        max_session: Option<OrNone<Ttl>>,
        /// How long what people have open stays open after they were removed, 1h at most; none for not at all
        #[arg(long, value_name = "TIME", value_parser = or_none::<Grace>)]
        grace: Option<OrNone<Grace>>,
        /// What sessions may not do: pty, port-forwarding, agent-forwarding, x11-forwarding, user-rc (may be given several times)
        #[arg(long, value_name = "EXTENSION")]
        forbid: Vec<Extension>,
        /// What they may again (may be given several times)
        #[arg(long, value_name = "EXTENSION")]
        allow: Vec<Extension>,
    },
    /// Delete a project with its clusters, nodes and volumes; its name is never given out again
    #[command(after_help = "project delete acme/ml-training")]
    Delete {
        /// Which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

/// A length of time, or that there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrNone<T>(Option<T>);

fn or_none<T: FromStr<Err = &'static str>>(text: &str) -> Result<OrNone<T>, &'static str> {
    if text == "none" { Ok(OrNone(None)) } else { text.parse().map(|length| OrNone(Some(length))) }
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => {
            let projects = context.app.projects(context.asker)?;
            let rows = projects.iter().map(row).collect();
            let text =
                table(&HEADERS, rows, context.screen(), "You are in no project yet: ask a project's admin to add you.");
            Ok(Reply::data(&projects, text))
        }
        Command::Show { project } => {
            let view = context.app.project(context.asker, &project)?;
            let mut text = table(&HEADERS, vec![row(&view)], context.screen(), "");
            if view.limits != Limits::default() {
                text.push(format!("It allows {}.\n", view.limits));
            }
            Ok(Reply::data(&view, text))
        }
        Command::Create { project, admin } => {
            context.app.create_project(context.asker, project.clone(), admin).await?;
            let next = context.program();
            let sentence = format!(
                "created {project}\nNext: {next} member add {project} EMAIL, {next} cluster create {project} NAME"
            );
            Ok(Reply::done(&json!({ "project": project }), sentence))
        }
        Command::Update { project, max_ttl, max_session, grace, forbid, allow } => {
            let change = LimitsChange {
                max_ttl: max_ttl.map(|OrNone(ttl)| ttl),
                max_session: max_session.map(|OrNone(ttl)| ttl),
                grace: grace.map(|OrNone(grace)| grace),
                forbid: forbid.into_iter().collect(),
                allow: allow.into_iter().collect(),
            };
            if let Some(both) = change.forbid.intersection(&change.allow).next() {
                return Err(Stop::Refused(format!("{both} cannot be both forbidden and allowed")));
            }
            let (limits, version) = context.app.limit_project(context.asker, project.clone(), change).await?;
            let data = json!({ "project": project, "limits": limits, "version": version });
            Ok(Reply::done(&data, format!("{project} allows {limits}, from the next certificate on")))
        }
        Command::Delete { project, yes } => {
            let (view, going) = context.app.preview_project_deletion(context.asker, &project).await?;
            context.confirm(yes, || {
                let robots = match view.services {
                    0 => String::new(),
                    robots => format!(" {} will be deleted, for good.", count(robots, "service account")),
                };
                format!(
                    "Delete {project} with {}, {} and {}? {} will lose access.{}{robots}",
                    count(view.clusters, "cluster"),
                    count(going.nodes, "node"),
                    count(view.volumes, "volume"),
                    count(view.members - view.services, "member"),
                    ending(going.sessions),
                )
            })?;
            let version = context.app.delete_project(context.asker, project.clone()).await?;
            Ok(Reply::done(&json!({ "project": project, "version": version }), format!("deleted {project}")))
        }
    }
}

const HEADERS: [&str; 6] = ["PROJECT", "ROLE", "MEMBERS", "CLUSTERS", "VOLUMES", "SINCE"];

fn row(view: &ProjectView) -> Vec<String> {
    vec![
        view.project.to_string(),
        view.role.clone().unwrap_or_default(),
        view.members.to_string(),
        view.clusters.to_string(),
        view.volumes.to_string(),
        view.created.for_people(),
    ]
}
