//! What operators say to the authority.

use crate::app::protocol::Terminal;
use serde::{Deserialize, Serialize};

/// `POST` there: [`AdminCommand`], answered with [`crate::app::protocol::CommandAnswer`].
pub const COMMAND_PATH: &str = "/v1/command";

/// `GET` there: answers 200 when the authority serves.
pub const HEALTH_PATH: &str = "/v1/health";

/// A command of an operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminCommand {
    /// Its words.
    pub words: Vec<String>,
    /// The terminal, if there is one.
    #[serde(default)]
    pub terminal: Option<Terminal>,
    /// What was typed or sent when input was asked for.
    #[serde(default)]
    pub input: Option<String>,
}
