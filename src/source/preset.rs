//! Event stores and outboxes that others write: what `[[source]]` says of their tables. The data is `presets.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::columns::Columns;
use super::config::Engine;

/// What a store's table looks like.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preset {
    /// The library, for people.
    pub(super) store: String,
    pub(super) engines: Vec<Engine>,
    /// Its tables' names; none if each user gives another one.
    pub(super) tables: Vec<String>,
    /// What to select from instead of the table, if not all of its rows are events.
    pub(super) relation: Option<String>,
    pub(super) time_zone: Option<String>,
    #[serde(default)]
    pub(super) notes: Vec<String>,
    /// Another preset with the same columns.
    like: Option<String>,
    #[serde(default)]
    pub(super) columns: Columns,
    #[serde(default)]
    postgres: Variant,
    #[serde(default)]
    mysql: Variant,
}

/// What is different on an engine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    columns: Columns,
}

static PRESETS: LazyLock<BTreeMap<String, Preset>> =
    LazyLock::new(|| toml::from_str(include_str!("presets.toml")).expect("the tests read it"));

impl Preset {
    /// All that are for an engine, but those that are like another.
    pub(super) fn all(engine: Engine) -> impl Iterator<Item = (&'static str, Self)> {
        let own = PRESETS.iter().filter(|(_, preset)| preset.like.is_none());
        own.filter_map(move |(name, _)| Some((name.as_str(), Self::find(name, engine).ok()?)))
    }

    /// The preset of this name for an engine.
    ///
    /// # Errors
    /// A sentence that says which there are.
    pub(super) fn find(name: &str, engine: Engine) -> Result<Self, String> {
        let Some(found) = PRESETS.get(name) else {
            let known: Vec<&str> = PRESETS.keys().map(String::as_str).collect();
            return Err(format!("`preset` = \"{name}\" is unknown; known are {}", known.join(", ")));
        };
        if !found.engines.contains(&engine) {
            let engines: Vec<String> = found.engines.iter().map(|engine| format!("{engine:?}")).collect();
            return Err(format!("`preset` = \"{name}\" is for {} only", engines.join(" and ")));
        }
        let mut preset = found.clone();
        if let Some(other) = found.like.as_ref().and_then(|other| PRESETS.get(other)) {
            let Preset { time_zone, columns, postgres, mysql, .. } = other.clone();
            preset = Self { time_zone, columns, postgres, mysql, ..preset };
        }
        let variant = match engine {
            Engine::Postgres => &preset.postgres,
            Engine::MySql => &preset.mysql,
            Engine::Sqlite => return Ok(preset),
        };
        preset.columns = variant.columns.clone().or(preset.columns);
        Ok(preset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_whole_on_each_of_its_engines() {
        for (name, preset) in PRESETS.iter() {
            for engine in &preset.engines {
                let preset = Preset::find(name, *engine).expect("found");
                preset.columns.check().unwrap_or_else(|missing| panic!("{name} on {engine:?}: {missing}"));
                assert!(!preset.tables.is_empty() || preset.store.contains("name it as `table`"), "{name}");
            }
        }
        assert!(Preset::find("marten", Engine::MySql).is_err_and(|text| text.contains("Postgres only")));
        assert!(Preset::find("martin", Engine::Postgres).is_err_and(|text| text.contains("marten")));
    }
}
