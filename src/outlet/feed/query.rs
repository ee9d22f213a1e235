//! The query of a feed's URL: where to start, how much, which events, and how long to wait for them.

use std::time::Duration;

use axum::http::HeaderMap;

use super::format::Format;
use crate::event::Micros;
use crate::filter::Filter;
use crate::journal::Columns;
use crate::web::problem::{Kind, Problem};

const LIMIT_MAX: usize = 1000;
const WAIT_MAX: u64 = 60;

/// What is asked of a feed.
#[derive(Debug, Default)]
pub(super) struct Query {
    /// Nothing: the head.
    pub from: Option<From>,
    pub limit: Option<usize>,
    /// How long to wait where there is nothing yet.
    pub wait: Option<Duration>,
    /// A header asked for it: the links of the document don't.
    pub is_wait_preferred: bool,
    pub filter: Filter,
    pub format: Format,
    /// The events stand whole in a JSON Feed.
    pub embed: bool,
}

#[derive(Debug)]
pub(super) enum From {
    /// All that is kept.
    Oldest,
    After(String),
    Since(Micros),
    RecordedSince(Micros),
}

impl Query {
    /// `Prefer: wait=20` (RFC 7240) is an alias of the parameter.
    pub(super) fn parse(query: &str, headers: &HeaderMap, format: Format) -> Result<Self, Problem> {
        let mut it = Self { format, ..Self::default() };
        let mut aggregates = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let from = match name.as_ref() {
                "after" => From::After(value.into_owned()),
                // Their names at http-feeds.org, where a timeout is in milliseconds.
                "lastEventId" if format == Format::CloudEvents => From::After(value.into_owned()),
                "timeout" if format == Format::CloudEvents => {
                    it.wait = Some(Duration::from_secs(number("timeout", &value)?.div_ceil(1000).min(WAIT_MAX)));
                    continue;
                }
                "embed" if format == Format::Json && value == "data" => {
                    it.embed = true;
                    continue;
                }
                "embed" => return Err(bad("`embed=data` goes with the .json of a feed".to_owned())),
                "since" => From::Since(time(&name, &value)?),
                "recorded-since" => From::RecordedSince(time(&name, &value)?),
                "limit" => {
                    it.limit = Some(usize::try_from(number("limit", &value)?).unwrap_or(LIMIT_MAX).min(LIMIT_MAX));
                    continue;
                }
                "wait" => {
                    it.wait = Some(Duration::from_secs(number("wait", &value)?.min(WAIT_MAX)));
                    continue;
                }
                "type" => {
                    it.filter.types.push(value.into_owned());
                    continue;
                }
                "aggregate" => {
                    aggregates.push(value.into_owned());
                    continue;
                }
                _ => {
                    return Err(bad(format!(
                        "unknown parameter `{name}`; a feed takes after, since, recorded-since, limit, wait, type and \
                         aggregate, such as ?after=0&limit=100"
                    )));
                }
            };
            if it.from.replace(from).is_some() {
                return Err(bad("give one of `after`, `since` and `recorded-since`, once".to_owned()));
            }
        }
        if it.from.is_none() && format == Format::CloudEvents {
            // Whoever follows this format starts with nothing.
            it.from = Some(From::Oldest);
        }
        if it.from.is_none() && (it.limit.is_some() || it.wait.is_some()) {
            return Err(bad("`limit` and `wait` go with `after` or `since`, such as ?after=0&limit=100".to_owned()));
        }
        if it.from.is_some() && it.wait.is_none() {
            it.wait = preferred_wait(headers);
            it.is_wait_preferred = it.wait.is_some();
        }
        it.add_aggregates(&aggregates)?;
        it.filter.check().map_err(|cause| bad(cause.to_string()))?;
        Ok(it)
    }

    /// Each is an id, or a type and an id.
    fn add_aggregates(&mut self, aggregates: &[String]) -> Result<(), Problem> {
        let types: Vec<Option<&str>> =
            aggregates.iter().map(|aggregate| aggregate.split_once('/').map(|(r#type, _)| r#type)).collect();
        if types.iter().any(|r#type| *r#type != types[0]) {
            return Err(bad(
                "the aggregates of one request are ids, or all of one type, such as aggregate=Order/1&aggregate=Order/2"
                    .to_owned(),
            ));
        }
        self.filter.aggregate_types = types.first().copied().flatten().map(str::to_owned).into_iter().collect();
        let ids = aggregates.iter().map(|aggregate| aggregate.split_once('/').map_or(aggregate.as_str(), |(_, id)| id));
        self.filter.aggregate_ids = ids.map(str::to_owned).collect();
        Ok(())
    }

    /// Data may be large, so a document with it ends where it must; a numbered page has all its entries.
    pub(super) fn has_pages(&self) -> bool {
        self.columns() == Columns::ENVELOPE
    }

    pub(super) fn columns(&self) -> Columns {
        if self.embed || self.format == Format::CloudEvents { Columns::ALL } else { Columns::ENVELOPE }
    }

    /// The feed's own document, neither filtered nor with data.
    pub(super) fn is_plain(&self) -> bool {
        !self.is_filtered() && !self.embed
    }

    pub(super) fn is_filtered(&self) -> bool {
        self.filter != Filter::default()
    }

    /// What a link to the same events says behind its start, `&` first.
    pub(super) fn parameters(&self) -> String {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        if let Some(limit) = self.limit {
            text.append_pair("limit", &limit.to_string());
        }
        if let Some(wait) = self.wait.filter(|_| !self.is_wait_preferred) {
            text.append_pair("wait", &wait.as_secs().to_string());
        }
        if self.embed {
            text.append_pair("embed", "data");
        }
        format!("{}{}", and(text.finish()), self.filter_parameters())
    }

    /// The part of it that says which events.
    pub(super) fn filter_parameters(&self) -> String {
        let mut text = url::form_urlencoded::Serializer::new(String::new());
        for r#type in &self.filter.types {
            text.append_pair("type", r#type);
        }
        let of_type = self.filter.aggregate_types.first().map_or(String::new(), |r#type| format!("{type}/"));
        for id in &self.filter.aggregate_ids {
            text.append_pair("aggregate", &format!("{of_type}{id}"));
        }
        and(text.finish())
    }
}

fn and(parameters: String) -> String {
    if parameters.is_empty() { parameters } else { format!("&{parameters}") }
}

fn number(name: &str, value: &str) -> Result<u64, Problem> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    // More digits than fit are too large, not wrong.
    let number = if digits && value.len() > 18 { Some(u64::MAX) } else { value.parse().ok() };
    let number = number.filter(|number| *number >= 1 && digits);
    number.ok_or_else(|| bad(format!("`{name}` is a whole number from 1 on, such as {name}=20")))
}

fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let wait = preferences.flat_map(|value| value.split([',', ';'])).find_map(|one| one.trim().strip_prefix("wait="));
    // What can't be used is no preference.
    let seconds = wait?.trim_matches('"').parse::<u64>().ok().filter(|seconds| *seconds >= 1)?;
    Some(Duration::from_secs(seconds.min(WAIT_MAX)))
}

fn time(name: &str, value: &str) -> Result<Micros, Problem> {
    Micros::parse_rfc3339(value).ok_or_else(|| {
        // A plus sign that was not encoded arrives as a space.
        let hint = if value.contains(' ') { "; write + as %2B, or use Z" } else { "" };
        bad(format!("`{name}` is a time such as {name}=2026-01-31T12:00:00Z{hint}"))
    })
}

fn bad(detail: String) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query, String> {
        Query::parse(query, &HeaderMap::new(), Format::Atom).map_err(|problem| problem.detail)
    }

    #[test]
    fn a_link_says_what_was_asked() {
        let all = "after=0&limit=5&wait=20&type=Order*&type=Paid&aggregate=Order%2Fa%26b&aggregate=Order%2F2";
        let asked = parse(all).expect("well formed");
        assert_eq!(asked.filter.aggregate_ids, ["a&b", "2"]);
        let link = format!("after=0{}", asked.parameters());
        assert_eq!(link, "after=0&limit=5&wait=20&type=Order*&type=Paid&aggregate=Order%2Fa%26b&aggregate=Order%2F2");
        assert_eq!(parse("after=0").expect("well formed").parameters(), "");
        let clamped = parse("after=0&limit=99999999999999999999999&wait=61").expect("too large is clamped");
        assert_eq!(clamped.parameters(), "&limit=1000&wait=60");
    }

    #[test]
    fn what_is_wrong_is_said_with_an_example() {
        for (query, part) in [
            ("after=0&limit=0", "limit=20"),
            ("after=0&wait=-1", "wait=20"),
            ("after=0&wait=%2B5", "wait=20"),
            ("wait=20", "go with `after`"),
            ("after=0&since=2026-01-01T00:00:00Z", "once"),
            ("since=2026-01-01T00:00:00+01:00", "write + as %2B"),
            ("page=3", "unknown parameter `page`"),
            ("after=0&type=a*b", "types"),
            ("aggregate=A/1&aggregate=B/2", "all of one type"),
        ] {
            assert!(parse(query).is_err_and(|detail| detail.contains(part)), "{query}");
        }
    }

    #[test]
    fn a_preference_is_a_wait() {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", "respond-async, wait=10".parse().expect("a header"));
        assert_eq!(
            Query::parse("after=0", &headers, Format::Atom).expect("well formed").wait,
            Some(Duration::from_secs(10))
        );
        assert_eq!(Query::parse("", &headers, Format::Atom).expect("the head").wait, None);
    }
}
