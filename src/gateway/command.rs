//! Commands: a line goes to the authority, its answer to the channel; input is read when the authority asks for it.

use super::{
    Shared,
    auth::{AWAY, patiently},
    channels::{Columns, Served},
    connection::Connection,
    inlet::Inlet,
    line::{LineEditor, Typed},
};
use crate::app::{
    authority::Authority,
    protocol::{CommandAnswer, CommandRequest, Credential, MAX_INPUT, MAX_INPUTS, Output, Read, RunCommand, Terminal},
};
use russh::{ChannelWriteHalf, server::Msg};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Semaphore, time::timeout};

/// SSH_EXTENDED_DATA_STDERR (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// How long somebody may think about a prompt.
const INPUT_WITHIN: Duration = Duration::from_secs(300);

/// Exit status for a line that cannot be understood.
const USAGE: u32 = 2;

/// A command that somebody has typed.
pub(super) struct Command<A> {
    pub(super) shared: Arc<Shared<A>>,
    pub(super) connection: Arc<Connection>,
    pub(super) credential: Credential,
    pub(super) user: String,
    pub(super) line: Vec<u8>,
    pub(super) channel: ChannelWriteHalf<Msg>,
    pub(super) inlet: Arc<Inlet>,
    pub(super) terminal: Arc<Columns>,
    pub(super) slots: Arc<Semaphore>,
}

/// What a command came to.
struct Outcome {
    output: Output,
    status: u32,
}

impl Outcome {
    fn failed(message: impl Into<String>, status: u32) -> Self {
        Self { output: Output { stderr: message.into() + "\n", ..Output::default() }, status }
    }
}

impl<A: Authority> Command<A> {
    /// Runs it and closes the channel. `_served` keeps the channel counted until then.
    pub(super) async fn run(self, _served: Served) {
        let outcome = {
            // Closed only with the connection.
            let Ok(_slot) = self.slots.acquire().await else { return };
            tokio::select! {
                () = self.connection.over.cancelled() => return,
                // The authority is asked to the end even if the peer closes its input; not if it closes the channel.
                () = self.inlet.closed.cancelled() => return,
                outcome = self.ask() => outcome,
            }
        };
        let Connection { id, peer, .. } = &*self.connection;
        // The words are in the authority's audit log: a command line may hold what belongs in no other log.
        tracing::info!(connection = %id, %peer, user = %self.user, action = "command", outcome = outcome.status);
        // It fails when the peer is gone.
        let _ = self.answer(&outcome).await;
    }

    async fn ask(&self) -> Outcome {
        let limit = self.shared.config.limits.command_line;
        if self.line.len() > limit {
            return Outcome::failed(format!("the command line is longer than {limit} bytes"), USAGE);
        }
        let Ok(line) = String::from_utf8(self.line.clone()) else {
            return Outcome::failed("the command line is not UTF-8 text", USAGE);
        };
        let mut request = CommandRequest {
            connection: self.connection.id.clone(),
            peer: self.connection.peer,
            credential: self.credential.clone(),
            line,
            terminal: None,
            inputs: Vec::new(),
            context: None,
        };
        loop {
            request.terminal = self.terminal.get().map(|columns| Terminal { columns });
            // A command may change something: it is asked once, and only an authority that is away is waited for
            // by the one who types it again.
            let answer = if request.line.is_empty() {
                patiently::<RunCommand, A>(&self.shared, &self.connection, request.clone()).await
            } else {
                self.shared.authority.call::<RunCommand>(request.clone()).await
            };
            match answer {
                Err(_) => return Outcome::failed(AWAY, 1),
                Ok(CommandAnswer::Output(output)) => {
                    let status = output.exit.into();
                    return Outcome { output, status };
                }
                Ok(CommandAnswer::Input { prompt, read, limit, context }) => {
                    if request.inputs.len() == MAX_INPUTS {
                        return Outcome::failed("the command asked for input too often", 1);
                    }
                    if self.write(Some(STDERR), &prompt).await.is_err() {
                        return Outcome::failed("the connection ended", 1);
                    }
                    let left = MAX_INPUT.saturating_sub(request.inputs.iter().map(String::len).sum());
                    let limit = usize::try_from(limit).unwrap_or(left).min(left);
                    match timeout(INPUT_WITHIN, self.read(&read, limit)).await {
                        Ok(Ok(input)) => request.inputs.push(input),
                        Ok(Err(outcome)) => return outcome,
                        Err(_) => return Outcome::failed("no input came in time", 1),
                    }
                    request.context = context;
                }
            }
        }
    }

    async fn read(&self, what: &Read, limit: usize) -> Result<String, Outcome> {
        match what {
            Read::Line if self.terminal.get().is_some() => self.read_line(limit).await,
            Read::Line | Read::All => self.read_all(limit).await,
            // It would be one of this machine, not of the one who asks.
            Read::File(_) => Err(Outcome::failed("a gateway reads no files; give it on standard input", USAGE)),
        }
    }

    async fn read_all(&self, limit: usize) -> Result<String, Outcome> {
        let mut input = Vec::new();
        while let Some(data) = self.inlet.next().await {
            if input.len() + data.len() > limit {
                return Err(Outcome::failed(format!("the input is longer than {limit} bytes"), USAGE));
            }
            input.extend_from_slice(&data);
        }
        text(input)
    }

    async fn read_line(&self, limit: usize) -> Result<String, Outcome> {
        let mut editor = LineEditor::new(limit);
        while let Some(data) = self.inlet.next().await {
            let ended = data.iter().map(|byte| editor.byte(*byte)).find(|typed| *typed != Typed::More);
            let echo = editor.take_echo();
            if !echo.is_empty() && self.channel.data_bytes(echo).await.is_err() {
                return Err(Outcome::failed("the connection ended", 1));
            }
            match ended {
                None | Some(Typed::More) => {}
                Some(Typed::Done) => break,
                // As a shell reports SIGINT.
                Some(Typed::Interrupted) => return Err(Outcome { output: Output::default(), status: 130 }),
            }
        }
        text(editor.into_line())
    }

    async fn answer(&self, outcome: &Outcome) -> Result<(), russh::Error> {
        self.write(None, &outcome.output.stdout).await?;
        self.write(Some(STDERR), &outcome.output.stderr).await?;
        self.channel.eof().await?;
        self.channel.exit_status(outcome.status).await?;
        self.channel.close().await
    }

    /// Writes within the peer's window, waiting for it; a peer that stops reading stops this task only.
    async fn write(&self, stream: Option<u32>, text: &str) -> Result<(), russh::Error> {
        let bytes = match self.terminal.get() {
            // A terminal in raw mode does not return its carriage by itself.
            Some(_) => text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes(),
            None => text.as_bytes().to_vec(),
        };
        let write = async {
            match stream {
                None => self.channel.data_bytes(bytes).await,
                Some(stream) => self.channel.extended_data_bytes(stream, bytes).await,
            }
        };
        tokio::select! {
            () = self.inlet.closed.cancelled() => Err(russh::Error::SendError),
            written = write => written,
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, Outcome> {
    String::from_utf8(bytes).map_err(|_| Outcome::failed("the input is not UTF-8 text", USAGE))
}
