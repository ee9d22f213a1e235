//! Trusted documents: those of a manifest, asked for by their ids, and if so configured nothing else.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::Config;
use super::ask::Ask;
use super::failure::{Code, Failure};

const NOT_FOUND: Code = Code("PERSISTED_QUERY_NOT_FOUND");
const NOT_ALLOWED: Code = Code("OPERATION_NOT_ALLOWED");
const MANIFEST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The documents of a manifest.
#[derive(Default)]
pub(super) struct Trusted {
    pub(super) only: bool,
    by_id: HashMap<String, Arc<str>>,
    texts: HashSet<Arc<str>>,
}

/// As Apollo's tools write it, or a map from ids to texts, as graphql-codegen does.
#[derive(Deserialize)]
#[serde(untagged)]
enum Manifest {
    Apollo { operations: Vec<Operation> },
    Map(HashMap<String, String>),
}

#[derive(Deserialize)]
struct Operation {
    id: String,
    body: String,
}

impl Trusted {
    /// # Errors
    /// A manifest that can't be read, or that is needed and missing.
    pub(super) fn read(config: &Config) -> Result<Self, String> {
        let Some(path) = &config.documents else {
            let missing = "`graphql.only_trusted` needs `graphql.documents`, the manifest of what may be asked";
            return if config.only_trusted { Err(missing.to_owned()) } else { Ok(Self::default()) };
        };
        let explain = |cause: String| format!("`graphql.documents`: can't read `{}`: {cause}", path.display());
        let manifest = read(path).map_err(explain)?;
        let documents = match manifest {
            Manifest::Map(map) => map,
            Manifest::Apollo { operations } => operations.into_iter().map(|o| (o.id, o.body)).collect(),
        };
        let by_id: HashMap<String, Arc<str>> = documents.into_iter().map(|(id, text)| (id, text.into())).collect();
        Ok(Self { only: config.only_trusted, texts: by_id.values().cloned().collect(), by_id })
    }

    /// All of them, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_id.iter().map(|(id, text)| (id.as_str(), &**text))
    }

    /// The document that is asked for.
    pub(super) fn text<'a>(&'a self, ask: &'a Ask) -> Result<&'a str, Failure> {
        let query = ask.query.as_deref();
        let Some(id) = ask.document_id() else {
            let query = query.ok_or_else(|| Failure::input("give `query`, or the id of a trusted document"))?;
            if self.only && !self.texts.contains(query) {
                let detail = "this gateway answers only the documents of its manifest";
                return Err(Failure::new(NOT_ALLOWED, detail));
            }
            return Ok(query);
        };
        let id = id.strip_prefix("sha256:").unwrap_or(id);
        match (self.by_id.get(id), query.filter(|_| !self.only)) {
            (Some(text), _) => Ok(text),
            // A client that would have its document kept: it is answered and not kept.
            (None, Some(query)) => Ok(query),
            (None, None) => {
                let id: String = id.chars().take(100).collect();
                Err(Failure::new(NOT_FOUND, format!("the manifest has no document `{id}`")))
            }
        }
    }
}

fn read(path: &Path) -> Result<Manifest, String> {
    let size = std::fs::metadata(path).map_err(|cause| cause.to_string())?.len();
    if size > MANIFEST_BYTES_MAX {
        return Err("it is larger than 16 MiB".to_owned());
    }
    let text = std::fs::read_to_string(path).map_err(|cause| cause.to_string())?;
    let expected = "expected a map from ids to documents, or `operations` with `id` and `body`";
    serde_json::from_str(&text).map_err(|cause| format!("{cause}; {expected}"))
}
