//! `node …`.

use super::{
    Context, Stop,
    reply::{Reply, table},
    table::Cell,
    text::{Screen, Text, Tone, count, ending},
};
use crate::{
    app::{NODE_SILENT, NodeDetails, NodeView, TokenRequest, protocol::Reach},
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
    /// Show all about a node
    #[command(after_help = "node show login-0.h100-cluster-1.acme")]
    Show {
        /// Which
        #[arg(value_name = "NODE.CLUSTER.ORG")]
        node: NodePath,
    },
    /// Make a token with which one machine can join as this node, once; it is printed on standard output
    #[command(after_help = "node token login-0.h100-cluster-1.acme\n\
                            node token compute-0.h100-cluster-1.acme --role compute --ttl 2h\n\
                            node token login-0.h100-cluster-1.acme --revoke")]
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
        /// Make none, and take back those for this node that were not used
        #[arg(long, conflicts_with_all = ["role", "address", "port", "ttl"])]
        revoke: bool,
    },
    /// List the tokens of a cluster with which a machine can still join
    #[command(after_help = "node tokens h100-cluster-1.acme")]
    Tokens {
        /// Which
        #[arg(value_name = "CLUSTER.ORG")]
        cluster: ClusterPath,
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
        Command::Show { node } => {
            let details = context.app.node(context.asker, &node)?;
            let text = describe(&details, context.app.now(), context.screen());
            Ok(Reply::data(&details, text))
        }
        Command::Tokens { cluster } => {
            let tokens = context.app.tokens(context.asker, &cluster)?;
            let now = context.app.now();
            let rows = tokens.iter().map(|token| {
                let address = token.address.map_or_else(|| "where it joins from".into(), |ip| ip.to_string());
                let [node, role, by] = [&token.node, &token.role, &token.by].map(String::clone);
                vec![node, role, format!("{address} port {}", token.port), by, token.expires.near(now)]
            });
            let headers = ["NODE", "ROLE", "ADDRESS", "BY", "UNTIL"];
            let none = "No token could be used now.";
            Ok(Reply::data(&tokens, table(&headers, rows.collect(), context.screen(), none)))
        }
        Command::Token { node, revoke: true, .. } => {
            let revoked = context.app.revoke_tokens(context.asker, node.clone()).await?;
            let sentence = format!("took back {} for {node}", count(revoked, "token"));
            Ok(Reply::done(&json!({ "node": node, "revoked": revoked }), sentence))
        }
        Command::Token { node, role, address, port, ttl, revoke: false } => {
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

fn describe(details: &NodeDetails, now: Timestamp, screen: Screen) -> Text {
    let NodeDetails { view, project, enrolled, sessions } = details;
    let heard = view.heard.map_or_else(|| "not since the authority started".into(), |heard| heard.near(now));
    let rows: Vec<Vec<Cell>> = vec![
        vec!["PROJECT".into(), project.to_string().into()],
        vec!["ROLE".into(), view.role.as_str().into()],
        vec!["STATE".into(), state(view, now)],
        vec!["HEARD".into(), heard.into()],
        vec!["ADDRESS".into(), view.address.as_str().into()],
        vec!["HOST KEY".into(), view.host_key.to_string().into()],
        vec!["ENROLLED".into(), enrolled.for_people().into()],
        vec!["OPEN SESSIONS".into(), sessions.to_string().into()],
    ];
    table(&["NODE", view.node.as_str()], rows, screen, "")
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
