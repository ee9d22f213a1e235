//! GraphQL over HTTP (the specification of 2025): one URL, POST and GET.
//!
//! What is wrong before GraphQL is reached is a problem document; the rest is a GraphQL response, whose status says
//! more if the client accepts `application/graphql-response+json`.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::answer::Answer;
use super::ask::Ask;
use super::engine::Engine;
use super::failure::TIMEOUT;
use super::{explorer, sse, ws};
use crate::web::auth::{Client, Scope};
use crate::web::negotiate::accept;
use crate::web::problem::{Kind, Problem};

const BODY_BYTES_MAX: usize = 256 * 1024;
const JSON: &str = "application/json";
const GRAPHQL: &str = "application/graphql-response+json";
const ALLOW: &str = "GET, HEAD, POST, OPTIONS";
const TRY: &str = r#"send POST with content-type application/json and {"query": "{ events(first: 3) { nodes { id type } } }"}, or GET with ?query="#;
/// Answers every method of the URL.
pub(super) async fn handle(
    State(engine): State<Engine>,
    Extension(client): Extension<Arc<Client>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if method == Method::OPTIONS {
        return Ok((StatusCode::NO_CONTENT, [(header::ALLOW, ALLOW)]).into_response());
    }
    client.must(&Scope::Read)?;
    let posted = method == Method::POST;
    if !posted && method != Method::GET && method != Method::HEAD {
        return Err(Problem::method_not_allowed(ALLOW));
    }
    if let Ok(upgrade) = upgrade {
        return ws::upgrade(engine, Client::clone(&client), &headers, upgrade);
    }
    let ask = if posted {
        posted_ask(&headers, body).await?
    } else if let Some(ask) = url_ask(uri.query().unwrap_or_default())? {
        ask
    } else if accept(&headers, &[JSON, "text/html"]) == Some("text/html") {
        let visible = engine.shows_schema().then_some(&client.visible);
        return Ok(explorer::page(engine.types(), visible));
    } else {
        return Err(Problem::new(Kind::BadRequest, TRY));
    };
    let media_type = media_type(&headers)?;
    if media_type == sse::MEDIA_TYPE {
        return Ok(sse::respond(&engine, &client, &headers, ask));
    }
    match engine.answer(ask, client.visible.clone(), !posted).await {
        Answer::NoQuery => Err(Problem::method_not_allowed("POST")),
        Answer::Ran(text) => Ok(respond(StatusCode::OK, media_type, text)),
        Answer::Refused(_, text) if media_type == JSON => Ok(respond(StatusCode::OK, media_type, text)),
        Answer::Refused(TIMEOUT, text) => Ok(respond(StatusCode::GATEWAY_TIMEOUT, media_type, text)),
        Answer::Refused(_, text) => Ok(respond(StatusCode::BAD_REQUEST, media_type, text)),
    }
}

fn respond(status: StatusCode, media_type: &str, text: String) -> Response {
    let kind = format!("{media_type}; charset=utf-8");
    (status, [(header::CONTENT_TYPE, kind)], text).into_response()
}

/// The media type of the answer: the older one unless the client names the other.
fn media_type(headers: &HeaderMap) -> Result<&'static str, Problem> {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let names_it = accepted.into_iter().any(|value| value.to_ascii_lowercase().contains(GRAPHQL));
    let (first, second) = if names_it { (GRAPHQL, JSON) } else { (JSON, GRAPHQL) };
    let offered = [first, second, sse::MEDIA_TYPE];
    let detail = format!("this URL answers in {GRAPHQL}, {JSON} or {}; accept one of them", sse::MEDIA_TYPE);
    accept(headers, &offered).ok_or_else(|| Problem::new(Kind::NotAcceptable, detail))
}

/// Only JSON: forms and plain text, which a foreign page can send without being asked, are refused.
async fn posted_ask(headers: &HeaderMap, body: Body) -> Result<Ask, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(JSON));
    let is_utf8 = parts.filter_map(|part| part.split_once('=')).all(|(name, value)| {
        !name.eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if !is_json || !is_utf8 || headers.contains_key(header::CONTENT_ENCODING) {
        let detail = "send the request as application/json in UTF-8, without content-encoding";
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    let too_large = |_| Problem::new(Kind::TooLarge, format!("the body may have {BODY_BYTES_MAX} bytes"));
    let body = to_bytes(body, BODY_BYTES_MAX).await.map_err(too_large)?;
    match body.trim_ascii_start().first() {
        Some(b'[') => Err(Problem::new(Kind::BadRequest, "batches are switched off; send one operation a request")),
        // Also because a list would be read as the attributes in their order.
        Some(b'{') => {
            let ask: Ask = serde_json::from_slice(&body).map_err(|cause| malformed("the body", &cause))?;
            Some(ask)
                .filter(Ask::asks)
                .ok_or_else(|| Problem::new(Kind::BadRequest, format!("`query` is missing; {TRY}")))
        }
        _ => Err(Problem::new(Kind::BadRequest, format!("the body is no JSON object; {TRY}"))),
    }
}

/// What the query string asks, if it asks.
fn url_ask(query: &str) -> Result<Option<Ask>, Problem> {
    let mut ask = Ask::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let wrong = |cause: serde_json::Error| malformed(&format!("`{name}`"), &cause);
        match name.as_ref() {
            "query" => ask.query = Some(value.into_owned()),
            "documentId" => ask.set_document_id(value.into_owned()),
            "operationName" if !value.is_empty() => ask.operation_name = Some(value.into_owned()),
            "variables" if !value.is_empty() => ask.variables = serde_json::from_str(&value).map_err(wrong)?,
            "extensions" if !value.is_empty() => ask.extensions = serde_json::from_str(&value).map_err(wrong)?,
            _ => {}
        }
    }
    Ok(Some(ask).filter(Ask::asks))
}

fn malformed(what: &str, cause: &serde_json::Error) -> Problem {
    Problem::new(Kind::BadRequest, format!("{what} can't be read: {cause}; {TRY}"))
}
