//! What a client sends, whatever it comes by.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::json::Plain;

/// What a client sends.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ask {
    pub(super) query: Option<String>,
    document_id: Option<String>,
    pub(super) operation_name: Option<String>,
    /// An object.
    pub(super) variables: Option<Members>,
    pub(super) extensions: Option<Extensions>,
}

/// A JSON object, read as [`Plain`] values are.
#[derive(Default, Deserialize)]
pub(super) struct Members(pub(super) BTreeMap<String, Plain>);

/// Those that are known; others are ignored.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Extensions {
    persisted_query: Option<PersistedQuery>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistedQuery {
    sha256_hash: String,
}

impl Ask {
    /// The id of a trusted document: as the draft of GraphQL over HTTP has it, or as Apollo's clients do.
    pub(super) fn document_id(&self) -> Option<&str> {
        let persisted = self.extensions.as_ref().and_then(|extensions| extensions.persisted_query.as_ref());
        self.document_id.as_deref().or_else(|| persisted.map(|persisted| persisted.sha256_hash.as_str()))
    }

    pub(super) fn set_document_id(&mut self, id: String) {
        self.document_id = Some(id);
    }

    /// Whether there is anything to answer.
    pub(super) fn asks(&self) -> bool {
        self.query.is_some() || self.document_id().is_some()
    }
}
