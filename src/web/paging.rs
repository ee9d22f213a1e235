//! How every collection is paged: `?after=` and `?limit=` in, `{"items": […], "next": "<url>" | null}` out.

use std::collections::HashMap;
use std::fmt::Display;

use axum::Json;
use axum::extract::Query;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::problem::{Kind, Problem};

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;

/// What a request for a collection asks for.
pub struct Paging {
    /// Items of one page.
    pub limit: usize,
    /// What the collection can be narrowed by.
    filter: &'static str,
    query: HashMap<String, String>,
}

impl Paging {
    /// Reads the parameters of a collection that can be narrowed by one of them, to one of these values, or to any if
    /// none are named.
    ///
    /// # Errors
    /// 400 for a parameter that nobody reads, which would silently do nothing, and for a value that is not known.
    pub fn new(
        Query(query): Query<HashMap<String, String>>,
        filter: &'static str,
        values: &[&str],
    ) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(Kind::BadRequest, detail);
        let known = ["after", "limit", filter];
        if let Some(name) = query.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(bad(format!("unknown parameter `{name}`; known are {}", known.join(", "))));
        }
        let is_known = |value: &str| values.contains(&value) || (values.is_empty() && !value.is_empty());
        if let Some(value) = query.get(filter).filter(|value| !is_known(value)) {
            return Err(bad(format!("`{filter}={value}` is unknown; known are {}", values.join(", "))));
        }
        let limit = query.get("limit").map_or(Some(LIMIT_DEFAULT), |text| text.parse().ok());
        let limit = limit.filter(|limit| *limit >= 1).map(|limit| limit.min(LIMIT_MAX)).ok_or_else(|| {
            bad(format!("`limit` must be a whole number from 1 to {LIMIT_MAX}, such as ?limit={LIMIT_DEFAULT}"))
        })?;
        Ok(Self { limit, filter, query })
    }

    /// After what the page begins; nothing for the first.
    pub fn after(&self) -> Option<&str> {
        self.query.get("after").map(String::as_str)
    }

    /// The value that the collection is narrowed to.
    pub fn filter(&self) -> Option<&str> {
        self.query.get(self.filter).map(String::as_str)
    }

    /// A page of the collection at `url`. `next`: after what the following one begins, if there may be more.
    pub fn page(&self, url: &str, items: impl IntoIterator<Item = Value>, next: Option<impl Display>) -> Json<Value> {
        let items: Vec<Value> = items.into_iter().collect();
        Json(json!({ "items": items, "next": self.next(url, next) }))
    }

    /// The URL of what follows.
    pub fn next(&self, url: &str, after: Option<impl Display>) -> Option<String> {
        after.map(|after| {
            let filter = self.filter().map_or(String::new(), |value| format!("&{}={}", self.filter, encoded(value)));
            format!("{url}?after={after}&limit={}{filter}", self.limit)
        })
    }
}

/// A value that can stand in a query.
fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string().replace("%2D", "-")
}
