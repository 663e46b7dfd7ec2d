//! `explain` and `reach`.

use super::{
    Context, Stop,
    reply::{Reply, table},
    table::Cell,
    text::{Text, Tone},
};
use crate::{
    app::Step,
    domain::{Email, NodePath, Target},
};

/// Tell why somebody can get into a node, or why not, step by step
#[derive(Debug, clap::Args)]
#[command(after_help = "explain user1@acme.example login-0.h100-cluster-1.acme")]
pub(crate) struct Explain {
    /// Whose access
    email: Email,
    /// To which node
    #[arg(value_name = "NODE.CLUSTER.ORG")]
    node: NodePath,
}

/// List who can get into a node, or into any node of a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "reach h100-cluster-1.acme\n\
                        reach login-0.h100-cluster-1.acme --json")]
pub(crate) struct Reach {
    /// Which
    #[arg(value_name = "NODE.CLUSTER.ORG|CLUSTER.ORG")]
    target: Target,
}

pub(crate) fn explain(context: &Context<'_>, args: &Explain) -> Result<Reply, Stop> {
    let explanation = context.app.explain(context.asker, &args.email, &args.node)?;
    let holds = |step: &Step| match step.holds {
        Some(true) => Cell::new(Tone::Good, "yes"),
        Some(false) => Cell::new(Tone::Bad, "NO"),
        None => Cell::from("-"),
    };
    let rows = explanation.steps.iter().map(|step| vec![holds(step), step.step.into(), step.found.as_str().into()]);
    let screen = context.screen();
    let mut text = table(&["HOLDS", "STEP", "FOUND"], rows.collect(), screen, "");
    let (tone, word) = if explanation.access { (Tone::Good, "yes") } else { (Tone::Bad, "no") };
    text.push(Text::toned(tone, word, screen));
    text.push(format!(": {}\n", explanation.decided_by));
    Ok(Reply::data(&explanation, text).exit(u8::from(!explanation.access)))
}

pub(crate) fn reach(context: &Context<'_>, args: &Reach) -> Result<Reply, Stop> {
    let reachers = context.app.reach(context.asker, &args.target)?;
    let rows = reachers.iter().map(|reacher| {
        vec![
            reacher.email.to_string(),
            match &reacher.sources {
                Some(sources) => format!("{}, from {sources}", reacher.kind),
                None => reacher.kind.to_string(),
            },
            reacher.user.clone(),
            reacher.role.clone(),
            reacher.since.for_people(),
            reacher.by.clone(),
        ]
    });
    let headers = ["EMAIL", "KIND", "USER", "ROLE", "SINCE", "BY"];
    Ok(Reply::data(&reachers, table(&headers, rows.collect(), context.screen(), "Nobody.")))
}
