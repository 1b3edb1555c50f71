//! The endpoint over real connections, with clients that behave and clients that do not.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Endpoint, HttpError, LIMITS, Limits, bind, serve_within};
use crate::counts::Snapshot;
use crate::metrics::{BuildInfo, Exporter};

/// An endpoint on a free port of loopback, in a thread of its own, until it is dropped.
struct Server {
    address: SocketAddr,
    broken: Arc<AtomicBool>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Server {
    fn start(limits: Limits) -> Result<Self, HttpError> {
        Self::start_on(limits, "6.1")
    }

    fn start_on(limits: Limits, kernel: &str) -> Result<Self, HttpError> {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let failed = |cause| HttpError::Failed { address: (Ipv4Addr::LOCALHOST, 0).into(), cause };
        let address = listener.local_addr().map_err(failed)?;
        let broken = Arc::new(AtomicBool::new(false));
        let state = |broken: &Arc<AtomicBool>| {
            let broken = Arc::clone(broken);
            move || if broken.load(Ordering::SeqCst) { Err("map is gone".to_owned()) } else { Ok(()) }
        };
        let (readable, healthy) = (state(&broken), state(&broken));
        let build = BuildInfo { version: "1.2.3".to_owned(), kernel: kernel.to_owned() };
        let exporter = Exporter::new(Box::new(move || readable().map(|()| Snapshot::default())), build);
        let endpoint = Endpoint { exporter, health: Box::new(healthy) };
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(serve_within(limits, listener, endpoint, async {
                let _ = stopped.await;
            }))
        });
        Ok(Self { address, broken, stop: Some(stop), thread: Some(thread) })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// The whole response to `request`, read to the end of the connection.
    fn exchange(&self, request: &str) -> io::Result<String> {
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes())?;
        read_to_end(&mut stream)
    }

    fn get(&self, path: &str) -> io::Result<String> {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            assert!(matches!(thread.join(), Ok(Ok(()))), "the server failed");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_to_end(stream: &mut TcpStream) -> io::Result<String> {
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn metrics_are_served_in_the_text_format() -> Result<(), Box<dyn std::error::Error>> {
    let response = Server::start(LIMITS)?.get("/metrics")?;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(
        response.contains("\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
        "{response}"
    );
    assert!(
        body(&response).contains("\ntcp_monitor_build_info{version=\"1.2.3\",kernel=\"6.1\"} 1\n"),
        "{response}"
    );
    Ok(())
}

#[test]
fn head_has_the_headers_of_get_and_no_body() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(LIMITS)?;
    let get = server.get("/metrics")?;
    let head = server.exchange("HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    assert_eq!(body(&head), "");
    let without_date = |response: &str| {
        let (headers, _) = response.split_once("\r\n\r\n").unwrap_or_default();
        headers.lines().filter(|line| !line.starts_with("date:")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_date(&head), without_date(&get));
    assert!(head.contains(&format!("content-length: {}\r\n", body(&get).len())), "{head}");
    Ok(())
}

#[test]
fn other_paths_are_not_found_and_other_methods_not_allowed() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(LIMITS)?;
    for path in ["/metric", "/metrics/", "/healthz/x", "//", "/%2e"] {
        assert!(server.get(path)?.starts_with("HTTP/1.1 404 Not Found\r\n"), "{path}");
    }
    assert!(server.get("/metrics?x=y")?.starts_with("HTTP/1.1 200 OK\r\n"));
    for method in ["POST", "DELETE", "OPTIONS", "BREW"] {
        let response = server.exchange(&format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"))?;
        assert!(response.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{response}");
        assert!(response.contains("\r\nallow: GET, HEAD\r\n"), "{response}");
    }
    Ok(())
}

#[test]
fn the_first_page_links_to_the_others() -> Result<(), Box<dyn std::error::Error>> {
    let response = Server::start(LIMITS)?.get("/")?;
    assert!(response.contains("\r\ncontent-type: text/html; charset=utf-8\r\n"), "{response}");
    for part in ["tcp-monitor 1.2.3", "href=\"/metrics\"", "href=\"/healthz\""] {
        assert!(body(&response).contains(part), "{response}");
    }
    Ok(())
}

#[test]
fn counters_that_cannot_be_read_are_an_error_with_a_reason_and_no_zeros()
-> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(LIMITS)?;
    assert_eq!(body(&server.get("/healthz")?), "ok\n");
    server.broken.store(true, Ordering::SeqCst);
    let metrics = server.get("/metrics")?;
    assert!(metrics.starts_with("HTTP/1.1 500 Internal Server Error\r\n"), "{metrics}");
    assert_eq!(body(&metrics), "the counters of the kernel programs could not be read: map is gone\n");
    let health = server.get("/healthz")?;
    assert!(health.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{health}");
    assert_eq!(body(&health), "map is gone\n");
    server.broken.store(false, Ordering::SeqCst);
    assert!(server.get("/metrics")?.starts_with("HTTP/1.1 200 OK\r\n"));
    Ok(())
}

#[test]
fn silent_and_half_finished_clients_do_not_hinder_others() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(Limits { connections: 4, ..PATIENT })?;
    let _silent = server.connect()?;
    let mut half = server.connect()?;
    half.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc")?;
    let mut gone = server.connect()?;
    gone.write_all(b"GET /me")?;
    drop(gone);
    assert!(server.get("/metrics")?.starts_with("HTTP/1.1 200 OK\r\n"));
    half.write_all(b"alhost\r\n\r\n")?;
    assert!(read_to_end(&mut half)?.starts_with("HTTP/1.1 200 OK\r\n"));
    Ok(())
}

#[test]
fn clients_that_take_every_place_lose_the_oldest_first() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(Limits { connections: 2, ..PATIENT })?;
    let mut silent = [server.connect()?, server.connect()?];
    assert!(server.get("/metrics")?.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(read_to_end(&mut silent[0])?, "");
    silent[1].write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    assert_eq!(body(&read_to_end(&mut silent[1])?), "ok\n");
    Ok(())
}

#[test]
fn a_request_that_never_ends_loses_its_connection() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(Limits { request: SHORT, ..PATIENT })?;
    let mut stream = server.connect()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\n")?;
    // Whether by an answer or without one, it ends long before the reader's patience does.
    assert!(!read_to_end(&mut stream)?.contains(" 200 "));
    Ok(())
}

#[test]
fn a_connection_ends_when_its_time_is_up() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(Limits { connection: SHORT, ..PATIENT })?;
    assert_eq!(read_to_end(&mut server.connect()?)?, "");
    Ok(())
}

#[test]
fn of_clients_that_do_not_read_only_a_few_can_hold_a_response_and_others_are_served()
-> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start_on(Limits { patience: SHORT, expositions: 2, ..PATIENT }, &"x".repeat(LARGE))?;
    let mut stuck = Vec::new();
    for _ in 0..8 {
        let mut stream = server.connect()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut start = [0; 15];
        stream.read_exact(&mut start)?;
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        stuck.push(stream);
    }
    assert_eq!(body(&server.get("/healthz")?), "ok\n");
    assert!(body(&server.get("/metrics")?).len() > LARGE);
    let whole = stuck.iter_mut().filter_map(|stream| read_to_end(stream).ok());
    let whole = whole.filter(|response| response.len() > LARGE).count();
    // The good client was given one place of the two; a stuck one may have kept the other.
    assert!(whole <= 1, "{whole} responses were kept");
    Ok(())
}

#[test]
fn what_is_no_http_or_too_long_is_refused() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(LIMITS)?;
    assert!(server.exchange("\u{16}\u{3}\u{1} hello\r\n\r\n")?.starts_with("HTTP/1.1 400 Bad Request\r\n"));
    // Just what fills the buffer: a byte unread at the close would turn it into a RST, which may
    // overtake the answer.
    let start = "GET / HTTP/1.1\r\nX: ";
    let endless = format!("{start}{}", "x".repeat(super::MAX_REQUEST - start.len()));
    let response = server.exchange(&endless)?;
    assert!(response.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{response}");
    assert!(server.get("/metrics")?.starts_with("HTTP/1.1 200 OK\r\n"));
    Ok(())
}

#[test]
fn a_client_may_close_its_side_after_asking() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(LIMITS)?;
    let mut stream = server.connect()?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let response = read_to_end(&mut stream)?;
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
    Ok(())
}

#[test]
fn stopping_ends_idle_connections_and_frees_the_address() -> Result<(), Box<dyn std::error::Error>> {
    let mut server = Server::start(PATIENT)?;
    let mut silent = server.connect()?;
    assert!(server.get("/healthz")?.ends_with("ok\n"));
    let asked = Instant::now();
    server.stop();
    assert!(asked.elapsed() < PATIENT.shutdown, "{:?}", asked.elapsed());
    assert_eq!(read_to_end(&mut silent)?, "");
    assert!(TcpStream::connect(server.address).is_err());
    bind(server.address)?;
    Ok(())
}

#[test]
fn an_address_that_cannot_be_used_is_named_with_a_way_out() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::start(LIMITS)?;
    let message = |address| bind(address).map_err(|error| error.to_string()).err().unwrap_or_default();
    let taken = message(server.address);
    assert!(taken.contains(&format!("{} is in use", server.address)), "{taken}");
    assert!(taken.contains("--listen none"), "{taken}");
    // TEST-NET-1 (RFC 5737) is no host's address.
    let foreign = message((Ipv4Addr::new(192, 0, 2, 1), 9899).into());
    assert!(foreign.contains("192.0.2.1:9899 is none of this host's"), "{foreign}");
    Ok(())
}

/// No client here waits that long for anything that works.
const PATIENCE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(50);
const MINUTE: Duration = Duration::from_secs(60);
/// Limits that no test runs into, so that what ends a connection is something else.
const PATIENT: Limits = Limits {
    connections: 64,
    request: MINUTE,
    connection: MINUTE,
    shutdown: Duration::from_secs(5),
    expositions: 3,
    patience: MINUTE,
};
/// More than the socket buffers of both ends hold: 4 MB and 6 MB at most by default, each.
const LARGE: usize = 16 << 20;
