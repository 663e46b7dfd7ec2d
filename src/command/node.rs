//! `node …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
    table::Cell,
    text::{Tone, ending},
};
use crate::{
    app::{NODE_SILENT, NodeView, TokenRequest, protocol::Reach},
    domain::{ClusterPath, NodePath, NodeRole, Timestamp, Ttl, Version},
};
use serde_json::json;
use std::net::IpAddr;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the nodes of a cluster, and what they have confirmed
    #[command(after_help = "node list h100-cluster-1.acme")]
    List {
        /// Which
        #[arg(value_name = "CLUSTER.ORG")]
        cluster: ClusterPath,
    },
    /// Make a token with which one machine can join as this node, once; it is printed on standard output
    #[command(after_help = "node token login-0.h100-cluster-1.acme\n\
                            node token compute-0.h100-cluster-1.acme --role compute --ttl 2h")]
    Token {
        /// The name that the node will have
        #[arg(value_name = "NODE.CLUSTER.ORG")]
        node: NodePath,
        /// login, compute or controller
        #[arg(long, default_value = "login")]
        role: NodeRole,
        /// Where the gateway dials it, if not at the address that it joins from
        #[arg(long)]
        address: Option<IpAddr>,
        /// The port of its sshd
        #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// How long the token works
        #[arg(long, default_value = "1h")]
        ttl: Ttl,
    },
    /// Remove a node
    #[command(after_help = "node remove login-0.h100-cluster-1.acme")]
    Remove {
        /// Which
        #[arg(value_name = "NODE.CLUSTER.ORG")]
        node: NodePath,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List { cluster } => {
            let nodes = context.app.nodes(context.asker, &cluster)?;
            let now = context.app.now();
            let rows = nodes.iter().map(|node| row(node, now)).collect();
            Ok(Reply::data(&nodes, table(&HEADERS, rows, context.screen(), "No nodes yet.")))
        }
        Command::Token { node, role, address, port, ttl } => {
            let request = TokenRequest { node: node.clone(), role, address, port, ttl };
            let token = context.app.create_token(context.asker, request).await?.to_string();
            let note = format!("for one machine, within {ttl}: certgate-node join TOKEN");
            Ok(Reply::data(&json!({ "node": node, "token": token }), format!("{token}\n")).note(note))
        }
        Command::Remove { node, yes } => {
            let open = context.app.preview_node_removal(context.asker, &node).await?;
            context.confirm(yes, || format!("Remove the node {node}?{}", ending(open)))?;
            let version = context.app.remove_node(context.asker, node.clone()).await?;
            Ok(Reply::done(&json!({ "node": node, "version": version }), format!("removed {node}")))
        }
    }
}

pub(crate) const HEADERS: [&str; 4] = ["NODE", "ROLE", "ADDRESS", "STATE"];

pub(crate) fn row(node: &NodeView, now: Timestamp) -> Vec<Cell> {
    let address = match node.reach {
        Reach::Direct => node.address.as_str(),
        Reach::Tunnel => "through its agent",
    };
    vec![node.node.as_str().into(), node.role.as_str().into(), address.into(), state(node, now)]
}

fn state(node: &NodeView, now: Timestamp) -> Cell {
    let (tone, words) = words(node.heard, node.version, node.wanted, node.problem.as_deref(), now);
    Cell::new(tone, words)
}

/// What is to be said of a node: when it was last heard, if that is long ago, what it has of what it should have, and why
/// it has no more.
pub(crate) fn words(
    heard: Option<Timestamp>,
    version: Option<Version>,
    wanted: Option<Version>,
    problem: Option<&str>,
    now: Timestamp,
) -> (Tone, String) {
    let Some(heard) = heard else { return (Tone::Warn, "not heard since the authority started".into()) };
    let silent = now.since(heard) > NODE_SILENT;
    let (tone, list) = match (version, wanted) {
        (None, _) => (Tone::Bad, "nothing installed".into()),
        (Some(have), Some(wanted)) if have < wanted => (Tone::Warn, format!("version {have} of {wanted}")),
        (Some(have), _) => (if silent { Tone::Warn } else { Tone::Good }, format!("version {have}")),
    };
    let heard = if silent { format!("last heard {}, ", heard.near(now)) } else { String::new() };
    match problem {
        Some(problem) => (Tone::Bad, format!("{heard}{list}, {problem}")),
        None => (tone, format!("{heard}{list}")),
    }
}
