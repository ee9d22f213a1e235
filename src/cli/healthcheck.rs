//! `postern healthcheck`: whether the gateway of this configuration lives, for container engines without a shell to ask by.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const TIME: Duration = Duration::from_secs(4);
const ASKED: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200";

pub async fn run(arguments: super::ConfigArgument) -> anyhow::Result<ExitCode> {
    let config = super::load(&arguments.config)?;
    let address = reachable(config.server.listen);
    timeout(TIME, ask(address, config.server.tls.is_some()))
        .await
        .with_context(|| format!("{address} does not answer within {} s", TIME.as_secs()))??;
    Ok(ExitCode::SUCCESS)
}

/// By TLS it is enough that somebody accepts: the certificate is for another name than this machine's.
async fn ask(address: SocketAddr, is_tls: bool) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("nobody listens on {address}"))?;
    if is_tls {
        return Ok(());
    }
    stream.write_all(ASKED).await?;
    let mut answer = [0; ANSWER.len()];
    stream.read_exact(&mut answer).await.context("it closed the connection")?;
    ensure!(answer == ANSWER, "it answers {}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Every address is reached by that of the machine itself.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        ip if ip.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
        _ => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}
