//! What monitoring and load balancers ask, over HTTP: `/metrics`, `/health` (it runs), `/ready` (it is of use). It tells
//! numbers and the names of projects, takes no input and has no login: it listens where the operator says, loopback in
//! the shipped configuration.

use super::Shared;
use crate::app::authority::Authority;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// The format of [`super::metrics`].
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at the same time.
const CONNECTIONS: usize = 16;

/// How long a connection may last.
const WITHIN: Duration = Duration::from_secs(30);

/// Answers until `shutdown`.
pub(super) async fn serve<A: Authority>(shared: Arc<Shared<A>>, listener: TcpListener, shutdown: CancellationToken) {
    let routes = Router::new()
        .route("/metrics", get(metrics::<A>))
        .route("/health", get(|| async { "running\n" }))
        .route("/ready", get(ready::<A>))
        .with_state(shared);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // Whoever asked is gone, or was too slow.
            let _ = timeout(WITHIN, connection).await;
            drop(place);
        });
    }
}

async fn metrics<A: Authority>(State(shared): State<Arc<Shared<A>>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, OPENMETRICS)], shared.metrics.text(&shared.now()))
}

/// Whether new connections should come here.
async fn ready<A: Authority>(State(shared): State<Arc<Shared<A>>>) -> (StatusCode, &'static str) {
    let now = shared.now();
    if !now.authority {
        (StatusCode::SERVICE_UNAVAILABLE, "the authority cannot be reached\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}
