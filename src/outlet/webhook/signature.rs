//! Standard Webhooks signatures, scheme `v1`: HMAC-SHA256 over `id.timestamp.body`. Pure.
//!
//! The timestamp is the attempt's, so every attempt is signed anew while its id and its bytes stay.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const PREFIX: &str = "whsec_";
/// A multiple of three, so that the text has no padding and every library reads it.
const NEW_BYTES: usize = 24;
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// How far a receiver lets the sender's clock differ.
pub const TOLERANCE_SECONDS: i64 = 300;

/// A new secret as its owner gets it.
pub fn new_secret() -> String {
    format!("{PREFIX}{}", STANDARD.encode(crate::runtime::random_bytes::<NEW_BYTES>()))
}

/// Signs with one secret.
#[derive(Clone)]
pub struct Signer {
    key: hmac::Key,
}

impl Signer {
    /// Reads `whsec_` and the base64 of 24 to 64 bytes; nothing if the text is anything else.
    pub fn of(secret: &str) -> Option<Self> {
        let bytes = STANDARD.decode(secret.strip_prefix(PREFIX)?).ok()?;
        BYTES.contains(&bytes.len()).then(|| Self { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes) })
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let tag = tag(&self.key, id, &timestamp.to_string(), body);
        format!("v1,{}", STANDARD.encode(tag.as_ref()))
    }
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
            assert_eq!(Signer::of(secret).expect("a secret").sign(id, time, body), expected);
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

    #[test]
    fn secrets_have_24_to_64_bytes_and_new_ones_no_padding() {
        assert!(Signer::of(&new_secret()).is_some_and(|_| !new_secret().contains('=')));
        for bad in [
            "",
            "whsec_",
            "whsec_AAAA",
            "whsec_!",
            &new_secret()[6..],
            &format!("{PREFIX}{}", STANDARD.encode([0; 65])),
        ] {
            assert!(Signer::of(bad).is_none(), "{bad}");
        }
    }
}
