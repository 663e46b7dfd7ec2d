//! The authority as the gateway and the operator's command see it: traits, so that neither knows anything of HTTP or
//! sockets.

use super::protocol::{AdminCommand, BackupRequest, Call, CommandAnswer, Event, Hello, Refusal};
use std::{future::Future, io::Write};
use thiserror::Error;

/// The authority could not be asked, or did not answer in time.
#[derive(Clone, Debug, Error)]
#[error("the authority cannot be reached: {0}")]
pub struct Unreachable(pub String);

/// Asks the authority.
pub trait Authority: Send + Sync + 'static {
    /// The stream that [`Authority::events`] opens.
    type Events: EventStream;

    /// One question, one answer, within a bound of time that the implementation sets (a few seconds).
    fn call<C: Call>(&self, request: C::Request) -> impl Future<Output = Result<C::Answer, Unreachable>> + Send;

    /// Opens the event stream.
    fn events(&self, hello: Hello) -> impl Future<Output = Result<Self::Events, Unreachable>> + Send;
}

/// Events in the order in which they happened.
pub trait EventStream: Send + 'static {
    /// The next one. An error ends the stream: reconnect with a new [`Hello`].
    fn next(&mut self) -> impl Future<Output = Result<Event, Unreachable>> + Send;
}

/// Asks the authority as an operator.
pub trait Console {
    /// Has a backup made and writes it; how many bytes it has. It takes as long as it takes. What was written is no backup
    /// unless this returns `Ok(Ok(_))`.
    fn backup(
        &self,
        request: &BackupRequest,
        out: &mut dyn Write,
    ) -> impl Future<Output = Result<Result<u64, Refusal>, Unreachable>>;

    /// Runs a command, within a bound of time that the implementation sets (a minute).
    fn run(&self, command: &AdminCommand) -> impl Future<Output = Result<CommandAnswer, Unreachable>>;
}
