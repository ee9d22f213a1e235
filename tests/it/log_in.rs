//! How clients say who they are, and what happens to those who guess: the front door before a room that tells who came in.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHasher as _, Version};
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::stream;
use postern::web::auth::{Auth, Client, ClientConfig, Config, hash_password, new_token};
use postern::web::server::{Doors, Proxies, serve};
use postern::web::{self, Site};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::issuer::{self, Issuer, Key, claims};
use crate::support::{json, provider, wait_for};

#[derive(Deserialize)]
struct Clients {
    #[serde(default)]
    auth: Config,
    #[serde(default)]
    client: Vec<ClientConfig>,
}

fn read(config: &str) -> Clients {
    toml::from_str(config).unwrap()
}

struct Door {
    url: String,
    auth: Auth,
}

impl Door {
    async fn start(config: &str) -> Self {
        provider();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let Clients { auth, client } = read(config);
        let auth = Auth::new(&auth, &client).unwrap();
        let site = Site::new(&web::Config::default(), address).unwrap();
        let who = |Extension(client): Extension<Arc<Client>>| async move {
            let scopes: Vec<String> = client.scopes.iter().map(ToString::to_string).collect();
            Json(
                json!({"name": client.name, "scopes": scopes, "types": client.visible.filters().last().unwrap().types}),
            )
        };
        // It has no end of its own.
        let stream = || async { Sse::new(stream::pending::<Result<Event, Infallible>>()) };
        let room = Router::new().route("/who", get(who)).route("/do", post(who)).route("/stream", get(stream));
        let router = web::front(Router::new(), room, auth.clone(), site);
        let doors = Doors::default();
        doors.change(router);
        tokio::spawn(serve(listener, None, Proxies::default(), doors, CancellationToken::new()));
        Self { url: format!("http://{address}"), auth }
    }

    /// Asks from one of this machine's own addresses.
    fn from(&self, address: [u8; 4]) -> RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().local_address(IpAddr::from(address));
        client.build().unwrap().get(format!("{}/who", self.url))
    }

    fn ask(&self) -> RequestBuilder {
        self.from([127, 0, 0, 1])
    }

    fn post(&self) -> RequestBuilder {
        reqwest::Client::builder().no_proxy().build().unwrap().post(format!("{}/do", self.url))
    }

    async fn with_token(&self, token: &str) -> Response {
        self.ask().bearer_auth(token).send().await.unwrap()
    }
}

/// A hash that costs next to nothing, as tests are not optimized.
fn cheap_hash(password: &str) -> String {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    argon2.hash_password_with_salt(password.as_bytes(), b"salt and pepper.").unwrap().to_string()
}

fn client(name: &str, keys: &str) -> String {
    format!("[[client]]\nname = {name:?}\nscopes = [\"read\"]\n{keys}\n")
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_name_with_a_password_or_a_token_opens_the_door() {
    let (token, hash) = new_token();
    let password_hash = hash_password("pässword:with colon");
    let config = client("poller", &format!("password_hash = {password_hash:?}\ntoken_hash = {hash:?}"))
        + &client("other", &format!("password_hash = {:?}", cheap_hash("another password")));
    let door = Door::start(&config).await;
    for password in ["pässword:with colon", &token, "pässword:with colon"] {
        let answer = door.ask().basic_auth("poller", Some(password)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(json(answer).await["name"], "poller");
    }
    for (name, password) in [("poller", "another password"), ("nobody", "another password"), ("other", &token)] {
        let answer = door.ask().basic_auth(name, Some(password)).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{name}");
        assert!(answer.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic realm="));
    }
    for value in ["Basic", "Basic !", "Basic bm9jb2xvbg==", "Digest x", "Bearer"] {
        assert_eq!(status(door.ask().header("authorization", value)).await, 401, "{value}");
    }
    assert_eq!(status(door.ask().bearer_auth(&token).basic_auth("x", Some("y"))).await, 401, "two at once");
}

/// Runs `postern token` and gives what it prints, by name.
fn token(arguments: &[&str], input: &str) -> Option<HashMap<String, String>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    let command =
        command.arg("token").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    // It may have refused already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().filter_map(|line| line.split_once(": "));
    output.status.success().then(|| lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[tokio::test]
async fn what_postern_token_makes_opens_the_door() {
    let by_token = token(&["erp"], "").unwrap();
    let (made, read) =
        (token(&["made", "--password"], "").unwrap(), token(&["read", "--password-stdin"], "long enough it is\n"));
    let read = read.unwrap();
    assert!(!read.contains_key("password"), "whoever typed it knows it");
    assert!(token(&["x", "--password-stdin"], "too short\n").is_none());
    assert!(token(&["a:b", "--password"], "").is_none());
    let config = client("erp", &format!("token_hash = {:?}", by_token["token_hash"]))
        + &client("made", &format!("password_hash = {:?}", made["password_hash"]))
        + &client("read", &format!("password_hash = {:?}", read["password_hash"]));
    let door = Door::start(&config).await;
    assert_eq!(door.with_token(&by_token["token"]).await.status(), 200);
    for (name, password) in [("made", made["password"].as_str()), ("read", "long enough it is")] {
        assert_eq!(status(door.ask().basic_auth(name, Some(password))).await, 200, "{name}");
    }
}

#[tokio::test]
async fn who_guesses_waits_and_nobody_else_does() {
    let (token, hash) = new_token();
    let config = client("poller", &format!("password_hash = {:?}", cheap_hash("the right one")))
        + &client("erp", &format!("token_hash = {hash:?}"));
    let door = Door::start(&config).await;
    let (attacker, owner) = ([127, 0, 0, 66], [127, 0, 0, 1]);
    let guess = |n: u32| door.from(attacker).basic_auth("poller", Some(format!("guess {n}")));
    let mut held_off = None;
    for n in 0..40 {
        let answer = guess(n).send().await.unwrap();
        if answer.status() == 429 {
            held_off = Some((n, answer));
            break;
        }
        assert_eq!(answer.status(), 401);
    }
    let (tried, answer) = held_off.unwrap();
    assert!((10..=20).contains(&tried), "held off after {tried}");
    assert!((1..=6).contains(&answer.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap()));
    assert!(json(answer).await["type"].as_str().unwrap().ends_with("/problems/too-many"));
    // From where the owner is, the same name opens the door; and a right token does everywhere.
    assert_eq!(status(door.from(owner).basic_auth("poller", Some("the right one"))).await, 200);
    assert_eq!(status(door.from(attacker).bearer_auth(&token)).await, 200);
    // Guesses from more addresses than one name may have at a time do not lock out who was here before.
    let mut answers = Vec::new();
    for n in 0..120 {
        answers.push(status(door.from([127, 0, 9, n]).basic_auth("poller", Some("a guess"))).await);
    }
    assert!(answers.contains(&429) && answers.contains(&401), "{answers:?}");
    let Clients { auth, client } = read(&config);
    door.auth.reload(&auth, &client).unwrap();
    assert_eq!(status(door.from(owner).basic_auth("poller", Some("the right one"))).await, 200);
}

#[tokio::test]
async fn many_wrong_tokens_are_held_off_and_right_ones_are_not() {
    let (token, hash) = new_token();
    let door = Door::start(&client("erp", &format!("token_hash = {hash:?}"))).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |token: String| status(client.get(format!("{}/who", door.url)).bearer_auth(token));
    let mut seen = Vec::new();
    for n in 0..150 {
        seen.push(ask(format!("pst_{n}")).await);
    }
    assert!(seen[..100].iter().all(|status| *status == 401), "{seen:?}");
    assert!(seen[100..].contains(&429), "{seen:?}");
    assert_eq!(ask(token).await, 200);
}

#[tokio::test]
async fn a_client_asks_no_more_often_than_its_rate() {
    let ((slow, slow_hash), (other, other_hash)) = (new_token(), new_token());
    let config = client("slow", &format!("token_hash = {slow_hash:?}\nrate = {{ max = 3, per = \"60s\" }}"))
        + &client("other", &format!("token_hash = {other_hash:?}"));
    let door = Door::start(&config).await;
    for _ in 0..3 {
        assert_eq!(door.with_token(&slow).await.status(), 200);
    }
    let refused = door.with_token(&slow).await;
    assert_eq!(refused.status(), 429);
    assert!((1..=20).contains(&refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap()));
    assert!(json(refused).await["detail"].as_str().unwrap().contains("`rate`"));
    assert_eq!(door.with_token(&other).await.status(), 200);
}

#[tokio::test]
async fn a_reload_takes_effect_at_the_next_request() {
    let ((kept, kept_hash), (gone, gone_hash)) = (new_token(), new_token());
    let both = client("kept", &format!("token_hash = {kept_hash:?}"))
        + &client("gone", &format!("token_hash = {gone_hash:?}\npassword_hash = {:?}", cheap_hash("the password")));
    let door = Door::start(&both).await;
    let by_password = || door.ask().basic_auth("gone", Some("the password"));
    assert_eq!(door.with_token(&gone).await.status(), 200);
    assert_eq!(status(by_password()).await, 200);
    let reload = |config: &str| {
        let Clients { auth, client } = read(config);
        door.auth.reload(&auth, &client)
    };
    reload(&client("kept", &format!("token_hash = {kept_hash:?}"))).unwrap();
    assert_eq!(door.with_token(&gone).await.status(), 401);
    assert_eq!(status(by_password()).await, 401, "although it was known a moment ago");
    assert_eq!(door.with_token(&kept).await.status(), 200);
    assert!(door.auth.visibility("gone").is_none() && door.auth.visibility("kept").is_some());
    // What can't be used changes nothing, and nothing opens the door for everybody.
    assert!(reload("[[client]]\nname = \"x\"\nscopes = [\"reed\"]\n").is_err());
    assert!(reload("").unwrap_err().contains("restart"));
    assert_eq!(door.with_token(&kept).await.status(), 200);
}

#[tokio::test]
async fn streams_end_with_the_client_that_has_them() {
    let ((kept, kept_hash), (gone, gone_hash)) = (new_token(), new_token());
    let key = Key::ed("k");
    let issuer = Issuer::start(&[&key]).await;
    let config = client("kept", &format!("token_hash = {kept_hash:?}"));
    let both = config.clone() + &client("gone", &format!("token_hash = {gone_hash:?}"));
    let door = Door::start(&(issuer.config("") + &both)).await;
    let now = claims("x", json!({}))["exp"].as_u64().unwrap() - 3600;
    // It has expired, but for the difference that two clocks may have.
    let soon_over = key.sign("EdDSA", &claims("x", json!({"exp": now - 57})));
    let open = async |token: &str| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("{}/stream", door.url)).bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    };
    let read_on = |answer: Response| tokio::spawn(answer.bytes());
    let (of_kept, of_gone) = (read_on(open(&kept).await), read_on(open(&gone).await));
    let of_token = read_on(open(&soon_over).await);
    of_token.await.unwrap().unwrap();
    assert!(!of_gone.is_finished() && !of_kept.is_finished());
    let Clients { auth, client } = read(&(issuer.config("") + &config));
    door.auth.reload(&auth, &client).unwrap();
    of_gone.await.unwrap().unwrap();
    assert_eq!(door.with_token(&kept).await.status(), 200);
    assert!(!of_kept.is_finished(), "nothing has changed for it");
    of_kept.abort();
}

#[tokio::test]
async fn a_page_of_another_site_can_not_use_a_browsers_log_in() {
    let (token, hash) = new_token();
    let door = Door::start(&client("erp", &format!("token_hash = {hash:?}"))).await;
    let by_browser = |name: &str, value: &str| door.post().basic_auth("erp", Some(&token)).header(name, value);
    for (name, value, expected) in [
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "same-origin", 200),
        ("origin", "https://attacker.example", 403),
        ("origin", "null", 403),
        ("origin", door.url.as_str(), 200),
        ("accept", "*/*", 200),
    ] {
        assert_eq!(status(by_browser(name, value)).await, expected, "{name}: {value}");
    }
    let by_program = door.post().bearer_auth(&token).header("origin", "https://app.example");
    assert_eq!(status(by_program).await, 200);
    let open = Door::start("").await;
    assert_eq!(status(open.post().header("origin", "https://attacker.example")).await, 403);
    assert_eq!(status(open.post()).await, 200);
}

#[tokio::test]
async fn tokens_of_the_issuer_are_who_and_what_they_say() {
    let (rsa, ec, ed) = (Key::rsa("r"), Key::ec("e"), Key::ed("d"));
    let issuer = Issuer::start(&[&rsa, &ec, &ed]).await;
    let entry = "[[client]]\nname = \"erp\"\nscopes = [\"read\", \"webhooks\"]\nevents = { types = [\"Order*\"] }\n";
    let door = Door::start(&(issuer.config("types_claim = \"types\"") + entry)).await;
    let read = json!({"scope": "openid read push:billing", "types": ["*"]});
    for (key, algorithm) in [(&rsa, "RS256"), (&rsa, "PS256"), (&ec, "ES256"), (&ed, "EdDSA")] {
        let answer = door.with_token(&key.sign(algorithm, &claims("someone", read.clone()))).await;
        assert_eq!(answer.status(), 200, "{algorithm}");
        assert_eq!(json(answer).await, json!({"name": "someone", "scopes": ["read", "push:billing"], "types": []}));
    }
    let told =
        async |subject: &str, more: Value| json(door.with_token(&ec.sign("ES256", &claims(subject, more))).await).await;
    // Never more than the client of the same name, and no webhooks for what sees less, or is nobody's.
    let all = json!({"scope": ["read", "webhooks", "admin"], "types": "Order* Paid"});
    assert_eq!(
        told("erp", all.clone()).await,
        json!({"name": "erp", "scopes": ["read", "webhooks"], "types": ["Order*"]})
    );
    let some = json!({"scope": "read webhooks", "types": ["OrderPlaced"]});
    assert_eq!(told("erp", some).await, json!({"name": "erp", "scopes": ["read"], "types": ["OrderPlaced"]}));
    assert_eq!(told("x", all).await["scopes"], json!(["read", "admin"]));
    assert_eq!(told("x", json!({"scope": "read"})).await["types"], json!([""]), "without the claim it sees nothing");
}

#[tokio::test]
async fn tokens_that_are_not_quite_right_open_nothing() {
    let (rsa, ec, stranger) = (Key::rsa("r"), Key::ec("e"), Key::ec("e"));
    let issuer = Issuer::start(&[&rsa, &ec]).await;
    let door = Door::start(&issuer.config("")).await;
    let good = claims("erp", json!({"scope": "read"}));
    assert_eq!(door.with_token(&ec.sign("ES256", &good)).await.status(), 200);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        ec.sign("ES256", &claims)
    };
    let now = good["exp"].as_u64().unwrap() - 3600;
    let unsigned = |header: Value| issuer::unsigned(&header, &good);
    let (right, other) = (ec.sign("ES256", &good), with("sub", "root".into()));
    let (signature, text) = (right.rsplit('.').next().unwrap(), other.rsplit_once('.').unwrap().0);
    for (what, token) in [
        ("expired", with("exp", (now - 120).into())),
        ("without an end", with("exp", Value::Null)),
        ("of tomorrow", with("nbf", (now + 86_400).into())),
        ("of another issuer", with("iss", "https://id.example/".into())),
        ("for another audience", with("aud", json!(["elsewhere"]))),
        ("of nobody", with("sub", "".into())),
        ("of something that is no name", with("sub", json!(7))),
        ("signed by a stranger with the same id", stranger.sign("ES256", &good)),
        ("signed for other claims", format!("{text}.{signature}")),
        ("of another algorithm than its key's", ec.sign("RS256", &good)),
        ("without a signature", format!("{}.", unsigned(json!({"alg": "none"})))),
        ("signed by a secret", format!("{}.AAAA", unsigned(json!({"alg": "HS256", "kid": "h"})))),
        ("with an extension", format!("{}.{signature}", unsigned(json!({"alg": "ES256", "kid": "e", "crit": ["x"]})))),
        ("no token", "a.b.c".to_owned()),
    ] {
        let answer = door.with_token(&token).await;
        assert_eq!(answer.status(), 401, "{what}");
        let mut challenges = answer.headers().get_all("www-authenticate").iter();
        assert!(challenges.any(|text| text.to_str().unwrap().contains("invalid_token")), "{what}");
    }
    // Two clocks differ.
    assert_eq!(door.with_token(&with("exp", (now - 30).into())).await.status(), 200);
    assert_eq!(door.with_token(&with("aud", json!(["x", "postern"]))).await.status(), 200);
}

#[tokio::test]
async fn keys_are_fetched_rarely_follow_a_rotation_and_outlive_the_issuer() {
    let (first, second) = (Key::ec("1"), Key::ed("2"));
    let issuer = Issuer::start(&[]).await;
    issuer.fall_silent();
    let door = Door::start(&issuer.config("")).await;
    let good = claims("erp", json!({"scope": "read"}));
    let (old, new) = (first.sign("ES256", &good), second.sign("EdDSA", &good));
    let answer = door.with_token(&old).await;
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "30"));
    issuer.publish(&[&first]);
    wait_for("the keys", || async { (door.with_token(&old).await.status() == 200).then_some(()) }).await;
    let asked = issuer.asked();
    for n in 0..20 {
        let made_up = Key::ed(&format!("made up {n}")).sign("EdDSA", &good);
        assert_eq!(door.with_token(&made_up).await.status(), 401);
        assert_eq!(door.with_token(&old).await.status(), 200);
    }
    assert_eq!((asked, issuer.asked()), (2, 2), "whoever makes tokens up makes nobody ask");
    issuer.publish(&[&second]);
    wait_for("the new key", || async { (door.with_token(&new).await.status() == 200).then_some(()) }).await;
    assert_eq!(door.with_token(&old).await.status(), 401, "the issuer has withdrawn its key");
    issuer.fall_silent();
    assert_eq!(door.with_token(&new).await.status(), 200);
}
