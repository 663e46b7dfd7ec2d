//! `whoami`, and the answer to no words at all: who one is, what one can reach, what to do next.

use super::{
    Context, Stop,
    reply::{Reply, table},
    text::{Screen, Text, Tone, count},
};
use crate::app::{ClusterView, ProjectView, StatusView, WhoamiView};
use serde_json::json;

pub(crate) fn run(context: &Context<'_>) -> Result<Reply, Stop> {
    match context.app.whoami(context.asker)? {
        Some(view) => {
            let text = account(&view, &context.program(), context.screen());
            Ok(Reply::data(&view, text))
        }
        None => Ok(operator(&context.app.status(context.asker)?, context.screen())),
    }
}

/// What to do next, each with why below it.
struct Next(Text);

impl Next {
    fn new(title: &str, screen: Screen) -> Self {
        let mut text = Text::from("\n");
        text.push(Text::toned(Tone::Heading, title, screen));
        text.push("\n");
        Self(text)
    }

    fn step(&mut self, words: &str, why: &str) {
        self.0.push(format!("  {words}\n"));
        if !why.is_empty() {
            self.0.push(format!("      {why}\n"));
        }
    }
}

fn account(view: &WhoamiView, program: &str, screen: Screen) -> Text {
    let with = view.certificate.map_or_else(
        || format!("key {}", view.key),
        |serial| format!("certificate {serial} for key {}, which may look and connect, and change nothing", view.key),
    );
    let mut text =
        Text::from(format!("You are {} (user {} on every node), connected with {with}.\n", view.email, view.user));
    if let Some(service) = &view.service {
        let command = service.force_command.as_ref();
        let command = command.map(|command| format!(" On nodes you run only: {command}.")).unwrap_or_default();
        text.push(format!(
            "You are a service account: from {} you may look, connect, and get certificates of {} at most, and change \
             nothing.{command}\n",
            service.sources, service.max_ttl
        ));
    }
    if view.projects.is_empty() {
        text.push("You are in no project yet: ask a project's admin to add you by your email.\n");
    } else {
        let projects = view.projects.iter().map(|project| {
            let role = project.role.clone().unwrap_or_default();
            vec![project.project.to_string(), role, project.members.to_string(), project.clusters.to_string()]
        });
        let clusters = view.clusters.iter().map(|cluster| {
            vec![
                cluster.cluster.to_string(),
                cluster.project.to_string(),
                cluster.kind.clone(),
                cluster.nodes.all().enrolled.to_string(),
            ]
        });
        text.push("\n");
        text.push(table(&["PROJECT", "ROLE", "MEMBERS", "CLUSTERS"], projects.collect(), screen, ""));
        text.push("\n");
        let none = "No cluster yet: a project's admin creates them.";
        text.push(table(&["CLUSTER", "PROJECT", "KIND", "NODES"], clusters.collect(), screen, none));
    }
    let mut next = Next::new("Next:", screen);
    // A cluster without a node cannot be reached, whatever is written in a configuration.
    if let Some(cluster) = view.clusters.iter().find(|cluster| cluster.nodes.all().enrolled > 0) {
        next.step(
            &format!("{program} config > ~/.ssh/certgate.conf"),
            "once, and again when your projects change; and put 'Include certgate.conf' at the top of ~/.ssh/config",
        );
        next.step(&format!("ssh {}", cluster.cluster), "then reaches a login node of that cluster");
    }
    next.step(&format!("{program} help"), "everything else");
    text.push(next.0);
    for project in view.projects.iter().filter(|project| project.role.as_deref() == Some("admin")) {
        text.push(admin(project, &view.clusters, program, screen));
    }
    text
}

/// What the admin of a project can do for it: what is missing first.
fn admin(project: &ProjectView, clusters: &[ClusterView], program: &str, screen: Screen) -> Text {
    let path = &project.project;
    let mut next = Next::new(&format!("As an admin of {path}:"), screen);
    if project.clusters == 0 {
        next.step(&format!("{program} cluster create {path} NAME"), "");
    }
    for cluster in clusters.iter().filter(|cluster| cluster.project == *path && cluster.nodes.all().enrolled == 0) {
        next.step(&format!("{program} node token NODE.{}", cluster.cluster), "a first node for that cluster");
    }
    next.step(&format!("{program} member add {path} EMAIL"), "");
    if project.members > 1 {
        next.step(&format!("{program} member list {path}"), "");
    }
    next.0
}

/// Where an operator stands, and the first thing that is missing.
fn operator(status: &StatusView, screen: Screen) -> Reply {
    let gateways = status.gateways.len();
    let mut text = Text::from(format!(
        "You are an operator of this bastion: {}, {}, {}, {} connected.\n",
        count(status.accounts, "account"),
        count(status.projects, "project"),
        count(status.nodes.len(), "node"),
        count(gateways, "gateway"),
    ));
    let mut next = Next::new("Next:", screen);
    if gateways == 0 {
        next.step("systemctl status certgate-gateway", "no gateway is connected: nobody can connect");
    }
    if status.accounts == 0 {
        next.step("certgate org create NAME", "");
        next.step("certgate user create EMAIL --org NAME --name USER --key \"$(cat KEY.pub)\"", "");
    } else if status.projects == 0 {
        next.step("certgate project create ORG/PROJECT --admin EMAIL", "");
    }
    next.step("certgate status", "");
    next.step("certgate help", "everything else");
    text.push(next.0);
    Reply::data(&json!({ "operator": true }), text)
}
