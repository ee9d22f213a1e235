//! How calls are signed. Pure.
//!
//! Standard Webhooks: `v1` is HMAC-SHA256, `v1a` Ed25519, both over `id.timestamp.body`. The timestamp is the attempt's, so
//! every attempt is signed anew while its id and its bytes stay. `github` and `stripe` are what receivers know that exist.

use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::http::HeaderName;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::runtime::{hex, random_bytes};

const PREFIX: &str = "whsec_";
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
const SEED_BYTES: usize = 32;
/// A multiple of three, so that the text has no padding and every library reads it.
const NEW_BYTES: usize = 24;
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// A `v1` one has so many.
const SIGNATURE_BYTES: usize = 47;
/// How far a receiver lets the sender's clock differ.
pub const TOLERANCE_SECONDS: i64 = 300;

const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const GITHUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");
const WEBSUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature");
const STRIPE_SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");

/// A way of signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    V1,
    V1a,
    /// `X-Hub-Signature-256: sha256=<hex>` over the body.
    Github,
    /// `Stripe-Signature: t=…,v1=<hex>` over `t.body`.
    Stripe,
    /// `X-Hub-Signature: sha256=<hex>` over the body (WebSub, section 7.1).
    Websub,
}

impl Profile {
    /// Whether its key is the bytes behind `whsec_`, and not the text of the secret.
    pub fn is_standard(self) -> bool {
        matches!(self, Self::V1 | Self::V1a)
    }
}

/// A new secret as its owner gets it.
pub fn new_secret() -> String {
    format!("{PREFIX}{}", STANDARD.encode(random_bytes::<NEW_BYTES>()))
}

/// Whether the text is `whsec_` and the base64 of 24 to 64 bytes.
pub fn is_secret(text: &str) -> bool {
    secret_bytes(text).is_some()
}

fn secret_bytes(text: &str) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
    BYTES.contains(&bytes.len()).then_some(bytes)
}

/// A new private key: `whsk_` and the base64 of seed and public key.
pub fn new_private_key() -> String {
    let seed = random_bytes::<SEED_BYTES>();
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("every seed is a key");
    format!("{PRIVATE_PREFIX}{}", STANDARD.encode([seed.as_slice(), pair.public_key().as_ref()].concat()))
}

/// The public key of a private one, as receivers get it: `whpk_` and base64.
pub fn public_key(private_key: &str) -> Option<String> {
    Some(format!("{PUBLIC_PREFIX}{}", STANDARD.encode(key_pair(private_key)?.public_key().as_ref())))
}

fn key_pair(private_key: &str) -> Option<Ed25519KeyPair> {
    let bytes = STANDARD.decode(private_key.strip_prefix(PRIVATE_PREFIX)?).ok()?;
    let (seed, public) = bytes.split_at_checked(SEED_BYTES)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()
}

/// What calls are signed with, and how long: a secret that is being replaced signs, too.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// Microseconds since 1970; nothing: until it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// Signs with one key or, while a secret is being replaced, with several; the newest first.
#[derive(Clone)]
pub struct Signer {
    profiles: Vec<Profile>,
    keys: Vec<Ready>,
}

#[derive(Clone)]
struct Ready {
    standard: Option<hmac::Key>,
    text: hmac::Key,
    pair: Option<Arc<Ed25519KeyPair>>,
    until: i64,
}

impl Signer {
    /// Nothing if a profile lacks its key.
    pub fn new(keys: &[Key], profiles: &[Profile]) -> Option<Self> {
        let ready = keys.iter().map(|key| {
            let standard = secret_bytes(&key.secret).map(|bytes| hmac::Key::new(hmac::HMAC_SHA256, &bytes));
            let text = hmac::Key::new(hmac::HMAC_SHA256, key.secret.as_bytes());
            let pair = key.private_key.as_deref().and_then(key_pair).map(Arc::new);
            let has_all = profiles.iter().all(|profile| match profile {
                Profile::V1 => standard.is_some(),
                Profile::V1a => pair.is_some(),
                Profile::Github | Profile::Stripe | Profile::Websub => true,
            });
            has_all.then(|| Ready { standard, text, pair, until: key.until.unwrap_or(i64::MAX) })
        });
        let keys = ready.enumerate().filter_map(|(n, key)| if n == 0 { Some(key) } else { key.map(Some) });
        let keys: Vec<Ready> = keys.collect::<Option<_>>()?;
        (!keys.is_empty()).then(|| Self { profiles: profiles.to_vec(), keys })
    }

    /// The headers that prove `body`, for an attempt at this second.
    pub fn headers(&self, id: &str, timestamp: i64, body: &[u8]) -> Vec<(HeaderName, String)> {
        let now = timestamp.saturating_mul(1_000_000);
        let keys = || self.keys.iter().enumerate().filter(|(n, key)| *n == 0 || key.until > now).map(|(_, key)| key);
        let time = timestamp.to_string();
        let (mut headers, mut standard) = (Vec::with_capacity(2), String::with_capacity(SIGNATURE_BYTES));
        for profile in &self.profiles {
            match profile {
                Profile::V1 => {
                    for key in keys().filter_map(|key| key.standard.as_ref()) {
                        push(&mut standard, "v1", tag(key, id, &time, body).as_ref());
                    }
                }
                Profile::V1a => {
                    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", body].concat();
                    for pair in keys().filter_map(|key| key.pair.as_ref()) {
                        push(&mut standard, "v1a", pair.sign(&signed).as_ref());
                    }
                }
                // It has room for one.
                Profile::Github | Profile::Websub => {
                    let text = hex(hmac::sign(&self.keys[0].text, body).as_ref());
                    let name = if *profile == Profile::Github { GITHUB_SIGNATURE } else { WEBSUB_SIGNATURE };
                    headers.push((name, format!("sha256={text}")));
                }
                Profile::Stripe => {
                    let signed = [time.as_bytes(), b".", body].concat();
                    let mut value = format!("t={time}");
                    for key in keys() {
                        let _ = write!(value, ",v1={}", hex(hmac::sign(&key.text, &signed).as_ref()));
                    }
                    headers.push((STRIPE_SIGNATURE, value));
                }
            }
        }
        if !standard.is_empty() {
            headers.push((WEBHOOK_SIGNATURE, standard));
        }
        headers
    }
}

fn push(list: &mut String, scheme: &str, signature: &[u8]) {
    if !list.is_empty() {
        list.push(' ');
    }
    list.push_str(scheme);
    list.push(',');
    STANDARD.encode_string(signature, list);
}

fn tag(key: &hmac::Key, id: &str, timestamp: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        context.update(part);
    }
    context.sign()
}

/// What a receiver does: whether one of the signatures in `header` fits, and `timestamp` lies within `tolerance`
/// seconds of `now`. The secret may come with or without its prefix.
pub fn verify(secret: &str, id: &str, timestamp: &str, body: &[u8], header: &str, now: i64, tolerance: i64) -> bool {
    let Ok(bytes) = STANDARD.decode(secret.strip_prefix(PREFIX).unwrap_or(secret)) else { return false };
    let in_time = timestamp.parse::<i64>().is_ok_and(|at| now.saturating_sub(at).saturating_abs() <= tolerance);
    if bytes.is_empty() || !in_time {
        return false;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
    let expected = tag(&key, id, timestamp, body);
    header
        .split(' ')
        .filter_map(|part| part.strip_prefix("v1,"))
        .filter_map(|text| STANDARD.decode(text).ok())
        .any(|given| aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), &given).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_published_vectors_come_out() {
        let v1 = [Profile::V1];
        for (secret, id, time, body, expected) in [
            (SECRET, ID, TIME, BODY, SIGNATURE),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                br#"{"email":"test@example.com","username":"test_user"}"#.as_slice(),
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
        ] {
            assert_eq!(signed(&key(secret), &v1, id, time, body), [format!("webhook-signature: {expected}")]);
            assert!(verify(secret, id, &time.to_string(), body, expected, time, TOLERANCE_SECONDS));
        }
        // Shorter than we accept as a secret, but a receiver may have it.
        let (id, body) = ("msg_loFOjxBNrRLzqYUf", br#"{"event_type":"ping","data":{"success":true}}"#);
        let header = "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=";
        assert!(verify("whsec_plJ3nmyCDGBKInavdOK15jsl", id, "1731705121", body, header, 1_731_705_121, 0));
    }

    #[test]
    fn what_must_not_verify_does_not() {
        let check = |secret: &str, time: &str, header: &str, now: i64| verify(secret, ID, time, BODY, header, now, 300);
        let time = TIME.to_string();
        assert!(check(SECRET, &time, SIGNATURE, TIME + 300));
        assert!(check(&SECRET[6..], &time, &format!("v2,AAAA v1,AAAA {SIGNATURE} v1a,xx"), TIME - 300));
        let changed = SIGNATURE.replace("OE=", "OA=");
        let other_scheme = SIGNATURE.replace("v1,", "v2,");
        for header in [changed.as_str(), "v1,", &SIGNATURE[..8], &other_scheme, ""] {
            assert!(!check(SECRET, &time, header, TIME), "{header}");
        }
        for (secret, time, now) in [
            (SECRET, "hello", TIME),
            (SECRET, &time, TIME + 301),
            (SECRET, &time, TIME - 301),
            ("", &time, TIME),
            ("whsec_", &time, TIME),
        ] {
            assert!(!check(secret, time, SIGNATURE, now), "{secret} {time} {now}");
        }
    }

    fn key(secret: &str) -> Key {
        Key { secret: secret.to_owned(), private_key: None, until: None }
    }

    fn signed(key: &Key, profiles: &[Profile], id: &str, time: i64, body: &[u8]) -> Vec<String> {
        let signer = Signer::new(std::slice::from_ref(key), profiles).expect("a key");
        signer.headers(id, time, body).into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn the_other_profiles_give_their_published_values() {
        let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
        assert_eq!(public_key(private).as_deref(), Some("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="));
        let both = Key { private_key: Some(private.to_owned()), ..key(SECRET) };
        let v1a = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
        assert_eq!(
            signed(&both, &[Profile::V1, Profile::V1a], ID, TIME, BODY),
            [format!("webhook-signature: {SIGNATURE} {v1a}")]
        );
        assert_eq!(
            signed(&key("It's a Secret to Everybody"), &[Profile::Github], ID, TIME, b"Hello, World!"),
            ["x-hub-signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"]
        );
        assert_eq!(
            signed(&key("whsec_test_secret"), &[Profile::Stripe], ID, 1_492_774_577, br#"{"id":"evt_1"}"#),
            ["stripe-signature: t=1492774577,v1=799c4ba7bb339f3c8601adfd112f0e477c930a268be1243d341abb8286501c2f"]
        );
        assert!(Signer::new(&[key("a text")], &[Profile::V1]).is_none());
        assert!(Signer::new(&[key(SECRET)], &[Profile::V1a]).is_none());
        let fresh = new_private_key();
        assert!(public_key(&fresh).is_some() && fresh != new_private_key());
    }

    #[test]
    fn a_replaced_secret_signs_until_its_time() {
        let old = Key { until: Some((TIME + 10) * 1_000_000), ..key(SECRET) };
        let signer = Signer::new(&[key(&new_secret()), old], &[Profile::V1, Profile::Stripe]).expect("keys");
        let at = |time| signer.headers(ID, time, BODY).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        let during = at(TIME);
        assert!(during[1].ends_with(&format!(" {SIGNATURE}")) && during[0].matches(",v1=").count() == 2, "{during:?}");
        let after = at(TIME + 10);
        assert!(!after[1].contains(' ') && after[0].matches(",v1=").count() == 1, "{after:?}");
    }

    #[test]
    fn secrets_have_24_to_64_bytes_and_new_ones_no_padding() {
        assert!(is_secret(&new_secret()) && !new_secret().contains('='));
        let too_long = format!("{PREFIX}{}", STANDARD.encode([0; 65]));
        for bad in ["", "whsec_", "whsec_AAAA", "whsec_!", &new_secret()[6..], &too_long] {
            assert!(!is_secret(bad), "{bad}");
        }
    }
}
