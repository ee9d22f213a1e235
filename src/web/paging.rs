//! How every collection is paged: `?after=` and `?limit=` in, `{"items": […], "next": "<url>" | null}` out.

use std::collections::HashMap;
use std::fmt::Display;

use axum::Json;
use axum::extract::Query;
use serde_json::{Value, json};

use super::problem::{Kind, Problem};

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 200;

/// What a request for a collection asks for.
pub struct Paging {
    /// Items of one page.
    pub limit: usize,
    query: HashMap<String, String>,
}

impl Paging {
    /// Reads the parameters of a collection that can be narrowed by status, to one of these.
    ///
    /// # Errors
    /// 400 for a parameter that nobody reads, which would silently do nothing, and for a value that is not known.
    pub fn new(Query(query): Query<HashMap<String, String>>, statuses: &[&str]) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(Kind::BadRequest, detail);
        let known = &["after", "limit", "status"][..if statuses.is_empty() { 2 } else { 3 }];
        if let Some(name) = query.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(bad(format!("unknown parameter `{name}`; known are {}", known.join(", "))));
        }
        if let Some(status) = query.get("status").filter(|status| !statuses.contains(&status.as_str())) {
            return Err(bad(format!("`status={status}` is unknown; known are {}", statuses.join(", "))));
        }
        let limit = query.get("limit").map_or(Some(LIMIT_DEFAULT), |text| text.parse().ok());
        let limit = limit.filter(|limit| *limit >= 1).map(|limit| limit.min(LIMIT_MAX)).ok_or_else(|| {
            bad(format!("`limit` must be a whole number from 1 to {LIMIT_MAX}, such as ?limit={LIMIT_DEFAULT}"))
        })?;
        Ok(Self { limit, query })
    }

    /// After what the page begins; nothing for the first.
    pub fn after(&self) -> Option<&str> {
        self.query.get("after").map(String::as_str)
    }

    pub fn status(&self) -> Option<&str> {
        self.query.get("status").map(String::as_str)
    }

    /// A page of the collection at `url`. `next`: after what the following one begins, if there may be more.
    pub fn page(&self, url: &str, items: impl IntoIterator<Item = Value>, next: Option<impl Display>) -> Json<Value> {
        let next = next.map(|after| {
            let status = self.status().map_or(String::new(), |status| format!("&status={status}"));
            format!("{url}?after={after}&limit={}{status}", self.limit)
        });
        let items: Vec<Value> = items.into_iter().collect();
        Json(json!({ "items": items, "next": next }))
    }
}
