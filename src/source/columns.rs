//! `[source.columns]`: which columns make an event.

use serde::Deserialize;

/// Which columns make an event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Ascending numbers.
    pub sequence: Option<String>,
    pub id: Option<Column>,
    pub r#type: Option<Column>,
    pub aggregate_type: Option<Column>,
    pub aggregate_id: Option<Column>,
    pub aggregate_version: Option<Column>,
    pub occurred_at: Option<Column>,
    pub data: Option<Column>,
    pub metadata: Option<Column>,
    /// Only rows where this is true leave the service.
    pub outbox: Option<Column>,
    /// For `follow = "flag"`: set once the row was taken.
    pub flag: Option<String>,
}

impl Columns {
    /// These, and what they don't say from others.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            sequence: self.sequence.or(other.sequence),
            id: self.id.or(other.id),
            r#type: self.r#type.or(other.r#type),
            aggregate_type: self.aggregate_type.or(other.aggregate_type),
            aggregate_id: self.aggregate_id.or(other.aggregate_id),
            aggregate_version: self.aggregate_version.or(other.aggregate_version),
            occurred_at: self.occurred_at.or(other.occurred_at),
            data: self.data.or(other.data),
            metadata: self.metadata.or(other.metadata),
            outbox: self.outbox.or(other.outbox),
            flag: self.flag.or(other.flag),
        }
    }

    /// The table can be asked for the versions of an aggregate.
    pub(super) fn tell_versions(&self) -> bool {
        [&self.aggregate_id, &self.aggregate_version].iter().all(|column| matches!(column, Some(Column::Name(_))))
    }

    /// Checks that an event can be made.
    ///
    /// # Errors
    /// The key that is missing.
    pub(super) fn check(&self) -> Result<(), String> {
        let needed = [
            (&self.id, "id"),
            (&self.r#type, "type"),
            (&self.aggregate_type, "aggregate_type"),
            (&self.aggregate_id, "aggregate_id"),
            (&self.occurred_at, "occurred_at"),
            (&self.data, "data"),
        ];
        match needed.into_iter().find(|(column, _)| column.is_none()) {
            Some((_, key)) => Err(format!("`columns.{key}` is missing: name the column, or a `preset`")),
            None => Ok(()),
        }
    }
}

/// A column's name, the same text for every row, or an SQL expression.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "expected a column name, { value = \"…\" } for a constant, or { sql = \"…\" } for an expression"
)]
pub enum Column {
    Name(String),
    Constant { value: String },
    Sql { sql: String },
}
