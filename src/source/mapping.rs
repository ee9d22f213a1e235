//! A raw row becomes an event, or a quarantined row that says why not. Pure.

use chrono_tz::Tz;
use serde_json::value::RawValue;

use super::columns::Column;
use super::config::Config;
use super::{Error, time};
use crate::catalogue::Catalogue;
use crate::event::{DATA_BYTES_MAX, Event, Micros, NAME_BYTES_MAX, public_id};
use crate::journal::Quarantined;

/// Deeper JSON exhausts the stack of many a parser.
const NESTING_MAX: usize = 128;
/// What is kept of a row that can't be mapped: enough to see what is wrong.
pub(super) const RAW_BYTES_MAX: usize = 64 * 1024;
/// What is kept of one cell of it, so that a large one does not push out the others.
const RAW_CELL_BYTES_MAX: usize = 24 * 1024;

/// What makes an event: an index into [`Row::cells`].
pub(super) type Field = usize;
const ID: Field = 0;
const TYPE: Field = 1;
pub(super) const AGGREGATE_TYPE: Field = 2;
pub(super) const AGGREGATE_ID: Field = 3;
pub(super) const AGGREGATE_VERSION: Field = 4;
pub(super) const OCCURRED_AT: Field = 5;
const DATA: Field = 6;
const METADATA: Field = 7;
const OUTBOX: Field = 8;
const CONDITION: Field = 9;
/// What is wrong with a text that can't be a name.
pub(super) const NAME_FAULT: &str = "is longer than 512 bytes or holds a NUL character";
/// Their keys in the configuration.
#[rustfmt::skip]
const KEYS: [&str; 10] = [
    "id", "type", "aggregate_type", "aggregate_id", "aggregate_version", "occurred_at", "data", "metadata", "outbox", "where",
];

/// What the database says of a column: as much as is needed to read its text right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    /// A time that the database keeps in UTC.
    Instant,
    /// A time without zone.
    Naive,
    Bytes,
    /// A number of PostgreSQL's that stands for bytes kept elsewhere.
    LargeObject,
    Bits,
    Text,
}

/// Where a field's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Absent,
    Constant(String),
    Column(String, Kind),
    /// An SQL expression.
    Sql(String),
}

/// A row as it was read: each cell is the text of the value, or the bytes of a binary one.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// 0 where rows have no numbers.
    pub sequence: i64,
    /// What identifies it to the adapter, where they have none.
    pub mark: String,
    /// Why the database could not compute its expressions, if so; they are empty then.
    pub broken: Option<String>,
    pub cells: [Option<Vec<u8>>; KEYS.len()],
}

impl Row {
    pub(super) fn bytes(&self) -> usize {
        self.cells.iter().flatten().map(Vec::len).sum()
    }
}

/// What became of a row.
#[derive(Debug)]
pub(super) enum Mapped {
    Event(Event),
    /// Stays inside: `outbox`, `where` or the catalogue says so.
    Withheld,
    Quarantined(Quarantined),
}

/// Why a row is no event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: &'static str,
    pub(super) detail: String,
}

pub(super) fn fault(reason: &'static str, detail: impl Into<String>) -> Fault {
    Fault { reason, detail: detail.into() }
}

/// How rows of one source become events.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    source: String,
    origins: [Origin; KEYS.len()],
    zone: Option<Tz>,
}

impl Mapping {
    /// `kind` finds a column in the live table.
    ///
    /// # Errors
    /// A column that does not exist, or times that need a zone.
    pub(super) fn new(config: &Config, kind: impl Fn(&str) -> Result<(String, Kind), Error>) -> Result<Self, Error> {
        let c = &config.columns;
        let columns = [
            &c.id,
            &c.r#type,
            &c.aggregate_type,
            &c.aggregate_id,
            &c.aggregate_version,
            &c.occurred_at,
            &c.data,
            &c.metadata,
            &c.outbox,
        ];
        let mut origins = [const { Origin::Absent }; KEYS.len()];
        for (origin, column) in origins.iter_mut().zip(columns) {
            *origin = match column {
                None => Origin::Absent,
                Some(Column::Constant { value }) => Origin::Constant(value.clone()),
                Some(Column::Sql { sql }) => Origin::Sql(sql.clone()),
                Some(Column::Name(name)) => kind(name).map(|(name, kind)| Origin::Column(name, kind))?,
            };
        }
        if let Some(condition) = &config.condition {
            origins[CONDITION] = Origin::Sql(condition.clone());
        }
        let zone = config.zone()?;
        if let (Origin::Column(column, Kind::Naive), None) = (&origins[OCCURRED_AT], zone) {
            return Err(config.error(format!(
                "column `{column}` holds times without zone; say which with `time_zone`, such as \"UTC\" or \"Europe/Berlin\""
            )));
        }
        Ok(Self { source: config.name.clone(), origins, zone })
    }

    /// What to select for each field.
    pub(super) fn origins(&self) -> &[Origin] {
        &self.origins
    }

    /// What identifies a row at its source, even if nothing else of it can be read.
    pub(super) fn own_id(&self, row: &Row) -> Option<String> {
        let text = |cell: &[u8]| String::from_utf8_lossy(cell).into_owned();
        self.uuid(row, ID).or_else(|| row.cells[ID].as_deref().map(text))
    }

    /// Sixteen bytes in a binary column are a UUID.
    fn uuid(&self, row: &Row, field: Field) -> Option<String> {
        let bytes: [u8; 16] = row.cells[field].as_deref()?.try_into().ok()?;
        let is_binary = matches!(&self.origins[field], Origin::Column(_, Kind::Bytes));
        (is_binary && matches!(field, ID | AGGREGATE_ID)).then(|| uuid::Uuid::from_bytes(bytes).to_string())
    }

    /// Never fails: what can't be an event is quarantined.
    pub(super) fn map(&self, row: &Row, catalogue: &Catalogue) -> Mapped {
        let whole = row.broken.as_ref().map_or(Ok(()), |cause| Err(fault("bad-sql", cause.clone())));
        match whole
            .and_then(|()| self.leaves(row))
            .and_then(|leaves| if leaves { self.event(row, catalogue) } else { Ok(None) })
        {
            Ok(Some(event)) => Mapped::Event(event),
            Ok(None) => Mapped::Withheld,
            Err(Fault { reason, detail }) => Mapped::Quarantined(Quarantined {
                event_id: self.own_id(row).filter(|id| !id.contains('\0')),
                sequence: Some(row.sequence.to_string()),
                reason,
                detail: detail.replace('\0', "\u{fffd}"),
                raw: self.raw(row),
            }),
        }
    }

    fn leaves(&self, row: &Row) -> Result<bool, Fault> {
        Ok(self.holds(row, OUTBOX)? && self.holds(row, CONDITION)?)
    }

    /// Nothing is false. What is neither true nor false is a fault: a wrong column must not keep all events inside.
    fn holds(&self, row: &Row, field: Field) -> Result<bool, Fault> {
        if matches!(self.origins[field], Origin::Absent) {
            return Ok(true);
        }
        let text = self.text(row, field)?.unwrap_or_default().trim().to_ascii_lowercase();
        match text.as_str() {
            "t" | "true" | "y" | "yes" | "on" => Ok(true),
            "" | "f" | "false" | "n" | "no" | "off" => Ok(false),
            number => number.parse::<i64>().map(|number| number != 0).map_err(|_| {
                let detail = format!("{} `{}` is neither true nor false", KEYS[field], cut(number, 64));
                fault("bad-outbox", detail)
            }),
        }
    }

    fn event(&self, row: &Row, catalogue: &Catalogue) -> Result<Option<Event>, Fault> {
        let r#type = self.name(row, TYPE, "missing-type")?;
        if !catalogue.publishes(&r#type) {
            return Ok(None);
        }
        let own_id = self.name(row, ID, "missing-id")?;
        let metadata = self.text(row, METADATA)?.filter(|text| !text.is_empty());
        metadata.map_or(Ok(()), |text| check_json(text, KEYS[METADATA]))?;
        let data = self.text(row, DATA)?.unwrap_or("null");
        check_json(data, KEYS[DATA])?;
        let event = Event {
            id: public_id(&self.source, &own_id),
            source: self.source.clone(),
            r#type,
            aggregate_type: self.name(row, AGGREGATE_TYPE, "missing-aggregate-type")?,
            aggregate_id: self.name(row, AGGREGATE_ID, "missing-aggregate-id")?,
            aggregate_version: self.version(row)?,
            occurred_at: self.time(row)?,
            data: data.to_owned(),
            metadata: metadata.map(str::to_owned),
        };
        check_schema(catalogue, &event).map(|()| Some(event))
    }

    /// The aggregate of a row, its type first, and the version; nothing unless all of these can be read.
    pub(super) fn version_of(&self, row: &Row) -> Option<((String, String), i64)> {
        let name = |field| self.name(row, field, "").ok();
        Some(((name(AGGREGATE_TYPE)?, name(AGGREGATE_ID)?), self.version(row).ok()??))
    }

    fn text<'a>(&'a self, row: &'a Row, field: Field) -> Result<Option<&'a str>, Fault> {
        match &self.origins[field] {
            Origin::Absent => Ok(None),
            Origin::Constant(value) => Ok(Some(value)),
            Origin::Column(column, _) | Origin::Sql(column) => {
                let Some(bytes) = &row.cells[field] else { return Ok(None) };
                let bad =
                    |at| fault("bad-text", format!("{} (column `{column}`) is not UTF-8 at byte {at}", KEYS[field]));
                std::str::from_utf8(bytes).map(Some).map_err(|cause| bad(cause.valid_up_to()))
            }
        }
    }

    fn name(&self, row: &Row, field: Field, missing: &'static str) -> Result<String, Fault> {
        let text = match self.uuid(row, field) {
            Some(uuid) => uuid,
            None => self.text(row, field)?.unwrap_or_default().to_owned(),
        };
        check_name(&text, KEYS[field], missing).map(|()| text)
    }

    fn version(&self, row: &Row) -> Result<Option<i64>, Fault> {
        let bad = |text: &str| fault("bad-version", format!("aggregate_version `{}` is no integer", cut(text, 64)));
        self.text(row, AGGREGATE_VERSION)?.map(|text| text.trim().parse().map_err(|_| bad(text))).transpose()
    }

    fn time(&self, row: &Row) -> Result<Micros, Fault> {
        let kind = match &self.origins[OCCURRED_AT] {
            Origin::Column(_, kind) => *kind,
            _ => Kind::Text,
        };
        let text = self.text(row, OCCURRED_AT)?.ok_or_else(|| fault("missing-time", "occurred_at is empty"))?;
        time::parse(text, kind, self.zone).map_err(|detail| fault("bad-time", format!("occurred_at {detail}")))
    }

    /// The row as JSON, for people: cut, and what is not UTF-8 replaced.
    fn raw(&self, row: &Row) -> String {
        let mut object = serde_json::Map::new();
        for (origin, cell) in self.origins.iter().zip(&row.cells) {
            if let Origin::Column(column, _) = origin {
                let text = |cell: &Vec<u8>| String::from_utf8_lossy(&cell[..cell.len().min(RAW_CELL_BYTES_MAX)]).into();
                object.insert(column.clone(), cell.as_ref().map_or(serde_json::Value::Null, text));
            }
        }
        cut(&serde_json::Value::Object(object).to_string(), RAW_BYTES_MAX).to_owned()
    }
}

/// Checks a text that names something.
///
/// # Errors
/// What is wrong with it; `missing` is the reason if it is empty, `key` what it is called.
pub(super) fn check_name(text: &str, key: &str, missing: &'static str) -> Result<(), Fault> {
    match text.len() {
        0 => Err(fault(missing, format!("{key} is empty"))),
        1..=NAME_BYTES_MAX if text.contains('\0') => Err(fault("bad-text", format!("{key} holds a NUL character"))),
        1..=NAME_BYTES_MAX => Ok(()),
        bytes => Err(fault("too-long", format!("{key} has {bytes} bytes; at most {NAME_BYTES_MAX} can be used"))),
    }
}

/// Checks the data of an event, where what does not fit its schema must not get through.
///
/// # Errors
/// Where it does not fit.
pub(super) fn check_schema(catalogue: &Catalogue, event: &Event) -> Result<(), Fault> {
    catalogue.refuses(event).map_or(Ok(()), |detail| Err(fault("bad-schema", detail)))
}

/// Checks a JSON text without building a tree. Lone surrogates pass: they are the source's business.
///
/// # Errors
/// What is wrong with it; `key` is what it is called.
pub(super) fn check_json(text: &str, key: &str) -> Result<(), Fault> {
    if text.len() > DATA_BYTES_MAX {
        return Err(fault(
            "too-large",
            format!("{key} has {} bytes; at most {DATA_BYTES_MAX} can be used", text.len()),
        ));
    }
    if nesting(text) > NESTING_MAX {
        return Err(fault("too-deep", format!("{key} nests deeper than {NESTING_MAX} levels")));
    }
    let parsed = serde_json::from_str::<&RawValue>(text);
    parsed.map(|_| ()).map_err(|cause| fault("bad-json", format!("{key} is no JSON: {cause}")))
}

fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::cart;
    use super::*;

    fn mapping() -> Mapping {
        let config = Config { time_zone: Some("UTC".into()), ..cart("sqlite://x") };
        Mapping::new(&config, |column| {
            Ok((column.to_owned(), if column == "event_id" { Kind::Bytes } else { Kind::Text }))
        })
        .expect("usable")
    }

    fn row(change: impl FnOnce(&mut dyn FnMut(Field, Option<&[u8]>))) -> Row {
        let mut row = Row { sequence: 7, ..Row::default() };
        let mut set = |field: Field, value: Option<&[u8]>| row.cells[field] = value.map(<[u8]>::to_vec);
        set(ID, Some(b"e-1"));
        set(TYPE, Some(b"CartCreated"));
        set(AGGREGATE_ID, Some(b"c-1"));
        set(AGGREGATE_VERSION, Some(b"1"));
        set(OCCURRED_AT, Some(b"2026-01-01 00:00:00"));
        set(DATA, Some(b"{\"n\": 12345678901234567890.10}"));
        set(OUTBOX, Some(b"TRUE"));
        change(&mut set);
        row
    }

    fn mapped(field: Field, value: Option<&[u8]>) -> Mapped {
        mapping().map(&row(|set| set(field, value)), &Catalogue::default())
    }

    fn reason(field: Field, value: Option<&[u8]>) -> &'static str {
        match mapped(field, value) {
            Mapped::Quarantined(row) => row.reason,
            _ => "none",
        }
    }

    #[test]
    fn a_row_becomes_an_event_with_its_text_untouched() {
        let Mapped::Event(event) = mapping().map(&row(|_| {}), &Catalogue::default()) else { panic!("no event") };
        assert_eq!((event.id.as_str(), event.aggregate_type.as_str()), ("cart:e-1", "Cart"));
        assert_eq!(event.data, "{\"n\": 12345678901234567890.10}");
        assert_eq!((event.metadata, event.aggregate_version), (None, Some(1)));
    }

    #[test]
    fn a_binary_id_is_a_uuid() {
        let Mapped::Event(event) = mapped(ID, Some(&[0xab; 16])) else { panic!("no event") };
        assert_eq!(event.id, "abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn only_what_is_true_leaves() {
        for inside in [None, Some(b"f".as_slice()), Some(b"0"), Some(b""), Some(b"no"), Some(b"FALSE")] {
            assert!(matches!(mapped(OUTBOX, inside), Mapped::Withheld), "{inside:?}");
        }
        for outside in [b"t".as_slice(), b"1", b"2", b"Y", b"yes", b"true", b"on"] {
            assert!(matches!(mapped(OUTBOX, Some(outside)), Mapped::Event(_)), "{outside:?}");
        }
    }

    #[test]
    fn a_bad_row_says_why() {
        let long = [b'x'; NAME_BYTES_MAX + 1];
        assert_eq!(reason(OUTBOX, Some(b"public")), "bad-outbox");
        assert_eq!(reason(ID, None), "missing-id");
        assert_eq!(reason(TYPE, Some(b"")), "missing-type");
        assert_eq!(reason(AGGREGATE_ID, Some(&long)), "too-long");
        assert_eq!(reason(AGGREGATE_ID, Some(b"a\0b")), "bad-text");
        assert_eq!(reason(DATA, Some(b"\xff")), "bad-text");
        assert_eq!(reason(DATA, Some(b"{\"a\":1,}")), "bad-json");
        assert_eq!(reason(DATA, Some(b"{\"a\":1} {}")), "bad-json");
        assert_eq!(reason(METADATA, Some(b"--- yaml")), "bad-json");
        assert_eq!(reason(OCCURRED_AT, None), "missing-time");
        assert_eq!(reason(OCCURRED_AT, Some(b"soon")), "bad-time");
        assert_eq!(reason(AGGREGATE_VERSION, Some(b"1.5")), "bad-version");
        assert_eq!(reason(DATA, Some(&vec![b' '; DATA_BYTES_MAX + 1])), "too-large");
    }

    #[test]
    fn json_may_nest_128_levels_and_hold_lone_surrogates() {
        let nested = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
        assert_eq!(check_json(&nested(128), "data"), Ok(()));
        assert_eq!(check_json(&nested(129), "data").map_err(|fault| fault.reason), Err("too-deep"));
        assert_eq!(check_json(&nested(5_000_000), "data").map_err(|fault| fault.reason), Err("too-deep"));
        assert_eq!(check_json(r#"["\ud800", "\\", "]\"[["]"#, "data"), Ok(()));
    }

    #[test]
    fn a_quarantined_row_is_kept_but_cut() {
        let large = vec![b'"'; 1_000_000];
        let Mapped::Quarantined(quarantined) = mapped(DATA, Some(&large)) else { panic!("an event") };
        assert!(quarantined.raw.len() <= RAW_BYTES_MAX);
        assert!(quarantined.raw.contains("\"event_type\":\"CartCreated\""));
        assert_eq!((quarantined.event_id.as_deref(), quarantined.sequence.as_deref()), (Some("e-1"), Some("7")));
    }

    #[test]
    fn times_without_zone_are_refused_at_start() {
        let error =
            Mapping::new(&cart("postgres://x"), |column| Ok((column.to_owned(), Kind::Naive))).expect_err("no zone");
        assert!(error.to_string().contains("`occurred_at`") && error.to_string().contains("time_zone"), "{error}");
    }
}
