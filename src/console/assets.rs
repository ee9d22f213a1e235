//! Style, script and icon of the pages, at addresses that change with them.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use crate::runtime::{hex, sha256};
use crate::web::problem::{Kind, Problem};

struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const STYLE: Asset = Asset { name: "console.css", kind: "text/css; charset=utf-8", text: include_str!("console.css") };
const SCRIPT: Asset =
    Asset { name: "console.js", kind: "text/javascript; charset=utf-8", text: include_str!("console.js") };
const ICON: Asset = Asset { name: "icon.svg", kind: "image/svg+xml", text: include_str!("icon.svg") };

impl Asset {
    fn url(&self) -> String {
        format!("/console/assets/{}?v={}", self.name, &hex(&sha256(self.text))[..12])
    }
}

pub(super) fn urls() -> Value {
    json!({ "style": STYLE.url(), "script": SCRIPT.url(), "icon": ICON.url() })
}

/// `GET /console/assets/{asset}`
pub(super) async fn show(Path(name): Path<String>) -> Result<Response, Problem> {
    let asset = [STYLE, SCRIPT, ICON].into_iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| Problem::new(Kind::NotFound, "the console has no such file"))?;
    let headers = [(header::CONTENT_TYPE, asset.kind), (header::CACHE_CONTROL, "private, max-age=31536000, immutable")];
    Ok((headers, asset.text).into_response())
}
