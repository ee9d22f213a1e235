//! Who asks: every request gets a [`Client`] with its scopes and with what it may see, before any room is reached.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use serde::Deserialize;

use super::problem::{Kind, Problem};
use crate::filter::{Filter, Selection};
use crate::runtime::{hex, random_bytes, sha256};

/// `[auth]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Ask for a token even though no client is configured (then nobody gets in) or the address is loopback.
    pub required: bool,
}

/// `[[client]]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    pub name: String,
    /// `sha256:…` as `postern token` prints it.
    pub token_hash: String,
    pub scopes: Vec<String>,
    /// What it may see, in every door; nothing said means everything.
    #[serde(default)]
    pub events: Filter,
}

/// What a client may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Read,
    Webhooks,
    Push(String),
    Admin,
}

impl Scope {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "read" => Some(Self::Read),
            "webhooks" => Some(Self::Webhooks),
            "admin" => Some(Self::Admin),
            _ => text.strip_prefix("push:").filter(|source| !source.is_empty()).map(|s| Self::Push(s.to_owned())),
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Webhooks => f.write_str("webhooks"),
            Self::Push(source) => write!(f, "push:{source}"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Client {
    pub name: String,
    pub scopes: Vec<Scope>,
    /// What it may see: handed to every read of the journal.
    pub visible: Selection,
}

impl Client {
    /// Whoever comes through an open loopback door.
    fn anybody() -> Self {
        Self {
            name: "local".to_owned(),
            scopes: vec![Scope::Read, Scope::Webhooks, Scope::Admin],
            visible: Selection::visible(&Filter::default()),
        }
    }

    pub fn may(&self, scope: &Scope) -> bool {
        self.scopes.contains(scope)
    }

    /// Refuses a client that lacks the scope.
    ///
    /// # Errors
    /// 403 that names the scope.
    pub fn must(&self, scope: &Scope) -> Result<(), Problem> {
        if self.may(scope) {
            return Ok(());
        }
        Err(Problem::new(Kind::Forbidden, format!("client `{}` lacks the scope `{scope}`", self.name)))
    }
}

/// The clients of a gateway.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Who everybody is that reaches an open door.
    anybody: Option<Arc<Client>>,
    by_token: Arc<HashMap<[u8; 32], Arc<Client>>>,
}

impl Auth {
    /// Checks the configuration of the clients.
    ///
    /// # Errors
    /// A sentence that names the client and what is wrong with it.
    pub fn new(config: &Config, clients: &[ClientConfig]) -> Result<Self, String> {
        let mut by_token = HashMap::new();
        let mut names = Vec::new();
        for client in clients {
            let name = &client.name;
            if name.is_empty() || names.contains(&name) {
                return Err(format!("`client.name`: `{name}` is empty or given twice"));
            }
            names.push(name);
            let hash = parse_hash(&client.token_hash).ok_or_else(|| {
                format!(
                    "client `{name}`: `token_hash` must be sha256: and 64 hex digits, as `postern token {name}` prints"
                )
            })?;
            let scopes = client.scopes.iter().map(|text| {
                Scope::parse(text).ok_or_else(|| {
                    format!("client `{name}`: unknown scope `{text}`; known are read, webhooks, push:<source>, admin")
                })
            });
            client.events.check().map_err(|cause| format!("client `{name}`: `events`: {cause}"))?;
            // Counts are kept by what it may name.
            if !client.events.aggregate_ids.is_empty() {
                return Err(format!("client `{name}`: `events` may name types, sources and aggregate_types, no ids"));
            }
            let scopes = scopes.collect::<Result<Vec<_>, _>>()?;
            let visible = Selection::visible(&client.events);
            let visible = if scopes.contains(&Scope::Admin) { visible } else { visible.seen_by(name) };
            let known = Client { name: name.clone(), scopes, visible };
            if by_token.insert(hash, Arc::new(known)).is_some() {
                return Err(format!("client `{name}`: another client has the same `token_hash`"));
            }
        }
        let is_open = clients.is_empty() && !config.required;
        Ok(Self { anybody: is_open.then(|| Arc::new(Client::anybody())), by_token: Arc::new(by_token) })
    }

    /// Whether everybody who reaches the door may do everything.
    pub fn is_open(&self) -> bool {
        self.anybody.is_some()
    }

    /// Who asks.
    ///
    /// # Errors
    /// 401 for credentials that are not known, and for none where some are needed.
    pub fn client(&self, headers: &HeaderMap) -> Result<Arc<Client>, Problem> {
        if let Some(anybody) = &self.anybody {
            return Ok(Arc::clone(anybody));
        }
        let unknown = |detail| Problem::new(Kind::Unauthenticated, detail);
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(unknown("send `Authorization: Bearer pst_…`"));
        };
        let token = value.to_str().ok().and_then(|text| text.split_once(' '));
        let known = match token {
            // Looked up by hash: neither the comparison's time nor the table tells anything about a token.
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => self.by_token.get(&sha256(token.trim())),
            _ => None,
        };
        known.cloned().ok_or_else(|| unknown("these credentials are not known; send `Authorization: Bearer pst_…`"))
    }

    /// All that are known, by name.
    pub fn clients(&self) -> Vec<Arc<Client>> {
        let mut clients: Vec<_> = self.anybody.iter().chain(self.by_token.values()).cloned().collect();
        clients.sort_by(|one, other| one.name.cmp(&other.name));
        clients
    }

    /// What a client may see, by its name.
    pub fn visibility(&self, name: &str) -> Option<Selection> {
        let mut clients = self.anybody.iter().chain(self.by_token.values());
        clients.find(|client| client.name == name).map(|client| client.visible.clone())
    }
}

/// Makes a token: what the client sends, and the hash for the configuration.
pub fn new_token() -> (String, String) {
    let token = format!("pst_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random_bytes::<24>()));
    let hash = format!("sha256:{}", hex(&sha256(&token)));
    (token, hash)
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").filter(|digits| digits.len() == 64 && digits.is_ascii())?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_the_door_of_its_client_only() {
        let (token, hash) = new_token();
        let config = ClientConfig {
            name: "erp".into(),
            token_hash: hash,
            scopes: vec!["read".into()],
            events: Filter::default(),
        };
        let auth = Auth::new(&Config::default(), &[config]).expect("usable");
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            headers
        };
        let client = auth.client(&with(&format!("Bearer {token}"))).expect("known");
        assert_eq!(client.name, "erp");
        assert!(client.may(&Scope::Read) && !client.may(&Scope::Admin));
        assert!(auth.client(&with(&format!("Bearer {token}x"))).is_err());
        assert!(auth.client(&HeaderMap::new()).is_err());
    }
}
