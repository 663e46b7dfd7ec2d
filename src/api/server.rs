//! The authority's sockets. Who is at the other end is known from the socket (its path and mode) and from the
//! kernel (the peer's user number), before a byte is read.

use super::{BACKUP_PATH, COMMAND_PATH, HEALTH_PATH, MAX_BODY, MAX_COMMAND, MAX_HELLO};
use crate::{
    app::{
        App, Asker,
        protocol::{
            AdminCommand, Authenticate, Call, Closed, CommandAnswer, CommandRequest, Done, EVENTS_PATH, Event, Hello,
            Join, NodeHello, NodeLook, NodeReceipt, NodeSessions, Open, PING_SECS, RunCommand,
            provisioner::{NextTasks, ReportTask},
        },
    },
    command::{self, Invocation},
};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Extension, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// What may be asked at the admin socket.
pub const ADMIN_CALLS: &[&str] = &[BACKUP_PATH, COMMAND_PATH, HEALTH_PATH];

/// Connections at one socket at a time; more have to wait to be accepted.
const MAX_CONNECTIONS: usize = 1024;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) uid: u32,
}

/// Which users may connect to a socket, beside root and the user that the authority runs as.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Their user numbers.
    pub uids: Vec<u32>,
}

impl Allowed {
    fn may_connect(&self, uid: u32) -> bool {
        uid == 0 || uid == rustix::process::geteuid().as_raw() || self.uids.contains(&uid)
    }
}

/// Serves operators until `stop`.
pub async fn serve_admin(app: Arc<App>, listener: UnixListener, allowed: Allowed, stop: CancellationToken) {
    let router = Router::new()
        .route(COMMAND_PATH, post(admin_command).layer(DefaultBodyLimit::max(MAX_COMMAND)))
        .route(BACKUP_PATH, post(super::backup::serve))
        .route(HEALTH_PATH, get(async || StatusCode::OK))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app);
    serve(router, listener, "admin", allowed, stop).await;
}

/// Serves gateways until `stop`.
pub async fn serve_gateway(app: Arc<App>, listener: UnixListener, allowed: Allowed, stop: CancellationToken) {
    let router = Router::new()
        .route(
            Authenticate::PATH,
            post(async |State(app): State<Arc<App>>, Json(r)| whole(async move { app.authenticate(r).await }).await),
        )
        .route(RunCommand::PATH, post(gateway_command))
        .route(
            Open::PATH,
            post(async |State(app): State<Arc<App>>, Json(r)| whole(async move { app.open(r).await }).await),
        )
        .route(
            Closed::PATH,
            post(async |State(app): State<Arc<App>>, Json(r)| {
                whole(async move {
                    app.closed(r).await;
                    Done {}
                })
                .await
            }),
        )
        .route(
            Join::PATH,
            post(async |State(app): State<Arc<App>>, Json(r)| whole(async move { app.join(r).await }).await),
        )
        .route(NodeHello::PATH, post(node_hello))
        .route(
            NodeLook::PATH,
            post(async |State(app): State<Arc<App>>, Json(r)| whole(async move { app.node_look(r).await }).await),
        )
        .route(
            NodeReceipt::PATH,
            post(async |State(app): State<Arc<App>>, Json(r)| {
                app.node_receipt(r);
                Json(Done {})
            }),
        )
        .route(
            NodeSessions::PATH,
            post(async |State(app): State<Arc<App>>, Json(r)| {
                app.node_sessions(r);
                Json(Done {})
            }),
        )
        .route(EVENTS_PATH, post(events).layer(DefaultBodyLimit::max(MAX_HELLO)))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app);
    serve(router, listener, "gateway", allowed, stop).await;
}

/// Serves the provisioner until `stop`.
pub async fn serve_provisioner(app: Arc<App>, listener: UnixListener, allowed: Allowed, stop: CancellationToken) {
    let router = Router::new()
        // Not done to its end: that the one who asks has hung up is how it is known to be gone.
        .route(NextTasks::PATH, post(async |State(app): State<Arc<App>>, Json(r)| Json(app.next_tasks(r).await)))
        .route(ReportTask::PATH, post(report_task))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app);
    serve(router, listener, "provisioner", allowed, stop).await;
}

async fn serve(
    router: Router,
    listener: UnixListener,
    socket: &'static str,
    allowed: Allowed,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            place = places.clone().acquire_owned() => match place {
                Ok(place) => tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.map(|(stream, _)| (stream, place)),
                },
                Err(_) => return,
            },
        };
        match accepted {
            Ok((stream, place)) => {
                let Some(peer) = admit(&stream, socket, &allowed) else { continue };
                let (router, stop) = (router.clone().layer(Extension(peer)), stop.clone());
                tokio::spawn(async move {
                    connection(router, stream, stop).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: others will close theirs.
            Err(error) => {
                tracing::error!(socket, %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(stream: &UnixStream, socket: &'static str, allowed: &Allowed) -> Option<Peer> {
    let uid = stream.peer_cred().ok()?.uid();
    if allowed.may_connect(uid) {
        return Some(Peer { uid });
    }
    tracing::warn!(socket, uid, "a connection was refused: this user may not use this socket");
    None
}

async fn connection(router: Router, stream: UnixStream, stop: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = stop.cancelled() => {
            // What is being answered is finished, for a moment; event streams would never be.
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(Duration::from_secs(2), serving).await {
                Ok(outcome) => outcome,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a local connection ended");
    }
}

/// Does what was asked to its end, also when the one who asked goes away meanwhile: hyper drops a handler with its
/// connection, and a change that is durable must also be acted upon.
async fn whole<T: Serialize + Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<Json<T>, StatusCode> {
    tokio::spawn(work).await.map(Json).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

async fn admin_command(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Json(request): Json<AdminCommand>,
) -> Result<Json<CommandAnswer>, StatusCode> {
    let AdminCommand { words, terminal, inputs, context } = request;
    let asker = Asker::Operator { uid: peer.uid };
    whole(async move { command::run(&app, &asker, Invocation { words, terminal, inputs, context }).await }).await
}

async fn gateway_command(
    State(app): State<Arc<App>>,
    Json(request): Json<CommandRequest>,
) -> Result<Json<CommandAnswer>, StatusCode> {
    let CommandRequest { connection, peer, credential, line, terminal, inputs, context } = request;
    let asker = Asker::Account { credential, peer, connection };
    whole(async move { command::run_line(&app, &asker, &line, terminal, inputs, context).await }).await
}

async fn report_task(
    State(app): State<Arc<App>>,
    Json(report): Json<<ReportTask as Call>::Request>,
) -> Result<Json<Done>, StatusCode> {
    let Json(kept) = whole(async move {
        let kept = app.report_task(report).await;
        kept.inspect_err(|error| tracing::error!(%error, "a report of the provisioner could not be kept")).is_ok()
    })
    .await?;
    if kept { Ok(Json(Done {})) } else { Err(StatusCode::SERVICE_UNAVAILABLE) }
}

async fn node_hello(
    State(app): State<Arc<App>>,
    Json(request): Json<<NodeHello as Call>::Request>,
) -> Result<Json<<NodeHello as Call>::Answer>, StatusCode> {
    app.node_hello(request).await.map(Json).map_err(|error| {
        tracing::error!(%error, "a node's hello could not be answered");
        StatusCode::SERVICE_UNAVAILABLE
    })
}

/// Sends what happens, one JSON object a line, and a ping when nothing does.
async fn events(State(app): State<Arc<App>>, Json(hello): Json<Hello>) -> Response {
    struct Open {
        app: Arc<App>,
        stream: crate::app::Stream,
    }

    impl Drop for Open {
        fn drop(&mut self) {
            self.app.goodbye(&self.stream);
        }
    }

    let open = Open { stream: app.hello(hello), app };
    let lines = stream::unfold(open, async |mut open| {
        let event = match tokio::time::timeout(Duration::from_secs(PING_SECS), open.stream.events.recv()).await {
            Ok(Some(event)) => event,
            // The hub has dropped this stream: the gateway did not read, or has opened another one.
            Ok(None) => return None,
            Err(_) => Event::Ping,
        };
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), open))
    });
    Body::from_stream(lines).into_response()
}
