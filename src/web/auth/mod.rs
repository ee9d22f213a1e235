//! Who asks: every request gets a [`Client`] with its scopes and with what it may see, before any room is reached.
//!
//! Three ways to say who asks: a bearer token of ours (`postern token`), a name and a password (`basic`), a token of an
//! identity provider (`jwt`). How often is `limit`.

mod basic;
mod client;
mod config;
mod jwt;
mod limit;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use base64::Engine as _;
use futures_util::future::BoxFuture;

use super::Peer;
use super::problem::{Kind, Problem};
use crate::filter::{Filter, Selection};
use crate::runtime::{hex, random_bytes, sha256};
use basic::LogIn;
use client::Term;
use limit::{Allowance, Failures, whole_seconds};

pub use basic::{hash_password, new_password};
pub use client::{Client, Scope};
pub use config::{ClientConfig, Config};

/// Nobody guesses a token, so this only keeps off who tries nonetheless, and never whom a right one is sent by.
const WRONG_TOKENS: Allowance = Allowance { burst: 100, every: Duration::from_secs(1) };
const BASIC_CHALLENGE: &str = "Basic realm=\"Postern\", charset=\"UTF-8\"";
const BEARER_CHALLENGE: &str = "Bearer realm=\"Postern\"";
const WRONG_BEARER_CHALLENGE: &str = "Bearer realm=\"Postern\", error=\"invalid_token\"";

/// What the configuration says of clients.
struct Known {
    /// Who everybody is that reaches an open door.
    anybody: Option<Arc<Client>>,
    by_token: HashMap<[u8; 32], Arc<Client>>,
    by_name: HashMap<String, Arc<Entry>>,
    issuer: Option<Arc<jwt::Issuer>>,
    /// A hash to check passwords of unknown clients against; nothing if no client has a password.
    decoy: Option<Arc<str>>,
    remembered: basic::Remembered,
}

/// One `[[client]]`.
struct Entry {
    config: ClientConfig,
    client: Arc<Client>,
    token: Option<[u8; 32]>,
    password: Option<Arc<str>>,
}

/// An answer to who asks.
pub enum Asked {
    Now(Result<Arc<Client>, Problem>),
    /// A password has to be checked, or the keys of the issuer fetched.
    Later(BoxFuture<'static, Result<Arc<Client>, Problem>>),
}

/// The clients of a gateway. Cheap to clone; all clones follow a reload.
#[derive(Clone)]
pub struct Auth {
    /// For as long as the process lives.
    is_open: bool,
    known: Arc<RwLock<Arc<Known>>>,
    desk: Arc<basic::Desk>,
    wrong_tokens: Arc<Failures<IpAddr>>,
}

impl Auth {
    /// Checks the configuration of the clients.
    ///
    /// # Errors
    /// A sentence that names the client and what is wrong with it.
    pub fn new(config: &Config, clients: &[ClientConfig]) -> Result<Self, String> {
        let known = config::read(config, clients, None)?;
        Ok(Self {
            is_open: known.anybody.is_some(),
            known: Arc::new(RwLock::new(Arc::new(known))),
            desk: Arc::new(basic::Desk::new()),
            wrong_tokens: Arc::new(Failures::new(WRONG_TOKENS)),
        })
    }

    /// Takes other clients from the next request on; streams of those that changed or are gone end. What is wrong with them
    /// changes nothing.
    ///
    /// # Errors
    /// See [`Auth::new`]; and an open gateway can't be closed while it runs, nor a closed one opened: what caches outside
    /// were told, and the address it listens on, hold for one of both.
    pub fn reload(&self, config: &Config, clients: &[ClientConfig]) -> Result<(), String> {
        let present = self.known();
        let known = config::read(config, clients, Some(&present))?;
        if known.anybody.is_some() != self.is_open {
            return Err("the first client, and the removal of the last one, take a restart".to_owned());
        }
        let known = Arc::new(known);
        *self.known.write().expect("nothing panics while it holds this lock") = Arc::clone(&known);
        present.end_all_but(&known);
        Ok(())
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().expect("nothing panics while it holds this lock"))
    }

    /// Whether everybody who reaches the door may do everything.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Who asks. 401 for credentials that are not known, and for none where some are needed; 429 for too many wrong ones.
    pub fn client(&self, headers: &HeaderMap, peer: Peer) -> Asked {
        let known = self.known();
        if let Some(anybody) = &known.anybody {
            return Asked::Now(Ok(Arc::clone(anybody)));
        }
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (value, address) = match (values.next(), values.next()) {
            (None, _) => {
                let detail = "send `Authorization: Bearer pst_…`, or a client's name and password by HTTP Basic";
                return Asked::Now(Err(Problem::new(Kind::Unauthenticated, detail)));
            }
            (Some(value), None) => (value, limit::network(peer.0)),
            _ => {
                return Asked::Now(Err(self.refuse(
                    limit::network(peer.0),
                    "",
                    "give one `Authorization`, not several",
                )));
            }
        };
        match value.to_str().ok().and_then(|text| text.split_once(' ')) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                self.by_bearer(&known, token.trim(), address)
            }
            Some((scheme, login)) if scheme.eq_ignore_ascii_case("basic") => {
                self.by_basic(known, value, login, address)
            }
            _ => Asked::Now(Err(self.refuse(address, "", "use `Authorization: Bearer …` or `Basic …`"))),
        }
    }

    fn by_bearer(&self, known: &Arc<Known>, token: &str, address: IpAddr) -> Asked {
        // Looked up by hash: neither the comparison's time nor the table tells anything about a token.
        if let Some(client) = known.by_token.get(&sha256(token)) {
            return Asked::Now(Ok(Arc::clone(client)));
        }
        let Some(issuer) = known.issuer.as_ref().filter(|_| token.matches('.').count() == 2) else {
            return Asked::Now(Err(self.refuse(address, "Bearer", "this token is not known")));
        };
        if let Some(judged) = issuer.known(token) {
            return Asked::Now(self.by_claims(known, judged, address));
        }
        // Whoever sends many wrong ones makes nobody ask the issuer.
        if let Err(wait) = self.wrong_tokens.look(&address) {
            return Asked::Now(Err(too_many(wait)));
        }
        let (auth, known, issuer, token) = (self.clone(), Arc::clone(known), Arc::clone(issuer), token.to_owned());
        Asked::Later(Box::pin(async move {
            let judged = issuer.asked(&token).await;
            auth.by_claims(&known, judged, address)
        }))
    }

    fn by_claims(
        &self,
        known: &Known,
        judged: Result<jwt::Claims, jwt::Fault>,
        address: IpAddr,
    ) -> Result<Arc<Client>, Problem> {
        match judged {
            Ok(claims) => Ok(Arc::new(known.client_of(claims))),
            Err(jwt::Fault::Invalid(why)) => {
                Err(self.refuse(address, "Bearer", &format!("this token is not valid: {why}")))
            }
            Err(jwt::Fault::Unavailable) => {
                let detail = "the issuer's keys can't be read at the moment; try again, and see the gateway's log";
                Err(Problem::new(Kind::Unavailable, detail).with_header(header::RETRY_AFTER, "30"))
            }
        }
    }

    fn by_basic(&self, known: Arc<Known>, header: &HeaderValue, login: &str, address: IpAddr) -> Asked {
        let header = header.to_str().unwrap_or_default();
        if let Some(client) = self.desk.remembered(&known.remembered, header) {
            return Asked::Now(Ok(client));
        }
        let Some(login) = LogIn::parse(login) else {
            let detail = "`Basic` must be followed by base64 of `name:password`, in UTF-8";
            return Asked::Now(Err(self.refuse(address, "", detail)));
        };
        // Legacy pollers know nothing but Basic: a client's token is as good as a password.
        let entry = known.by_name.get(&login.name);
        let hash = std::str::from_utf8(&login.password).ok().map(sha256);
        if let (Some(hash), Some((entry, token))) = (hash, entry.and_then(|entry| Some((entry, entry.token?))))
            && aws_lc_rs::constant_time::verify_slices_are_equal(&hash, &token).is_ok()
        {
            return Asked::Now(Ok(Arc::clone(&entry.client)));
        }
        if known.decoy.is_none() {
            return Asked::Now(Err(self.refuse(address, "", "this name and password are not known")));
        }
        let (desk, header) = (Arc::clone(&self.desk), header.to_owned());
        Asked::Later(Box::pin(async move { desk.check(&known, &header, login, address).await }))
    }

    /// 401 for a wrong token, or 429 when there were too many.
    fn refuse(&self, address: IpAddr, scheme: &str, detail: &str) -> Problem {
        self.wrong_tokens.take(&address).map_or_else(too_many, |()| wrong(scheme, detail))
    }

    /// All that are configured, by name.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        let known = self.known();
        let configured = known.by_name.values().map(|entry| &entry.client);
        let mut clients: Vec<_> = known.anybody.iter().chain(configured).cloned().collect();
        clients.sort_by(|one, other| one.name.cmp(&other.name));
        clients
    }

    /// What a client may see, by its name; nothing without a `[[client]]`. Webhooks are sent by it, so a token of an issuer
    /// alone keeps none alive.
    pub fn visibility(&self, name: &str) -> Option<Selection> {
        let known = self.known();
        let anybody = known.anybody.as_ref().filter(|client| client.name == name);
        let client = anybody.or_else(|| known.by_name.get(name).map(|entry| &entry.client));
        client.map(|client| client.visible.clone())
    }
}

impl Known {
    /// What clients have open that were changed or are gone ends.
    fn end_all_but(&self, kept: &Self) {
        for (name, entry) in &self.by_name {
            if !kept.by_name.get(name).is_some_and(|same| Arc::ptr_eq(same, entry)) {
                entry.client.term.client.cancel();
            }
        }
        if let Some(issuer) = &self.issuer
            && !kept.issuer.as_ref().is_some_and(|same| Arc::ptr_eq(same, issuer))
        {
            issuer.ended.cancel();
        }
    }

    /// Who a token of the issuer is: never more than it says, and never more than the `[[client]]` of its name says. Without
    /// one, or where the token sees less than it, there are no webhooks: they outlive the token.
    fn client_of(&self, claims: jwt::Claims) -> Client {
        let jwt::Claims { subject, mut scopes, types, expires } = claims;
        let entry = self.by_name.get(&subject);
        let events = entry.map(|entry| entry.config.events.clone()).unwrap_or_default();
        let sees_all_of_it = types.as_ref().is_none_or(|types| covers(types, &events.types));
        let owns = entry.is_some() && sees_all_of_it;
        scopes.retain(|scope| entry.is_none_or(|entry| entry.client.may(scope)) && (*scope != Scope::Webhooks || owns));
        let visible = Selection::visible(&events);
        let visible = match types {
            Some(_) if sees_all_of_it => visible,
            Some(types) if types.is_empty() => visible.nothing(),
            Some(types) => visible.and(&Filter { types, ..Filter::default() }),
            None => visible,
        };
        let visible = if scopes.contains(&Scope::Admin) { visible } else { visible.seen_by(&subject) };
        let pace = entry.and_then(|entry| entry.client.pace.clone());
        let term = Term {
            client: entry.map(|entry| entry.client.term.client.clone()).unwrap_or_default(),
            issuer: self.issuer.as_ref().map(|issuer| issuer.ended.clone()).unwrap_or_default(),
            expires: Some(expires),
        };
        Client { name: subject, scopes, visible, owns, pace, term }
    }
}

/// Whether whatever the second patterns match is matched by the first ones; none of the second match everything.
fn covers(patterns: &[String], others: &[String]) -> bool {
    let all = ["*".to_owned()];
    let others = if others.is_empty() { &all[..] } else { others };
    let covered = |other: &String| {
        let start = other.strip_suffix('*').unwrap_or(other);
        patterns.iter().any(|one| one == other || one.strip_suffix('*').is_some_and(|prefix| start.starts_with(prefix)))
    };
    others.iter().all(covered)
}

/// The challenges of an answer that asks who asks; `scheme` is what was tried in vain.
pub(super) fn challenges(scheme: &str) -> [&'static str; 2] {
    [BASIC_CHALLENGE, if scheme == "Bearer" { WRONG_BEARER_CHALLENGE } else { BEARER_CHALLENGE }]
}

fn wrong(scheme: &str, detail: &str) -> Problem {
    let problem = Problem::new(Kind::Unauthenticated, detail);
    challenges(scheme).into_iter().fold(problem, |problem, text| problem.with_header(header::WWW_AUTHENTICATE, text))
}

fn too_many(wait: Duration) -> Problem {
    let seconds = whole_seconds(wait).to_string();
    let detail = format!("too many log-ins from here, or of this client, have failed; wait {seconds} s");
    Problem::new(Kind::TooMany, detail).with_header(header::RETRY_AFTER, &seconds)
}

fn busy() -> Problem {
    let detail = "too many passwords are being checked; try again in a second";
    Problem::new(Kind::TooMany, detail).with_header(header::RETRY_AFTER, "1")
}

/// Makes a token: what the client sends, and the hash for the configuration.
pub fn new_token() -> (String, String) {
    let token = format!("pst_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random_bytes::<24>()));
    let hash = format!("sha256:{}", hex(&sha256(&token)));
    (token, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_sees_less_than_its_client_is_told() {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (one, other, is_covered) in [
            (&["*"][..], &[][..], true),
            (&["Order*"], &[], false),
            (&["Order*", "Paid"], &["OrderPlaced", "Order*", "Paid"], true),
            (&["OrderPlaced"], &["Order*"], false),
            (&["Order*"], &["Ord*"], false),
            (&[], &["Paid"], false),
        ] {
            assert_eq!(covers(&list(one), &list(other)), is_covered, "{one:?} {other:?}");
        }
    }
}
