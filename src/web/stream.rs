//! Server-sent events for the page (WHATWG HTML, section 9.2): what changes, as it changes.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::{HttpResponse, web};
use futures_util::stream;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Face;
use super::session::{ApiError, Me};
use super::timeline::Change;

/// Proxies cut connections that are silent for a minute or less.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// Open streams in all; each costs a connection and a small buffer.
const STREAMS_MAX: usize = 500;

/// `GET /api/stream`.
pub async fn stream(me: Me, face: web::Data<Face>) -> Result<HttpResponse, ApiError> {
    if face.timeline.listeners() >= STREAMS_MAX {
        return Err(ApiError::Unavailable("too many pages are open".into()));
    }
    let mut keep_alive = interval(KEEP_ALIVE_EVERY);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let feed = Feed { changes: face.timeline.subscribe(), keep_alive, me, face, greeted: false };
    let body = stream::unfold(feed, |mut feed| async move {
        let chunk = feed.next().await?;
        Some((Ok::<_, Infallible>(web::Bytes::from(chunk)), feed))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body))
}

struct Feed {
    changes: tokio::sync::broadcast::Receiver<Change>,
    keep_alive: Interval,
    me: Me,
    face: web::Data<Face>,
    greeted: bool,
}

impl Feed {
    /// The next piece of the stream; none when the server stops or the phone was removed.
    async fn next(&mut self) -> Option<String> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some("retry: 2000\nevent: hello\ndata: {}\n\n".into());
        }
        loop {
            tokio::select! { biased;
                () = self.face.stopping.cancelled() => return None,
                change = self.changes.recv() => match self.render(change) {
                    Ok(Some(text)) => return Some(text),
                    Ok(None) => {}
                    Err(Gone) => return None,
                },
                _ = self.keep_alive.tick() => {
                    return self.still_paired().then(|| ": here\n\n".into());
                }
            }
        }
    }

    fn render(&self, change: Result<Change, RecvError>) -> Result<Option<String>, Gone> {
        Ok(Some(match change {
            Ok(Change::Event(id)) => {
                let view = self.face.view.borrow().clone();
                let Some(item) = self.face.timeline.item(&id, &view) else { return Ok(None) };
                format!("event: item\ndata: {item}\n\n")
            }
            Ok(Change::Phones) if !self.still_paired() => return Err(Gone),
            Ok(Change::Phones) => "event: phones\ndata: {}\n\n".into(),
            Ok(Change::Status) => "event: status\ndata: {}\n\n".into(),
            // The page fetches the timeline anew when it is greeted.
            Ok(Change::Much) | Err(RecvError::Lagged(_)) => "event: hello\ndata: {}\n\n".into(),
            Err(RecvError::Closed) => return Err(Gone),
        }))
    }

    fn still_paired(&self) -> bool {
        self.face.view.borrow().phone(&self.me.id).is_some()
    }
}

/// The stream ends.
struct Gone;
