//! `[[source]]` of the configuration.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use super::Error;
use super::columns::Columns;
use super::preset::Preset;
use crate::filter::OWN_SOURCE;
use crate::journal::{self, redacted};
use crate::runtime::parse_duration;

/// The longest pause between two looks.
const DAY: Duration = Duration::from_secs(86_400);
/// Names stand in URLs, ids and logs.
const NAME_CHARS_MAX: usize = 64;

/// One `[[source]]`, with what its preset says.
#[derive(Clone, Deserialize)]
#[serde(try_from = "Written")]
pub struct Config {
    pub name: String,
    /// `postgres://`, `mysql://`, `mariadb://` or `sqlite://`.
    pub url: String,
    pub preset: Option<String>,
    /// Each may be `schema.table`; the first that there is.
    pub tables: Vec<String>,
    /// What to select from instead, if not all rows of the table are events.
    pub relation: Option<String>,
    /// Nothing: by numbers where there are some, else by what the database offers.
    pub follow: Option<Follow>,
    pub poll: Poll,
    /// A channel of PostgreSQL's that the database notifies when rows are written.
    pub listen: Option<String>,
    /// What an event waits for.
    pub gate: Option<GateBy>,
    /// How often rows are looked for that were written later below numbers that are read, where the database can tell.
    pub sweep: Duration,
    /// How often the table is compared with the journal.
    pub audit: Option<Duration>,
    /// An SQL condition; rows where it does not hold stay inside.
    pub condition: Option<String>,
    /// The zone of times that don't say theirs, by its IANA name.
    pub time_zone: Option<String>,
    pub columns: Columns,
    /// What is known of tables of this kind, in sentences.
    pub notes: Vec<String>,
    /// Not a table: events are handed in over HTTP.
    pub push: bool,
    /// Not a table: the URL of a feed, which may hold a user name and a password.
    pub feed: Option<String>,
    /// The bearer token for the feed.
    pub token: Option<String>,
}

/// As it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default)]
    push: bool,
    feed: Option<String>,
    token: Option<String>,
    #[serde(default)]
    url: String,
    preset: Option<String>,
    table: Option<String>,
    follow: Option<Follow>,
    #[serde(default)]
    poll: Poll,
    listen: Option<String>,
    gate: Option<GateBy>,
    #[serde(default = "sweep_default", deserialize_with = "duration")]
    sweep: Duration,
    #[serde(default, deserialize_with = "audit")]
    audit: Option<Duration>,
    #[serde(rename = "where")]
    condition: Option<String>,
    time_zone: Option<String>,
    #[serde(default)]
    columns: Columns,
}

impl TryFrom<Written> for Config {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written {
            name,
            push,
            feed,
            token,
            url,
            preset,
            table,
            follow,
            poll,
            listen,
            gate,
            sweep,
            audit,
            condition,
            time_zone,
            columns,
        } = written;
        let tables = table.into_iter().collect();
        let mut config = Self {
            push,
            feed,
            token,
            preset,
            tables,
            follow,
            poll,
            listen,
            gate,
            sweep,
            audit,
            condition,
            time_zone,
            columns,
            ..Self::bare(&name, &url)
        };
        let (Some(preset), Some(engine)) = (&config.preset, config.engine()) else { return Ok(config) };
        let preset = Preset::find(preset, engine).map_err(|cause| format!("source `{}`: {cause}", config.name))?;
        if config.tables.is_empty() {
            config.tables = preset.tables;
        }
        config.relation = preset.relation;
        config.notes = preset.notes;
        config.time_zone = config.time_zone.or(preset.time_zone);
        config.columns = config.columns.or(preset.columns);
        Ok(config)
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("url", &redacted(&self.url))
            .field("tables", &self.tables)
            .field("feed", &self.feed.as_deref().map(redacted))
            .finish_non_exhaustive()
    }
}

/// How new rows are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Follow {
    /// By numbers, and by the numbers that are missing.
    Probe,
    /// By the transaction that wrote a row.
    Xmin,
    /// By its time, again and again as long as a transaction is open that may write an earlier one.
    Overlap,
    /// By a column that is set once the row was taken.
    Flag,
}

/// What an event may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateBy {
    /// The version before its own, of the same aggregate.
    Version,
}

/// When to look for new rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "snake_case",
    expecting = "expected \"adaptive\", { fixed_delay = \"200ms\" } or { fixed_rate = \"1s\" }"
)]
pub enum Poll {
    /// Soon after rows were found, ever more rarely while there are none.
    #[default]
    Adaptive,
    /// So long after the end of the last look.
    FixedDelay(#[serde(deserialize_with = "duration")] Duration),
    /// From start to start; never two at once.
    FixedRate(#[serde(deserialize_with = "duration")] Duration),
}

fn sweep_default() -> Duration {
    Duration::from_secs(30)
}

/// `"off"`, `"daily"` or a duration.
fn audit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "off" => Ok(None),
        "daily" => Ok(Some(DAY)),
        other => duration(serde::de::value::StrDeserializer::new(other)).map(Some),
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).filter(|wait| (Duration::from_millis(1)..=DAY).contains(wait)).ok_or_else(|| {
        D::Error::custom(format!("`{text}` is no duration; give one such as \"250ms\", \"5s\" or \"10m\""))
    })
}

/// The databases that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    Postgres,
    MySql,
    Sqlite,
}

impl Config {
    /// One that says nothing but where.
    pub(super) fn bare(name: &str, url: &str) -> Self {
        Self {
            name: name.to_owned(),
            url: url.to_owned(),
            preset: None,
            tables: Vec::new(),
            relation: None,
            follow: None,
            poll: Poll::default(),
            listen: None,
            gate: None,
            sweep: sweep_default(),
            audit: None,
            condition: None,
            time_zone: None,
            columns: Columns::default(),
            notes: Vec::new(),
            push: false,
            feed: None,
            token: None,
        }
    }

    /// The table, as it is called if it is called otherwise by others.
    pub fn table(&self) -> &str {
        self.tables.first().map_or("", String::as_str)
    }

    /// The database that the URL names, if it names one.
    pub fn engine(&self) -> Option<Engine> {
        match self.url.split(':').next()? {
            "postgres" | "postgresql" => Some(Engine::Postgres),
            "mysql" | "mariadb" => Some(Engine::MySql),
            "sqlite" => Some(Engine::Sqlite),
            _ => None,
        }
    }

    /// Checks what can be checked without the database.
    ///
    /// # Errors
    /// [`Error::Config`] with the key and what to write instead.
    pub fn check(&self) -> Result<(), Error> {
        let name = &self.name;
        let is_name = (1..=NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if !is_name {
            return Err(self.error(format!("`name` must be 1 to {NAME_CHARS_MAX} characters of a-z, 0-9, - and _")));
        }
        if name == OWN_SOURCE {
            return Err(self.error(format!("`name` = \"{OWN_SOURCE}\" is taken by our own events; choose another")));
        }
        if self.listen.is_some() && self.engine() != Some(Engine::Postgres) {
            return Err(self.error("`listen` is for PostgreSQL, which alone notifies; see `poll`"));
        }
        if self.token.is_some() && self.feed.is_none() {
            return Err(self.error("`token` goes with `feed` alone"));
        }
        if !self.has_table() {
            return self.check_bare();
        }
        if self.engine().is_none() {
            return Err(self.error("`url` must start with postgres://, mysql://, mariadb:// or sqlite://"));
        }
        if self.tables.is_empty() {
            return Err(self.error("`table` is missing"));
        }
        self.columns.check().map_err(|problem| self.error(problem))?;
        self.check_follow()?;
        self.zone().map(|_| ())
    }

    fn check_bare(&self) -> Result<(), Error> {
        // A filter that nobody applies would let everything through.
        let Self { url, preset, tables, follow, condition, time_zone, columns, .. } = self;
        let said = (url.as_str(), preset, tables.as_slice(), follow, &self.gate, condition, time_zone, columns);
        let is_bare = said == ("", &None, [].as_slice(), &None, &None, &None, &None, &Columns::default());
        match (&self.feed, self.push) {
            (None, _) if is_bare => Ok(()),
            (None, _) => Err(self.error(
                "`push = true` takes nothing but a `name`: events are handed in, and only the catalogue withholds",
            )),
            (Some(_), false) if is_bare => self.feed_url().map(|_| ()),
            (Some(_), _) => Err(self.error(
                "`feed` takes nothing but `token` and `poll` beside it: entries map themselves, and only the catalogue \
                 withholds",
            )),
        }
    }

    /// The feed's URL as it is configured, with its password.
    pub(super) fn feed_url(&self) -> Result<Url, Error> {
        let url = self.feed.as_deref().and_then(|feed| Url::parse(feed).ok());
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        // Not the text itself: it may hold a password.
        let url = url.ok_or_else(|| self.error("`feed` must be an https:// or http:// URL"))?;
        if self.token.is_some() && (!url.username().is_empty() || url.password().is_some()) {
            return Err(self.error("`token` and a user name in `feed` exclude each other"));
        }
        Ok(url)
    }

    /// Whether a database is read.
    pub fn has_table(&self) -> bool {
        !self.push && self.feed.is_none()
    }

    /// What is read, without secrets.
    pub fn place(&self) -> String {
        match &self.feed {
            Some(feed) => format!("feed {}", redacted(feed)),
            None => format!("table `{}` of {}", self.table(), redacted(&self.url)),
        }
    }

    /// What it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self.engine() {
            _ if self.push => "push",
            _ if self.feed.is_some() => "feed",
            Some(Engine::Postgres) => "postgres",
            Some(Engine::MySql) => "mysql",
            Some(Engine::Sqlite) => "sqlite",
            None => "unknown",
        }
    }

    /// How new rows are found: as configured, or what fits the table and the database.
    pub fn follow(&self) -> Follow {
        let default = match self.engine() {
            _ if self.columns.flag.is_some() => Follow::Flag,
            Some(Engine::Postgres) if self.columns.sequence.is_none() => Follow::Xmin,
            Some(Engine::MySql) if self.columns.sequence.is_none() => Follow::Overlap,
            _ => Follow::Probe,
        };
        self.follow.unwrap_or(default)
    }

    fn check_follow(&self) -> Result<(), Error> {
        let problem = match (self.follow(), self.engine()) {
            (Follow::Probe, _) if self.columns.sequence.is_none() => {
                "`columns.sequence` is missing: name the column with ascending numbers"
            }
            (Follow::Xmin, engine) if engine != Some(Engine::Postgres) => {
                "`follow` = \"xmin\" is for PostgreSQL; use \"probe\" with `columns.sequence`"
            }
            (Follow::Overlap, engine) if engine != Some(Engine::MySql) => {
                "`follow` = \"overlap\" is for MySQL and MariaDB; on PostgreSQL use \"xmin\", else \"probe\""
            }
            (Follow::Flag, _) if self.columns.flag.is_none() => {
                "`columns.flag` is missing: name the column that may be set once a row was taken"
            }
            (follow, _) if follow != Follow::Flag && self.columns.flag.is_some() => {
                "`columns.flag` is for `follow` = \"flag\" alone"
            }
            (follow, _) if follow != Follow::Probe && self.gate.is_some() => {
                "`gate` is for `follow` = \"probe\" alone: whoever waits is missing, and only numbers can be missed"
            }
            _ if self.gate.is_some() && !self.columns.tell_versions() => {
                "`gate` = \"version\" needs columns as `columns.aggregate_id` and `columns.aggregate_version`"
            }
            _ => return Ok(()),
        };
        Err(self.error(problem))
    }

    /// The zone of naive times, if one is named.
    pub(super) fn zone(&self) -> Result<Option<chrono_tz::Tz>, Error> {
        let Some(zone) = &self.time_zone else { return Ok(None) };
        let problem =
            || format!("`time_zone` = \"{zone}\" is no IANA zone; give one such as \"Europe/Berlin\" or \"UTC\"");
        zone.parse().map(Some).map_err(|_| self.error(problem()))
    }

    pub(super) fn journal_error(&self, cause: journal::Error) -> Error {
        Error::Journal { name: self.name.clone(), cause }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Config { name: self.name.clone(), problem: problem.into() }
    }
}

/// Checks all sources, and that no two have the same name.
///
/// # Errors
/// The first that can't be used.
pub fn check_names(sources: &[Config]) -> Result<(), String> {
    for (n, source) in sources.iter().enumerate() {
        source.check().map_err(|cause| cause.to_string())?;
        if sources[..n].iter().any(|other| other.name == source.name) {
            return Err(format!("source `{}`: another [[source]] has the same `name`; names must differ", source.name));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::source::Column;

    /// A cart table, as in the documentation.
    pub(crate) fn cart(url: &str) -> Config {
        let text = format!(
            "name = \"cart\"\nurl = \"{url}\"\ntable = \"tb_cart_event\"\n[columns]\nsequence = \"seq\"\nid = \"event_id\"\n\
             type = \"event_type\"\naggregate_type = {{ value = \"Cart\" }}\naggregate_id = \"cart_id\"\n\
             aggregate_version = \"version\"\noccurred_at = \"occurred_at\"\ndata = \"payload\"\nmetadata = \"headers\"\n\
             outbox = \"outbox\"\n"
        );
        toml::from_str(&text).expect("a source")
    }

    #[test]
    fn the_documented_form_is_read() {
        let config = cart("postgres://reader@db/shop");
        assert!(config.check().is_ok());
        assert_eq!(config.columns.aggregate_type, Some(Column::Constant { value: "Cart".into() }));
        assert_eq!((config.poll, config.follow()), (Poll::Adaptive, Follow::Probe));
    }

    #[test]
    fn a_preset_is_what_is_not_said() {
        let read = |text: &str| toml::from_str::<Config>(text).map_err(|cause| cause.message().to_owned());
        let text = "name = \"a\"\nurl = \"postgres://db/x\"\npreset = \"message-db\"\n";
        let config = read(text).expect("usable");
        assert_eq!(
            (config.table(), config.follow(), config.check().is_ok()),
            ("message_store.messages", Follow::Probe, true)
        );
        let own = read(&format!("{text}table = \"m\"\n[columns]\ndata = \"body\"\n")).expect("usable");
        assert_eq!((own.table(), &own.columns.data), ("m", &Some(Column::Name("body".into()))));
        assert!(read(&text.replace("postgres", "sqlite")).is_err_and(|cause| cause.contains("for Postgres only")));
        let prooph = read(&text.replace("message-db", "prooph")).expect("usable").check();
        assert!(prooph.is_err_and(|cause| cause.to_string().contains("`table` is missing")));
        let none = read("name = \"a\"\nurl = \"postgres://db/x\"\ntable = \"t\"\n").expect("usable").check();
        assert!(none.is_err_and(|cause| cause.to_string().contains("`columns.id` is missing")));
    }

    #[test]
    fn follow_fits_the_database_and_the_columns() {
        let follow = |url: &str, sequence: bool, flag: bool, follow: Option<Follow>| {
            let mut config = Config { follow, ..cart(url) };
            config.columns.sequence = config.columns.sequence.filter(|_| sequence);
            config.columns.flag = flag.then(|| "relayed".to_owned());
            config.check().map(|()| config.follow()).map_err(|cause| cause.to_string())
        };
        assert_eq!(follow("postgres://x", true, false, None), Ok(Follow::Probe));
        assert_eq!(follow("postgres://x", false, false, None), Ok(Follow::Xmin));
        assert_eq!(follow("mysql://x", false, false, None), Ok(Follow::Overlap));
        assert_eq!(follow("sqlite://x", false, true, None), Ok(Follow::Flag));
        for (url, sequence, flag, asked, part) in [
            ("sqlite://x", false, false, None, "`columns.sequence` is missing"),
            ("mysql://x", true, false, Some(Follow::Xmin), "for PostgreSQL"),
            ("postgres://x", true, false, Some(Follow::Overlap), "for MySQL"),
            ("postgres://x", true, false, Some(Follow::Flag), "`columns.flag` is missing"),
            ("postgres://x", true, true, Some(Follow::Probe), "for `follow` = \"flag\" alone"),
        ] {
            assert!(follow(url, sequence, flag, asked).is_err_and(|text| text.contains(part)), "{part}");
        }
    }

    #[test]
    fn poll_takes_a_word_or_a_table() {
        #[derive(Deserialize)]
        struct Only {
            poll: Poll,
        }
        let poll = |text: &str| toml::from_str::<Only>(text).map(|only| only.poll).map_err(|cause| cause.to_string());
        assert_eq!(poll("poll = { fixed_delay = \"200ms\" }"), Ok(Poll::FixedDelay(Duration::from_millis(200))));
        assert_eq!(poll("poll = { fixed_rate = \"1s\" }"), Ok(Poll::FixedRate(Duration::from_secs(1))));
        assert!(poll("poll = \"often\"").is_err_and(|text| text.contains("adaptive")));
        assert!(poll("poll = { fixed_rate = \"0s\" }").is_err_and(|text| text.contains("is no duration")));
    }

    #[test]
    fn names_are_unique_and_not_ours() {
        let named = |name: &str| Config { name: name.into(), ..cart("sqlite://x") };
        assert!(check_names(&[named("a"), named("b-2")]).is_ok());
        assert!(check_names(&[named("a"), named("a")]).is_err());
        assert!(check_names(&[named("postern")]).is_err());
        assert!(check_names(&[named("A b")]).is_err());
    }
}
