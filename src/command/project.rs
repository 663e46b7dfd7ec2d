//! `project …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
    text::{count, ending},
};
use crate::{
    app::ProjectView,
    domain::{Email, ProjectPath},
};
use serde_json::json;

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
            Ok(Reply::data(&view, table(&HEADERS, vec![row(&view)], context.screen(), "")))
        }
        Command::Create { project, admin } => {
            context.app.create_project(context.asker, project.clone(), admin).await?;
            let next = context.program();
            let sentence = format!(
                "created {project}\nNext: {next} member add {project} EMAIL, {next} cluster create {project} NAME"
            );
            Ok(Reply::done(&json!({ "project": project }), sentence))
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
