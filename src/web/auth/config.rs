//! `[auth]` and `[[client]]` of the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use super::client::Term;
use super::limit::Rate;
use super::{Client, Entry, Known, Scope, basic, jwt};
use crate::filter::{Filter, Selection};

/// `[auth]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Ask for a token even though no client is configured (then nobody gets in) or the address is loopback.
    pub required: bool,
    /// An identity provider whose tokens are taken.
    pub jwt: Option<jwt::Config>,
}

/// `[[client]]` of the configuration.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    pub name: String,
    /// `sha256:…` as `postern token` prints it.
    #[serde(default)]
    pub token_hash: Option<String>,
    /// `$argon2id$…` as `postern token --password` prints it.
    #[serde(default)]
    pub password_hash: Option<String>,
    pub scopes: Vec<String>,
    /// What it may see, in every door; nothing said means everything.
    #[serde(default)]
    pub events: Filter,
    /// How often it may ask.
    #[serde(default)]
    pub rate: Option<Rate>,
}

/// Without the hashes: a password can be guessed at home with one.
impl std::fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConfig")
            .field("name", &self.name)
            .field("scopes", &self.scopes)
            .field("events", &self.events)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// Checks it all. `present` is what holds before a reload: of it stays what is configured as before, with an issuer's keys
/// and a client's turns.
///
/// # Errors
/// A sentence that names the key and what is wrong with it.
pub(super) fn read(config: &Config, clients: &[ClientConfig], present: Option<&Known>) -> Result<Known, String> {
    let issuer = match &config.jwt {
        Some(wanted) => {
            Some(match present.and_then(|present| present.issuer.as_ref()).filter(|issuer| issuer.config == *wanted) {
                Some(issuer) => Arc::clone(issuer),
                None => Arc::new(jwt::Issuer::new(wanted)?),
            })
        }
        None => None,
    };
    let (mut by_token, mut by_name) = (HashMap::new(), HashMap::new());
    for client in clients {
        let name = &client.name;
        if name.is_empty() || by_name.contains_key(name) {
            return Err(format!("`client.name`: `{name}` is empty or given twice"));
        }
        let entry = entry(client, issuer.is_some()).map_err(|cause| format!("client `{name}`: {cause}"))?;
        let same = present.and_then(|present| present.by_name.get(name)).filter(|same| same.config == *client);
        let entry = same.map_or_else(|| Arc::new(entry), Arc::clone);
        if entry.token.is_some_and(|token| by_token.insert(token, Arc::clone(&entry.client)).is_some()) {
            return Err(format!("client `{name}`: another client has the same `token_hash`"));
        }
        by_name.insert(name.clone(), entry);
    }
    let is_open = clients.is_empty() && issuer.is_none() && !config.required;
    Ok(Known {
        anybody: is_open.then(|| Arc::new(Client::anybody())),
        decoy: by_name.values().find_map(|entry| entry.password.clone()),
        by_token,
        by_name,
        issuer,
        remembered: basic::Remembered::default(),
    })
}

fn entry(client: &ClientConfig, has_issuer: bool) -> Result<Entry, String> {
    let name = &client.name;
    if client.token_hash.is_none() && client.password_hash.is_none() && !has_issuer {
        return Err(format!("give `token_hash` or `password_hash`; `postern token {name}` makes one"));
    }
    let token = match &client.token_hash {
        None => None,
        Some(text) => Some(parse_hash(text).ok_or_else(|| {
            format!("`token_hash` must be sha256: and 64 hex digits, as `postern token {name}` prints")
        })?),
    };
    if let Some(hash) = &client.password_hash {
        basic::check_hash(hash).map_err(|cause| format!("{cause}; `postern token {name} --password` makes one"))?;
        if name.contains(':') {
            return Err("a name with a colon can't log in with a password".to_owned());
        }
    }
    let scopes = client.scopes.iter().map(|text| {
        Scope::parse(text)
            .ok_or_else(|| format!("unknown scope `{text}`; known are read, webhooks, push:<source>, admin"))
    });
    let scopes = scopes.collect::<Result<Vec<_>, _>>()?;
    client.events.check().map_err(|cause| format!("`events`: {cause}"))?;
    // Counts are kept by what it may name.
    if !client.events.aggregate_ids.is_empty() {
        return Err("`events` may name types, sources and aggregate_types, no ids".to_owned());
    }
    let pace = client.rate.as_ref().map(Rate::pace).transpose()?.map(Arc::new);
    let visible = Selection::visible(&client.events);
    let visible = if scopes.contains(&Scope::Admin) { visible } else { visible.seen_by(name) };
    Ok(Entry {
        client: Arc::new(Client { name: name.clone(), scopes, visible, owns: true, pace, term: Term::default() }),
        config: client.clone(),
        token,
        password: client.password_hash.as_deref().map(Arc::from),
    })
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

    fn fault(toml: &str) -> String {
        #[derive(Deserialize)]
        struct All {
            #[serde(default)]
            auth: Config,
            client: Vec<ClientConfig>,
        }
        let all: All = toml::from_str(toml).expect("a configuration");
        read(&all.auth, &all.client, None).map(|_| ()).expect_err("it can't be used")
    }

    #[test]
    fn a_client_that_nobody_can_be_or_that_cannot_be_checked_is_refused_by_name() {
        for (keys, expected) in [
            ("", "`token_hash` or `password_hash`"),
            ("token_hash = \"sha256:00\"", "64 hex digits"),
            ("password_hash = \"secret\"", "$argon2id$"),
            ("password_hash = \"$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHQ$CWSz4HVIX3QK7z7FTBcUBQ\"", "at most"),
        ] {
            let fault = fault(&format!("[[client]]\nname = \"erp\"\nscopes = [\"read\"]\n{keys}\n"));
            assert!(fault.contains("client `erp`") && fault.contains(expected), "{fault}");
        }
        let jwt = "[auth.jwt]\nissuer = \"https://id\"\naudience = \"postern\"\njwks_url = \"https://id/keys\"\n";
        let public = fault(&format!("client = []\n{}", jwt.replace("https://id/keys", "http://8.8.8.8/keys")));
        assert!(public.contains("must be https"), "{public}");
        let client = "[[client]]\nname = \"erp\"\nscopes = [\"read\"]\nrate = { max = 0, per = \"60s\" }\n";
        assert!(fault(&format!("{jwt}{client}")).contains("`rate` must be such as"));
        assert!(
            fault(&jwt.replace("https://id/keys", "id").replace("[auth", "client = []\n[auth"))
                .contains("`auth.jwt.jwks_url`")
        );
    }
}
