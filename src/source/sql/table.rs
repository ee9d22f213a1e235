//! A table of somebody's database: how it is called, where it is, and its columns.

use sqlx::Pool;

use super::{Engine, answer};
use crate::runtime::nearest;
use crate::source::init::{Seen, may_be_sequence};
use crate::source::mapping::Kind;
use crate::source::{Config, Error};

/// Tables that are looked at by `init`.
const TABLES_MAX: usize = 2_000;

/// A table as it is configured.
#[derive(Clone, Debug)]
pub(in crate::source) struct Table {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

impl Table {
    pub(super) fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.to_owned()), name: name.to_owned() },
            None => Self { schema: None, name: text.to_owned() },
        }
    }

    pub(super) fn quoted<E: Engine>(&self) -> String {
        self.schema_dot::<E>() + &quote::<E>(&self.name)
    }

    fn schema_dot<E: Engine>(&self) -> String {
        self.schema.as_deref().map(|schema| quote::<E>(schema) + ".").unwrap_or_default()
    }

    /// SQL that names this table and its schema.
    pub(super) fn fill<E: Engine>(&self, sql: &str) -> String {
        sql.replace("{table}", &self.quoted::<E>()).replace("{schema}", &self.schema_dot::<E>())
    }
}

pub(super) fn quote<E: Engine>(name: &str) -> String {
    let quote = E::QUOTE;
    format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
}

/// All tables that can be read, with their columns.
pub(in crate::source) async fn tables<E: Engine>(config: &Config) -> Result<Vec<Seen>, Error> {
    let pool = answer(&config.name, E::connect(config)).await?;
    let mut seen = Vec::new();
    for table in answer(&config.name, E::tables(&pool)).await?.into_iter().take(TABLES_MAX) {
        let columns = answer(&config.name, E::columns(&pool, &Table::parse(&table))).await?;
        let columns: Vec<(String, Kind)> =
            columns.into_iter().map(|(name, r#type)| (name, E::kind(&r#type.to_ascii_lowercase()))).collect();
        let mut unique = Vec::new();
        for (column, kind) in &columns {
            if may_be_sequence(column, *kind) {
                let parsed = Table::parse(&table);
                if answer(&config.name, E::examine(&pool, &parsed, column)).await?.0.contains(&true) {
                    unique.push(column.clone());
                }
            }
        }
        seen.push(Seen { table, columns, unique });
    }
    Ok(seen)
}

/// The first table that there is, and its columns.
pub(super) async fn find_table<E: Engine>(
    config: &Config,
    pool: &Pool<E::Db>,
) -> Result<(Table, Vec<(String, String)>), Error> {
    for text in &config.tables {
        // A name may hold a dot, as CAP's tables in MySQL do.
        for table in [Table::parse(text), Table { schema: None, name: text.clone() }] {
            let columns = answer(&config.name, E::columns(pool, &table)).await?;
            if !columns.is_empty() {
                return Ok((table, columns));
            }
        }
    }
    Err(Error::NoTable { name: config.name.clone(), table: config.tables.join("`, `") })
}

/// The column's name and type as the database writes them, the type in lower case.
pub(super) fn find(config: &Config, columns: &[(String, String)], column: &str) -> Result<(String, String), Error> {
    let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
    let exact = columns.iter().find(|(found, _)| found == column);
    let near = exact.or_else(|| columns.iter().find(|(found, _)| found.eq_ignore_ascii_case(column)));
    // Libraries let their users choose how names are written.
    let alike = || columns.iter().find(|(found, _)| config.preset.is_some() && plain(found) == plain(column));
    match near.or_else(alike) {
        Some((found, r#type)) => Ok((found.clone(), r#type.to_ascii_lowercase())),
        None => {
            let hint = hint(column, columns.iter().map(|(name, _)| name.as_str()));
            let (name, table) = (config.name.clone(), config.table().to_owned());
            Err(Error::NoColumn { name, table, column: column.to_owned(), hint })
        }
    }
}

/// `; did you mean …?`, if one of the known names is near.
fn hint<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = nearest(name, known).filter(|(distance, _)| *distance <= 2.max(name.len() / 3));
    near.map_or_else(String::new, |(_, known)| format!("; did you mean `{known}`?"))
}

#[cfg(test)]
mod tests {
    use super::super::{MySql, Postgres};
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_if_it_is_near() {
        let columns = ["version", "event_id", "Payload"];
        assert_eq!(hint("versoin", columns.into_iter()), "; did you mean `version`?");
        assert_eq!(hint("payload", columns.into_iter()), "; did you mean `Payload`?");
        assert_eq!(hint("customer", columns.into_iter()), "");
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(Table::parse("shop.or\"der").quoted::<Postgres>(), "\"shop\".\"or\"\"der\"");
        assert_eq!(Table::parse("a`b").quoted::<MySql>(), "`a``b`");
    }
}
