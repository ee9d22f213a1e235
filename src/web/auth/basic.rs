//! HTTP Basic (RFC 7617), for pollers and browsers that know nothing else: the user is the client's name, the password
//! is checked against its argon2id hash. That takes tens of milliseconds on purpose, so few are checked at a time, away
//! from the reactor, and who logged in lately is known by the header.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params, PasswordHasher as _, PasswordVerifier as _};
use aws_lc_rs::hmac;
use base64::Engine as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::limit::{Allowance, Failures, Recent};
use super::{Client, Known, busy, too_many, wrong};
use crate::runtime::{random_bytes, sha256};
use crate::web::problem::Problem;

/// Each takes a core and, as `postern token` makes hashes, 19 MiB.
const CHECKED_AT_ONCE: usize = 2;
/// More would wait for seconds.
const WAITING_MAX: usize = 64;
/// How long a log-in is known without looking again.
const KNOWN_FOR: Duration = Duration::from_secs(600);
const KNOWN_MAX: usize = 1_000;
/// A password from one address may be wrong ten times, then ten times a minute: strict, as a guess is all it can be.
const FROM_ADDRESS: Allowance = Allowance { burst: 10, every: Duration::from_secs(6) };
/// … and of one client, from wherever: soft, because whoever knows a name could lock its owner out. Addresses that this
/// client has logged in from are not counted, and one more try is never further away than a second.
const OF_CLIENT: Allowance = Allowance { burst: 60, every: Duration::from_secs(1) };
const PASSWORD_BYTES_MAX: usize = 1024;
/// What a hash may cost: KiB, rounds, lanes.
const COST_MAX: (u32, u32, u32) = (256 * 1024, 16, 8);

/// A user and a password.
pub(super) struct LogIn {
    pub(super) name: String,
    pub(super) password: Vec<u8>,
}

impl LogIn {
    /// What stands behind `Basic `.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        let (name, password) = (std::str::from_utf8(&bytes[..colon]).ok()?, &bytes[colon + 1..]);
        let fits = password.len() <= PASSWORD_BYTES_MAX;
        fits.then(|| Self { name: name.to_owned(), password: password.to_vec() })
    }
}

/// Who has logged in by password, and who has tried to. It outlives a reload, but for who is known.
pub(super) struct Desk {
    /// Of this process: what is known can't be looked up by a header that was not seen.
    key: hmac::Key,
    from_address: Failures<IpAddr>,
    of_client: Failures<[u8; 32]>,
    /// Where clients have logged in from.
    at_home: Mutex<Recent<([u8; 32], IpAddr), ()>>,
    checked: Arc<Semaphore>,
    waiting: Semaphore,
}

/// Log-ins that were right, by header.
pub(super) struct Remembered(Mutex<Recent<[u8; 32], Until>>);

type Until = (Arc<Client>, Instant);

impl Default for Remembered {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(KNOWN_MAX)))
    }
}

impl Desk {
    pub(super) fn new() -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &random_bytes::<32>()),
            from_address: Failures::new(FROM_ADDRESS),
            of_client: Failures::new(OF_CLIENT),
            at_home: Mutex::new(Recent::new(KNOWN_MAX)),
            checked: Arc::new(Semaphore::new(CHECKED_AT_ONCE)),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }

    /// Who logged in with this header lately.
    pub(super) fn remembered(&self, known: &Remembered, header: &str) -> Option<Arc<Client>> {
        let known = known.0.lock().expect("nothing panics while it holds this lock");
        let (client, until) = known.get(&self.tag(header))?;
        (*until > Instant::now()).then(|| Arc::clone(client))
    }

    fn tag(&self, header: &str) -> [u8; 32] {
        hmac::sign(&self.key, header.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Checks a password.
    ///
    /// # Errors
    /// 401, and 429 when too many were wrong or too many wait.
    pub(super) async fn check(
        &self,
        known: &Known,
        header: &str,
        log_in: LogIn,
        address: IpAddr,
    ) -> Result<Arc<Client>, Problem> {
        self.from_address.look(&address).map_err(too_many)?;
        let _place = self.waiting.try_acquire().map_err(|_| busy())?;
        let turn = Arc::clone(&self.checked).acquire_owned().await.map_err(|_| busy())?;
        // The same log-in may have been checked meanwhile.
        if let Some(client) = self.remembered(&known.remembered, header) {
            return Ok(client);
        }
        let name = sha256(&log_in.name);
        let is_at_home =
            self.at_home.lock().expect("nothing panics while it holds this lock").get(&(name, address)).is_some();
        self.from_address.take(&address).map_err(too_many)?;
        if !is_at_home {
            self.of_client.take(&name).map_err(too_many)?;
        }
        let entry = known.by_name.get(&log_in.name);
        let own = entry.and_then(|entry| entry.password.clone());
        let is_known = own.is_some();
        // Whether there is such a client must not be told by how long the answer takes.
        let Some(hash) = own.or_else(|| known.decoy.clone()) else { return Err(refused()) };
        // The turn is over when the hash is, even if nobody waits for the answer any more.
        let checking = tokio::task::spawn_blocking(move || {
            let is_right = Argon2::default().verify_password(&log_in.password, &*hash).is_ok();
            drop(turn);
            is_right
        });
        let is_right = checking.await.unwrap_or(false) && is_known;
        let Some(entry) = entry.filter(|_| is_right) else { return Err(refused()) };
        self.from_address.give_back(&address);
        if !is_at_home {
            self.of_client.give_back(&name);
        }
        self.at_home.lock().expect("nothing panics while it holds this lock").put((name, address), ());
        let until = Instant::now() + KNOWN_FOR;
        let client = Arc::clone(&entry.client);
        let mut remembered = known.remembered.0.lock().expect("nothing panics while it holds this lock");
        remembered.put(self.tag(header), (Arc::clone(&client), until));
        Ok(client)
    }
}

fn refused() -> Problem {
    wrong("Basic", "this name and password are not known")
}

/// Checks a hash of the configuration.
///
/// # Errors
/// What it must be.
pub(super) fn check_hash(text: &str) -> Result<(), String> {
    let hash = PasswordHash::new(text)
        .ok()
        .filter(|hash| hash.algorithm.as_str() == "argon2id" && hash.salt.is_some() && hash.hash.is_some());
    let params = hash.as_ref().and_then(|hash| Params::try_from(hash).ok());
    match params {
        None => Err("`password_hash` must be such as $argon2id$v=19$…".to_owned()),
        Some(params)
            if params.m_cost() > COST_MAX.0 || params.t_cost() > COST_MAX.1 || params.p_cost() > COST_MAX.2 =>
        {
            let (memory, rounds, lanes) = COST_MAX;
            Err(format!("`password_hash` may cost m={memory},t={rounds},p={lanes} at most: each log-in pays for it"))
        }
        Some(_) => Ok(()),
    }
}

/// The hash of a password, for the configuration: argon2id with what OWASP asks for, 19 MiB and two rounds.
pub fn hash_password(password: &str) -> String {
    let hash = Argon2::default().hash_password_with_salt(password.as_bytes(), &random_bytes::<16>());
    hash.expect("the parameters and the salt are right").to_string()
}

/// A password that nobody guesses.
pub fn new_password() -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random_bytes::<18>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashes_that_can_be_checked_soon_are_taken() {
        assert_eq!(check_hash(&hash_password("a password")), Ok(()));
        let salt_and_hash = "c2FsdHNhbHRzYWx0c2FsdA$CWSz4HVIX3QK7z7FTBcUBV0R7gYoH2i1qLkXf7ZSNOA";
        assert!(check_hash(&format!("$argon2i$v=19$m=19456,t=2,p=1${salt_and_hash}")).is_err());
        assert!(check_hash(&format!("$argon2id$v=19$m=4194304,t=2,p=1${salt_and_hash}")).is_err());
        assert!(check_hash("sha256:00").is_err());
    }
}
