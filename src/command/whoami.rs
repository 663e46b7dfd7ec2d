//! `whoami`, and the answer to no words at all.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use serde_json::json;
use std::fmt::Write;

pub(crate) fn run(context: &Context<'_>) -> Result<Reply, Stop> {
    let Some(view) = context.app.whoami(context.asker)? else {
        let text = "You are an operator of this bastion. See: certgate status, certgate --help\n";
        return Ok(Reply::data(&json!({ "operator": true }), text));
    };
    let program = context.program();
    let mut text = format!("You are {} (user {} on every node), by key {}.\n", view.email, view.user, view.key);
    if view.projects.is_empty() {
        text.push_str("You are in no project yet: ask a project's admin to add you.\n");
        return Ok(Reply::data(&view, text));
    }
    let projects = view.projects.iter().map(|p| vec![p.project.to_string(), p.role.clone().unwrap_or_default()]);
    let clusters = view
        .clusters
        .iter()
        .map(|c| vec![c.cluster.to_string(), c.project.to_string(), c.kind.clone(), c.nodes.to_string()]);
    let width = context.width();
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "\n{}\n{}\nNext:\n  {program} config > ~/.ssh/certgate.conf\n      once, and again when your projects change; and \
         put 'Include certgate.conf' at the top of ~/.ssh/config\n",
        table(&["PROJECT", "ROLE"], projects.collect(), width, ""),
        table(&["CLUSTER", "PROJECT", "KIND", "NODES"], clusters.collect(), width, "No clusters yet."),
    );
    if let Some(cluster) = view.clusters.first() {
        let _ = writeln!(text, "  ssh {}\n      then reaches a login node of that cluster", cluster.cluster);
    }
    let _ = writeln!(text, "  {program} --help");
    Ok(Reply::data(&view, text))
}
