//! Receivers of webhooks on a thread of their own.

use std::future::Future;
use std::net::SocketAddr;
use std::thread;

use futures_util::future::try_join_all;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

/// So many ports, all served by one thread of this name. `take` serves a connection of the nth.
///
/// # Errors
/// No port, or no thread.
pub fn listen<F, T>(name: &str, count: usize, take: F) -> anyhow::Result<Vec<SocketAddr>>
where
    F: Fn(usize, TcpStream) -> T + Clone + Send + 'static,
    T: Future<Output = anyhow::Result<()>> + 'static,
{
    let (mut addresses, mut listeners) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for _ in 0..count {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        addresses.push(listener.local_addr()?);
        listeners.push(listener);
    }
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let accepting = listeners.into_iter().enumerate().map(|(n, listener)| accept(n, listener, take.clone()));
        LocalSet::new().block_on(&runtime, try_join_all(accepting))
    })?;
    Ok(addresses)
}

async fn accept<F, T>(n: usize, listener: std::net::TcpListener, take: F) -> anyhow::Result<()>
where
    F: Fn(usize, TcpStream) -> T,
    T: Future<Output = anyhow::Result<()>> + 'static,
{
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(take(n, stream));
    }
}
