//! How many streams, operations over WebSockets and connections of each client are open at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::failure::{Failure, RATE_LIMITED};

/// Subscriptions, operations over WebSockets and these themselves, of one client, together.
const OPEN_MAX: usize = 200;

/// Counts what is open, by client.
#[derive(Clone, Debug, Default)]
pub(super) struct Live(Arc<Mutex<HashMap<String, usize>>>);

/// One that is open, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    live: Live,
    client: String,
}

impl Live {
    pub(super) fn open(&self, client: &str) -> Result<Permit, Failure> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(client.to_owned()).or_default();
        if *count >= OPEN_MAX {
            let detail = format!("{OPEN_MAX} operations and connections of this client are open; end one first");
            return Err(Failure::new(RATE_LIMITED, detail));
        }
        *count += 1;
        Ok(Permit { live: self.clone(), client: client.to_owned() })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.live.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}
