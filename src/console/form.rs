//! What a form sends, and whether it is a form of ours.
//!
//! Browsers send credentials of HTTP Basic, and everything to an open gateway, with any page's form. So a form is taken
//! only if the browser says that it stood on a page of this gateway.

use std::collections::HashMap;

use axum::extract::Request;
use axum::http::header;
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::event::Micros;
use crate::web::problem::{Kind, Problem};

pub(super) const FOREIGN: &str = "the console takes only forms of its own pages, as the browser tells by `Sec-Fetch-Site` or \
     `Origin`; programs send commands to /webhooks and /sources";

/// Whether the browser says that the request comes from a page of this gateway.
pub(super) fn is_own(request: &Request, origin: &str) -> bool {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = header("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(from) = header(header::ORIGIN.as_str()) else { return false };
    let host = request.uri().authority().map(|authority| authority.as_str()).or(header(header::HOST.as_str()));
    let is_its = |host: &str| from.strip_prefix("https://").or(from.strip_prefix("http://")) == Some(host);
    (!origin.is_empty() && from == origin) || host.is_some_and(|host| !host.is_empty() && is_its(host))
}

/// The fields of a form.
pub(super) struct Form(HashMap<String, String>);

impl Form {
    pub(super) fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    /// A field that says something.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The command, one of these.
    ///
    /// # Errors
    /// 400 that lists them.
    pub(super) fn command(&self, known: &[&'static str]) -> Result<&'static str, Problem> {
        let asked = self.field("command").unwrap_or_default();
        known
            .iter()
            .copied()
            .find(|command| *command == asked)
            .ok_or_else(|| Problem::new(Kind::BadRequest, format!("this form knows the commands {}", known.join(", "))))
    }

    /// A time as `field` holds it.
    ///
    /// # Errors
    /// 400 with an example.
    pub(super) fn time(&self, field: &str) -> Result<Micros, Problem> {
        parse_time(self.field(field).unwrap_or_default())
    }

    /// What `Replay` takes as `from`.
    ///
    /// # Errors
    /// 400 where it is not told.
    pub(super) fn start(&self) -> Result<Value, Problem> {
        match self.field("from") {
            Some("beginning") => Ok(json!("beginning")),
            Some("since") => Ok(json!({ "since": self.time("since")?.to_text() })),
            Some("after") => {
                let missing = || Problem::new(Kind::BadRequest, "after which event? Give its id or a cursor");
                Ok(json!({ "after": self.field("after").ok_or_else(missing)? }))
            }
            _ => Err(Problem::new(Kind::BadRequest, "choose where the replay starts")),
        }
    }
}

/// A time as browsers send it (`2026-01-01T12:00`, UTC here), or RFC 3339.
///
/// # Errors
/// 400 with an example.
pub(super) fn parse_time(text: &str) -> Result<Micros, Problem> {
    let forms = [text.to_owned(), format!("{text}Z"), format!("{text}:00Z")];
    forms.iter().find_map(|text| Micros::parse_rfc3339(text)).ok_or_else(|| {
        Problem::new(Kind::BadRequest, format!("`{text}` is no time such as 2026-01-31T08:30:00, in UTC"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request {
        let request = headers.iter().fold(Request::post("/console/x"), |request, (n, v)| request.header(*n, *v));
        request.body(axum::body::Body::empty()).expect("a request")
    }

    #[test]
    fn only_forms_of_own_pages_are_taken() {
        let own = "https://events.example.com";
        for (headers, taken) in [
            (vec![], false),
            (vec![("sec-fetch-site", "same-origin")], true),
            (vec![("sec-fetch-site", "same-site"), ("origin", own)], false),
            (vec![("sec-fetch-site", "none")], false),
            (vec![("sec-fetch-site", "")], false),
            (vec![("origin", own)], true),
            (vec![("origin", "http://10.0.0.1:8080"), ("host", "10.0.0.1:8080")], true),
            (vec![("origin", "http://attacker.example"), ("host", "10.0.0.1:8080")], false),
            (vec![("origin", "null"), ("host", "null")], false),
            (vec![("origin", "https://events.example.com.attacker.example"), ("host", "events.example.com")], false),
        ] {
            assert_eq!(is_own(&request(&headers), own), taken, "{headers:?}");
        }
        assert!(!is_own(&request(&[("origin", "")]), ""));
    }

    #[test]
    fn times_come_as_browsers_send_them() {
        let expected = Micros::parse_rfc3339("2026-01-31T08:30:00Z").expect("a time");
        for text in ["2026-01-31T08:30", "2026-01-31T08:30:00", "2026-01-31T09:30:00+01:00"] {
            assert_eq!(parse_time(text).expect(text), expected);
        }
        assert!(parse_time("yesterday").is_err() && parse_time("").is_err());
    }
}
