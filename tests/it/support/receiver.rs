//! A webhook receiver that answers as a test tells it and remembers every call.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use postern::outlet::webhook::signature;
use postern::runtime::Clock;

/// One call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method and path.
    pub line: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Instant,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
    }

    /// Which event it was, as `support::event` numbers them.
    pub fn number(&self) -> i64 {
        super::number(self.header("webhook-id"))
    }

    pub fn attempt(&self) -> i64 {
        self.header("webhook-attempt").parse().unwrap()
    }

    pub fn verifies(&self, secret: &str) -> bool {
        let now = Clock::system().now_micros() / 1_000_000;
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        signature::verify(secret, id, time, &self.body, self.header("webhook-signature"), now, 300)
    }
}

/// What a call is answered with.
pub enum Answer {
    Status(u16),
    With(u16, Vec<(&'static str, String)>, String),
    /// Never.
    Hang,
}

type Script = Arc<dyn Fn(&Call) -> Answer + Send + Sync>;

#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    script: Arc<Mutex<Script>>,
}

impl Receiver {
    pub async fn start(script: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Self { url, calls: Arc::default(), script: Arc::new(Mutex::new(Arc::new(script))) };
        let router = Router::new().fallback(take).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    /// Answers differently from now on.
    pub fn now(&self, script: impl Fn(&Call) -> Answer + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub fn numbers(&self) -> Vec<i64> {
        self.calls.lock().unwrap().iter().map(Call::number).collect()
    }

    /// Waits for so many calls and gives them.
    pub async fn wait(&self, count: usize) -> Vec<Call> {
        super::wait_for("calls", || async { Some(self.calls()).filter(|calls| calls.len() >= count) }).await
    }
}

async fn take(State(receiver): State<Receiver>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let call = Call { line: format!("{method} {uri}"), headers, body, at: Instant::now() };
    let script = Arc::clone(&receiver.script.lock().unwrap());
    let answer = script(&call);
    receiver.calls.lock().unwrap().push(call);
    match answer {
        Answer::Status(status) => axum::http::StatusCode::from_u16(status).unwrap().into_response(),
        Answer::With(status, headers, body) => {
            let mut response = (axum::http::StatusCode::from_u16(status).unwrap(), body).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        }
        Answer::Hang => {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            ().into_response()
        }
    }
}
