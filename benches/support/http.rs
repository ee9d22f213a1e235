//! The least HTTP/1.1 that makes or takes load: keep-alive, no pipelining, bodies with `content-length`.

use std::io::ErrorKind;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::net::TcpStream;

/// A message that was read: a request or an answer.
pub struct Message<'a> {
    /// With its names in the case they came in.
    pub head: &'a str,
    pub body: &'a [u8],
}

impl Message<'_> {
    /// Of an answer.
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of the message that was given out last.
    taken: usize,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Self::with_buffer(stream, 128 * 1024)
    }

    /// For messages of so many bytes at most.
    pub fn with_buffer(stream: TcpStream, bytes: usize) -> Self {
        Self { stream, buffer: vec![0; bytes], filled: 0, taken: 0 }
    }

    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    pub async fn send(&mut self, mut bytes: &[u8]) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(())
    }

    /// The next message; nothing at the end of the stream.
    pub async fn receive(&mut self) -> anyhow::Result<Option<Message<'_>>> {
        self.buffer.copy_within(self.taken..self.filled, 0);
        self.filled -= self.taken;
        self.taken = 0;
        let (head, end) = loop {
            match extent(&self.buffer[..self.filled]) {
                Some((head, end)) if end <= self.filled => break (head, end),
                Some((_, end)) if end > self.buffer.len() => bail!("a message of {end} bytes is too large"),
                _ => {}
            }
            match self.stream.try_read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(None),
                Ok(read) => self.filled += read,
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => self.stream.readable().await?,
                Err(cause) => return Err(cause.into()),
            }
        };
        self.taken = end;
        let message = Message { head: str::from_utf8(&self.buffer[..head])?, body: &self.buffer[head..end] };
        Ok(Some(message))
    }

    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Message<'_>> {
        self.send(request).await?;
        self.receive().await?.context("the server closed the connection")
    }
}

/// Where the head and the whole message end, once the head is there.
fn extent(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let mut lines = str::from_utf8(&bytes[..head]).ok()?.lines();
    let length = lines.find_map(|line| line.strip_prefix("content-length: ")).and_then(|text| text.parse().ok());
    Some((head, head + length.unwrap_or(0)))
}
