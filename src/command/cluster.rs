//! `cluster …`.

use super::{
    Context, Stop,
    reply::{Fact, Reply, table},
    table::Cell,
    text::{Screen, Text, Tone, count, ending},
};
use crate::{
    app::{ClusterDetails, ClusterView, NewCluster, RequestView, StateView},
    domain::{
        ClusterKind, ClusterName, ClusterPath, Document, MAX_DOCUMENT, MAX_WANTED, NodeCounts, NodeRole, ProjectPath,
        Timestamp,
    },
};
use serde_json::json;

mod update;

/// The most that is read of a configuration; a little more than the most that is taken, so that it is the document that is
/// found too long.
const DOCUMENT_LIMIT: u32 = 2 * MAX_DOCUMENT as u32;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the clusters of all your projects
    #[command(after_help = "cluster list")]
    List,
    /// Show all about a cluster
    #[command(after_help = "cluster show h100-cluster-1.acme\n\
                            cluster show h100-cluster-1.acme --config > h100.toml")]
    Show {
        /// Which
        #[arg(value_name = "CLUSTER.ORG")]
        cluster: ClusterPath,
        /// A former configuration
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
        /// The configuration and nothing else, to be edited and given to 'cluster update'
        #[arg(long)]
        config: bool,
    },
    /// Create a cluster in a project
    #[command(after_help = "cluster create acme/ml-training h100-cluster-1 --compute 8\n\
                            ssh BASTION cluster create acme/ml-training b200-cluster --config - < b200.toml")]
    Create {
        /// In which
        #[arg(value_name = "ORG/PROJECT")]
        project: ProjectPath,
        /// Its name, unique in the organization
        name: ClusterName,
        /// slurm or kubernetes
        #[arg(long, default_value = "slurm")]
        kind: ClusterKind,
        /// Its configuration, in TOML; - for standard input
        #[arg(long, value_name = "FILE")]
        config: Option<String>,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Change a cluster's configuration; shows the difference before it applies
    #[command(after_help = "ssh BASTION cluster show h100-cluster-1.acme --config > h100.toml\n\
                            ssh BASTION cluster update h100-cluster-1.acme < h100.toml\n\
                            ssh BASTION cluster update h100-cluster-1.acme --yes --revision 3 < h100.toml")]
    Update(update::Args),
    /// Set how many nodes a cluster should have; roles that are not named stay as they are
    #[command(
        after_help = "cluster scale h100-cluster-1.acme --compute 16",
        group = clap::ArgGroup::new("how-many").args(["login", "compute", "controller"]).required(true).multiple(true)
    )]
    Scale {
        /// Which
        #[arg(value_name = "CLUSTER.ORG")]
        cluster: ClusterPath,
        #[command(flatten)]
        wanted: Wanted,
        /// Without asking, also when it goes down
        #[arg(long)]
        yes: bool,
    },
    /// Ask the site's machinery about a cluster again, now
    #[command(after_help = "cluster retry h100-cluster-1.acme")]
    Retry {
        /// Which
        #[arg(value_name = "CLUSTER.ORG")]
        cluster: ClusterPath,
    },
    /// Delete a cluster with its nodes; its name is never given out again
    #[command(after_help = "cluster delete h100-cluster-1.acme")]
    Delete {
        /// Which
        #[arg(value_name = "CLUSTER.ORG")]
        cluster: ClusterPath,
        /// Without asking
        #[arg(long)]
        yes: bool,
    },
}

/// Numbers of nodes.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// How many login nodes it should have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_WANTED)))]
    login: Option<u32>,
    /// How many compute nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_WANTED)))]
    compute: Option<u32>,
    /// How many controllers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_WANTED)))]
    controller: Option<u32>,
}

impl Wanted {
    fn over(&self, current: NodeCounts) -> NodeCounts {
        NodeCounts {
            login: self.login.unwrap_or(current.login),
            compute: self.compute.unwrap_or(current.compute),
            controller: self.controller.unwrap_or(current.controller),
        }
    }
}

pub(crate) async fn run(context: &Context<'_>, command: Command) -> Result<Reply, Stop> {
    match command {
        Command::List => list(context),
        Command::Show { cluster, revision, config } => show(context, &cluster, revision, config).await,
        Command::Update(args) => update::run(context, args).await,
        Command::Create { project, name, kind, config, wanted } => {
            let wanted = wanted.over(NodeCounts::default());
            let document = match config {
                None => Document::default(),
                Some(file) => {
                    let text = context.file(&file, DOCUMENT_LIMIT)?;
                    Document::parse(text, kind).map_err(|error| Stop::Refused(error.to_string()))?
                }
            };
            let new = NewCluster { name, kind, document, wanted };
            let cluster = context.app.create_cluster(context.asker, project.clone(), new).await?;
            let next = context.program();
            let sentence = format!("created {cluster} in {project}\nNext: {next} node token NODE.{cluster}");
            let data = json!({ "cluster": cluster, "project": project, "kind": kind, "wanted": wanted });
            Ok(Reply::done(&data, sentence))
        }
        Command::Scale { cluster, wanted, yes } => scale(context, cluster, &wanted, yes).await,
        Command::Retry { cluster } => {
            context.app.retry_cluster(context.asker, &cluster).await?;
            Ok(Reply::done(
                &json!({ "cluster": cluster }),
                format!("the site's machinery is asked about {cluster} again"),
            ))
        }
        Command::Delete { cluster, yes } => {
            let going = context.app.preview_cluster_deletion(context.asker, &cluster).await?;
            context.confirm(yes, || {
                format!("Delete {cluster} with {}?{}", count(going.nodes, "node"), ending(going.sessions))
            })?;
            let version = context.app.delete_cluster(context.asker, cluster.clone()).await?;
            Ok(Reply::done(&json!({ "cluster": cluster, "version": version }), format!("deleted {cluster}")))
        }
    }
}

fn list(context: &Context<'_>) -> Result<Reply, Stop> {
    let clusters = context.app.clusters(context.asker)?;
    let rows = clusters.iter().map(|cluster| {
        let nodes = cluster.nodes.all();
        let [name, project, kind] = [cluster.cluster.to_string(), cluster.project.to_string(), cluster.kind.clone()];
        let counts = [nodes.wanted, nodes.enrolled, nodes.connected].map(|count| count.to_string());
        let role = cluster.role.clone().unwrap_or_default();
        let before = [name, project, kind].into_iter().map(Cell::from);
        let after = counts.into_iter().chain([role]).map(Cell::from);
        before.chain([state(&cluster.state)]).chain(after).collect()
    });
    let headers = ["CLUSTER", "PROJECT", "KIND", "STATE", "WANTED", "ENROLLED", "CONNECTED", "ROLE"];
    let text = table(&headers, rows.collect(), context.screen(), "No clusters yet.");
    Ok(Reply::data(&clusters, text))
}

async fn show(
    context: &Context<'_>,
    cluster: &ClusterPath,
    revision: Option<u64>,
    config: bool,
) -> Result<Reply, Stop> {
    if config || revision.is_some() {
        let found = context.app.revision(context.asker, cluster, revision).await?;
        let heading = format!("# {cluster}, revision {}, since {}\n", found.revision, found.at.for_people());
        // Alone, so that what is printed is what 'cluster update' takes.
        let text = Text::written(&if config { found.document.clone() } else { heading + &found.document });
        return Ok(Reply::data(&found, text));
    }
    let details = context.app.cluster(context.asker, cluster)?;
    let text = describe(&details, context.app.now(), context.screen());
    Ok(Reply::data(&details, text))
}

fn describe(details: &ClusterDetails, now: Timestamp, screen: Screen) -> Text {
    let ClusterView { cluster, project, kind, state, role, nodes } = &details.view;
    let role = role.as_ref().map(|role| format!(" (you are {role})")).unwrap_or_default();
    let created = details.created.for_people();
    let mut text =
        Text::from(format!("{cluster}, a {kind} cluster of {project}{role}, since {created}\nState: {state}\n"));
    text.push(request(details.request.as_ref(), now));
    if let Some(gpus) = &details.gpus {
        text.push(format!("GPUs: {} {} in each compute node\n", gpus.per_node, gpus.model));
    }
    for login in &details.shared_logins {
        let users = match (login.problem, login.users) {
            (Some(problem), _) => format!("not in force: {problem}"),
            (None, 1) => "1 person".into(),
            (None, users) => format!("{users} people"),
        };
        text.push(format!("Shared login {}: for {}s, {users}\n", login.login, login.role));
    }
    let rows = nodes.by_role().into_iter().map(|(role, count)| {
        vec![role.to_string(), count.wanted.to_string(), count.enrolled.to_string(), count.connected.to_string()]
    });
    text.push("\n");
    text.push(table(&["NODES", "WANTED", "ENROLLED", "CONNECTED"], rows.collect(), screen, ""));
    text.push("\n");
    text.push(Text::toned(Tone::Heading, &format!("Configuration, revision {}:", details.revision), screen));
    if details.document.is_empty() {
        text.push(" empty\n");
        return text;
    }
    text.push("\n");
    for line in details.document.lines() {
        text.push(Text::written(format!("  {line}").trim_end()));
        text.push("\n");
    }
    text
}

/// What has become of something, in a table.
pub(super) fn state(state: &StateView) -> Cell {
    let tone = match state.state {
        "ready" => Tone::Good,
        "pending" => Tone::Warn,
        _ => Tone::Bad,
    };
    Cell::new(tone, state.to_string())
}

/// What the site's machinery has still to do, in a sentence.
pub(super) fn request(request: Option<&RequestView>, now: Timestamp) -> String {
    let Some(request) = request else { return String::new() };
    let failed = match request.failures {
        0 => String::new(),
        1 => ", failed once".into(),
        n => format!(", failed {n} times in a row"),
    };
    let next = if request.next > now { format!(", next try {}", request.next.near(now)) } else { String::new() };
    format!("Asked of the site's machinery: {}, {}{failed}{next}\n", request.action, request.since.near(now))
}

async fn scale(context: &Context<'_>, cluster: ClusterPath, wanted: &Wanted, yes: bool) -> Result<Reply, Stop> {
    let from = context.app.preview_scaling(context.asker, &cluster).await?;
    let to = wanted.over(from);
    let shown = changes(from, to);
    if from == to {
        return Ok(Reply::done(
            &json!({ "cluster": cluster, "wanted": to }),
            format!("{cluster} is to have {to} already"),
        ));
    }
    if [NodeRole::Login, NodeRole::Compute, NodeRole::Controller].iter().any(|role| to.of(*role) < from.of(*role)) {
        context.confirm(yes, || format!("Scale {cluster} down? {shown}."))?;
    }
    let version = context.app.scale_cluster(context.asker, cluster.clone(), from, to).await?;
    let data = Fact { version, fact: json!({ "cluster": cluster, "from": from, "wanted": to }) };
    Ok(Reply::done(&data, format!("scaled {cluster}: {shown}")))
}

/// `login 1 → 2, compute 4 → 8`.
fn changes(from: NodeCounts, to: NodeCounts) -> String {
    let roles = [NodeRole::Login, NodeRole::Compute, NodeRole::Controller].into_iter();
    let changed = roles.filter(|role| from.of(*role) != to.of(*role));
    changed.map(|role| format!("{role} {} → {}", from.of(role), to.of(role))).collect::<Vec<_>>().join(", ")
}
