//! Bearer tokens of an identity provider: JWTs (RFC 9068), signed with keys that it publishes (RFC 7517).

use std::sync::RwLock;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::Scope;
use crate::filter::Filter;
use crate::runtime::Clock;
use crate::web::outgoing::{self, OWN_NETWORKS, Outgoing, Refused};

/// A key that is not known yet may be a new one, but whoever makes tokens up must not make us call the issuer all the time.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// A key that the issuer withdraws is believed so long.
const KEPT_FOR: Duration = Duration::from_secs(600);
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const KEYS_BYTES_MAX: usize = 256 * 1024;
const KEYS_MAX: usize = 100;
const TOKEN_BYTES_MAX: usize = 16 * 1024;
const NAME_BYTES_MAX: usize = 255;
/// Between the issuer's clock and ours.
const LEEWAY_SECONDS: u64 = 60;
/// Streams of a token end with it, at the latest after so long.
const EXPIRES_MAX: Duration = Duration::from_secs(7 * 86_400);

/// `[auth.jwt]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `iss` of its tokens, to the letter.
    pub issuer: String,
    /// What `aud` must name.
    pub audience: String,
    /// Where the issuer publishes its keys.
    pub jwks_url: String,
    /// The claim that holds the scopes: a text with spaces, or a list. Words that are no scopes of ours are passed over.
    #[serde(default = "default_scopes_claim")]
    pub scopes_claim: String,
    /// The claim that holds the event types which the token may see, `*` for all. Without this key it sees all.
    #[serde(default)]
    pub types_claim: Option<String>,
}

fn default_scopes_claim() -> String {
    "scope".to_owned()
}

/// What a token that was verified says.
#[derive(Debug)]
pub(super) struct Claims {
    pub(super) subject: String,
    pub(super) scopes: Vec<Scope>,
    /// Nothing where types are not told by tokens; an empty list for a token that may see nothing.
    pub(super) types: Option<Vec<String>>,
    pub(super) expires: Instant,
}

/// Why a token opens nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// What is wrong with it.
    Invalid(&'static str),
    /// The issuer's keys were never seen.
    Unavailable,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

#[derive(Default)]
struct Kept {
    keys: Vec<Key>,
    fetched_at: Option<Instant>,
    tried_at: Option<Instant>,
}

/// An issuer and its keys.
pub(super) struct Issuer {
    pub(super) config: Config,
    url: Url,
    outgoing: Outgoing,
    kept: RwLock<Kept>,
    /// Held by whoever asks the issuer.
    asking: Mutex<()>,
    /// Another one is configured.
    pub(super) ended: CancellationToken,
}

impl Issuer {
    /// # Errors
    /// A sentence that names the key and what is wrong with it.
    pub(super) fn new(config: &Config) -> Result<Self, String> {
        for (key, text) in
            [("issuer", &config.issuer), ("audience", &config.audience), ("scopes_claim", &config.scopes_claim)]
        {
            if text.is_empty() {
                return Err(format!("`auth.jwt.{key}` must not be empty"));
            }
        }
        let url = Url::parse(&config.jwks_url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.filter(Url::has_host).ok_or("`auth.jwt.jwks_url` must be an https or http URL")?;
        let outgoing = Outgoing::new(&OWN_NETWORKS.map(str::to_owned))?;
        outgoing.client(&url).map_err(|refused| match refused {
            Refused::Plain => "`auth.jwt.jwks_url` must be https, as its address is a public one".to_owned(),
            refused => format!("`auth.jwt.jwks_url`: {refused}"),
        })?;
        let (kept, asking, ended) = Default::default();
        Ok(Self { config: config.clone(), url, outgoing, kept, asking, ended })
    }

    /// What can be said without asking the issuer; nothing if it has to be asked first.
    pub(super) fn known(&self, token: &str) -> Option<Result<Claims, Fault>> {
        self.judge(token, self.asking.try_lock().is_err())
    }

    /// What can be said after asking the issuer, or waiting for whoever asks it.
    pub(super) async fn asked(&self, token: &str) -> Result<Claims, Fault> {
        let _asking = self.asking.lock().await;
        if let Some(judged) = self.judge(token, false) {
            return judged;
        }
        self.fetch().await;
        self.judge(token, false).unwrap_or(Err(Fault::Unavailable))
    }

    fn judge(&self, token: &str, is_asking: bool) -> Option<Result<Claims, Fault>> {
        let header = match read_header(token) {
            Ok(header) => header,
            Err(fault) => return Some(Err(fault)),
        };
        let kept = self.kept.read().expect("nothing panics while it holds this lock");
        let may_ask = kept.tried_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN_AFTER);
        let is_old = kept.fetched_at.is_none_or(|at| at.elapsed() >= KEPT_FOR);
        match kept.find(&header) {
            Some(_) if is_old && may_ask && !is_asking => None,
            Some(key) => Some(self.verify(token, &header, key)),
            None if may_ask || is_asking => None,
            None if kept.fetched_at.is_none() => Some(Err(Fault::Unavailable)),
            None => Some(Err(Fault::Invalid("the issuer has no such key"))),
        }
    }

    fn verify(&self, token: &str, header: &Header, key: &Key) -> Result<Claims, Fault> {
        let mut wanted = Validation::new(header.alg);
        wanted.leeway = LEEWAY_SECONDS;
        wanted.validate_nbf = true;
        wanted.set_issuer(&[&self.config.issuer]);
        wanted.set_audience(&[&self.config.audience]);
        wanted.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, &key.key, &wanted);
        let claims = claims.map_err(|cause| Fault::Invalid(explain(cause.kind())))?.claims;
        let subject = claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > NAME_BYTES_MAX || subject.chars().any(char::is_control) {
            return Err(Fault::Invalid("its `sub` can't be the name of a client"));
        }
        let scopes =
            words(claims.get(&self.config.scopes_claim)).iter().filter_map(|word| Scope::parse(word)).collect();
        let types = self.config.types_claim.as_ref().map(|claim| {
            let mut types = words(claims.get(claim));
            // Those who see the same share pages.
            types.sort();
            types.dedup();
            types
        });
        if let Some(types) = &types {
            let filter = Filter { types: types.clone(), ..Filter::default() };
            filter.check().map_err(|_| Fault::Invalid("its event types are too many, or none that can be"))?;
        }
        let expires = claims.get("exp").and_then(Value::as_f64).unwrap_or_default() + LEEWAY_SECONDS as f64;
        let left = (expires - Clock::system().now_micros() as f64 / 1e6).clamp(0.0, EXPIRES_MAX.as_secs_f64());
        let expires = Instant::now() + Duration::from_secs_f64(left);
        Ok(Claims { subject: subject.to_owned(), scopes, types, expires })
    }

    /// Asks the issuer for its keys. What there is stays if it does not answer.
    async fn fetch(&self) {
        self.kept.write().expect("nothing panics while it holds this lock").tried_at = Some(Instant::now());
        let fetched =
            timeout(FETCH_TIMEOUT, self.read_keys()).await.unwrap_or_else(|_| Err("it takes too long".into()));
        match fetched {
            Ok(keys) => {
                info!("{} keys of {} are known", keys.len(), self.config.issuer);
                let mut kept = self.kept.write().expect("nothing panics while it holds this lock");
                (kept.keys, kept.fetched_at) = (keys, Some(Instant::now()));
            }
            Err(cause) => {
                let url = &self.url;
                warn!(%cause, "can't read the keys at {url}, those that are known stay; will ask again in 30s at the earliest");
            }
        }
    }

    async fn read_keys(&self) -> Result<Vec<Key>, String> {
        let client = self.outgoing.client(&self.url).map_err(|refused| refused.to_string())?;
        let request = client.get(self.url.clone()).header("accept", "application/jwk-set+json, application/json");
        let mut answer =
            request.send().await.map_err(|cause| format!("{:#}", anyhow::Error::new(cause.without_url())))?;
        if answer.status() != 200 {
            return Err(format!("it answers {}", answer.status()));
        }
        let body =
            outgoing::body(&mut answer, KEYS_BYTES_MAX).await.map_err(|cause| cause.without_url().to_string())?;
        let body = body.ok_or("it is larger than 256 kB")?;
        let set: Value = serde_json::from_slice(&body).map_err(|_| "it is no JSON")?;
        let keys = set["keys"].as_array().ok_or("it is no JSON Web Key Set")?;
        let keys: Vec<Key> = keys.iter().take(KEYS_MAX).filter_map(Key::parse).collect();
        if keys.is_empty() { Err("it holds no key for RS256, PS256, ES256 or EdDSA".to_owned()) } else { Ok(keys) }
    }
}

impl Kept {
    /// The key that a token names, or the only one.
    fn find(&self, header: &Header) -> Option<&Key> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithms.contains(&header.alg));
        match &header.kid {
            Some(id) => fitting.find(|key| key.id.as_ref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }
}

impl Key {
    /// Nothing for keys that are for something else. What a key may be used for is said by its kind, never by a token.
    fn parse(value: &Value) -> Option<Self> {
        let jwk = Jwk::deserialize(value).ok()?;
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let fitting = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => vec![Algorithm::RS256, Algorithm::PS256],
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
            _ => return None,
        };
        let algorithms = match jwk.common.key_algorithm {
            None => fitting,
            Some(KeyAlgorithm::RS256) => vec![Algorithm::RS256],
            Some(KeyAlgorithm::PS256) => vec![Algorithm::PS256],
            Some(KeyAlgorithm::ES256) => vec![Algorithm::ES256],
            Some(KeyAlgorithm::EdDSA) => vec![Algorithm::EdDSA],
            Some(_) => return None,
        };
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: jwk.common.key_id, algorithms, key })
    }
}

fn read_header(token: &str) -> Result<Header, Fault> {
    let header = Some(token).filter(|token| token.len() <= TOKEN_BYTES_MAX);
    let header = header.and_then(|token| jsonwebtoken::decode_header(token).ok());
    let header = header.ok_or(Fault::Invalid("it is neither one of this gateway nor a JWT"))?;
    // Whoever does not understand what is critical must not go on (RFC 7515, section 4.1.11).
    if header.crit.is_some() {
        return Err(Fault::Invalid("its header asks for an extension (`crit`)"));
    }
    Ok(header)
}

/// A claim that is a text with spaces or a list of texts.
fn words(claim: Option<&Value>) -> Vec<String> {
    match claim {
        Some(Value::String(text)) => text.split_ascii_whitespace().map(str::to_owned).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn explain(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it does not hold yet",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::InvalidAudience => "it is for another audience",
        ErrorKind::MissingRequiredClaim(_) => "it lacks one of `exp`, `iss`, `aud` and `sub`",
        _ => "its signature or its claims can't be verified",
    }
}
