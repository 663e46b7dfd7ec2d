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
    app::{ProvisionerView, StatusView},
    domain::Timestamp,
};

pub(crate) fn run(context: &Context<'_>) -> Result<Reply, Stop> {
    let view = context.app.status(context.asker)?;
    let (screen, now) = (context.screen(), context.app.now());
    let mut text = Text::from(format!(
        "certgate {}, running since {}, directory version {}\n{}, {}, {}, {}\n\n",
        view.program,
        view.started.for_people(),
        view.version,
        count(view.accounts, "account"),
        count(view.projects, "project"),
        count(view.certificates, "live certificate"),
        count(view.sessions, "open session"),
    ));
    if view.gateways.is_empty() {
        text.push(Text::toned(Tone::Bad, "No gateway is connected", screen));
        text.push(": nobody can connect. On the bastion: systemctl status certgate-gateway\n");
    } else {
        let gateways = view
            .gateways
            .iter()
            .map(|gateway| vec![gateway.gateway.clone(), gateway.host_key.to_string(), gateway.since.near(now)]);
        text.push(table(&["GATEWAY", "HOST KEY", "CONNECTED"], gateways.collect(), screen, ""));
    }
    text.push("\n");
    text.push(provisioner(&view, now, screen));
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
    let exit = u8::from(view.gateways.is_empty());
    Ok(Reply::data(&view, text).exit(exit))
}

/// Whether somebody does what is asked of the site's machinery.
fn provisioner(view: &StatusView, now: Timestamp, screen: Screen) -> Text {
    match &view.provisioner {
        None if view.requests.is_empty() => Text::default(),
        None => {
            let mut text = Text::toned(Tone::Warn, "No provisioner is configured", screen);
            text.push(
                ", so that what was asked of the site's machinery before waits ([provisioner] in authority.toml).\n\n",
            );
            text
        }
        Some(ProvisionerView { connected: Some(since) }) => {
            Text::from(format!("The provisioner is connected, {}.\n\n", since.near(now)))
        }
        Some(ProvisionerView { connected: None }) => {
            let mut text = Text::toned(Tone::Bad, "No provisioner is connected", screen);
            text.push(": what is asked of the site's machinery waits. On the bastion: systemctl status certgate-provisioner\n\n");
            text
        }
    }
}
