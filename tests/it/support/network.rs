//! A network between a gateway and a database, which can be cut, or fall silent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

pub struct Network {
    /// The server as one sees it through the network.
    pub url: Url,
    server: String,
    connections: Arc<Mutex<Vec<Connection>>>,
    /// A connection falls silent behind this text.
    last_word: Arc<Mutex<Option<String>>>,
    listening: Option<JoinHandle<()>>,
}

struct Connection {
    is_silent: Arc<AtomicBool>,
    carry: JoinHandle<()>,
}

impl Network {
    pub async fn to(server: &str) -> Self {
        Self::by(Url::parse(server).unwrap()).await
    }

    /// One on which can be read what is said.
    pub async fn without_tls_to(server: &str) -> Self {
        let mut url = Url::parse(server).unwrap();
        url.query_pairs_mut().append_pair("sslmode", "disable");
        Self::by(url).await
    }

    async fn by(mut url: Url) -> Self {
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(super::serve::free_port())).unwrap();
        let mut network = Self { url, server, connections: Arc::default(), last_word: Arc::default(), listening: None };
        network.mend().await;
        network
    }

    pub async fn mend(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.url.port().unwrap())).await.unwrap();
        let (server, connections) = (self.server.clone(), Arc::clone(&self.connections));
        let last_word = Arc::clone(&self.last_word);
        self.listening = Some(tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (server, is_silent, last_word) = (server.clone(), Arc::default(), Arc::clone(&last_word));
                let silent = Arc::clone(&is_silent);
                let carry = tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(&server).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    let there = copy(near_in, far_out, &silent, Some(&last_word));
                    let back = copy(far_in, near_out, &silent, None);
                    tokio::select! {
                        () = there => {}
                        () = back => {}
                    }
                });
                connections.lock().unwrap().push(Connection { is_silent, carry });
            }
        }));
    }

    /// All connections end, and there are no new ones.
    pub async fn cut(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            let _ = listening.await;
        }
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.carry.abort());
    }

    /// The connections that are there stay, and nothing comes through; new ones are as they should be.
    pub fn fall_silent(&self) {
        for connection in self.connections.lock().unwrap().iter() {
            connection.is_silent.store(true, Ordering::SeqCst);
        }
    }

    /// The first connection that says this to the server, which hears it, is silent from then on.
    pub fn fall_silent_behind(&self, word: &str) {
        *self.last_word.lock().unwrap() = Some(word.to_owned());
    }

    /// Whether one has.
    pub fn has_fallen_silent(&self) -> bool {
        self.connections.lock().unwrap().iter().any(|connection| connection.is_silent.load(Ordering::SeqCst))
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    silent: &AtomicBool,
    last_word: Option<&Mutex<Option<String>>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if silent.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        let said = String::from_utf8_lossy(&buffer[..count]);
        if let Some(last_word) = last_word {
            let mut word = last_word.lock().unwrap();
            if word.as_ref().is_some_and(|word| said.contains(word.as_str())) {
                *word = None;
                silent.store(true, Ordering::SeqCst);
            }
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
