//! `status`.

use super::{
    Context, Stop,
    cluster::state,
    node::{HEADERS, row},
    reply::{Reply, table},
    table::Cell,
    text::{Screen, Text, Tone, count},
};
use crate::{
    app::{NodeView, Problem, ProvisionerView, Severity, StatusView},
    domain::Timestamp,
    store::Space,
};
use std::collections::BTreeMap;

pub(crate) fn run(context: &Context<'_>) -> Result<Reply, Stop> {
    let view = context.app.status(context.asker)?;
    let (screen, now) = (context.screen(), context.app.now());
    let mut text = problems(&view.problems, screen);
    text.push(format!(
        "certgate {}, running since {}, directory version {}\n{}, {}, {}, {}\n",
        view.program,
        view.started.for_people(),
        view.version,
        count(view.accounts, "account"),
        count(view.projects, "project"),
        count(view.certificates, "live certificate"),
        count(view.sessions, "open session"),
    ));
    text.push(kept(&view, now));
    text.push("\n");
    let gateways = view.gateways.iter().map(|gateway| {
        let version = gateway.program.as_deref().unwrap_or("unknown");
        vec![gateway.gateway.clone(), version.into(), gateway.host_key.to_string(), gateway.since.near(now)]
    });
    let headers = ["GATEWAY", "VERSION", "HOST KEY", "CONNECTED"];
    text.push(table(&headers, gateways.collect(), screen, "No gateway is connected."));
    text.push("\n");
    if let Some(ProvisionerView { connected: Some(since) }) = &view.provisioner {
        text.push(format!("The provisioner is connected, {}.\n\n", since.near(now)));
    }
    if !view.requests.is_empty() {
        text.push(Text::toned(Tone::Heading, "Asked of the site's machinery, and not done:", screen));
        text.push("\n");
        let requests = view.requests.iter().map(|request| {
            let next = if request.next > now { request.next.near(now) } else { "now".into() };
            let cells = [request.name.clone(), request.action.clone(), request.since.near(now), next];
            let [name, action, since, next] = cells.map(Cell::from);
            vec![name, action, state(&request.state), since, next]
        });
        text.push(table(&["WHAT", "ACTION", "STATE", "SINCE", "NEXT TRY"], requests.collect(), screen, ""));
        text.push("\n");
    }
    text.push(table(&HEADERS, view.nodes.iter().map(|node| row(node, now)).collect(), screen, "No nodes yet."));
    text.push(agents(&view.nodes));
    if let Some(first) = view.tokens.first() {
        let tokens = count(view.tokens.len(), "join token");
        text.push(format!("{tokens} nobody has used yet; the first ends {}.\n", first.expires.near(now)));
    }
    let exit = u8::from(view.problems.iter().any(|problem| problem.severity < Severity::Notice));
    Ok(Reply::data(&view, text).exit(exit))
}

/// What somebody should look after, before everything else.
fn problems(problems: &[Problem], screen: Screen) -> Text {
    if problems.is_empty() {
        let mut text = Text::toned(Tone::Good, "Nothing needs attention.", screen);
        text.push("\n\n");
        return text;
    }
    let mut text = Text::default();
    for Problem { severity, what, next } in problems {
        let (tone, word) = match severity {
            Severity::Critical => (Tone::Bad, "CRITICAL"),
            Severity::Warning => (Tone::Warn, "WARNING"),
            Severity::Notice => (Tone::Plain, "NOTICE"),
        };
        text.push(Text::toned(tone, word, screen));
        text.push(format!(" {what}.\n  {next}\n"));
    }
    text.push("\n");
    text
}

/// What is left where the directory is kept, and when that was last saved.
fn kept(view: &StatusView, now: Timestamp) -> Text {
    let disk = view.disk.map(|Space { free, total }| format!("{} of {} free", gibibytes(free), gibibytes(total)));
    let backup = view.last_backup.map(|last| format!("last backup {}", last.near(now)));
    let parts: Vec<String> = disk.into_iter().chain(backup).collect();
    if parts.is_empty() { Text::default() } else { format!("state directory: {}\n", parts.join(", ")).into() }
}

fn gibibytes(bytes: u64) -> String {
    format!("{}.{} GiB", bytes >> 30, ((bytes % (1 << 30)) * 10) >> 30)
}

/// Which versions their agents are.
fn agents(nodes: &[NodeView]) -> Text {
    let mut versions = BTreeMap::<&str, usize>::new();
    for node in nodes {
        *versions.entry(node.program.as_deref().unwrap_or("unknown")).or_default() += 1;
    }
    if versions.is_empty() {
        return Text::default();
    }
    let versions: Vec<String> = versions.into_iter().map(|(version, nodes)| format!("{version} ({nodes})")).collect();
    format!("\nVersions of the agents: {}\n", versions.join(", ")).into()
}
