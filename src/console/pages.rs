//! Templates → HTML. Whatever stands in the data is escaped: payloads and receivers' answers are anybody's text.

use minijinja::value::Serde;
use minijinja::{Environment, Error, Value};
use serde_json::{Map, json};

use super::assets;
use crate::event::{Micros, escape};
use crate::json::indented;
use crate::runtime::Clock;
use crate::web::auth::Client;
use crate::web::html;

pub(super) const HTML: &str = "text/html; charset=utf-8";
/// What stands where there is no value.
const NOTHING: &str = "–";

macro_rules! templates {
    ($($name:literal)+) => { [$(($name, include_str!($name))),+] };
}

const TEMPLATES: [(&str, &str); 14] = templates! {
    "layout.html" "macros.html" "overview.html" "sources.html" "source.html" "events.html" "event.html" "feeds.html"
    "clients.html" "webhooks.html" "webhook.html" "delivery.html" "answer.html" "problem.html"
};

/// The templates, ready to be filled.
pub(super) struct Pages {
    environment: Environment<'static>,
}

impl Pages {
    pub(super) fn new(clock: Clock, public_url: &str) -> Self {
        let mut environment = Environment::new();
        for (name, text) in TEMPLATES {
            environment.add_template(name, text).expect("a test renders every template");
        }
        // What templates made themselves, such as a macro's output, is safe.
        environment.set_formatter(|out, _, value| match value.as_str() {
            _ if value.is_none() => Ok(out.write_str(NOTHING)?),
            Some(html) if value.is_safe() => Ok(out.write_str(html)?),
            Some(text) => Ok(out.write_str(&html::escape(text))?),
            None => Ok(out.write_str(&html::escape(&value.to_string()))?),
        });
        environment.add_filter("ago", move |value: Value| {
            let time = value.as_str().and_then(Micros::parse_rfc3339);
            time.map_or_else(|| NOTHING.to_owned(), |time| ago(clock.now_micros(), time.0))
        });
        environment.add_filter("seconds", |value: Value| {
            f64::try_from(value).map_or_else(|_| NOTHING.to_owned(), |seconds| span((seconds * 1e6) as i64))
        });
        environment
            .add_filter("number", |value: Value| i64::try_from(value).map_or_else(|_| NOTHING.to_owned(), grouped));
        environment.add_filter("path", |value: Value| escape(&value.to_string()));
        environment.add_filter("indented", |value: Value| indented(value.as_str().unwrap_or_default()));
        environment.add_global("assets", Value::from(Serde(assets::urls())));
        environment.add_global("public_url", public_url);
        environment.add_global("version", env!("CARGO_PKG_VERSION"));
        Self { environment }
    }

    pub(super) fn render(
        &self,
        client: &Client,
        section: &str,
        template: &str,
        data: serde_json::Value,
    ) -> Result<String, Error> {
        let mut context = match data {
            serde_json::Value::Object(data) => data,
            _ => Map::new(),
        };
        context.insert("client".to_owned(), json!(client.name));
        context.insert("section".to_owned(), json!(section));
        self.environment.get_template(template)?.render(Value::from(Serde(context)))
    }
}

/// How long ago, or how far ahead, in one unit.
fn ago(now: i64, time: i64) -> String {
    match now.saturating_sub(time) {
        -999_999..=999_999 => "now".to_owned(),
        passed @ 1.. => format!("{} ago", span(passed)),
        ahead => format!("in {}", span(ahead.saturating_neg())),
    }
}

/// Microseconds in the largest unit of which there are two at least.
fn span(micros: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(86_400, "days"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = micros / 1_000_000;
    match UNITS.iter().find(|(unit, _)| seconds / unit >= 2) {
        Some((unit, name)) => format!("{} {name}", grouped(seconds / unit)),
        None => format!("{}.{} s", seconds, micros / 100_000 % 10),
    }
}

/// Digits in threes.
fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "−".to_owned() } else { String::new() };
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            // A narrow space at which no line is broken.
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_numbers_are_short() {
        assert_eq!(ago(10_000_000, 10_500_000), "now");
        assert_eq!(ago(200_000_000, 0), "3 min ago");
        assert_eq!(ago(0, 7_300_000_000), "in 2 h");
        assert_eq!(span(1_250_000), "1.2 s");
        assert_eq!(span(i64::MAX), "106\u{202f}751\u{202f}991 days");
        assert_eq!(
            (grouped(0), grouped(999), grouped(-1_234_567)),
            ("0".into(), "999".into(), "−1\u{202f}234\u{202f}567".into())
        );
    }
}
