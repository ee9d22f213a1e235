//! The gateway's own routes, asked in this process in the name of whoever is looking at the console.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{Method, header};
use serde_json::Value;
use tower::ServiceExt as _;
use tracing::error;

use crate::json::Plain;
use crate::web::auth::Client;
use crate::web::problem::{Kind, Problem};

/// Longest answer that is shown: a page of quarantined rows of 64 kB each.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) struct Doors(Router);

impl Doors {
    /// Routes that stand behind a front door: they read the client from the request.
    pub(super) fn new(router: Router) -> Self {
        Self(router)
    }

    /// What `GET` answers.
    ///
    /// # Errors
    /// What the route refuses, in its words.
    pub(super) async fn get(&self, client: &Arc<Client>, path: &str) -> Result<Value, Problem> {
        self.ask(client, Request::get(path), Body::empty()).await
    }

    /// What `PUT` answers with a header `Command`. Arguments that are null are none.
    ///
    /// # Errors
    /// What the route refuses, in its words.
    pub(super) async fn command(
        &self,
        client: &Arc<Client>,
        path: &str,
        command: &str,
        arguments: &Value,
    ) -> Result<Value, Problem> {
        let body = if arguments.is_null() { Body::empty() } else { Body::from(arguments.to_string()) };
        let request = Request::builder().method(Method::PUT).uri(path).header("command", command);
        self.ask(client, request.header(header::CONTENT_TYPE, "application/json"), body).await
    }

    async fn ask(
        &self,
        client: &Arc<Client>,
        request: axum::http::request::Builder,
        body: Body,
    ) -> Result<Value, Problem> {
        let request = request.header(header::ACCEPT, "application/json").extension(Arc::clone(client)).body(body);
        let request = request.map_err(|_| Problem::new(Kind::BadRequest, "no resource has such a name"))?;
        let Ok(mut response) = self.0.clone().oneshot(request).await;
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            return Err(problem);
        }
        let status = response.status();
        let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await.map_err(|cause| {
            error!(%cause, "the console can't read an answer of this gateway");
            Problem::new(Kind::Internal, "the answer is too long for the console; ask the route itself")
        })?;
        if !status.is_success() {
            let kind = if status.is_client_error() { Kind::BadRequest } else { Kind::Internal };
            return Err(Problem::new(kind, String::from_utf8_lossy(&body)));
        }
        serde_json::from_slice::<Plain>(&body).map(|plain| plain.0).map_err(|cause| {
            error!(%cause, "the console can't read an answer of this gateway");
            Problem::new(Kind::Internal, "the cause is in the gateway's log")
        })
    }
}

/// After what the page of a collection begins that follows this one.
pub(super) fn next_of(collection: &Value) -> Option<String> {
    let url = collection["next"].as_str()?.parse::<url::Url>().ok()?;
    url.query_pairs().find(|(name, _)| name == "after").map(|(_, after)| after.into_owned())
}
