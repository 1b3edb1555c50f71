//! The HTTP endpoint: `/metrics` for Prometheus, `/healthz`, and a page with links to both.
//!
//! Any client that reaches the address may connect, so none may cost much or hinder another: one
//! request a connection, small headers, and limits on time, number and memory.

mod scrapes;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use self::scrapes::Scrapes;
use super::Exporter;

/// What is served.
pub struct Endpoint {
    /// Gives the metrics.
    pub exporter: Exporter,
    /// Whether monitoring works, or why it does not.
    pub health: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// Why metrics cannot be served.
#[derive(Debug, Error)]
pub enum HttpError {
    /// Another socket listens there.
    #[error(
        "metrics address {0} is in use: stop the process that listens there (`ss -tlnp`), choose another address with \
         --listen ADDR:PORT, or serve no metrics with --listen none"
    )]
    InUse(SocketAddr),
    /// This host does not have the address.
    #[error(
        "metrics address {0} is none of this host's: choose one that `ip address` lists with --listen ADDR:PORT, or \
         0.0.0.0 or [::] for all of them"
    )]
    NotLocal(SocketAddr),
    /// The port is privileged.
    #[error(
        "metrics address {0} may not be used: choose a port from 1024 up with --listen ADDR:PORT, or add CAP_NET_BIND_SERVICE"
    )]
    NotPermitted(SocketAddr),
    /// Anything else.
    #[error("metrics cannot be served on {address}: {cause}; choose another address with --listen ADDR:PORT")]
    Failed {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        cause: io::Error,
    },
}

/// Begins to listen. Connections wait until [`serve`] takes them.
///
/// # Errors
///
/// If the address cannot be listened on; the message says what to do.
pub fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let listen = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().map_err(|cause: io::Error| {
        let kind = cause.kind();
        if kind == ErrorKind::AddrInUse {
            HttpError::InUse(address)
        } else if kind == ErrorKind::AddrNotAvailable {
            HttpError::NotLocal(address)
        } else if kind == ErrorKind::PermissionDenied {
            HttpError::NotPermitted(address)
        } else {
            HttpError::Failed { address, cause }
        }
    })
}

/// Answers requests until `shutdown` is ready, then lets the answers that are under way end, for at
/// most half a second.
///
/// # Errors
///
/// If the listener does not fit into the running tokio runtime, which must have I/O and time
/// enabled.
pub async fn serve(
    listener: TcpListener,
    endpoint: Endpoint,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    serve_within(LIMITS, listener, endpoint, shutdown).await
}

/// What a client may take.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections at once; one more ends the oldest.
    connections: usize,
    /// Until the request has arrived.
    request: Duration,
    /// Until the response has been taken.
    connection: Duration,
    /// For both, once the agent stops.
    shutdown: Duration,
    /// Responses of `/metrics` in memory.
    expositions: usize,
    /// How long a scrape waits for a slow reader before it replaces that one.
    patience: Duration,
}

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    endpoint: Endpoint,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let pages = Arc::new(Pages::start(limits, endpoint));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();

    let accept_all = async {
        let mut oldest_first = VecDeque::<AbortHandle>::new();
        loop {
            let stream = accept(&listener).await;
            while connections.try_join_next().is_some() {}
            oldest_first.retain(|connection| !connection.is_finished());
            // The newest replaces the oldest rather than waiting: idle clients lock no other out.
            if oldest_first.len() >= limits.connections
                && let Some(oldest) = oldest_first.pop_front()
            {
                oldest.abort();
            }
            let answer = answer(stream, Arc::clone(&pages), limits, stopping.clone());
            oldest_first.push_back(connections.spawn(answer));
        }
    };
    tokio::select! {
        never = accept_all => never,
        () = shutdown => {}
    }

    stop.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    // Those that have not ended by then are dropped with the set.
    let _ = timeout(limits.shutdown, all_ended).await;
    Ok(())
}

async fn accept(listener: &tokio::net::TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                log::warn!("a connection to the metrics endpoint could not be accepted: {error}");
                // Out of file descriptors, say: trying again at once would keep a CPU busy.
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request. A client that is too slow, or speaks no HTTP, only loses its own
/// connection.
async fn answer(stream: TcpStream, pages: Arc<Pages>, limits: Limits, mut stopping: watch::Receiver<bool>) {
    let replaced = Arc::new(Notify::new());
    let respond = service_fn(|request: hyper::Request<_>| {
        let (pages, replaced) = (&pages, &replaced);
        async move { Ok::<_, Infallible>(pages.respond(request.method(), request.uri().path(), replaced).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(MAX_REQUEST)
        .keep_alive(false)
        // A client may close its sending side once it has asked.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), respond);
    let mut connection = pin!(connection);
    let ended = async {
        tokio::select! {
            result = connection.as_mut() => return result,
            _ = stopping.wait_for(|&stopping| stopping) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    let ended = tokio::select! {
        ended = timeout(limits.connection, ended) => ended,
        () = replaced.notified() => return log::debug!("metrics endpoint: a slow client was replaced by another"),
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("metrics endpoint: {error}"),
        Err(_) => log::debug!("metrics endpoint: the client was too slow"),
    }
}

/// The pages of an [`Endpoint`].
struct Pages {
    version: String,
    health: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    scrapes: Scrapes,
}

impl Pages {
    fn start(limits: Limits, endpoint: Endpoint) -> Self {
        let Endpoint { exporter, health } = endpoint;
        let version = exporter.build().version.clone();
        let scrapes = scrapes::Limits {
            expositions: limits.expositions,
            patience: limits.patience,
            requests: limits.connections,
        };
        let render = Arc::new(move || exporter.expose().map_err(|error| error.to_string()));
        Self { version, health, scrapes: Scrapes::start(scrapes, render) }
    }

    /// The response without regard to HEAD, for which hyper leaves the body out.
    async fn respond(&self, method: &Method, path: &str, replaced: &Arc<Notify>) -> Response<Full<Bytes>> {
        if !matches!(path, "/metrics" | "/healthz" | "/") {
            return text(StatusCode::NOT_FOUND, "not found: there are /metrics, /healthz and /");
        }
        if method != Method::GET && method != Method::HEAD {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/metrics" => self.metrics(replaced).await,
            "/healthz" => self.health(),
            _ => self.index(),
        }
    }

    async fn metrics(&self, replaced: &Arc<Notify>) -> Response<Full<Bytes>> {
        match self.scrapes.exposition(replaced).await {
            Ok(exposition) => response(StatusCode::OK, EXPOSITION_TYPE, exposition),
            Err(error) => failure(error),
        }
    }

    fn health(&self) -> Response<Full<Bytes>> {
        match (self.health)() {
            Ok(()) => text(StatusCode::OK, "ok"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
        }
    }

    fn index(&self) -> Response<Full<Bytes>> {
        response(StatusCode::OK, "text/html; charset=utf-8", INDEX.replace("VERSION", &self.version))
    }
}

fn failure(error: impl fmt::Display) -> Response<Full<Bytes>> {
    log::error!("scrape failed: {error}");
    text(StatusCode::INTERNAL_SERVER_ERROR, error)
}

fn text(status: StatusCode, line: impl fmt::Display) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Prometheus asks every 15 to 60 seconds and gives up after 10 by default.
const LIMITS: Limits = Limits {
    connections: 64,
    request: Duration::from_secs(5),
    connection: Duration::from_secs(30),
    shutdown: Duration::from_millis(500),
    expositions: 3,
    patience: Duration::from_secs(1),
};
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of a request line with its headers; the least that hyper allows. Prometheus sends some
/// 300.
const MAX_REQUEST: usize = 8192;
const EXPOSITION_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const INDEX: &str = "\
<!doctype html>
<html lang=\"en\">
<title>tcp-monitor</title>
<h1>tcp-monitor VERSION</h1>
<ul>
<li><a href=\"/metrics\">metrics</a>
<li><a href=\"/healthz\">health</a>
</ul>
</html>
";

#[cfg(test)]
mod tests;
