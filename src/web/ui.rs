//! The page's files, compiled in: no build step, nothing to install beside the binary.

use actix_web::http::header::{ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use rust_embed::RustEmbed;

use super::{Face, session};
use crate::secret::{Secret, hex};

#[derive(RustEmbed)]
#[folder = "src/web/ui/"]
struct Files;

/// Only our own files, no inline code; pictures may come from the cameras' cloud.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; img-src 'self' https: data:; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

/// `GET /…`: a file of the page.
pub async fn file(request: HttpRequest, face: web::Data<Face>) -> HttpResponse {
    if !request.method().is_safe() {
        return HttpResponse::MethodNotAllowed().body("this address is only read\n");
    }
    let path = match request.path() {
        "/" => "index.html",
        path => path.trim_start_matches('/'),
    };
    let Some(file) = Files::get(path) else {
        return HttpResponse::NotFound().body("not found\n");
    };
    let tag = format!("\"{}\"", hex(&file.metadata.sha256_hash()[..8]));
    let fresh =
        request.headers().get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if fresh { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((ETAG, tag))
        // Asked again each time and answered 304: an update reaches every phone at once.
        .insert_header(("cache-control", "no-cache"))
        .insert_header(("content-security-policy", CONTENT_SECURITY_POLICY))
        .insert_header(("referrer-policy", "no-referrer"))
        .insert_header(("x-content-type-options", "nosniff"));
    if path == "index.html"
        && let Some(token) = demo_session(&request, &face)
    {
        response.cookie(session::cookie(token, false));
    }
    if fresh {
        return response.finish();
    }
    response.content_type(content_type(path)).body(file.data.into_owned())
}

/// In the demo a visitor on this machine needs no pairing.
fn demo_session<'a>(request: &HttpRequest, face: &'a Face) -> Option<&'a Secret> {
    let local = request.peer_addr().is_some_and(|peer| peer.ip().is_loopback());
    face.demo_session.get().filter(|_| local && session::identify(request).is_err())
}

fn content_type(path: &str) -> String {
    if path.ends_with(".webmanifest") {
        return "application/manifest+json".into();
    }
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    match guess.type_() {
        mime_guess::mime::TEXT => format!("{guess}; charset=utf-8"),
        _ => guess.to_string(),
    }
}
