//! A table read in windows: `xmin`, `overlap` and `flag`. What a window is, and how far it was read, is the engine's to
//! say; a row that is flagged once it was taken needs no memory at all.

use futures_util::stream::BoxStream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Engine, LOOK_TIMEOUT, Opened, answer, broken_by_row, find, one_of, own_text, quote, text, within};
use crate::source::mapping::{Kind, Mapping, Row};
use crate::source::{Column, Config, Error, Follow, Look, Page, ROWS_FIRST, Windows};

/// Rows that are flagged by one statement.
const FLAGS_MAX: usize = 1_000;

/// What an engine remembers of the windows it has read.
pub(in crate::source) trait Token: Default + Serialize + DeserializeOwned + Send + Sync {}
impl<T: Default + Serialize + DeserializeOwned + Send + Sync> Token for T {}

/// A table with what is selected of it. All names are quoted.
pub(in crate::source) struct Window {
    /// The cells, each after a comma.
    pub(super) list: String,
    pub(super) table: String,
    pub(super) fields: Vec<super::Field>,
    /// The column of the event's id, and its kind.
    pub(super) id: (String, Kind),
    /// The column of the event's time, and its kind.
    pub(super) time: (String, Kind),
    pub(super) zone: Option<chrono_tz::Tz>,
    /// The column of the time holds days.
    pub(super) is_day: bool,
    /// Rows to ask for: fewer while they are large.
    pub(super) rows_max: usize,
    /// How often a large table is read whole, in microseconds; and what time it is.
    pub(super) whole_every: i64,
    pub(super) now: i64,
}

pub(in crate::source) struct Windowed<E: Engine> {
    opened: Opened<E>,
    follow: Follow,
    window: Window,
    flag: Option<Flag>,
}

/// How a row is flagged.
struct Flag {
    /// The rows that are not: what stands before the cells, and what after them up to the limit.
    read: (String, String),
    /// Sets it for the rows whose id, a column of this type, is one of those that follow.
    set: String,
    id: (String, String),
}

impl<E: Engine> Windows for Windowed<E> {
    async fn open(config: &Config) -> Result<Self, Error> {
        let opened = Opened::<E>::open(config).await?;
        let window = Window {
            list: opened.list.clone(),
            table: opened.from.clone(),
            fields: opened.fields.clone(),
            id: opened.expression(config, config.columns.id.as_ref())?,
            time: opened.expression(config, config.columns.occurred_at.as_ref())?,
            zone: config.zone()?,
            is_day: matches!(&config.columns.occurred_at, Some(Column::Name(name)) if find(config, &opened.columns, name)?.1 == "date"),
            rows_max: ROWS_FIRST,
            whole_every: i64::try_from(config.sweep.as_micros()).unwrap_or(i64::MAX),
            now: 0,
        };
        let follow = config.follow();
        E::check_window(follow, &window).map_err(|problem| config.error(problem))?;
        let flag = match &config.columns.flag {
            Some(column) => Some(flag::<E>(config, &opened, &window, column)?),
            None => None,
        };
        Ok(Self { opened, follow, window, flag })
    }

    fn mapping(&self) -> &Mapping {
        &self.opened.mapping
    }

    fn repeats(&self) -> bool {
        self.follow == Follow::Overlap
    }

    fn is_unordered(&self) -> bool {
        self.follow == Follow::Xmin
    }

    async fn look(&mut self, token: Option<&str>, now: i64) -> Result<Look, Error> {
        self.window.now = now;
        let looked = self.look_as_is(token).await;
        let Some(cause) = looked.as_ref().err().and_then(broken_by_row) else { return looked };
        // One row breaks an expression: the rows before it one by one, and of itself what can be read.
        self.window.rows_max = 1;
        let looked = self.look_as_is(token).await;
        if looked.as_ref().err().and_then(broken_by_row).is_none() {
            return looked;
        }
        let list = std::mem::replace(&mut self.window.list, self.opened.plain_list.clone());
        let looked = self.look_as_is(token).await;
        self.window.list = list;
        let mut look = looked?;
        look.rows.iter_mut().for_each(|row| row.broken = Some(cause.clone()));
        Ok(look)
    }

    async fn find(&mut self, own_id: &str) -> Result<Option<Row>, Error> {
        let (Opened { name, pool, .. }, Window { list, table, fields, id: (id, kind), .. }) =
            (&self.opened, &self.window);
        let column = match kind {
            Kind::Bytes => format!("lower({})", E::hex(id)),
            _ => format!("cast({id} as {})", E::TEXT),
        };
        let bind = own_text::<E>(*kind, own_id);
        let statement = format!("select ''{list} from {table} where {column} = {} limit 1", E::TEXT_BIND).into();
        let read = async { E::read_marked(&mut *pool.acquire().await?, &statement, fields, &[bind], 1).await };
        Ok(answer(name, read).await?.rows.into_iter().next())
    }

    async fn taken(&mut self, marks: &[String]) -> Result<(), Error> {
        let (Opened { name, pool, .. }, Some(Flag { set, id, .. })) = (&self.opened, &self.flag) else {
            return Ok(());
        };
        let mut flagged = 0;
        for marks in marks.chunks(FLAGS_MAX) {
            flagged +=
                answer(name, E::write(pool, format!("{set}{}", one_of::<E>(&id.0, &id.1, marks.len())), marks)).await?;
        }
        if flagged == 0 && !marks.is_empty() {
            // Else the same rows would be read for ever, at full speed.
            let problem = "no row could be flagged: no row has the ids that were read, or another one flags them too";
            return Err(Error::Config { name: name.clone(), problem: problem.to_owned() });
        }
        Ok(())
    }

    fn hints(&self, config: &Config) -> BoxStream<'static, ()> {
        E::hints(self.opened.pool.clone(), config)
    }

    async fn warnings(&mut self) -> Result<Vec<String>, Error> {
        let Opened { name, pool, table, .. } = &self.opened;
        answer(name, E::examine_window(pool, table, self.follow)).await
    }
}

impl<E: Engine> Windowed<E> {
    async fn look_as_is(&mut self, token: Option<&str>) -> Result<Look, Error> {
        let Opened { name, pool, .. } = &self.opened;
        // One that is of another kind means the beginning: what is known is dropped.
        let token: E::Token = token.and_then(|token| serde_json::from_str(token).ok()).unwrap_or_default();
        let (page, token) = match &self.flag {
            Some(Flag { read, .. }) => {
                let rows_max = self.window.rows_max;
                let read = format!("{}{}{} limit {rows_max}", read.0, self.window.list, read.1).into();
                let fields = &self.window.fields;
                let read = async { E::read_marked(&mut *pool.acquire().await?, &read, fields, &[], rows_max).await };
                (answer(name, read).await?, token)
            }
            None => within(LOOK_TIMEOUT, name, E::window(pool, &self.window, token)).await?,
        };
        self.window.rows_max = page.rows_next(self.window.rows_max);
        let Page { rows, more } = page;
        let token = serde_json::to_string(&token).expect("numbers and texts are JSON");
        Ok(Look { rows, token, more })
    }
}

fn flag<E: Engine>(config: &Config, opened: &Opened<E>, window: &Window, column: &str) -> Result<Flag, Error> {
    let (column, r#type) = find(config, &opened.columns, column)?;
    let Some((unset, value)) = E::flag(&quote::<E>(&column), &r#type) else {
        let problem = "`columns.flag` must be a boolean, an integer (0 and 1) or a time (empty until it is set)";
        return Err(config.error(format!("{problem}, but `{column}` is of type {}", r#type)));
    };
    let Some(Column::Name(id)) = &config.columns.id else {
        return Err(config.error("`columns.id` must be a column: rows are flagged by it"));
    };
    let (id, id_type) = find(config, &opened.columns, id)?;
    let mark = match window.id.1 {
        Kind::Bytes => E::hex(&quote::<E>(&id)),
        kind => text::<E>(&id, kind),
    };
    let Window { table, time: (time, _), id: (by_id, _), .. } = window;
    let order = match &config.columns.sequence {
        Some(sequence) => quote::<E>(&find(config, &opened.columns, sequence)?.0),
        None => format!("{time}, {by_id}"),
    };
    let rows = format!(" from {table} where {unset} and {by_id} is not null order by {order}");
    let read = (format!("select coalesce({mark}, '')"), rows);
    let column = quote::<E>(&column);
    let set = format!("update {} set {column} = {value} where {unset} and ", opened.table.quoted::<E>());
    Ok(Flag { read, set, id: (by_id.clone(), id_type) })
}
