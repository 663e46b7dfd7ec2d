//! A backup, as the admin socket gives it out: while it is being written, and broken off if it cannot be written to its end.

use super::server::Peer;
use crate::app::{
    App, AppError, Asker,
    protocol::{BackupRequest, Refusal},
};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Extension, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::mpsc::{self, error::SendTimeoutError},
};

/// Pieces of a backup, of 64 KiB, that wait for whoever reads it.
const WAITING: usize = 4;

/// For so long a piece waits: no other backup is made meanwhile, and the copy takes its space.
const PATIENCE: Duration = Duration::from_secs(60);

type Piece = io::Result<Bytes>;

/// Answers with a backup.
pub(super) async fn serve(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<BackupRequest>,
) -> Response {
    let asker = Asker::Operator { uid: peer.uid };
    let BackupRequest { to, with_ca_keys } = request;
    // To its end, also when whoever asks goes away: what was decided is recorded.
    let beginning = tokio::spawn(async move { app.begin_backup(&asker, &to, with_ca_keys).await });
    let backup = match beginning.await {
        Ok(Ok(backup)) => backup,
        Ok(Err(error)) => return refused(&error).into_response(),
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    let (pieces, waiting) = mpsc::channel::<Piece>(WAITING);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { to: pieces, runtime: runtime.clone() };
        let written = match backup.write(&mut out) {
            Ok(written) => runtime.block_on(written.record()).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            tracing::error!(%error, "a backup was not made");
            // Whoever has gone away knows.
            let _ = out.to.try_send(Err(io::Error::other(error)));
        }
    });
    let pieces = stream::unfold(waiting, async |mut waiting| Some((waiting.recv().await?, waiting)));
    Body::from_stream(pieces).into_response()
}

fn refused(error: &AppError) -> (StatusCode, Json<Refusal>) {
    if error.reason().is_none() {
        tracing::error!(%error, "no backup could be made");
    }
    let reason = error.reason().map_or_else(|| "failed".to_owned(), |reason| reason.to_string());
    (StatusCode::CONFLICT, Json(Refusal { reason, message: error.to_string() }))
}

/// Where it is written to.
struct Pieces {
    to: mpsc::Sender<Piece>,
    runtime: Handle,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let gone = |what| io::Error::new(io::ErrorKind::BrokenPipe, what);
        let sending = self.to.send_timeout(Ok(Bytes::copy_from_slice(bytes)), PATIENCE);
        match self.runtime.block_on(sending) {
            Ok(()) => Ok(bytes.len()),
            Err(SendTimeoutError::Closed(_)) => Err(gone("whoever asked for it has gone away")),
            Err(SendTimeoutError::Timeout(_)) => Err(gone("whoever asked for it does not read it")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
