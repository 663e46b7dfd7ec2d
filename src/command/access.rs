//! `explain` and `reach`.

use super::{
    Context, Stop,
    reply::{Reply, table},
};
use crate::domain::{Email, NodePath, Target};

/// Tell why somebody can get into a node, or why not, step by step
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// Whose access
    email: Email,
    /// To which node
    #[arg(value_name = "NODE.CLUSTER.ORG")]
    node: NodePath,
}

/// List who can get into a node, or into any node of a cluster
#[derive(Debug, clap::Args)]
pub(crate) struct Reach {
    /// Which
    #[arg(value_name = "NODE.CLUSTER.ORG|CLUSTER.ORG")]
    target: Target,
}

pub(crate) fn explain(context: &Context<'_>, args: &Explain) -> Result<Reply, Stop> {
    let explanation = context.app.explain(context.asker, &args.email, &args.node)?;
    let rows = explanation
        .steps
        .iter()
        .map(|step| vec![if step.holds { "yes" } else { "NO" }.into(), step.step.into(), step.found.clone()]);
    let word = if explanation.access { "yes" } else { "no" };
    let text = format!(
        "{}{word}: {}\n",
        table(&["HOLDS", "STEP", "FOUND"], rows.collect(), context.width(), ""),
        explanation.decided_by
    );
    Ok(Reply::data(&explanation, text).exit(u8::from(!explanation.access)))
}

pub(crate) fn reach(context: &Context<'_>, args: &Reach) -> Result<Reply, Stop> {
    let reachers = context.app.reach(context.asker, &args.target)?;
    let rows = reachers.iter().map(|reacher| {
        vec![
            reacher.email.to_string(),
            reacher.user.clone(),
            reacher.role.clone(),
            reacher.since.for_people(),
            reacher.by.clone(),
        ]
    });
    let headers = ["EMAIL", "USER", "ROLE", "SINCE", "BY"];
    Ok(Reply::data(&reachers, table(&headers, rows.collect(), context.width(), "Nobody.")))
}
