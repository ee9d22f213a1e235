//! Times as databases write them. Pure.

use chrono::{DateTime, Duration, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeZone};
use chrono_tz::Tz;

use super::mapping::Kind;
use crate::event::Micros;

/// Reads a time: text with an offset, text without one (of `zone`, or UTC where the column says so), or a number since
/// 1970 whose magnitude tells seconds, milliseconds, microseconds or nanoseconds apart.
///
/// # Errors
/// What is wrong with it, and what to do.
pub(super) fn parse(text: &str, kind: Kind, zone: Option<Tz>) -> Result<Micros, String> {
    let text = text.trim();
    let bad = || format!("`{}` is no time", text.chars().take(64).collect::<String>());
    let is_number =
        text.bytes().all(|b| b.is_ascii_digit() || b"-+.eE".contains(&b)) && !text[1.min(text.len())..].contains('-');
    let micros = if is_number {
        epoch(text)
    } else if let Some(time) = with_offset(text) {
        Some(time.timestamp_micros())
    } else {
        let time = naive(text).ok_or_else(bad)?;
        match zone {
            _ if kind == Kind::Instant => Some(time.and_utc().timestamp_micros()),
            Some(zone) => in_zone(time, zone),
            None => return Err(format!("`{text}` says no zone; name it with `time_zone`")),
        }
    };
    micros.and_then(Micros::checked).ok_or_else(bad)
}

/// The lowest text that a database may write in a column of this kind for this time or a later one: where clocks are set
/// back within two hours, it is lower than that of the time itself.
pub(super) fn floor_text(micros: i64, kind: Kind, zone: Option<Tz>) -> String {
    let time = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    let local = |time: DateTime<chrono::Utc>, zone: Tz| time.with_timezone(&zone).naive_local();
    let text = match zone.filter(|_| kind != Kind::Instant) {
        Some(zone) => {
            let later = Duration::hours(2);
            local(time, zone).min(local(time + later, zone) - later)
        }
        None => time.naive_utc(),
    };
    text.format("%F %T%.6f").to_string()
}

/// The borders lie in 5138 (as seconds) and 1973 (as the next finer unit).
fn epoch(text: &str) -> Option<i64> {
    if !text.contains(['.', 'e', 'E']) {
        let number: i64 = text.parse().ok()?;
        return match number.unsigned_abs() {
            0..100_000_000_000 => number.checked_mul(1_000_000),
            100_000_000_000..100_000_000_000_000 => number.checked_mul(1_000),
            100_000_000_000_000..100_000_000_000_000_000 => Some(number),
            _ => Some(number.div_euclid(1_000)),
        };
    }
    let number: f64 = text.parse().ok()?;
    let micros = match number.abs() {
        n if n < 1e11 => number * 1e6,
        n if n < 1e14 => number * 1e3,
        n if n < 1e17 => number,
        _ => number / 1e3,
    };
    // Exact enough: a double holds every microsecond of the next two centuries. The cast saturates.
    micros.is_finite().then_some(micros.round() as i64)
}

/// `2026-01-01 12:00[:00[.5]][ ](Z|UTC|±01[[:]00])`, with a blank or `T` in the middle.
fn with_offset(text: &str) -> Option<DateTime<FixedOffset>> {
    // The names first: the T between date and time may be missing, that of `UTC` is not meant.
    let text = text.replace("UTC", "Z").replace("GMT", "Z").replacen(['T', 't'], " ", 1);
    ["%F %T%.f%#z", "%F %T%.f %#z", "%F %R%#z", "%F %R %#z"]
        .iter()
        .find_map(|form| DateTime::parse_from_str(&text, form).ok())
}

/// The same without the offset, or a date alone.
fn naive(text: &str) -> Option<NaiveDateTime> {
    let text = text.replacen(['T', 't'], " ", 1);
    let time = ["%F %T%.f", "%F %R"].iter().find_map(|form| NaiveDateTime::parse_from_str(&text, form).ok());
    time.or_else(|| Some(NaiveDate::parse_from_str(&text, "%F").ok()?.and_time(NaiveTime::MIN)))
}

/// An hour that occurs twice means its first occurrence; one that is skipped is read with the offset before it.
fn in_zone(naive: NaiveDateTime, zone: Tz) -> Option<i64> {
    let at = |naive: NaiveDateTime| {
        zone.from_local_datetime(&naive).earliest().map(|time: DateTime<Tz>| time.timestamp_micros())
    };
    at(naive).or_else(|| {
        let day = Duration::try_days(1)?;
        at(naive.checked_sub_signed(day)?)?.checked_add(day.num_microseconds()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str, kind: Kind, zone: Option<&str>) -> Result<String, String> {
        let zone = zone.map(|zone| zone.parse().expect("a zone"));
        parse(text, kind, zone).map(|time| time.to_text())
    }

    #[test]
    fn texts_with_an_offset_need_no_zone() {
        for (given, expected) in [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02 03:04:05.123456+00", "2026-01-02T03:04:05.123456Z"),
            ("2026-01-02T03:04:05.5+01:30", "2026-01-02T01:34:05.500Z"),
            ("2026-01-02 03:04 -0200", "2026-01-02T05:04:00.000Z"),
            ("2026-01-02 03:04:05 UTC", "2026-01-02T03:04:05.000Z"),
        ] {
            assert_eq!(text(given, Kind::Text, None).as_deref(), Ok(expected), "{given}");
        }
    }

    #[test]
    fn naive_texts_need_one() {
        let naive = "2026-07-02 03:04:05.1";
        assert_eq!(text(naive, Kind::Instant, None).as_deref(), Ok("2026-07-02T03:04:05.100Z"));
        assert_eq!(text(naive, Kind::Naive, Some("Europe/Berlin")).as_deref(), Ok("2026-07-02T01:04:05.100Z"));
        assert!(text(naive, Kind::Text, None).is_err_and(|detail| detail.contains("time_zone")));
    }

    #[test]
    fn hours_that_occur_twice_or_never_have_a_time() {
        let berlin = |given| text(given, Kind::Naive, Some("Europe/Berlin"));
        assert_eq!(berlin("2026-10-25 02:30:00").as_deref(), Ok("2026-10-25T00:30:00.000Z"));
        assert_eq!(berlin("2026-03-29 02:30:00").as_deref(), Ok("2026-03-29T01:30:00.000Z"));
    }

    #[test]
    fn a_floor_is_below_what_is_written_after_clocks_are_set_back() {
        let floor = |text: &str, kind| {
            let time = Micros::parse_rfc3339(text).expect("a time");
            floor_text(time.0, kind, Some("Europe/Berlin".parse().expect("a zone")))
        };
        assert_eq!(floor("2026-07-01T10:00:00.5Z", Kind::Naive), "2026-07-01 12:00:00.500000");
        assert_eq!(floor("2026-10-25T00:59:00Z", Kind::Naive), "2026-10-25 01:59:00.000000");
        assert_eq!(floor("2026-10-25T01:01:00Z", Kind::Naive), "2026-10-25 02:01:00.000000");
        assert_eq!(floor("2026-10-25T00:59:00Z", Kind::Instant), "2026-10-25 00:59:00.000000");
    }

    #[test]
    fn the_magnitude_tells_the_unit() {
        for given in
            ["1767225600", "1767225600000", "1767225600000000", "1767225600000000000", "1767225600.0", "1.7672256e+15"]
        {
            assert_eq!(text(given, Kind::Integer, None).as_deref(), Ok("2026-01-01T00:00:00.000Z"), "{given}");
        }
        assert_eq!(text("1767225600.25", Kind::Text, None).as_deref(), Ok("2026-01-01T00:00:00.250Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for given in [
            "",
            "x",
            "2026-13-01",
            "0000-00-00 00:00:00",
            "infinity",
            "2026-01-01T25:00:00Z",
            "99999999999999999999",
            "-",
            "2026-01-01 10:00:00+99",
            "äöüäöüäöü",
            "2026-01-01 ä",
        ] {
            assert!(text(given, Kind::Instant, None).is_err(), "{given}");
        }
    }
}
