//! The web page, which is inside the binary, and the plain answer of `GET /` that load
//! balancers know as health.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::response::{IntoResponse as _, Response};
use rust_embed::RustEmbed;

use super::{text, wants_page};
use crate::node::Node;

/// What `npm run build` made of `web/src`.
#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Page;

/// Browsers ask again whether the page changed: it comes with the program.
const CACHE: &str = "no-cache";
/// The page only talks to its own origin.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss: http: https:; \
    media-src 'self' blob: mediastream:; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; \
    worker-src 'self' blob:; frame-ancestors 'self'";

pub(super) async fn fallback(State(node): State<Arc<Node>>, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/');
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    if !is_read {
        return text(404, "");
    }
    let has_pages = node.settings.config.http.pages;
    if path.is_empty() && !(has_pages && wants_page(request.method(), request.headers())) {
        return text(200, "OK");
    }
    if !has_pages {
        return text(404, "");
    }
    let name = if path.is_empty() { "index.html" } else { path };
    match Page::get(name) {
        Some(file) => {
            let kind = content_type(name);
            let headers = [
                (header::CONTENT_TYPE, kind),
                (header::CACHE_CONTROL, CACHE),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (headers, file.data.into_owned()).into_response()
        }
        None if path.is_empty() => text(200, "This program was built without its web page."),
        None => text(404, ""),
    }
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
