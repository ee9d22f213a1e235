//! What the client wants to get or done, and what it has already: `Accept` and `If-None-Match` (RFC 9110), `Command`.

use axum::http::{HeaderMap, HeaderName, header};
use chrono::DateTime;

use crate::event::Micros;

static COMMAND: HeaderName = HeaderName::from_static("command");

/// The offered media type that the client likes best; the first one if it says nothing, none if it accepts none.
/// Of types that are liked equally the one offered first wins, unless the client names one of them more exactly.
pub fn accept<'a>(headers: &HeaderMap, offered: &[&'a str]) -> Option<&'a str> {
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if values.is_empty() {
        return offered.first().copied();
    }
    let ranges: Vec<(&str, f32)> = values.iter().flat_map(|value| value.split(',')).map(range).collect();
    let mut best: Option<(&str, f32)> = None;
    for offer in offered {
        let (main, _) = offer.split_once('/').unwrap_or((offer, ""));
        let rank = |range: &str| match range {
            exact if exact.eq_ignore_ascii_case(offer) => 3,
            wide if wide.strip_suffix("/*").is_some_and(|m| m.eq_ignore_ascii_case(main)) => 2,
            "*/*" => 1,
            _ => 0,
        };
        let quality = ranges.iter().filter(|(r, _)| rank(r) > 0).max_by_key(|(r, _)| rank(r)).map_or(0.0, |(_, q)| *q);
        if quality > 0.0 && best.is_none_or(|(_, than)| quality > than) {
            best = Some((offer, quality));
        }
    }
    best.map(|(offer, _)| offer)
}

fn range(text: &str) -> (&str, f32) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
    (range, quality.and_then(|q| q.parse().ok()).unwrap_or(1.0))
}

/// How a body may be compressed, the better one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Brotli,
    Gzip,
}

impl Encoding {
    pub fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// The encoding that the client likes best (RFC 9110 section 12.5.3); nothing if it names none of ours.
pub fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let liked: Vec<(&str, f32)> = values.flat_map(|value| value.split(',')).map(range).collect();
    let quality = |encoding: Encoding| {
        let named = liked.iter().find(|(name, _)| name.eq_ignore_ascii_case(encoding.name()));
        named.or(liked.iter().find(|(name, _)| *name == "*")).map_or(0.0, |(_, quality)| *quality)
    };
    let (brotli, gzip) = (quality(Encoding::Brotli), quality(Encoding::Gzip));
    let best = if gzip > brotli { Encoding::Gzip } else { Encoding::Brotli };
    (brotli.max(gzip) > 0.0).then_some(best)
}

/// The domain command that a request is, by its header `Command`.
pub fn command(headers: &HeaderMap) -> Option<&str> {
    headers.get(&COMMAND).map(|value| value.to_str().unwrap_or_default())
}

/// Whether the client has this version already: weak comparison of `If-None-Match`, `*` and lists included; without one,
/// `If-Modified-Since` (RFC 9110, section 13.2.2), if the version has a time. A `-gzip` that a proxy appended does not
/// count.
pub fn has_already(headers: &HeaderMap, etag: &str, modified: Option<Micros>) -> bool {
    if !headers.contains_key(header::IF_NONE_MATCH) {
        let since = headers.get(header::IF_MODIFIED_SINCE).and_then(|value| value.to_str().ok());
        let since = since.and_then(|text| DateTime::parse_from_rfc2822(text).ok()).map(|time| time.timestamp());
        return since.zip(modified).is_some_and(|(since, modified)| modified.0.div_euclid(1_000_000) <= since);
    }
    fn opaque(tag: &str) -> &str {
        let tag = tag.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"');
        tag.strip_suffix("-gzip").unwrap_or(tag)
    }
    let wanted = opaque(etag);
    let values = headers.get_all(header::IF_NONE_MATCH);
    values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || opaque(tag) == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header"));
        headers
    }

    #[test]
    fn the_liked_best_wins_and_nothing_means_the_first() {
        let offered = ["application/json", "text/html"];
        assert_eq!(accept(&HeaderMap::new(), &offered), Some("application/json"));
        for (value, expected) in [
            ("text/html,application/xhtml+xml,*/*;q=0.8", Some("text/html")),
            ("*/*", Some("application/json")),
            ("application/*;q=0.5, text/html;q=0.4", Some("application/json")),
            ("image/png", None),
            ("text/html;q=0", None),
        ] {
            assert_eq!(accept(&headers(header::ACCEPT, value), &offered), expected, "{value}");
        }
    }

    #[test]
    fn a_client_names_the_encodings_that_it_reads() {
        for (value, expected) in [
            ("gzip, deflate, br", Some(Encoding::Brotli)),
            ("gzip;q=1.0, br;q=0.5", Some(Encoding::Gzip)),
            ("GZIP", Some(Encoding::Gzip)),
            ("br;q=0, *", Some(Encoding::Gzip)),
            ("identity", None),
            ("gzip;q=0", None),
        ] {
            assert_eq!(encoding(&headers(header::ACCEPT_ENCODING, value)), expected, "{value}");
        }
        assert_eq!(encoding(&HeaderMap::new()), None);
    }

    #[test]
    fn etags_are_compared_weakly() {
        let etag = "W/\"a:1\"";
        for same in ["W/\"a:1\"", "\"a:1\"", "\"x\", W/\"a:1\"", "*", "\"a:1-gzip\""] {
            assert!(has_already(&headers(header::IF_NONE_MATCH, same), etag, None), "{same}");
        }
        assert!(!has_already(&headers(header::IF_NONE_MATCH, "\"a:2\""), etag, None));
    }

    #[test]
    fn a_time_counts_only_without_a_tag() {
        let modified = Some(Micros(1_767_225_860_900_000));
        let mut since = headers(header::IF_MODIFIED_SINCE, "Thu, 01 Jan 2026 00:04:20 GMT");
        assert!(has_already(&since, "W/\"a\"", modified), "the fraction of the second is not told");
        assert!(!has_already(&since, "W/\"a\"", modified.map(|time| time.plus(100_000))));
        assert!(!has_already(&since, "W/\"a\"", None));
        assert!(!has_already(&headers(header::IF_MODIFIED_SINCE, "yesterday"), "W/\"a\"", modified));
        since.insert(header::IF_NONE_MATCH, "\"b\"".parse().expect("a header"));
        assert!(!has_already(&since, "W/\"a\"", modified));
    }
}
