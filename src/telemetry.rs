//! Logs: one line an event on standard error, fields that can be searched for.

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` chooses what is shown; the default is our own news and others' warnings.
/// A second call does nothing.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .try_init();
}
