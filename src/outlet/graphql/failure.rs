//! What goes wrong inside GraphQL, as clients get it: a message that says what to do and a code in `extensions`.

use async_graphql::{Error, Pos, ServerError};
use tracing::{error, warn};

use crate::{filter, journal, projection};

/// `extensions.code`: a fixed text that a program can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code(pub(super) &'static str);

pub(super) const PARSE: Code = Code("GRAPHQL_PARSE_FAILED");
pub(super) const VALIDATION: Code = Code("GRAPHQL_VALIDATION_FAILED");
pub(super) const BAD_INPUT: Code = Code("BAD_USER_INPUT");
pub(super) const INVALID_CURSOR: Code = Code("INVALID_CURSOR");
pub(super) const CURSOR_EXPIRED: Code = Code("CURSOR_EXPIRED");
pub(super) const TOO_COMPLEX: Code = Code("QUERY_TOO_COMPLEX");
pub(super) const TOO_DEEP: Code = Code("QUERY_TOO_DEEP");
pub(super) const DATA_MISMATCH: Code = Code("DATA_MISMATCH");
pub(super) const RATE_LIMITED: Code = Code("RATE_LIMITED");
pub(super) const TIMEOUT: Code = Code("TIMEOUT");
pub(super) const UNAVAILABLE: Code = Code("UNAVAILABLE");
pub(super) const INTERNAL: Code = Code("INTERNAL");

/// An error with its code. It has no `Display` on purpose: the engine would turn whatever has one into an error
/// without a code, and so could publish the text of a database error.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The error at this place of the document.
    pub(super) fn at(self, pos: Pos) -> ServerError {
        let mut error: ServerError = self.into();
        error.locations.push(pos);
        error
    }

    pub(super) fn input(message: impl Into<String>) -> Self {
        Self::new(BAD_INPUT, message)
    }
}

impl From<Failure> for ServerError {
    fn from(failure: Failure) -> Self {
        coded(Self::new(failure.message, None), failure.code)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let ServerError { message, source, extensions, .. } = failure.into();
        Self { message, source, extensions }
    }
}

/// Gives an error of the engine a code; ours have one.
pub(super) fn coded(mut error: ServerError, code: Code) -> ServerError {
    let extensions = error.extensions.get_or_insert_default();
    if extensions.get("code").is_none() {
        extensions.set("code", code.0);
    }
    error
}

impl From<filter::Error> for Failure {
    fn from(error: filter::Error) -> Self {
        Self::input(format!("filter: {error}"))
    }
}

impl From<projection::Error> for Failure {
    fn from(error: projection::Error) -> Self {
        Self::input(error.to_string())
    }
}

/// The one place where the journal's errors are logged.
impl From<journal::Error> for Failure {
    fn from(error: journal::Error) -> Self {
        use journal::Error;
        match &error {
            Error::Malformed { .. } | Error::UnknownPosition { .. } => {
                Self::new(INVALID_CURSOR, format!("{error}; give a `cursor` that this gateway gave"))
            }
            Error::TooMuch => Self::new(TOO_COMPLEX, format!("{error}; ask for fewer")),
            Error::Expired { oldest, .. } => Self::new(CURSOR_EXPIRED, format!("{error}; go on after {oldest}")),
            _ if error.is_transient() => {
                warn!(cause = %error, "the journal can't be reached, answering a GraphQL error");
                Self::new(UNAVAILABLE, "the journal can't be reached; try again in a few seconds")
            }
            _ => {
                error!(cause = %error, "answering a GraphQL error");
                Self::new(INTERNAL, "the cause is in the gateway's log, under this request's id")
            }
        }
    }
}
