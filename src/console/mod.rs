//! The console at `/console`: how the gateway is doing, and what an operator does about it. HTML that is made here and
//! complete without a script; one small script keeps open pages fresh.
//!
//! It is a client of the gateway like any other: pages show what the routes below `/sources`, `/feeds` and `/webhooks`
//! answer to whoever is asking, and buttons send their commands (`doors`). No rule of theirs stands here a second time.

mod assets;
mod clients;
mod doors;
mod events;
mod feeds;
mod form;
mod live;
mod overview;
mod pages;
mod sources;
mod webhooks;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::error;
use url::Url;

use crate::journal::Journal;
use crate::runtime::Clock;
use crate::web::Site;
use crate::web::auth::{Auth, Client, Scope};
use crate::web::problem::{Kind, Problem};

use doors::Doors;
use pages::Pages;

/// A form of ours holds a few short fields.
const FORM_BYTES_MAX: usize = 16 * 1024;
/// Rows on one page.
const ROWS_MAX: usize = 50;
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What the pages are made of.
struct Console {
    doors: Doors,
    journal: Journal,
    auth: Auth,
    pages: Pages,
    /// `scheme://host:port` of the gateway's address, as browsers name where a form comes from.
    origin: String,
    clock: Clock,
    /// Pages that are kept fresh.
    streams: Arc<Semaphore>,
    stopping: CancellationToken,
}

type Shown = Result<Response, Problem>;

/// The routes, for clients with the scope `admin`. `doors` are the gateway's other routes, without the front door: what is
/// asked of them is asked in the name of whoever is looking.
pub fn router(
    doors: Router,
    journal: Journal,
    auth: Auth,
    site: &Site,
    clock: Clock,
    stopping: CancellationToken,
) -> Router {
    let origin = Url::parse(&site.public_url).map(|url| url.origin().ascii_serialization());
    let console = Arc::new(Console {
        doors: Doors::new(doors),
        journal,
        auth,
        pages: Pages::new(clock, &site.public_url),
        origin: origin.unwrap_or_default(),
        clock,
        streams: Arc::new(Semaphore::new(live::STREAMS_MAX)),
        stopping,
    });
    Router::new()
        .route("/console", get(overview::show))
        .route("/console/sources", get(sources::list))
        .route("/console/sources/{source}", get(sources::show))
        .route("/console/sources/{source}/quarantine", post(sources::command_all))
        .route("/console/sources/{source}/quarantine/{row}", post(sources::command))
        .route("/console/events", get(events::search))
        .route("/console/events/{id}", get(events::show))
        .route("/console/feeds", get(feeds::list))
        .route("/console/webhooks", get(webhooks::list))
        .route("/console/webhooks/{id}", get(webhooks::show).post(webhooks::command))
        .route("/console/webhooks/{id}/deliveries/{event}", get(webhooks::delivery).post(webhooks::command_delivery))
        .route("/console/clients", get(clients::list))
        .route("/console/stream", get(live::stream))
        .route("/console/assets/{asset}", get(assets::show))
        .layer(from_fn_with_state(Arc::clone(&console), door))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .with_state(console)
}

/// Around every page: who may see it, where its forms come from, and problems as pages.
async fn door(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    request: Request,
    next: Next,
) -> Response {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let admitted = client.must(&Scope::Admin).and_then(|()| match is_safe || form::is_own(&request, &console.origin) {
        true => Ok(()),
        false => Err(Problem::new(Kind::Forbidden, form::FOREIGN)),
    });
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let page = console.problem(&client, &problem);
        *response.body_mut() = page.into_body();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(pages::HTML));
    }
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

impl Console {
    /// A page. `section`: where the navigation says that it is.
    fn page(&self, client: &Client, section: &str, template: &str, data: Value) -> Response {
        match self.pages.render(client, section, template, data) {
            Ok(html) => ([(header::CONTENT_TYPE, pages::HTML)], html).into_response(),
            Err(cause) => {
                error!(%cause, "can't render {template}, answering 500");
                Problem::new(Kind::Internal, "the cause is in the gateway's log").into_response()
            }
        }
    }

    fn problem(&self, client: &Client, problem: &Problem) -> Response {
        let data = json!({
            "title": problem.kind.title(), "status": problem.kind.status().as_u16(), "slug": problem.kind.slug(),
            "detail": problem.detail,
        });
        self.page(client, "", "problem.html", data)
    }
}
