//! Receivers that answer every call with 200 and nothing, and count. Their time is not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpStream;

use crate::http::Connection;
use crate::listen::listen;
use crate::support::LOAD;

/// A receiver that hears nothing for so long never will.
const PATIENCE: Duration = Duration::from_secs(60);
const CALL_BYTES_MAX: usize = 16 * 1024;

pub struct Receivers {
    pub addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    done: mpsc::Receiver<()>,
}

struct Shared {
    /// Calls until it says that it is done.
    left: AtomicUsize,
    body_bytes: AtomicUsize,
    done: mpsc::Sender<()>,
}

impl Receivers {
    /// # Errors
    /// No port, or no thread.
    pub fn start(count: usize) -> anyhow::Result<Self> {
        let (done, waiting) = mpsc::channel();
        let shared = Arc::new(Shared { left: AtomicUsize::new(0), body_bytes: AtomicUsize::new(0), done });
        let theirs = Arc::clone(&shared);
        let take = move |_, stream| take(stream, Arc::clone(&theirs));
        Ok(Self { addresses: listen(&format!("{LOAD} receivers"), count, take)?, shared, done: waiting })
    }

    pub fn expect(&self, calls: usize) {
        self.shared.left.store(calls, Ordering::Relaxed);
    }

    /// # Errors
    /// They have not heard what they expect.
    pub fn wait(&self) -> anyhow::Result<()> {
        self.done.recv_timeout(PATIENCE).context("the receivers wait in vain")
    }

    /// Of the last call.
    pub fn body_bytes(&self) -> usize {
        self.shared.body_bytes.load(Ordering::Relaxed)
    }
}

async fn take(stream: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut connection = Connection::with_buffer(stream, CALL_BYTES_MAX);
    while let Some(call) = connection.receive().await? {
        shared.body_bytes.store(call.body.len(), Ordering::Relaxed);
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        if shared.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            shared.done.send(())?;
        }
    }
    Ok(())
}
