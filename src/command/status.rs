//! `status`.

use super::{
    Context, Stop,
    node::{HEADERS, row},
    reply::{Reply, table},
};

pub(crate) fn run(context: &Context<'_>) -> Result<Reply, Stop> {
    let view = context.app.status(context.asker)?;
    let width = context.width();
    let now = context.app.now();
    let gateways = view
        .gateways
        .iter()
        .map(|gateway| vec![gateway.gateway.clone(), gateway.host_key.to_string(), gateway.since.to_string()]);
    let text = format!(
        "certgate {}, running since {}, directory version {}\n{} accounts, {} projects, {} live certificates, {} open \
         sessions\n\n{}\n{}",
        view.program,
        view.started,
        view.version,
        view.accounts,
        view.projects,
        view.certificates,
        view.sessions,
        table(&["GATEWAY", "HOST KEY", "CONNECTED SINCE"], gateways.collect(), width, "No gateway is connected."),
        table(&HEADERS, view.nodes.iter().map(|node| row(node, now)).collect(), width, "No nodes yet."),
    );
    let exit = u8::from(view.gateways.is_empty());
    Ok(Reply::data(&view, text).exit(exit))
}
