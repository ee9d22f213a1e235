//! `postern serve` as users run it.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub const BINARY: &str = env!("CARGO_BIN_EXE_postern");

/// A gateway that is a process; killed when it is dropped.
pub struct Serve {
    child: Child,
    pub url: String,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serve {
    /// Starts it on a port; it is not ready yet.
    pub fn spawn(port: u16, config: &std::path::Path, log: std::fs::File, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(BINARY);
        command.env("POSTERN_SERVER__LISTEN", format!("127.0.0.1:{port}")).envs(environment.iter().copied());
        command.args(["serve", "--config"]).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().unwrap(), url: format!("http://127.0.0.1:{port}") }
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Tells it to stop and waits until it has. What it talks to meanwhile goes on.
    pub async fn terminate(&mut self) -> ExitStatus {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether it answers that it is ready.
    pub async fn is_ready(&self, client: &reqwest::Client) -> bool {
        client.get(format!("{}/readyz", self.url)).send().await.is_ok_and(|answer| answer.status() == 200)
    }
}

/// One that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
