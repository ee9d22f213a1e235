//! An identity provider: keys at a URL, and tokens signed with them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaKeyPair,
};
use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use base64::Engine as _;
use serde_json::{Value, json};

/// A key of one kind, with an id.
pub struct Key {
    id: String,
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    pub fn rsa(id: &str) -> Self {
        Self { id: id.to_owned(), pair: Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()) }
    }

    pub fn ec(id: &str) -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        Self { id: id.to_owned(), pair: Pair::Ec(EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref()).unwrap()) }
    }

    pub fn ed(id: &str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self { id: id.to_owned(), pair: Pair::Ed(Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap()) }
    }

    pub fn public(&self) -> Value {
        match &self.pair {
            Pair::Rsa(pair) => {
                // SEQUENCE { INTEGER n, INTEGER 65537 } of 2048 bits: the number starts behind nine bytes.
                let n = base64url(&pair.public_key().as_ref()[9..265]);
                json!({"kty": "RSA", "kid": self.id, "use": "sig", "n": n, "e": "AQAB"})
            }
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": self.id, "x": base64url(x), "y": base64url(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": base64url(pair.public_key())})
            }
        }
    }

    /// A token with this header (but for the id) and these claims.
    pub fn sign(&self, algorithm: &str, claims: &Value) -> String {
        let text = unsigned(&json!({"alg": algorithm, "kid": self.id}), claims);
        let signature = match &self.pair {
            Pair::Rsa(pair) => {
                let padding = if algorithm == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
        };
        format!("{text}.{}", base64url(signature))
    }
}

/// Header and claims, without a signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()))
}

pub struct Issuer {
    pub url: String,
    document: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Issuer {
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let issuer = Self { url, document: Arc::default(), asked: Arc::default() };
        issuer.publish(keys);
        let (document, asked) = (Arc::clone(&issuer.document), Arc::clone(&issuer.asked));
        let answer = move || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            let document = document.lock().unwrap().clone();
            document.map_or(StatusCode::BAD_GATEWAY.into_response(), |text| text.into_response())
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/keys", get(answer))).await });
        issuer
    }

    pub fn publish(&self, keys: &[&Key]) {
        let mut keys: Vec<Value> = keys.iter().map(|key| key.public()).collect();
        // Keys of kinds that nobody knows, or that are secrets, are passed over.
        keys.extend([json!({"kty": "lattice", "kid": "q"}), json!({"kty": "oct", "kid": "h", "k": "c2VjcmV0"})]);
        *self.document.lock().unwrap() = Some(json!({"keys": keys}).to_string());
    }

    pub fn fall_silent(&self) {
        *self.document.lock().unwrap() = None;
    }

    /// How often somebody wanted its keys.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// `[auth.jwt]`, with more keys.
    pub fn config(&self, more: &str) -> String {
        format!(
            "[auth.jwt]\nissuer = \"https://id.example\"\naudience = \"postern\"\njwks_url = {:?}\n{more}\n",
            self.url
        )
    }
}

/// Claims that hold for an hour, with others over them.
pub fn claims(subject: &str, more: Value) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({"iss": "https://id.example", "aud": "postern", "sub": subject, "exp": now + 3600});
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}
