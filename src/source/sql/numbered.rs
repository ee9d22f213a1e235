//! A table read by its numbers.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::Transaction;

use super::{
    Engine, LOOK_TIMEOUT, Opened, PAGE_BYTES_MAX, Select, Statement, answer, broken_by_row, cells, find, one_of,
    own_text, quote, within,
};
use crate::source::mapping::{AGGREGATE_ID, AGGREGATE_TYPE, AGGREGATE_VERSION, Field, Kind, Mapping, Row};
use crate::source::{Ask, Column, Config, Error, Evidence, GateBy, Horizon, Page, ROWS_MAX, Source, Swept};

/// Ranges that one statement looks for. Few sizes, so that few texts are prepared.
const RANGES: [usize; 3] = [1, 10, 100];
/// Aggregates that one statement asks for.
const VERSIONS_MAX: usize = 50;
/// Rows that are read one by one before all are tried together again.
const ONE_BY_ONE_MAX: usize = 500;
/// Pads a statement: nothing lies between 1 and 0.
const NO_RANGE: (i64, i64) = (1, 0);

pub(in crate::source) struct Numbered<E: Engine> {
    opened: Opened<E>,
    /// What is being read in one snapshot: nothing, or a transaction once it has begun.
    snapshot: Option<Option<Transaction<'static, E::Db>>>,
    sequence: String,
    tail: Statement,
    /// The same without what a row's values may break.
    plain_tail: Statement,
    ranges: [Statement; 3],
    newest: Statement,
    versions: Option<Versions>,
    witness: E::Witness,
}

/// How the versions of some aggregates are read.
struct Versions {
    /// What is selected, up to the condition.
    select: String,
    fields: Vec<Field>,
    /// The columns of the aggregate's id and of the version, quoted, and their types.
    id: (String, String),
    version: String,
}

impl<E: Engine> Source for Numbered<E> {
    const REREADS_LAST: bool = E::REREADS_LAST;

    async fn open(config: &Config) -> Result<Self, Error> {
        let opened = Opened::<E>::open(config).await?;
        let (sequence, r#type) = find(config, &opened.columns, config.columns.sequence.as_deref().unwrap_or_default())?;
        if E::TYPED && E::kind(&r#type) != Kind::Integer {
            return Err(config.error(format!("column `{sequence}` can't be the `sequence`: it is no integer column")));
        }
        let by = quote::<E>(&sequence);
        let list = format!("cast({by} as {}){}", E::INTEGER, opened.list);
        let select = Select { list, table: opened.from.clone(), sequence: by };
        let Select { list, table: from, sequence: by } = &select;
        let (one, two, usable) = (E::bind(1), E::bind(2), E::usable(by));
        let rows = format!("from {from} where {by} > {one} and {usable} order by {by} limit {two}");
        let tail = format!("select {list} {rows}");
        let plain_tail = format!("select cast({by} as {}){} {rows}", E::INTEGER, opened.plain_list).into();
        let newest = format!("select {list} from {from} where {usable} order by {by} desc limit {one}");
        let ranges = RANGES.map(|ranges| E::ranges(&select, ranges).into());
        let (tail, newest) = (tail.into(), newest.into());
        let versions = match config.gate {
            Some(GateBy::Version) => Some(versions(config, &opened, by)?),
            None => None,
        };
        Ok(Self {
            opened,
            snapshot: None,
            sequence,
            tail,
            plain_tail,
            ranges,
            newest,
            versions,
            witness: E::Witness::default(),
        })
    }

    fn mapping(&self) -> &Mapping {
        &self.opened.mapping
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.snapshot = Some(None);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Error> {
        match self.snapshot.take().flatten() {
            Some(transaction) => answer(&self.opened.name, transaction.commit()).await,
            None => Ok(()),
        }
    }

    async fn tail(&mut self, above: i64, rows_max: usize) -> Result<Page, Error> {
        let statement = Arc::clone(&self.tail);
        match self.read(&statement, &[above, rows_max as i64]).await {
            Err(cause) if broken_by_row(&cause).is_some() => self.one_by_one(above, i64::MAX).await,
            page => page,
        }
    }

    async fn ranges(&mut self, ranges: &[(i64, i64)], rows_max: usize) -> Result<Page, Error> {
        match self.whole_ranges(ranges, rows_max).await {
            Err(cause) if broken_by_row(&cause).is_some() => {
                let mut page = Page::default();
                for (from, to) in ranges {
                    let rest = self.one_by_one(from.saturating_sub(1), *to).await?;
                    page.rows.extend(rest.rows);
                    if rest.more {
                        page.more = true;
                        break;
                    }
                }
                Ok(page)
            }
            page => page,
        }
    }

    async fn versions(&mut self, wanted: &[(String, i64)]) -> Result<Vec<Row>, Error> {
        let Some(Versions { select, fields, id, version }) = &self.versions else { return Ok(Vec::new()) };
        let (Opened { name, pool, .. }, mut rows) = (&self.opened, Vec::new());
        for wanted in wanted.chunks(VERSIONS_MAX) {
            let ids = one_of::<E>(&id.0, &id.1, wanted.len());
            let numbers: BTreeSet<_> = wanted.iter().map(|(_, version)| *version).collect();
            let numbers: Vec<_> = numbers.into_iter().map(|number| number.to_string()).collect();
            let statement = format!("{select} where {ids} and {version} in ({})", numbers.join(", ")).into();
            let texts: Vec<_> = wanted.iter().map(|(own_id, _)| own_text::<E>(E::kind(&id.1), own_id)).collect();
            let read =
                async { E::read_marked(&mut *pool.acquire().await?, &statement, fields, &texts, ROWS_MAX).await };
            for mut row in answer(name, read).await?.rows {
                row.sequence = row.mark.parse().unwrap_or(i64::MAX);
                rows.push(row);
            }
        }
        Ok(rows)
    }

    async fn newest(&mut self, rows_max: usize) -> Result<Page, Error> {
        let statement = Arc::clone(&self.newest);
        self.read(&statement, &[rows_max as i64]).await
    }

    async fn evidence(&mut self, missing: &[(i64, i64, i64)]) -> Result<Evidence, Error> {
        let (table, sequence) = (self.opened.table.quoted::<E>(), quote::<E>(&self.sequence));
        let Self { opened: Opened { name, pool, .. }, witness, .. } = self;
        answer(name, E::evidence(pool, witness, &table, &sequence, missing)).await
    }

    fn sweep(
        &self,
        since: Option<Horizon>,
        ranges: Vec<(i64, i64)>,
        now: i64,
    ) -> BoxFuture<'static, Result<Option<Swept>, Error>> {
        let (table, sequence) = (self.opened.table.quoted::<E>(), quote::<E>(&self.sequence));
        let (name, pool) = (self.opened.name.clone(), self.opened.pool.clone());
        let ask = Ask { table, sequence, since, ranges, now };
        async move { within(LOOK_TIMEOUT, &name, E::sweep(pool, ask)).await }.boxed()
    }

    fn hints(&self, config: &Config) -> BoxStream<'static, ()> {
        E::hints(self.opened.pool.clone(), config)
    }

    async fn warnings(&mut self) -> Result<Vec<String>, Error> {
        let (column, Opened { name, pool, table, .. }) = (&self.sequence, &self.opened);
        let (unique, mut warnings) = answer(name, E::examine(pool, table, column)).await?;
        if self.opened.from != table.quoted::<E>() {
            // What is selected from has its own way to the rows.
            return Ok(warnings);
        }
        if unique.is_empty() {
            warnings.push(format!("no index starts with column `{column}`: every poll reads the whole table"));
        } else if !unique.contains(&true) {
            warnings.push(format!("column `{column}` is not unique: of rows that share a number, some may be missed"));
        }
        Ok(warnings)
    }
}

fn versions<E: Engine>(config: &Config, opened: &Opened<E>, sequence: &str) -> Result<Versions, Error> {
    let column = |column: &Option<Column>| match column {
        Some(Column::Name(name)) => find(config, &opened.columns, name),
        _ => Err(config.error("`gate` needs columns")),
    };
    let (id, id_type) = column(&config.columns.aggregate_id)?;
    let (version, version_type) = column(&config.columns.aggregate_version)?;
    if E::TYPED && E::kind(&version_type) != Kind::Integer {
        return Err(config.error(format!("`gate` = \"version\": column `{version}` is no integer column")));
    }
    let of = |field| matches!(field, AGGREGATE_TYPE | AGGREGATE_ID | AGGREGATE_VERSION);
    let (list, _, fields) = cells::<E>(&opened.table, &opened.mapping, of);
    let select = format!("select cast({sequence} as {}){list} from {}", E::TEXT, opened.from);
    Ok(Versions { select, fields, id: (quote::<E>(&id), id_type), version: quote::<E>(&version) })
}

impl<E: Engine> Numbered<E> {
    async fn whole_ranges(&mut self, ranges: &[(i64, i64)], rows_max: usize) -> Result<Page, Error> {
        let (mut page, mut rest, mut bytes) = (Page::default(), ranges, 0);
        while !rest.is_empty() && !page.more {
            let which = RANGES.iter().position(|size| *size >= rest.len()).unwrap_or(RANGES.len() - 1);
            let (now, later) = rest.split_at(rest.len().min(RANGES[which]));
            rest = later;
            let padded = now.iter().copied().chain(std::iter::repeat(NO_RANGE)).take(RANGES[which]);
            let mut numbers: Vec<i64> = padded.flat_map(|(from, to)| [from, to]).collect();
            numbers.push((rows_max - page.rows.len()) as i64);
            let statement = Arc::clone(&self.ranges[which]);
            let found = self.read(&statement, &numbers).await?;
            bytes += found.rows.iter().map(Row::bytes).sum::<usize>();
            page.rows.extend(found.rows);
            page.more = found.more || (bytes >= PAGE_BYTES_MAX && !rest.is_empty());
        }
        Ok(page)
    }

    /// Rows above a number up to another one, each by a statement of its own: one of them breaks an expression, and what
    /// else can be read of it goes to quarantine.
    async fn one_by_one(&mut self, above: i64, through: i64) -> Result<Page, Error> {
        let is_snapshot = self.snapshot.take().is_some();
        let (tail, plain) = (Arc::clone(&self.tail), Arc::clone(&self.plain_tail));
        let (mut page, mut above) = (Page::default(), above);
        loop {
            let read = self.read(&tail, &[above, 1]).await;
            let broken = read.as_ref().err().and_then(broken_by_row);
            let found = if broken.is_some() { self.read(&plain, &[above, 1]).await } else { read };
            let Some(row) = found?.rows.into_iter().next().filter(|row| row.sequence <= through) else { break };
            above = row.sequence;
            page.rows.push(Row { broken, ..row });
            page.more = page.rows.len() >= ONE_BY_ONE_MAX;
            if page.more {
                break;
            }
        }
        if is_snapshot {
            self.begin().await?;
        }
        Ok(page)
    }

    async fn read(&mut self, statement: &Statement, numbers: &[i64]) -> Result<Page, Error> {
        let Self { opened: Opened { name, pool, fields, .. }, snapshot, .. } = self;
        let page = answer(name, async {
            match snapshot {
                None => E::read(&mut *pool.acquire().await?, statement, fields, numbers).await,
                Some(Some(transaction)) => E::read(transaction, statement, fields, numbers).await,
                Some(none) => E::read(none.insert(pool.begin_with(E::BEGIN).await?), statement, fields, numbers).await,
            }
        });
        let page = page.await?;
        if page.more && !E::LONG_SNAPSHOTS && self.snapshot.is_some() {
            self.end().await?;
            self.begin().await?;
        }
        Ok(page)
    }
}
