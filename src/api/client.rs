//! The clients of both sockets.

use super::{BACKUP_PATH, COMMAND_PATH};
use crate::app::{
    authority::{Authority, Console, EventStream, Unreachable},
    protocol::{AdminCommand, BackupRequest, Call, CommandAnswer, EVENTS_PATH, Event, Hello, Refusal},
};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
    thread::{self, ThreadId},
    time::Duration,
};
use tokio::net::UnixStream;

/// The longest that an answer may take, a group commit on a slow disk included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that an operator's command may take: `--wait` waits for nodes.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections that each thread keeps for its next question: another's answers would come by way of that one. With as
/// many threads as a gateway may have, several gateways together keep fewer than the authority takes.
const KEPT: usize = 8;
/// The longest event: a bundle of the largest size, escaped once more.
const MAX_EVENT: usize = 3 * crate::bundle::MAX_BUNDLE_BYTES;

type Sender = http1::SendRequest<Full<Bytes>>;

/// The authority, over its gateway socket.
#[derive(Debug)]
pub struct GatewayClient {
    path: PathBuf,
    idle: Mutex<HashMap<ThreadId, Vec<Sender>>>,
}

impl GatewayClient {
    /// For a socket. Connects when it is first asked something.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default() }
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let idle = idle.get_mut(&thread::current().id())?;
        // The authority may have been restarted: closed ones are dropped on the way.
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let idle = idle.entry(thread::current().id()).or_default();
        if idle.len() < KEPT {
            idle.push(sender);
        }
    }

    async fn ask<Q: Serialize + Sync, A: DeserializeOwned>(&self, path: &str, request: &Q) -> Result<A, Unreachable> {
        let body = Bytes::from(serde_json::to_vec(request).map_err(unreachable)?);
        let mut request = post(path, body)?;
        // A kept connection may have been closed by a restart of the authority. Only what was never sent is sent
        // again: nothing is asked twice.
        if let Some(mut sender) = self.take() {
            match sender.try_send_request(request).await {
                Ok(answer) => return self.finish(sender, answer).await,
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(unreachable(error.into_error())),
                },
            }
        }
        let mut sender = connect(&self.path).await?;
        let answer = sender.send_request(request).await.map_err(unreachable)?;
        self.finish(sender, answer).await
    }

    async fn finish<A: DeserializeOwned>(&self, sender: Sender, answer: Response<Incoming>) -> Result<A, Unreachable> {
        let answer = read(answer).await?;
        self.keep(sender);
        Ok(answer)
    }
}

impl Authority for GatewayClient {
    type Events = Events;

    async fn call<C: Call>(&self, request: C::Request) -> Result<C::Answer, Unreachable> {
        let limit = if C::PATH == crate::app::protocol::RunCommand::PATH { COMMAND_TIMEOUT } else { TIMEOUT };
        let asking = self.ask(C::PATH, &request);
        tokio::time::timeout(limit, asking).await.map_err(|_| Unreachable("it did not answer in time".into()))?
    }

    async fn events(&self, hello: Hello) -> Result<Events, Unreachable> {
        let body = Bytes::from(serde_json::to_vec(&hello).map_err(unreachable)?);
        let opening = async {
            let mut sender = connect(&self.path).await?;
            let response = sender.send_request(post(EVENTS_PATH, body)?).await.map_err(unreachable)?;
            if !response.status().is_success() {
                return Err(Unreachable(format!("it answered {}", response.status())));
            }
            Ok(Events { body: response.into_body(), buffer: BytesMut::new(), searched: 0, _sender: sender })
        };
        tokio::time::timeout(TIMEOUT, opening).await.map_err(|_| Unreachable("it did not answer in time".into()))?
    }
}

/// The event stream.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no end of line: a bundle comes in many pieces.
    searched: usize,
    /// Dropping it would close the connection.
    _sender: Sender,
}

impl EventStream for Events {
    async fn next(&mut self) -> Result<Event, Unreachable> {
        loop {
            let unsearched = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                match serde_json::from_slice(&line) {
                    Ok(event) => return Ok(event),
                    // An authority is upgraded before its gateways, and those that drain beside their successors live on
                    // for a day: what they do not know is not for them.
                    Err(error) if serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok() => {
                        tracing::warn!(action = "events", outcome = "an event that this gateway does not know", %error);
                        continue;
                    }
                    Err(error) => return Err(unreachable(error)),
                }
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_EVENT {
                return Err(Unreachable("an event is too long".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(unreachable(error)),
                None => return Err(Unreachable("it closed the event stream".into())),
            }
        }
    }
}

/// The authority, over its admin socket.
#[derive(Clone, Debug)]
pub struct AdminClient(PathBuf);

impl AdminClient {
    /// For a socket.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Console for AdminClient {
    async fn backup(&self, request: &BackupRequest, out: &mut dyn Write) -> Result<Result<u64, Refusal>, Unreachable> {
        let body = Bytes::from(serde_json::to_vec(request).map_err(unreachable)?);
        let mut sender = connect(&self.0).await?;
        let response = sender.send_request(post(BACKUP_PATH, body)?).await.map_err(unreachable)?;
        if response.status() == StatusCode::CONFLICT {
            let body = response.into_body().collect().await.map_err(unreachable)?.to_bytes();
            return serde_json::from_slice(&body).map(Err).map_err(unreachable);
        }
        if !response.status().is_success() {
            return read(response).await.and_then(|never: serde_json::Value| Err(Unreachable(never.to_string())));
        }
        let (mut body, mut length) = (response.into_body(), 0);
        while let Some(frame) = body.frame().await {
            // Where it was not finished, hyper says so here.
            if let Ok(data) = frame.map_err(unreachable)?.into_data() {
                out.write_all(&data)
                    .map_err(|error| Unreachable(format!("what it sends cannot be written: {error}")))?;
                length += data.len() as u64;
            }
        }
        Ok(Ok(length))
    }

    async fn run(&self, command: &AdminCommand) -> Result<CommandAnswer, Unreachable> {
        let body = Bytes::from(serde_json::to_vec(command).map_err(unreachable)?);
        let asking = async {
            let mut sender = connect(&self.0).await?;
            read(sender.send_request(post(COMMAND_PATH, body)?).await.map_err(unreachable)?).await
        };
        let answered = tokio::time::timeout(COMMAND_TIMEOUT, asking).await;
        answered.map_err(|_| Unreachable("it did not answer in time".into()))?
    }
}

async fn connect(path: &Path) -> Result<Sender, Unreachable> {
    let stream =
        UnixStream::connect(path).await.map_err(|error| Unreachable(format!("{}: {error}", path.display())))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the authority ended");
        }
    });
    Ok(sender)
}

fn post(path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Unreachable> {
    Request::post(path)
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(body))
        .map_err(unreachable)
}

async fn read<A: DeserializeOwned>(response: Response<Incoming>) -> Result<A, Unreachable> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(unreachable)?.to_bytes();
    if !status.is_success() {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        return Err(Unreachable(format!("it answered {status}: {text}")));
    }
    serde_json::from_slice(&body).map_err(unreachable)
}

fn unreachable(error: impl std::fmt::Display) -> Unreachable {
    Unreachable(error.to_string())
}
