//! The configuration: a TOML file, `${VAR}` inside it, and `POSTERN_…` variables over it. Made of the rooms' own
//! `Config`s, checked once, at start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use crate::outlet::{feed, graphql, webhook};
use crate::runtime::{hex, nearest, sha256};
use crate::{catalogue, journal, source, telemetry, web};

/// Prefix of the environment's overrides: `POSTERN_SERVER__LISTEN` is `server.listen`.
const PREFIX: &str = "POSTERN_";
/// Variables with our prefix that are not keys.
const NOT_KEYS: [&str; 1] = ["POSTERN_TEST_"];
/// Keys that end with `_file` and are paths themselves. All others are read, and the key is what stands before `_file`.
const PATHS: [&str; 5] = ["sealing_key_file", "ca_file", "client_cert_file", "cert_file", "key_file"];
/// What gateways on one journal need not have in common.
const OWN_KEYS: [&str; 3] = ["server", "journal", "telemetry"];
/// Larger files are no configuration.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// All of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub server: web::Config,
    pub journal: journal::Config,
    #[serde(rename = "source")]
    pub sources: Vec<source::Config>,
    #[serde(rename = "feed")]
    pub feeds: Vec<feed::FeedConfig>,
    #[serde(rename = "feeds")]
    pub all_feeds: feed::Config,
    pub catalogue: catalogue::Config,
    pub events: BTreeMap<String, catalogue::TypeConfig>,
    pub webhooks: webhook::Config,
    pub graphql: graphql::Config,
    pub auth: web::auth::Config,
    pub telemetry: telemetry::Config,
    #[serde(rename = "client")]
    pub clients: Vec<web::auth::ClientConfig>,
    /// A short hash of what gateways that share a journal have in common.
    #[serde(skip)]
    pub fingerprint: String,
}

/// A configuration that can't be used. The text says which key and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "there is no configuration `{0}`\n  see it work first:        postern demo\n  \
         or write one from README, section \"Your own database\", and: postern check --config {0}"
    )]
    Missing(String),
    #[error("can't read `{path}`: {cause}")]
    Read { path: String, cause: std::io::Error },
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// Reads a file and the environment. Relative paths in it are relative to the file's folder.
    ///
    /// # Errors
    /// A file that is missing or unreadable, a key that is unknown, a value of the wrong form.
    pub fn load(path: &Path, environment: &[(String, String)]) -> Result<Self, Error> {
        let shown = path.display().to_string();
        let read = |cause| Error::Read { path: shown.clone(), cause };
        match std::fs::metadata(path) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Err(Error::Missing(shown)),
            Err(cause) => return Err(read(cause)),
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
                return Err(Error::Invalid(format!("`{shown}` is larger than 1 MiB: is it a configuration?")));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::parse(&text, environment, folder).map_err(|cause| Error::Invalid(format!("{shown}: {cause}")))
    }

    fn parse(text: &str, environment: &[(String, String)], folder: &Path) -> Result<Self, String> {
        let text = expand(text, environment)?;
        let mut table: Table = text.parse().map_err(|cause: toml::de::Error| explain(&cause, &text))?;
        let mut plain = true;
        for (name, value) in environment {
            // A service that happens to be called Postern puts variables such as POSTERN_PORT into containers.
            let is_key = |key: &&str| key.contains("__") && !NOT_KEYS.iter().any(|not| name.starts_with(not));
            let Some(key) = name.strip_prefix(PREFIX).filter(is_key) else {
                continue;
            };
            plain = false;
            set(&mut table, &key.to_ascii_lowercase().split("__").collect::<Vec<_>>(), value)
                .map_err(|cause| format!("environment variable {name}: {cause}"))?;
        }
        plain &= !read_files(&mut table, folder)?;
        // Read from the text where it can be: its errors know the line.
        let fingerprint = fingerprint(&table);
        let config: Result<Self, toml::de::Error> = if plain { toml::from_str(&text) } else { table.try_into() };
        let mut config = config.map_err(|cause| explain(&cause, &text))?;
        config.fingerprint = fingerprint;
        config.resolve_paths(folder);
        Ok(config)
    }

    fn resolve_paths(&mut self, folder: &Path) {
        let absolute = |path: &str| folder.join(path);
        let resolve_url = |url: &mut String| {
            if let Some(path) = url.strip_prefix("sqlite://").or(url.strip_prefix("sqlite:")) {
                *url = format!("sqlite://{}", absolute(path).display());
            }
        };
        resolve_url(&mut self.journal.url);
        self.sources.iter_mut().for_each(|source| resolve_url(&mut source.url));
        let schemas = self.events.values_mut().flat_map(|event| &mut event.schema);
        if let Some(tls) = &mut self.server.tls {
            for path in [&mut tls.cert_file, &mut tls.key_file] {
                *path = folder.join(&*path);
            }
        }
        let webhooks = &mut self.webhooks;
        let files = [
            &mut webhooks.sealing_key_file,
            &mut webhooks.ca_file,
            &mut webhooks.client_cert_file,
            &mut self.graphql.documents,
        ];
        let files = files.into_iter().flatten();
        for path in schemas.chain(files) {
            *path = folder.join(&*path);
        }
    }

    /// The catalogue that the pumps use.
    ///
    /// # Errors
    /// A sentence that names the event type and what is wrong with it.
    pub fn catalogue(&self) -> Result<catalogue::Catalogue, String> {
        let mut schemas = BTreeMap::new();
        for (name, event) in self.events.iter().filter(|(_, event)| !event.schema.is_empty()) {
            let read = |path: &PathBuf| {
                let explain = |cause| format!("[events.\"{name}\"] `schema`: can't read `{}`: {cause}", path.display());
                read_bounded(path).map_err(explain)
            };
            schemas.insert(name.clone(), event.schema.iter().map(read).collect::<Result<_, _>>()?);
        }
        catalogue::Catalogue::new(&self.catalogue, self.events.clone(), &schemas)
    }
}

/// Of all but what a gateway has of its own: where it listens, and how it reaches the journal.
fn fingerprint(table: &Table) -> String {
    let common = table.iter().filter(|(key, _)| !OWN_KEYS.contains(&key.as_str()));
    let text: String = common.map(|(key, value)| format!("{key} = {value:?}\n")).collect();
    hex(&sha256(&text)[..8])
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    std::fs::read_to_string(path)
}

/// `${VAR}` becomes the variable's value, written so that it may stand between double quotes.
fn expand(text: &str, environment: &[(String, String)]) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, from) = rest.split_at(start);
        let end = from.find('}').ok_or("`${` without `}`")?;
        let name = &from[2..end];
        out.push_str(before);
        // A commented line may name a variable that is not set.
        let commented = before.rsplit('\n').next().unwrap_or(before).trim_start().starts_with('#');
        match environment.iter().find(|(key, _)| key == name) {
            Some((_, value)) => out.push_str(&value.replace('\\', "\\\\").replace('"', "\\\"")),
            None if commented => out.push_str(&from[..=end]),
            None => return Err(format!("the environment variable `{name}` is not set")),
        }
        rest = &from[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn set(table: &mut Table, path: &[&str], text: &str) -> Result<(), String> {
    // `8080`, `true` and `["a"]` are values as they stand; everything else is a text.
    let value = toml::from_str::<Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| Value::String(text.to_owned()));
    let Some((last, parents)) = path.split_last().filter(|_| path.iter().all(|part| !part.is_empty())) else {
        return Err("give a key such as POSTERN_SERVER__LISTEN".to_owned());
    };
    let mut place = table;
    let mut parents = parents.iter().peekable();
    while let Some(part) = parents.next() {
        let index = parents.next_if(|next| next.parse::<usize>().is_ok()).and_then(|next| next.parse::<usize>().ok());
        let empty = || if index.is_some() { Value::Array(Vec::new()) } else { Value::Table(Table::new()) };
        let next = match (place.entry(*part).or_insert_with(empty), index) {
            (Value::Array(items), Some(index)) => {
                if index == items.len() {
                    items.push(Value::Table(Table::new()));
                }
                let count = items.len();
                items.get_mut(index).ok_or(format!("`{part}` has {count} elements, counted from 0"))?
            }
            (Value::Array(_), None) => return Err(format!("`{part}` is a list: give a number, from 0")),
            (other, _) => other,
        };
        place = next.as_table_mut().ok_or(format!("`{part}` is no table"))?;
    }
    place.insert((*last).to_owned(), value);
    Ok(())
}

/// `token_hash_file = "…"` becomes `token_hash` with the file's text. Returns whether there was any.
fn read_files(table: &mut Table, folder: &Path) -> Result<bool, String> {
    let mut any = false;
    let keys: Vec<String> = table.keys().cloned().collect();
    for key in keys {
        if let Some(name) = key.strip_suffix("_file").filter(|_| !PATHS.contains(&key.as_str()))
            && let Some(path) = table[&key].as_str().map(PathBuf::from)
        {
            let text = std::fs::read_to_string(folder.join(&path));
            let text = text.map_err(|cause| format!("`{key}`: can't read `{}`: {cause}", path.display()))?;
            table.remove(&key);
            table.insert(name.to_owned(), Value::String(text.trim().to_owned()));
            any = true;
            continue;
        }
        match &mut table[&key] {
            Value::Table(inner) => any |= read_files(inner, folder)?,
            Value::Array(items) => {
                for inner in items.iter_mut().filter_map(Value::as_table_mut) {
                    any |= read_files(inner, folder)?;
                }
            }
            _ => {}
        }
    }
    Ok(any)
}

/// The parser's words with the line, and for an unknown key the nearest known one. Not the line itself: variables are
/// expanded in it, so it may hold a secret.
fn explain(cause: &toml::de::Error, text: &str) -> String {
    let line = cause.span().and_then(|span| Some(text.get(..span.start)?.matches('\n').count() + 1));
    let place = line.map_or(String::new(), |line| format!("line {line}: "));
    let message = cause.message();
    let mut quoted = cause.message().split('`').skip(1).step_by(2);
    match (cause.message().starts_with("unknown field"), quoted.next()) {
        (true, Some(unknown)) => {
            let known = nearest(unknown, quoted);
            let hint = known.map_or(String::new(), |(_, known)| format!("; did you mean `{known}`?"));
            format!("{place}`{unknown}` is not a known key{hint} ({message})")
        }
        _ => format!("{place}{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment: Vec<(String, String)> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Config::parse(text, &environment, Path::new("/etc/postern"))
    }

    #[test]
    fn an_unknown_key_is_named_with_its_nearest_neighbour_and_its_line() {
        let error = parse("[server]\nlistn = \"127.0.0.1:1\"\n", &[]).expect_err("a typo");
        assert!(error.contains("`listn` is not a known key; did you mean `listen`?"), "{error}");
        assert!(error.contains("line 2"), "{error}");
        let far = parse("[server]\nquite_another = 1\n", &[]).expect_err("unknown");
        assert!(far.contains("did you mean `"), "{far}");
        let secret = parse("[journal]\nulr = \"${URL}\"\n", &[("URL", "postgres://u:secret@h/d")]).expect_err("a typo");
        assert!(secret.contains("`url`") && !secret.contains("secret"), "{secret}");
    }

    #[test]
    fn the_environment_wins_and_variables_are_expanded() {
        let text = "[journal]\nurl = \"${JOURNAL}\"\n[server]\npublic_url = \"https://a\"\n";
        let environment = [
            ("JOURNAL", "postgres://u:p\"w@h/db"),
            ("POSTERN_SERVER__PUBLIC_URL", "https://b"),
            ("POSTERN_TEST_X", "1"),
        ];
        let config = parse(text, &environment).expect("usable");
        assert_eq!(config.journal.url, "postgres://u:p\"w@h/db");
        assert_eq!(config.server.public_url.as_deref(), Some("https://b"));
        let config = parse("", &[("POSTERN_FEED__0__NAME", "orders"), ("POSTERN_WEBHOOKS__ALLOW", "[\"10.0.0.0/8\"]")]);
        let config = config.expect("usable");
        assert_eq!(
            (config.feeds[0].name.as_str(), config.webhooks.allow.as_slice()),
            ("orders", ["10.0.0.0/8".to_owned()].as_slice())
        );
        assert!(parse("[journal]\nurl = \"${NOT_SET}\"\n", &[]).expect_err("not set").contains("`NOT_SET`"));
    }

    #[test]
    fn relative_paths_start_at_the_file() {
        let config = parse("[journal]\nurl = \"sqlite://j.db\"\n[webhooks]\nsealing_key_file = \"k\"\n", &[]);
        let config = config.expect("usable");
        assert_eq!(config.journal.url, "sqlite:///etc/postern/j.db");
        assert_eq!(config.webhooks.sealing_key_file, Some(PathBuf::from("/etc/postern/k")));
    }
}
