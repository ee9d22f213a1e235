//! A client as the rooms know it: its name, what it may do and what it may see.

use std::sync::Arc;

use axum::http::header;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::limit::{Pace, whole_seconds};
use crate::filter::{Filter, Selection};
use crate::web::problem::{Kind, Problem};

/// What a client may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Read,
    Webhooks,
    Push(String),
    Admin,
}

impl Scope {
    pub(super) fn parse(text: &str) -> Option<Self> {
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
    /// Whether its webhooks may be sent when no token is at hand.
    pub(super) owns: bool,
    pub(super) pace: Option<Arc<Pace>>,
    pub(super) term: Term,
}

impl Client {
    /// Whoever comes through an open loopback door.
    pub(super) fn anybody() -> Self {
        Self {
            name: "local".to_owned(),
            scopes: vec![Scope::Read, Scope::Webhooks, Scope::Admin],
            visible: Selection::visible(&Filter::default()),
            owns: true,
            pace: None,
            term: Term::default(),
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

    /// Refuses a client that can't own what is sent later: nobody would say then what it may see.
    ///
    /// # Errors
    /// 403 that says what it takes.
    pub fn must_own(&self) -> Result<(), Problem> {
        if self.owns {
            return Ok(());
        }
        let detail = format!(
            "client `{}` can't own webhooks or subscriptions: they take a [[client]] of its name, and a token that sees as \
             much as that",
            self.name
        );
        Err(Problem::new(Kind::Forbidden, detail))
    }

    /// Resolves when what it was let in for holds no more: what it has open ends, and it has to come again.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let Term { client, issuer, expires } = self.term.clone();
        async move {
            let expired = async {
                match expires {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = client.cancelled() => {}
                () = issuer.cancelled() => {}
                () = expired => {}
            }
        }
    }

    /// Counts a request against the client's rate.
    ///
    /// # Errors
    /// 429 that says when to come again.
    pub(in crate::web) fn take_turn(&self) -> Result<(), Problem> {
        let Some(pace) = &self.pace else { return Ok(()) };
        pace.take().map_err(|wait| {
            let seconds = whole_seconds(wait).to_string();
            let detail = format!("client `{}` asks more often than its `rate` allows; wait {seconds} s", self.name);
            Problem::new(Kind::TooMany, detail).with_header(header::RETRY_AFTER, &seconds)
        })
    }
}

/// How long a client holds: until a reload changes it or its issuer, or its token expires.
#[derive(Clone, Debug, Default)]
pub(super) struct Term {
    pub(super) client: CancellationToken,
    pub(super) issuer: CancellationToken,
    pub(super) expires: Option<Instant>,
}
