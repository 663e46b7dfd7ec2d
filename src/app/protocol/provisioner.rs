//! What the provisioner says to the authority, and it to it. The provisioner runs a program of the site's and has a
//! network, so nothing in a report is believed but that it is about a job of that number.

use super::{Call, Done};
use crate::domain::{JobAction, Resource};
use serde::{Deserialize, Serialize};

calls! {
    /// Every path of the provisioner's socket.
    PROVISIONER_CALLS;
    /// What is to be done now? Waits until there is something.
    NextTasks: "/v1/provisioner/next", NextRequest => NextAnswer;
    /// What became of a task.
    ReportTask: "/v1/provisioner/report", Report => Done;
}

/// The longest that the authority lets the provisioner wait for something to do, in seconds.
pub const MAX_WAIT_SECS: u16 = 30;

/// Asks for something to do. The authority keeps no account of what it has given out: the provisioner says each time what
/// it has, so that whatever is lost on the way is given again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextRequest {
    /// Distinguishes this process from another one: 16 hexadecimal digits.
    pub instance: String,
    /// What is being done, or is done and not reported: none of these is given again.
    pub running: Vec<Resource>,
    /// No more than so many.
    pub room: u16,
    /// How long to wait for something.
    pub wait_secs: u16,
}

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextAnswer {
    /// These, all at the same time; maybe none yet.
    Tasks(Vec<Task>),
    /// Nothing for this process: another one does it.
    Another,
}

/// One call of the site's program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Its number.
    pub job: u64,
    /// What it is about.
    pub resource: Resource,
    /// What that is called, for log lines.
    pub name: String,
    /// Why, for log lines.
    pub action: JobAction,
    /// What the program reads.
    pub input: String,
}

/// What became of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Its number.
    pub job: u64,
    /// What it was about.
    pub resource: Resource,
    /// What became of it.
    pub outcome: Outcome,
}

/// What the site's program answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is as it was asked for.
    Ready,
    /// Not yet: ask again.
    Pending {
        /// After so many seconds.
        retry_after: Option<u32>,
    },
    /// It did not work, or nothing useful was answered.
    Failed {
        /// Why.
        reason: String,
    },
}
