//! `postern init`: looks through a database for tables that are event stores, by preset or by their columns, and says how
//! `[[source]]` would read them. Each guess is tried before it is offered.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::check::{Report, check};
use super::config::{Config, Engine};
use super::mapping::Kind;
use super::preset::Preset;
use super::sql::{self, MySql, Postgres, Sqlite};
use super::{Column, Error};
use crate::catalogue::Catalogue;
use crate::journal::sqlite_path;

/// A table as it was seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// With its schema, if that is not the one where tables are looked for.
    pub(super) table: String,
    pub(super) columns: Vec<(String, Kind)>,
    /// Integers that may be the table's numbers, and are unique.
    pub(super) unique: Vec<String>,
}

/// Whether a column may hold the table's numbers.
pub(super) fn may_be_sequence(column: &str, kind: Kind) -> bool {
    kind == Kind::Integer && SEQUENCE.contains(&plain(column).as_str())
}

/// A source that would work.
pub struct Found {
    /// `[[source]]`, as text.
    pub text: String,
    /// What was recognised, for people.
    pub what: String,
    pub report: Report,
}

/// Names that columns of a kind often have, the likeliest first.
const SEQUENCE: [&str; 12] = [
    "globalposition",
    "globalindex",
    "globalsequence",
    "sequencenumber",
    "sequence",
    "seqid",
    "seq",
    "eventnumber",
    "position",
    "offset",
    "no",
    "id",
];
const ID: [&str; 5] = ["eventid", "messageid", "eventidentifier", "uuid", "id"];
const TYPE: [&str; 6] = ["eventtype", "messagetype", "eventname", "type", "eventclass", "name"];
const AGGREGATE_TYPE: [&str; 5] = ["aggregatetype", "streamtype", "entitytype", "streamcategory", "aggregate"];
const AGGREGATE_ID: [&str; 8] = [
    "aggregateid",
    "aggregateidentifier",
    "aggregaterootid",
    "streamid",
    "entityid",
    "aggregateuuid",
    "streamname",
    "persistenceid",
];
const VERSION: [&str; 8] = [
    "aggregateversion",
    "streamversion",
    "version",
    "aggregatesequence",
    "sequencenumber",
    "sequencenr",
    "revision",
    "position",
];
const OCCURRED_AT: [&str; 9] =
    ["occurredat", "occurredon", "eventtime", "recordedat", "createdat", "timestamp", "created", "insertedat", "time"];
const DATA: [&str; 7] = ["payload", "data", "eventdata", "body", "event", "content", "serializedevent"];
const METADATA: [&str; 4] = ["metadata", "headers", "meta", "context"];
const OUTBOX: [&str; 4] = ["outbox", "ispublic", "external", "publish"];

/// Looks through all tables that can be read, or at one.
///
/// # Errors
/// A URL that names no database, or one that does not answer.
pub async fn discover(url: &str, only: Option<&str>) -> Result<Vec<Found>, Error> {
    let config = Config::bare("init", url);
    let engine = config
        .engine()
        .ok_or_else(|| config.error("the URL must start with postgres://, mysql://, mariadb:// or sqlite://"))?;
    let seen = match engine {
        Engine::Postgres => sql::tables::<Postgres>(&config).await?,
        Engine::MySql => sql::tables::<MySql>(&config).await?,
        Engine::Sqlite => sql::tables::<Sqlite>(&config).await?,
    };
    // The tables of the connection's own schema are listed without it.
    let has = |table: &str| seen.iter().any(|seen| seen.table == table);
    let only = match only {
        Some(only) if has(only) => Some(only),
        Some(only) => match only.split_once('.').map(|(_, table)| table).filter(|table| has(table)) {
            None => return Err(Error::NoTable { name: "init".to_owned(), table: only.to_owned() }),
            table => table,
        },
        None => None,
    };
    let mut found: Vec<Found> = Vec::new();
    for seen in seen.iter().filter(|seen| only.is_none_or(|only| only == seen.table)) {
        for (what, mut source) in guesses(seen, engine) {
            source.insert("name".to_owned(), unused(&seen.table, &found).into());
            if let Some(next) = attempt(what, source, url).await {
                found.push(next);
                break;
            }
        }
    }
    Ok(found)
}

/// The guess, if rows can be read by it.
async fn attempt(what: String, source: Table, url: &str) -> Option<Found> {
    // Relative paths would start at the configuration file.
    let file = sqlite_path(url).and_then(|path| path.canonicalize().ok());
    let shown = file.map_or("${DATABASE_URL}".to_owned(), |path| format!("sqlite://{}", path.display()));
    let text = text(&source, &shown);
    let mut whole = source;
    whole.insert("url".to_owned(), url.into());
    let report = check(&whole.try_into().ok()?, &Catalogue::default()).await.ok()?;
    (!report.is_hopeless()).then_some(Found { text, what, report })
}

/// What the table may be: a preset by its table's name, one by its columns, or a mapping by the names of its columns.
fn guesses(seen: &Seen, engine: Engine) -> Vec<(String, Table)> {
    let own = seen.table.rsplit('.').next().unwrap_or(&seen.table);
    let mut guesses = Vec::new();
    for (name, preset) in Preset::all(engine) {
        let is_named = preset.tables.iter().any(|table| plain(table.rsplit('.').next().unwrap_or(table)) == plain(own));
        let Some(time) = fits(&preset, seen) else { continue };
        let mut source = Table::new();
        source.insert("preset".to_owned(), name.into());
        if !preset.tables.contains(&seen.table) {
            source.insert("table".to_owned(), seen.table.clone().into());
        }
        if let Some(time) = time {
            source.insert("columns".to_owned(), Table::from_iter([("occurred_at".to_owned(), time.into())]).into());
        }
        let at = if is_named { 0 } else { guesses.len() };
        guesses.insert(at, (format!("`{}`: {}", seen.table, preset.store), source));
    }
    guesses.extend(by_names(seen).map(|source| (format!("`{}`: an event table by its columns", seen.table), source)));
    guesses
}

/// Whether the table has the preset's columns; with a column to be used as the time, if only that is called otherwise.
fn fits(preset: &Preset, seen: &Seen) -> Option<Option<String>> {
    let c = &preset.columns;
    let columns = [&c.id, &c.r#type, &c.aggregate_type, &c.aggregate_id, &c.aggregate_version, &c.data, &c.metadata];
    let named = columns.into_iter().flatten().filter_map(|column| match column {
        Column::Name(name) => Some(name),
        Column::Constant { .. } | Column::Sql { .. } => None,
    });
    let named: Vec<&String> = named.chain(&c.sequence).collect();
    let has = |name: &str| seen.columns.iter().any(|(column, _)| plain(column) == plain(name));
    if named.len() < 2 || !named.iter().all(|name| has(name)) {
        return None;
    }
    match &c.occurred_at {
        Some(Column::Name(name)) if !has(name) => first(seen, &OCCURRED_AT, is_time).map(Some),
        _ => Some(None),
    }
}

fn by_names(seen: &Seen) -> Option<Table> {
    let any = |_: Kind| true;
    let mut columns = Table::new();
    let mut put = |key: &str, column: Option<String>| {
        column.inspect(|column| _ = columns.insert(key.to_owned(), column.clone().into())).is_some()
    };
    let sequence = SEQUENCE.iter().find_map(|name| seen.unique.iter().find(|column| plain(column) == *name));
    let has_sequence = put("sequence", sequence.cloned());
    let has_id = put("id", first(seen, &ID, any));
    let is_whole = has_id
        & put("type", first(seen, &TYPE, |kind| kind == Kind::Text))
        & put("occurred_at", first(seen, &OCCURRED_AT, is_time))
        & put("data", first(seen, &DATA, |kind| matches!(kind, Kind::Text | Kind::Bytes)));
    let stem = stem(seen);
    let own_id = stem.map(|stem| format!("{stem}_id"));
    let has_aggregate_id = put("aggregate_id", first(seen, &AGGREGATE_ID, any).or(own_id));
    let has_aggregate_type = put("aggregate_type", first(seen, &AGGREGATE_TYPE, |kind| kind == Kind::Text));
    let version = first(seen, &VERSION, |kind| kind == Kind::Integer);
    put("aggregate_version", version.filter(|version| Some(version) != sequence));
    put("metadata", first(seen, &METADATA, |kind| matches!(kind, Kind::Text | Kind::Bytes)));
    put("outbox", first(seen, &OUTBOX, any));
    // A log of something has such columns, too, and is not meant for others.
    let own = plain(seen.table.rsplit('.').next().unwrap_or(&seen.table));
    let is_named = ["event", "outbox", "message", "journal"].iter().any(|word| own.contains(word));
    let is_typed =
        columns.get("type").and_then(Value::as_str).is_some_and(|name| TYPE[..3].contains(&plain(name).as_str()));
    if !is_whole || !(has_sequence || has_aggregate_id) || !(is_named || is_typed) {
        return None;
    }
    if !has_aggregate_id {
        columns.insert("aggregate_id".to_owned(), columns["id"].clone());
    }
    if !has_aggregate_type {
        let mut value = stem.map_or_else(|| name_of(&seen.table), str::to_owned);
        value[..1].make_ascii_uppercase();
        let value = Table::from_iter([("value".to_owned(), Value::from(value))]);
        columns.insert("aggregate_type".to_owned(), value.into());
    }
    let mut source = Table::from_iter([("table".to_owned(), Value::from(seen.table.clone()))]);
    let is_naive =
        seen.columns.iter().any(|(name, kind)| columns["occurred_at"].as_str() == Some(name) && *kind != Kind::Instant);
    if is_naive {
        source.insert("time_zone".to_owned(), "UTC".into());
    }
    source.insert("columns".to_owned(), columns.into());
    Some(source)
}

/// `cart` for a table that is about carts and has a column `cart_id`.
fn stem(seen: &Seen) -> Option<&str> {
    let table = name_of(&seen.table);
    let stems = seen.columns.iter().filter_map(|(name, _)| name.strip_suffix("_id"));
    stems
        .filter(|stem| !stem.is_empty() && stem.is_ascii() && !ID.contains(&format!("{stem}id").as_str()))
        .find(|stem| table.contains(*stem))
}

fn first(seen: &Seen, names: &[&str], fits: impl Fn(Kind) -> bool) -> Option<String> {
    let find = |name: &&str| seen.columns.iter().find(|(column, kind)| plain(column) == **name && fits(*kind));
    names.iter().find_map(find).map(|(column, _)| column.clone())
}

fn is_time(kind: Kind) -> bool {
    matches!(kind, Kind::Instant | Kind::Naive | Kind::Integer | Kind::Text)
}

fn plain(name: &str) -> String {
    name.replace(['_', '-', ' '], "").to_ascii_lowercase()
}

/// A table's name as a source's.
fn name_of(table: &str) -> String {
    let own = table.rsplit('.').next().unwrap_or(table).to_ascii_lowercase();
    let own = own.trim_start_matches("tb_").trim_start_matches("tbl_");
    let name: String =
        own.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(60).collect();
    let name = name.trim_matches('_');
    if name.is_empty() || name == crate::filter::OWN_SOURCE { "events".to_owned() } else { name.to_owned() }
}

fn unused(table: &str, found: &[Found]) -> String {
    let name = name_of(table);
    let is_taken = |name: &str| found.iter().any(|found| found.text.contains(&format!("name = \"{name}\"\n")));
    let numbered = (2..).map(|n| format!("{name}{n}"));
    std::iter::once(name.clone()).chain(numbered).find(|name| !is_taken(name)).unwrap_or(name)
}

fn text(source: &Table, url: &str) -> String {
    let mut text = format!("[[source]]\nname = {}\nurl = {}\n", literal(&source["name"]), literal(&url.into()));
    for key in ["preset", "table", "time_zone"] {
        if let Some(value) = source.get(key) {
            let _ = writeln!(text, "{key} = {}", literal(value));
        }
    }
    let columns = source.get("columns").and_then(Value::as_table);
    for (key, value) in columns.into_iter().flatten() {
        let _ = writeln!(text, "columns.{key} = {}", literal(value));
    }
    text
}

/// A text, or the table of a constant; JSON's strings are TOML's, too.
fn literal(value: &Value) -> String {
    match value.get("value") {
        Some(value) => format!("{{ value = {} }}", literal(value)),
        None => serde_json::Value::from(value.as_str().unwrap_or_default()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(table: &str, columns: &[(&str, Kind)]) -> Seen {
        let columns = columns.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
        let unique = vec!["seq".to_owned()];
        Seen { table: table.to_owned(), columns, unique }
    }

    #[test]
    fn a_table_is_guessed_by_the_names_of_its_columns() {
        let cart = seen(
            "shop.tb_cart_event",
            &[
                ("seq", Kind::Integer),
                ("event_id", Kind::Text),
                ("event_type", Kind::Text),
                ("cart_id", Kind::Text),
                ("version", Kind::Integer),
                ("occurred_at", Kind::Naive),
                ("payload", Kind::Text),
                ("outbox", Kind::Text),
            ],
        );
        let (what, source) = guesses(&cart, Engine::Postgres).pop().expect("a guess");
        assert_eq!(what, "`shop.tb_cart_event`: an event table by its columns");
        let text = text(
            &{
                let mut source = source;
                source.insert("name".into(), "cart".into());
                source
            },
            "${DATABASE_URL}",
        );
        assert_eq!(
            text,
            "[[source]]\nname = \"cart\"\nurl = \"${DATABASE_URL}\"\ntable = \"shop.tb_cart_event\"\ntime_zone = \"UTC\"\n\
             columns.aggregate_id = \"cart_id\"\ncolumns.aggregate_type = { value = \"Cart\" }\n\
             columns.aggregate_version = \"version\"\ncolumns.data = \"payload\"\ncolumns.id = \"event_id\"\n\
             columns.occurred_at = \"occurred_at\"\ncolumns.outbox = \"outbox\"\ncolumns.sequence = \"seq\"\n\
             columns.type = \"event_type\"\n"
        );
        assert!(
            by_names(&seen("customer", &[("id", Kind::Integer), ("name", Kind::Text), ("created_at", Kind::Naive)]))
                .is_none()
        );
    }

    #[test]
    fn names_can_be_sources() {
        assert_eq!(
            [name_of("public.Tb_Order Event"), name_of("postern"), name_of("_x")],
            ["order_event", "events", "x"]
        );
    }
}
