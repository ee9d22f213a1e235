//! Receivers that mean harm or talk nonsense, and proxies on the way: each fault stays where it belongs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::receiver::Receiver;
use crate::support::webhooks::{caught_up, command, deliveries, get, ok, own_path, register, wait_for_deliveries};
use crate::support::{Engine, Gateway, event, events};

/// Reads a request's head, perhaps with a part of its body.
async fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.windows(4).any(|part| part == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            break;
        }
    }
    head
}

/// What is written once a request has come: a beginning, then a piece again and again, or the end.
struct Script {
    start: Vec<u8>,
    again: Vec<u8>,
    pause: Duration,
    /// Leaves unread what was sent, so that the connection is reset.
    resets: bool,
}

impl Script {
    fn once(start: impl Into<Vec<u8>>) -> Self {
        Self { start: start.into(), again: Vec::new(), pause: Duration::ZERO, resets: false }
    }

    fn endless(start: &str, again: impl Into<Vec<u8>>) -> Self {
        Self { again: again.into(), ..Self::once(start) }
    }

    fn slowly(start: &str, again: &str) -> Self {
        Self { pause: Duration::from_millis(100), ..Self::endless(start, again) }
    }
}

/// Counts what it could write.
struct Hostile {
    url: String,
    written: Arc<Mutex<usize>>,
}

impl Hostile {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (script, written) = (Arc::new(script), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&written);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(play(stream, Arc::clone(&script), Arc::clone(&count)));
            }
        });
        Self { url, written }
    }

    fn written(&self) -> usize {
        *self.written.lock().unwrap()
    }
}

async fn play(mut stream: TcpStream, script: Arc<Script>, written: Arc<Mutex<usize>>) {
    if script.resets {
        // The request is there and nobody has read it: closing now is a reset.
        stream.readable().await.unwrap();
        return;
    }
    read_head(&mut stream).await;
    let mut next = &script.start;
    while stream.write_all(next).await.is_ok() {
        *written.lock().unwrap() += next.len();
        if script.again.is_empty() {
            break;
        }
        next = &script.again;
        tokio::time::sleep(script.pause).await;
    }
}

/// The webhook's only attempt: what the log says, once it is there.
async fn first_attempt(gateway: &Gateway, webhook: &Value) -> Value {
    wait_for_deliveries(gateway, webhook, "failing", 1).await;
    let path = format!("{}/deliveries/{}", own_path(webhook), event(1).id);
    get(gateway, &path).await["log"][0].clone()
}

/// Lets each of them have one event, with a healthy receiver beside them, and compares what the attempts came to.
async fn each_comes_to(cases: Vec<(&str, Script, &str)>) {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    let healthy = register(&gateway, json!({"url": receiver.url})).await;
    let mut all = Vec::new();
    for (name, script, class) in cases {
        let hostile = Hostile::start(script).await;
        let body = json!({"url": hostile.url, "retry": ["2h"], "filter": {"aggregateIds": ["cart-1"]}});
        all.push((name, register(&gateway, body).await, hostile, class));
    }
    gateway.append(events(1..=1)).await;
    // These have one event each; the healthy one goes on.
    gateway.append(events(2..=10)).await;
    caught_up(&gateway, &healthy).await;
    assert_eq!(receiver.calls().len(), 10);
    for (name, webhook, hostile, class) in all {
        let log = first_attempt(&gateway, &webhook).await;
        assert_eq!(log["error"], class, "{name}: {log}");
        assert!(log["answer"].as_str().unwrap_or_default().len() <= 4096, "{name}");
        let shown = get(&gateway, &own_path(&webhook)).await;
        assert_eq!((&shown["status"], &shown["undelivered"]), (&json!("failing"), &json!(1)), "{name}");
        // What fits into the buffers of the kernel on both sides, and no more.
        assert!(hostile.written() < 32 * 1024 * 1024, "{name} wrote {}", hostile.written());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_an_end_are_cut_off() {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let (block, line) = (vec![b'a'; 64 * 1024], format!("x-a: {}\r\n", "a".repeat(1000)));
    let chunk = format!("1000\r\n{}\r\n", "a".repeat(4096));
    each_comes_to(vec![
        ("headers without end", Script::endless(OK, line), "too_large"),
        ("small headers without end", Script::endless(OK, "a: b\r\n".repeat(100)), "too_large"),
        ("a header line without end", Script::endless("HTTP/1.1 200 OK\r\nx: ", block.clone()), "too_large"),
        ("a status line without end", Script::endless("HTTP/1.1 200 ", block.clone()), "too_large"),
        ("a body without end", Script::endless("HTTP/1.1 200 OK\r\n\r\n", block.clone()), "too_large"),
        ("chunks without end", Script::endless(CHUNKED, chunk.clone()), "too_large"),
        ("chunks without end of a refusal", Script::endless(&CHUNKED.replace("200", "500"), chunk), "status"),
        ("trailers without end", Script::endless(&format!("{CHUNKED}0\r\n"), "a: b\r\n".repeat(100)), "protocol"),
        ("a chunk extension without end", Script::endless(&format!("{CHUNKED}1;"), block), "protocol"),
    ])
    .await;
}

#[tokio::test]
async fn answers_that_are_no_http_are_faults_of_the_protocol() {
    let mut reset = Script::once("");
    reset.resets = true;
    each_comes_to(vec![
        ("a reset", reset, "protocol"),
        ("nothing at all", Script::once(""), "protocol"),
        ("garbage", Script::once(b"\x00\xffSSH-2.0-OpenSSH\r\n\r\n".as_slice()), "protocol"),
        ("a page without headers", Script::once("<html>hi</html>\r\n\r\n"), "protocol"),
        ("half a head", Script::once("HTTP/1.1 200 OK\r\ncontent-le"), "protocol"),
        ("too short a body", Script::once("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"), "protocol"),
        ("a negative length", Script::once("HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"), "protocol"),
        (
            "two lengths",
            Script::once("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhellos"),
            "protocol",
        ),
        (
            "a length that is no number",
            Script::once(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", "9".repeat(40))),
            "protocol",
        ),
        (
            "a chunk that is none",
            Script::once("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"),
            "protocol",
        ),
        ("status 0", Script::once("HTTP/1.1 000 Odd\r\ncontent-length: 0\r\n\r\n"), "protocol"),
        ("status 999", Script::once("HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n"), "status"),
        (
            "another protocol",
            Script::once("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            "status",
        ),
        (
            "a redirect inside",
            Script::once("HTTP/1.1 307 T\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"),
            "redirect",
        ),
        (
            "a redirect to nowhere",
            Script::once("HTTP/1.1 301 T\r\nlocation: ::::\r\ncontent-length: 0\r\n\r\n"),
            "redirect",
        ),
    ])
    .await;
}

/// The one test that waits until a call has taken too long: 15 seconds.
#[tokio::test]
async fn answers_that_trickle_run_out_of_time() {
    let body = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    each_comes_to(vec![
        ("a slow head", Script::slowly("HTTP/1.1 200 OK\r\nx: ", "a"), "timeout"),
        ("a slow body", Script::slowly(body, "a"), "timeout"),
        ("early hints without end", Script::slowly("", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"), "timeout"),
        ("`continue` without end", Script::slowly("", "HTTP/1.1 100 Continue\r\n\r\n"), "timeout"),
    ])
    .await;
}

#[tokio::test]
async fn what_is_packed_stays_packed() {
    use std::io::Write as _;
    let gateway = Gateway::start().await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..40 {
        packed.write_all(&vec![0; 1024 * 1024]).unwrap();
    }
    let packed = packed.finish().unwrap();
    assert!(packed.len() < 64 * 1024, "what is read of an answer at most");
    let head = format!("HTTP/1.1 500 No\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len());
    let hostile = Hostile::start(Script::once([head.as_bytes(), &packed].concat())).await;
    let webhook = register(&gateway, json!({"url": hostile.url, "retry": ["2h"]})).await;
    gateway.append(events(1..=1)).await;
    let log = first_attempt(&gateway, &webhook).await;
    assert_eq!((&log["error"], &log["status"]), (&json!("status"), &json!(500)), "not too large: it was not inflated");
    assert!(log["answer"].as_str().unwrap().starts_with('\u{1f}'), "the bytes as they came");
}

/// A proxy of one of three kinds, which remembers whom it was asked for.
struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Plain requests, with the whole URL in their first line, and `CONNECT`.
    Http,
    Socks,
}

impl Kind {
    fn scheme(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks => "socks5",
        }
    }
}

/// A port that is taken, and where nobody listens yet.
fn taken() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

impl Proxy {
    fn start(kind: Kind, socket: TcpSocket) -> Self {
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let list = Arc::clone(&list);
                tokio::spawn(async move {
                    let _ = match kind {
                        Kind::Http => pass_http(stream, &list).await,
                        Kind::Socks => pass_socks(stream, &list).await,
                    };
                });
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn pass_http(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let head = read_head(&mut client).await;
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    asked.lock().unwrap().push(line.clone());
    let mut parts = line.split(' ');
    let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if method == "CONNECT" {
        let Ok(mut server) = TcpStream::connect(target).await else {
            return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
        };
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        return copy_bidirectional(&mut client, &mut server).await.map(|_| ());
    }
    let (authority, path) = target.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap_or_default();
    let mut server = TcpStream::connect(authority).await?;
    // What follows on this connection is for the same receiver, which takes whole URLs, too.
    server.write_all(text.replacen(target, &format!("/{path}"), 1).as_bytes()).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

/// RFC 1928 without authentication, for IPv4 addresses and names.
async fn pass_socks(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let methods = usize::from(read(&mut client, 2).await?[1]);
    read(&mut client, methods).await?;
    client.write_all(&[5, 0]).await?;
    let host = match read(&mut client, 4).await?[3] {
        1 => read(&mut client, 4).await?.iter().map(u8::to_string).collect::<Vec<String>>().join("."),
        _ => {
            let length = usize::from(read(&mut client, 1).await?[0]);
            String::from_utf8_lossy(&read(&mut client, length).await?).into_owned()
        }
    };
    let port = read(&mut client, 2).await?;
    let target = format!("{host}:{}", u16::from_be_bytes([port[0], port[1]]));
    asked.lock().unwrap().push(target.clone());
    let Ok(mut server) = TcpStream::connect(target).await else {
        // Connection refused.
        return client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    };
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

async fn read(stream: &mut TcpStream, count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn behind(kind: Kind, address: SocketAddr) -> Gateway {
    let config = format!("[webhooks]\nallow = [\"127.0.0.1\"]\nproxy = \"{}://{address}\"\n", kind.scheme());
    Gateway::start_with(Engine::Sqlite, &config).await
}

#[tokio::test]
async fn calls_arrive_through_a_proxy() {
    for kind in [Kind::Http, Kind::Socks] {
        let proxy = Proxy::start(kind, taken().0);
        let gateway = behind(kind, proxy.address).await;
        let receiver = Receiver::start(ok).await;
        let webhook = register(&gateway, json!({"url": receiver.url})).await;
        gateway.append(events(1..=5)).await;
        caught_up(&gateway, &webhook).await;
        let calls = receiver.calls();
        assert_eq!(calls.len(), 5, "{kind:?}");
        assert!(
            calls.iter().all(|call| call.verifies(webhook["secret"].as_str().unwrap()) && call.line.ends_with("/hook"))
        );
        let authority = receiver.url.strip_prefix("http://").unwrap().strip_suffix("/hook").unwrap().to_owned();
        assert!(!proxy.asked().is_empty() && proxy.asked().iter().all(|line| line.contains(&authority)));
        assert!(calls.iter().all(|call| call.header("host") == authority));
    }
}

#[tokio::test]
async fn https_goes_through_a_tunnel() {
    let proxy = Proxy::start(Kind::Http, taken().0);
    let gateway = behind(Kind::Http, proxy.address).await;
    let receiver = Receiver::start(ok).await;
    // It speaks no TLS: that fault is the receiver's, seen through the tunnel.
    let url = receiver.url.replace("http:", "https:");
    let webhook = register(&gateway, json!({"url": url, "retry": ["2h"]})).await;
    gateway.append(events(1..=1)).await;
    assert_eq!(first_attempt(&gateway, &webhook).await["error"], "tls");
    assert!(proxy.asked()[0].starts_with("CONNECT 127.0.0.1:"), "{:?}", proxy.asked());
}

#[tokio::test]
async fn a_proxy_that_is_down_is_waited_for_and_is_no_fault_of_the_receiver() {
    for kind in [Kind::Http, Kind::Socks] {
        let (socket, address) = taken();
        let gateway = behind(kind, address).await;
        let receiver = Receiver::start(ok).await;
        let webhook = register(&gateway, json!({"url": receiver.url, "retry": ["2h"]})).await;
        gateway.append(events(1..=3)).await;
        // Long enough for the first call to be refused: `Test` says so by itself.
        let told = command(&gateway, &own_path(&webhook), "Test").await;
        assert_eq!(told["delivered"], false, "{kind:?}");
        let shown = get(&gateway, &own_path(&webhook)).await;
        assert_eq!(shown["status"], "active", "{kind:?}");
        assert!(deliveries(&gateway, &webhook, "failing").await.is_empty());
        let proxy = Proxy::start(kind, socket);
        caught_up(&gateway, &webhook).await;
        let mut called = receiver.numbers();
        called.sort_unstable();
        assert_eq!(called, [1, 2, 3], "{kind:?}");
        assert!(receiver.calls().iter().all(|call| call.attempt() == 1) && !proxy.asked().is_empty());
    }
}

#[tokio::test]
async fn a_receiver_that_is_down_fails_behind_a_proxy_as_it_does_without() {
    for kind in [Kind::Http, Kind::Socks] {
        let proxy = Proxy::start(kind, taken().0);
        let gateway = behind(kind, proxy.address).await;
        let (_socket, nobody) = taken();
        let scheme = if kind == Kind::Http { "https" } else { "http" };
        let webhook = register(&gateway, json!({"url": format!("{scheme}://{nobody}/"), "retry": ["2h"]})).await;
        gateway.append(events(1..=1)).await;
        let failing = wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
        assert_eq!(failing[0]["attempts"], 1, "{kind:?}");
    }
}

#[tokio::test]
async fn a_proxy_opens_no_way_to_its_own_host() {
    let proxy = Proxy::start(Kind::Http, taken().0);
    let config = format!("[webhooks]\nallow = []\nproxy = \"http://{}\"\n", proxy.address);
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    let receiver = Receiver::start(ok).await;
    let refused = gateway.post_json("/webhooks", &json!({"url": receiver.url})).await;
    assert_eq!(refused.status(), 422, "the proxy may be called, its neighbours may not");
    assert!(receiver.calls().is_empty());
    assert!(proxy.asked().is_empty());
}
