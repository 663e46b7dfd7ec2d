//! `whoami`, and the answer to no words at all: who one is, what one can reach, what to do next.

use super::{
    Context, Stop,
    reply::{Reply, table},
    table::Cell,
    text::{Screen, Text, Tone, count},
};
use crate::{
    app::{ClusterView, DepartureView, ProjectView, StatusView, WhoamiView},
    domain::Timestamp,
};
use serde_json::json;

pub(crate) fn run(context: &Context<'_>) -> Result<Reply, Stop> {
    match context.app.whoami(context.asker)? {
        Some(view) => {
            let text = account(&view, &context.program(), context.screen(), context.app.now());
            Ok(Reply::data(&view, text))
        }
        None => Ok(operator(&context.app.status(context.asker)?, context.screen())),
    }
}

/// How many things of a kind that are missing are told; whoever has more to do has a list of them.
const MISSING: usize = 3;

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

/// How many nodes there are, and that some of them are away.
fn nodes(cluster: &ClusterView) -> Cell {
    let all = cluster.nodes.all();
    if all.connected < all.enrolled {
        return Cell::new(Tone::Warn, format!("{} ({} connected)", all.enrolled, all.connected));
    }
    Cell::from(all.enrolled.to_string())
}

fn account(view: &WhoamiView, program: &str, screen: Screen, now: Timestamp) -> Text {
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
    for left in &view.removed_from {
        let DepartureView { project, at, by, deleted } = left;
        let at = at.for_people_at(now);
        text.push(if *deleted {
            format!("The project {project} was deleted at {at} by {by}.\n")
        } else {
            format!("You were removed from {project} at {at} by {by}.\n")
        });
    }
    if view.projects.is_empty() && !view.removed_from.is_empty() {
        text.push("You are in no project now: ask a project's admin to add you by your email.\n");
    } else if view.projects.is_empty() {
        text.push("You are in no project yet: ask a project's admin to add you by your email.\n");
    } else {
        let projects = view.projects.iter().map(|project| {
            let role = project.role.clone().unwrap_or_default();
            vec![project.project.to_string(), role, project.members.to_string(), project.clusters.to_string()]
        });
        let clusters = view.clusters.iter().map(|cluster| {
            let kind = Cell::from(&cluster.kind);
            vec![cluster.cluster.to_string().into(), cluster.project.to_string().into(), kind, nodes(cluster)]
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
    text.push(admin(view, program, screen));
    text
}

/// What is missing in the projects that one is an admin of, and what is there to be done in any of them.
fn admin(view: &WhoamiView, program: &str, screen: Screen) -> Text {
    let own: Vec<&ProjectView> = view.projects.iter().filter(|p| p.role.as_deref() == Some("admin")).collect();
    let (title, project) = match own.as_slice() {
        [] => return Text::default(),
        [one] => (format!("As an admin of {}:", one.project), one.project.to_string()),
        several => (format!("As an admin of {}:", count(several.len(), "project")), "ORG/PROJECT".into()),
    };
    let mut next = Next::new(&title, screen);
    let without_cluster = own.iter().filter(|project| project.clusters == 0);
    for project in without_cluster.take(MISSING) {
        next.step(&format!("{program} cluster create {} NAME", project.project), "its first cluster");
    }
    let theirs = view.clusters.iter().filter(|cluster| cluster.role.as_deref() == Some("admin"));
    let without_node = theirs.filter(|cluster| cluster.nodes.all().enrolled == 0);
    for cluster in without_node.take(MISSING) {
        next.step(
            &format!("{program} node token NODE.{}", cluster.cluster),
            "its first node, without which nobody gets in",
        );
    }
    next.step(&format!("{program} member add {project} EMAIL"), "");
    next.step(&format!("{program} member list {project}"), "");
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
