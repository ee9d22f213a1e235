//! Errors as users get them: RFC 9457 problem documents with a stable type and a detail that says what to do.
//! The cause stays in the log.

use std::fmt;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::{error, warn};

use crate::journal;

/// What went wrong, as a class that a program can act on. One table: slug, status, title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    BadRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    Conflict,
    Gone,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    Unprocessable,
    ForbiddenAddress,
    TooMany,
    Internal,
    Unavailable,
    Timeout,
}

impl Kind {
    fn table(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadRequest => ("bad-request", StatusCode::BAD_REQUEST, "The request can't be understood"),
            Self::Unauthenticated => ("unauthenticated", StatusCode::UNAUTHORIZED, "Who asks is not known"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "This client may not do that"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "Not with this method"),
            Self::NotAcceptable => ("not-acceptable", StatusCode::NOT_ACCEPTABLE, "No form that the client accepts"),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "It conflicts with what is there"),
            Self::Gone => ("gone", StatusCode::GONE, "It was here and is no more"),
            Self::PreconditionFailed => {
                ("precondition-failed", StatusCode::PRECONDITION_FAILED, "It changed meanwhile")
            }
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The request is too large"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Not in this media type")
            }
            Self::Unprocessable => ("unprocessable", StatusCode::UNPROCESSABLE_ENTITY, "A value can't be used"),
            Self::ForbiddenAddress => {
                ("forbidden-address", StatusCode::UNPROCESSABLE_ENTITY, "This address may not be called")
            }
            Self::TooMany => ("too-many", StatusCode::TOO_MANY_REQUESTS, "Too much at a time"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong here"),
            Self::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Not available at the moment"),
            Self::Timeout => ("timeout", StatusCode::GATEWAY_TIMEOUT, "It took too long"),
        }
    }

    /// The kind that an error status stands for; nothing for other statuses.
    pub(super) fn of_status(status: StatusCode) -> Option<Self> {
        Some(match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Self::MethodNotAllowed,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UnsupportedMediaType,
            StatusCode::UNPROCESSABLE_ENTITY => Self::Unprocessable,
            status if status.is_client_error() => Self::BadRequest,
            status if status.is_server_error() => Self::Internal,
            _ => return None,
        })
    }

    pub fn slug(self) -> &'static str {
        self.table().0
    }

    pub fn status(self) -> StatusCode {
        self.table().1
    }

    pub fn title(self) -> &'static str {
        self.table().2
    }
}

/// An answer that is an error. It stays in the response's extensions until the front door, which alone knows `instance`
/// and the start of `type`, writes the document.
#[derive(Clone, Debug)]
pub struct Problem {
    pub kind: Kind,
    pub detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), headers: Vec::new() }
    }

    /// Adds a header to the answer, such as `Allow` or `Retry-After`; one that can't be a header is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// A method that this URL does not know.
    pub fn method_not_allowed(allow: &str) -> Self {
        let detail = format!("this URL answers to {allow}");
        Self::new(Kind::MethodNotAllowed, detail).with_header(header::ALLOW, allow)
    }

    /// The document. `type` is a URL below `base`; `instance` is the request's path.
    pub(super) fn document(&self, base: &str, instance: &str) -> String {
        let (slug, status, title) = self.kind.table();
        json!({
            "type": format!("{base}/problems/{slug}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
            "instance": instance,
        })
        .to_string()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.kind.status();
        response.headers_mut().extend(self.headers.iter().cloned());
        if self.kind == Kind::Unauthenticated && !response.headers().contains_key(header::WWW_AUTHENTICATE) {
            for challenge in super::auth::challenges("") {
                response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl From<journal::Error> for Problem {
    fn from(error: journal::Error) -> Self {
        use journal::Error;
        match &error {
            Error::Malformed { .. } => Self::new(
                Kind::BadRequest,
                format!(
                    "{error}; give an event id, an Atom id or a cursor such as 0a1b2c3d-42, or 0 for the beginning"
                ),
            ),
            Error::UnknownPosition { .. } => Self::new(Kind::NotFound, error.to_string()),
            Error::Expired { oldest, .. } => Self::new(Kind::Gone, format!("{error}; go on with ?after={oldest}")),
            Error::Conflict { .. } => Self::new(Kind::Conflict, error.to_string()),
            Error::Stale => Self::new(Kind::PreconditionFailed, error.to_string()),
            Error::Busy => Self::new(Kind::Conflict, error.to_string()),
            _ if error.is_transient() => {
                warn!(cause = %error, "the journal can't be reached, answering 503");
                Self::new(Kind::Unavailable, "the journal can't be reached; try again in a few seconds")
                    .with_header(header::RETRY_AFTER, "5")
            }
            _ => {
                error!(cause = %error, "answering 500");
                Self::new(Kind::Internal, "the cause is in the gateway's log, under this request's id")
            }
        }
    }
}
