//! Commands: a line goes to the authority, its answer to the channel; input is read when the authority asks for it.

use super::{
    Shared,
    auth::{AWAY, patiently},
    channels::{Pty, Served},
    connection::Connection,
    inlet::Inlet,
    line::{LineEditor, Typed},
    metrics::Bound,
};
use crate::app::{
    authority::Authority,
    protocol::{
        CommandAnswer, CommandRequest, Credential, MAX_INPUT, MAX_INPUTS, Output, Read, RunCommand, wants_json,
    },
    waiting::Waiting,
};
use russh::{ChannelWriteHalf, server::Msg};
use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

/// SSH_EXTENDED_DATA_STDERR (RFC 4254, 5.2).
const STDERR: u32 = 1;

/// How long somebody may think about a prompt.
const INPUT_WITHIN: Duration = Duration::from_secs(300);

/// A command that somebody has typed.
pub(super) struct Command<A> {
    pub(super) shared: Arc<Shared<A>>,
    pub(super) connection: Arc<Connection>,
    pub(super) credential: Credential,
    pub(super) user: String,
    pub(super) line: Vec<u8>,
    pub(super) channel: ChannelWriteHalf<Msg>,
    pub(super) inlet: Arc<Inlet>,
    pub(super) terminal: Arc<Pty>,
    pub(super) slots: Arc<Semaphore>,
}

/// Why a command has no answer of the authority.
enum Failure {
    /// The authority cannot be asked.
    Away,
    /// What was sent cannot be understood.
    Usage(String),
    /// What was asked for did not come.
    Input(&'static str),
    /// Ctrl-C.
    Interrupted,
}

impl Failure {
    fn output(&self, json: bool) -> Output {
        match self {
            Self::Away => Output::failure("unavailable", AWAY, 1, json),
            Self::Usage(text) => Output::failure("usage", text, 2, json),
            Self::Input(text) => Output::failure("input", text, 1, json),
            // As a shell reports SIGINT.
            Self::Interrupted => Output { exit: 130, ..Output::default() },
        }
    }
}

impl<A: Authority> Command<A> {
    /// Runs it and closes the channel. `_served` keeps the channel counted until then.
    pub(super) async fn run(self, _served: Served) {
        self.connection.says();
        if let Some(remark) = self.connection.take_remark() {
            // It fails when the peer is gone.
            let _ = self.write(Some(STDERR), &format!("{remark}\n")).await;
        }
        // The line may be no UTF-8, and need not make sense.
        let json = wants_json(String::from_utf8_lossy(&self.line).split_whitespace());
        let output = {
            // Closed only with the connection.
            let Ok(_slot) = self.slots.acquire().await else { return };
            tokio::select! {
                () = self.connection.over.cancelled() => return,
                // The authority is asked to the end even if the peer closes its input; not if it closes the channel.
                () = self.inlet.closed.cancelled() => return,
                never = self.warn() => match never {},
                answer = self.ask() => answer.unwrap_or_else(|failure| failure.output(json)),
            }
        };
        let Connection { id, peer, .. } = &*self.connection;
        self.connection.says();
        self.shared.metrics.command(output.exit);
        // The words are in the authority's audit log: a command line may hold what belongs in no other log.
        tracing::info!(connection = %id, %peer, user = %self.user, action = "command", outcome = output.exit);
        // It fails when the peer is gone.
        let _ = self.answer(&output).await;
    }

    /// Says what its owner is warned of meanwhile, on a line of its own. Here and not from outside: after the channel was
    /// closed nothing more may be written to it.
    async fn warn(&self) -> Infallible {
        let mut warnings = self.connection.warnings();
        while warnings.changed().await.is_ok() {
            let warning = warnings.borrow_and_update().clone();
            let begun = if self.terminal.get().is_some() { "\n" } else { "" };
            // It fails when the peer is gone, which is noticed elsewhere.
            let _ = self.write(Some(STDERR), &format!("{begun}{warning}\n")).await;
        }
        std::future::pending().await
    }

    async fn ask(&self) -> Result<Output, Failure> {
        let limit = self.shared.config.limits.command_line;
        if self.line.len() > limit {
            self.shared.metrics.refused(Bound::CommandLine);
            return Err(Failure::Usage(format!("the command line is longer than {limit} bytes")));
        }
        let Ok(line) = String::from_utf8(self.line.clone()) else {
            return Err(Failure::Usage("the command line is not UTF-8 text".into()));
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
            request.terminal = self.terminal.get();
            // A command may change something: it is asked once, and only an authority that is away is waited for
            // by the one who types it again.
            let answer = async {
                if request.line.is_empty() {
                    patiently::<RunCommand, A>(&self.shared, &self.connection, request.clone()).await
                } else {
                    self.shared.ask::<RunCommand>(request.clone()).await
                }
            };
            match self.waiting(answer).await {
                Err(_) => return Err(Failure::Away),
                Ok(CommandAnswer::Output(output)) => return Ok(output),
                Ok(CommandAnswer::Input { prompt, read, limit, context }) => {
                    if request.inputs.len() == MAX_INPUTS {
                        return Err(Failure::Input("the command asked for input too often"));
                    }
                    if self.write(Some(STDERR), &prompt).await.is_err() {
                        return Err(Failure::Input("the connection ended"));
                    }
                    let left = MAX_INPUT.saturating_sub(request.inputs.iter().map(String::len).sum());
                    let limit = usize::try_from(limit).unwrap_or(left).min(left);
                    match timeout(INPUT_WITHIN, self.read(&read, limit)).await {
                        Ok(input) => request.inputs.push(input?),
                        Err(_) => return Err(Failure::Input("no input came in time")),
                    }
                    request.context = context;
                }
            }
        }
    }

    /// Awaits an answer; who sits at a terminal is shown each second that something is going on. Where the answer itself will
    /// be: ssh does not keep the order of two streams, and one would be erased by the other.
    async fn waiting<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        let mut waiting = Waiting::default();
        loop {
            let line = tokio::select! {
                answer = &mut answer => {
                    // Whoever is gone is noticed when the answer is written.
                    let _ = self.write(None, &waiting.over()).await;
                    return answer;
                }
                () = sleep(Duration::from_secs(1)), if self.terminal.get().is_some() => waiting.second(),
            };
            let _ = self.write(None, &line).await;
        }
    }

    async fn read(&self, what: &Read, limit: usize) -> Result<String, Failure> {
        match what {
            Read::Line if self.terminal.get().is_some() => self.read_line(limit).await,
            Read::Line | Read::All => self.read_all(limit).await,
            // It would be one of this machine, not of the one who asks.
            Read::File(_) => Err(Failure::Usage("a gateway reads no files; give it on standard input".into())),
        }
    }

    async fn read_all(&self, limit: usize) -> Result<String, Failure> {
        let mut input = Vec::new();
        while let Some(data) = self.inlet.next().await {
            if input.len() + data.len() > limit {
                self.shared.metrics.refused(Bound::Input);
                return Err(Failure::Usage(format!("the input is longer than {limit} bytes")));
            }
            input.extend_from_slice(&data);
        }
        text(input)
    }

    async fn read_line(&self, limit: usize) -> Result<String, Failure> {
        let mut editor = LineEditor::new(limit);
        while let Some(data) = self.inlet.next().await {
            let ended = data.iter().map(|byte| editor.byte(*byte)).find(|typed| *typed != Typed::More);
            let echo = editor.take_echo();
            if !echo.is_empty() && self.channel.data_bytes(echo).await.is_err() {
                return Err(Failure::Input("the connection ended"));
            }
            match ended {
                None | Some(Typed::More) => {}
                Some(Typed::Done) => break,
                Some(Typed::Interrupted) => return Err(Failure::Interrupted),
            }
        }
        text(editor.into_line())
    }

    async fn answer(&self, output: &Output) -> Result<(), russh::Error> {
        self.write(None, &output.stdout).await?;
        self.write_bytes(None, output.binary.0.clone()).await?;
        self.write(Some(STDERR), &output.stderr).await?;
        self.channel.eof().await?;
        self.channel.exit_status(output.exit.into()).await?;
        self.channel.close().await
    }

    /// Writes within the peer's window, waiting for it; a peer that stops reading stops this task only.
    async fn write(&self, stream: Option<u32>, text: &str) -> Result<(), russh::Error> {
        if text.is_empty() {
            return Ok(());
        }
        let bytes = match self.terminal.get() {
            // A terminal in raw mode does not return its carriage by itself.
            Some(_) => text.replace("\r\n", "\n").replace('\n', "\r\n").into_bytes(),
            None => text.as_bytes().to_vec(),
        };
        self.write_bytes(stream, bytes).await
    }

    async fn write_bytes(&self, stream: Option<u32>, bytes: Vec<u8>) -> Result<(), russh::Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let write = async {
            self.connection.backlog.little().await;
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

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|_| Failure::Usage("the input is not UTF-8 text".into()))
}
