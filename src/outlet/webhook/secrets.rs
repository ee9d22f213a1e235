//! What a webhook keeps sealed: the keys it signs with, and what it shows its receiver to be let in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::seal::Sealer;
use super::signature::{self, Key, Profile, Signer};

/// What is shown instead of a secret, and means the same secret when it is sent back.
pub(super) const MASK: &str = "***";
/// Replaced secrets that still sign.
const KEYS_MAX: usize = 6;

/// Sealed in the row of its webhook.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Secrets {
    /// Newest first.
    pub(super) keys: Vec<Key>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) auth: Option<Auth>,
}

/// How a receiver lets us in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub(super) enum Auth {
    Basic {
        username: String,
        password: String,
    },
    Bearer(String),
    /// Client credentials (RFC 6749 section 4.4).
    Oauth2 {
        token_url: String,
        client_id: String,
        client_secret: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scope: Option<String>,
    },
}

impl Secrets {
    pub(super) fn seal(&self, sealer: &Sealer, id: &str) -> Vec<u8> {
        sealer.seal(&serde_json::to_string(self).expect("texts and numbers are JSON"), id)
    }

    pub(super) fn unseal(sealer: &Sealer, sealed: &[u8], id: &str) -> Option<Self> {
        serde_json::from_str(&sealer.unseal(sealed, id)?).ok()
    }

    /// The key in use.
    pub(super) fn secret(&self) -> &str {
        self.keys.first().map_or("", |key| &key.secret)
    }

    pub(super) fn signer(&self, profiles: &[Profile]) -> Option<Signer> {
        Signer::new(&self.keys, profiles)
    }

    /// What receivers check `v1a` signatures with; the newest first.
    pub(super) fn public_keys(&self, now: i64) -> Vec<String> {
        let in_use =
            self.keys.iter().enumerate().filter(|(n, key)| *n == 0 || key.until.is_none_or(|until| until > now));
        in_use.filter_map(|(_, key)| signature::public_key(key.private_key.as_deref()?)).collect()
    }

    /// The same secret from now on, and a private key if the profiles ask for one.
    pub(super) fn set(&mut self, secret: String, profiles: &[Profile]) {
        let private_key = self.keys.first().and_then(|key| key.private_key.clone());
        self.keys = vec![Key { secret, private_key, until: None }];
        self.complete(profiles);
    }

    /// Adds what profiles need that is not there yet.
    pub(super) fn complete(&mut self, profiles: &[Profile]) {
        if let Some(key) = self.keys.first_mut().filter(|_| profiles.contains(&Profile::V1a)) {
            key.private_key.get_or_insert_with(signature::new_private_key);
        }
    }

    /// A new secret that signs first; the others go on until their time, the present one until `until`.
    pub(super) fn rotate(&mut self, secret: String, profiles: &[Profile], now: i64, until: i64) {
        for key in &mut self.keys {
            key.until = Some(key.until.unwrap_or(until).min(until));
        }
        self.keys.retain(|key| key.until.is_some_and(|until| until > now));
        self.keys.insert(0, Key { secret, private_key: None, until: None });
        self.keys.truncate(KEYS_MAX);
        self.complete(profiles);
    }

    /// As they are shown: names, and no secrets.
    pub(super) fn shown(&self) -> (Value, Value) {
        let headers = self.headers.iter().map(|(name, value)| {
            let shown = if is_secret_header(name) { MASK } else { value };
            (name.clone(), shown.into())
        });
        let auth = match self.auth.clone() {
            Some(Auth::Basic { username, .. }) => Some(Auth::Basic { username, password: MASK.to_owned() }),
            Some(Auth::Bearer(_)) => Some(Auth::Bearer(MASK.to_owned())),
            Some(Auth::Oauth2 { token_url, client_id, scope, .. }) => {
                Some(Auth::Oauth2 { token_url, client_id, client_secret: MASK.to_owned(), scope })
            }
            None => None,
        };
        (Value::Object(headers.collect()), serde_json::to_value(auth).unwrap_or_default())
    }

    /// Puts the secrets of `old` where this one holds masks. Tells which attribute has a mask without anything behind it.
    pub(super) fn unmask(&mut self, old: &Self) -> Result<(), &'static str> {
        for (name, value) in &mut self.headers {
            if value == MASK && is_secret_header(name) {
                value.clone_from(old.headers.get(name).ok_or("headers")?);
            }
        }
        let (mine, kept) = match (&mut self.auth, &old.auth) {
            (Some(Auth::Basic { password, .. }), Some(Auth::Basic { password: kept, .. })) => (password, Some(kept)),
            (Some(Auth::Bearer(token)), Some(Auth::Bearer(kept))) => (token, Some(kept)),
            (Some(Auth::Oauth2 { client_secret, .. }), Some(Auth::Oauth2 { client_secret: kept, .. })) => {
                (client_secret, Some(kept))
            }
            (
                Some(
                    Auth::Basic { password: mine, .. } | Auth::Bearer(mine) | Auth::Oauth2 { client_secret: mine, .. },
                ),
                _,
            ) => (mine, None),
            (None, _) => return Ok(()),
        };
        if mine == MASK {
            mine.clone_from(kept.ok_or("auth")?);
        }
        Ok(())
    }
}

/// Values of these headers are never shown.
pub(super) fn is_secret_header(name: &str) -> bool {
    matches!(name, "authorization" | "cookie") || ["-key", "-token", "-secret"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secrets(headers: &[(&str, &str)], auth: &Value) -> Secrets {
        Secrets {
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            auth: serde_json::from_value(auth.clone()).expect("usable"),
            ..Secrets::default()
        }
    }

    #[test]
    fn what_is_masked_comes_back_as_it_was() {
        let auth = json!({"oauth2": {"tokenUrl": "https://x/t", "clientId": "a", "clientSecret": "b"}});
        let old = secrets(&[("x-api-key", "k"), ("x-plain", "p"), ("authorization", "z")], &auth);
        let (headers, shown_auth) = old.shown();
        assert_eq!(headers, json!({"authorization": "***", "x-api-key": "***", "x-plain": "p"}));
        assert_eq!(shown_auth["oauth2"]["clientSecret"], "***");
        let mut new = secrets(&[("x-api-key", "***"), ("x-plain", "***")], &shown_auth);
        assert_eq!(new.unmask(&old), Ok(()));
        assert_eq!(new.headers["x-api-key"], "k");
        assert_eq!(new.headers["x-plain"], "***", "what is no secret is taken as it is");
        assert!(new.auth == old.auth);
        assert_eq!(secrets(&[("x-token", "***")], &Value::Null).unmask(&old), Err("headers"));
        assert_eq!(secrets(&[], &json!({"bearer": "***"})).unmask(&old), Err("auth"));
        assert_eq!(secrets(&[], &json!({"bearer": "t"})).unmask(&old), Ok(()));
    }

    #[test]
    fn a_rotation_keeps_the_old_secret_for_its_grace_only() {
        let mut secrets = Secrets::default();
        secrets.set("one".into(), &[Profile::V1a]);
        secrets.rotate("two".into(), &[Profile::V1a], 0, 10);
        secrets.rotate("three".into(), &[Profile::V1a], 5, 30);
        let kept: Vec<_> = secrets.keys.iter().map(|key| (key.secret.as_str(), key.until)).collect();
        assert_eq!(kept, [("three", None), ("two", Some(30)), ("one", Some(10))]);
        assert_eq!((secrets.public_keys(9).len(), secrets.public_keys(10).len()), (3, 2));
        secrets.rotate("four".into(), &[], 40, 40);
        assert_eq!(secrets.keys.len(), 1, "without grace");
    }
}
