//! The simulator's port: WebSocket upgrades for the feeds, and as much of HTTP/1.1 as commands and
//! object lists need.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::{FRAMES_WAITING_MAX, KEY, Listener, Out, Play, Stage};
use crate::systems::indigo::Feed;

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The longest body of a request; commands are small.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Takes connections until the simulator ends.
pub(super) async fn serve(listener: TcpListener, stage: Arc<Stage>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stage.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        if let Ok((stream, _)) = accepted {
            let (stage, stop) = (stage.clone(), stage.stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = connection(stream, stage) => {}
                }
            });
        }
    }
}

async fn connection(stream: TcpStream, stage: Arc<Stage>) {
    let Some(head) = peek_head(&stream).await else { return };
    if head.to_ascii_lowercase().contains("upgrade: websocket") {
        upgrade(stream, &stage).await;
    } else {
        // A client that goes away early is no concern of ours.
        let _ = answer(stream, &stage).await;
    }
}

/// The head of the request, left in the stream.
async fn peek_head(stream: &TcpStream) -> Option<String> {
    let mut bytes = vec![0; HEAD_BYTES_MAX];
    loop {
        stream.readable().await.ok()?;
        let len = stream.peek(&mut bytes).await.ok()?;
        let head = String::from_utf8_lossy(&bytes[..len]).into_owned();
        if head.contains("\r\n\r\n") {
            return Some(head);
        }
        if len == 0 || len == HEAD_BYTES_MAX {
            return None;
        }
        tokio::task::yield_now().await;
    }
}

async fn upgrade(stream: TcpStream, stage: &Arc<Stage>) {
    let mut feed = None;
    // The library's own type of refusal is that large.
    #[allow(clippy::result_large_err)]
    let check = |request: &Request, response: Response| {
        let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
        let query = request.uri().query().unwrap_or_default();
        let named = Feed::ALL.into_iter().find(|feed| {
            request.uri().path().ends_with(&format!("/v2/api/ws/{}-feed", feed.as_str()))
        });
        let play = stage.play();
        let status = match named {
            _ if !is_allowed(header, query) => Some(401),
            None => Some(404),
            named if named == play.mischief.absent => Some(404),
            _ => play.mischief.refuse,
        };
        feed = named;
        match status {
            None => Ok(response),
            Some(status) => {
                let mut refused = ErrorResponse::new(None);
                *refused.status_mut() = status.try_into().unwrap_or_default();
                Err(refused)
            }
        }
    };
    let accepted = tokio_tungstenite::accept_hdr_async(stream, check).await;
    if let (Ok(socket), Some(feed)) = (accepted, feed) {
        listen(socket, feed, stage).await;
    }
}

fn is_allowed(header: Option<&str>, query: &str) -> bool {
    let in_query = url::form_urlencoded::parse(query.as_bytes())
        .any(|(name, value)| name == "api-key" && value == KEY);
    in_query || header == Some(&format!("Bearer {KEY}"))
}

async fn listen(mut socket: WebSocketStream<TcpStream>, feed: Feed, stage: &Arc<Stage>) {
    let (queue, mut out) = mpsc::channel(FRAMES_WAITING_MAX);
    {
        let mut play = stage.play();
        if feed == Feed::Log {
            for entry in play.world.last_log() {
                let _ = queue.try_send(Out::Text(entry.to_string()));
            }
        }
        play.listeners.push(Listener { feed, queue: queue.clone() });
    }
    // Only the listener's own end counts: without it the connection is cut off.
    let own = queue.downgrade();
    drop(queue);
    loop {
        tokio::select! {
            biased;
            next = out.recv() => match next {
                Some(Out::Text(text)) => if socket.send(Message::text(text)).await.is_err() { return },
                Some(Out::Binary(bytes)) => {
                    if socket.send(Message::binary(bytes)).await.is_err() { return }
                }
                Some(Out::Freeze) => return stage.stop.cancelled().await,
                Some(Out::Drop) | None => return,
            },
            heard = socket.next() => match heard {
                Some(Ok(Message::Text(text))) => {
                    if let Some(queue) = own.upgrade() {
                        hear(feed, &text, queue, stage);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// What a client says over a feed.
fn hear(feed: Feed, text: &str, queue: mpsc::Sender<Out>, stage: &Arc<Stage>) {
    let Ok(Value::Object(message)) = serde_json::from_str(text) else {
        let error = json!({ "error": "invalid JSON", "request_body": text });
        let _ = queue.try_send(Out::Text(error.to_string()));
        return;
    };
    let mut play = stage.play();
    if message.get("message").and_then(Value::as_str) != Some("refresh") {
        if let Err(error) = command(&mut play, &message) {
            let _ = queue.try_send(Out::Text(error.to_string()));
        }
        return;
    }
    play.questions += 1;
    if play.mischief.deaf {
        return;
    }
    let slow = play.mischief.slow_refresh;
    let is_folders =
        message.get("objectType").and_then(Value::as_str).is_some_and(|t| t.ends_with(".Folder"));
    if slow.is_zero() || is_folders {
        let _ = queue.try_send(Out::Text(play.world.refresh(feed, &message).to_string()));
        return;
    }
    let stale = play.mischief.stale_refresh.then(|| play.world.refresh(feed, &message));
    let stage = stage.clone();
    tokio::spawn(async move {
        tokio::time::sleep(slow).await;
        let play = stage.play();
        let answer = stale.unwrap_or_else(|| play.world.refresh(feed, &message));
        let _ = queue.try_send(Out::Text(answer.to_string()));
    });
}

fn command(play: &mut Play, message: &Map<String, Value>) -> Result<(), Value> {
    play.commands.push(Value::Object(message.clone()));
    let words = play.world.command(message)?;
    words.into_iter().for_each(|word| play.say_patch(word));
    Ok(())
}

async fn answer(mut stream: TcpStream, stage: &Arc<Stage>) -> std::io::Result<()> {
    let Some((head, body)) = read_request(&mut stream).await? else { return Ok(()) };
    let mut words = head.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("authorization").then(|| value.trim())
    });
    let (status, body) = match (is_allowed(header, query), method, path) {
        (false, _, _) => (401, json!({ "error": "unauthorized" }).to_string()),
        (true, "POST", path) if path.ends_with("/v2/api/command") => post(stage, &body),
        (true, "GET", path) => get(stage, path),
        _ => (404, json!({ "error": "not found" }).to_string()),
    };
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let length: usize = length.unwrap_or(0);
            if length > BODY_BYTES_MAX {
                return Ok(None);
            }
            if bytes.len() >= end + 4 + length {
                return Ok(Some((head, bytes[end + 4..end + 4 + length].to_vec())));
            }
        }
        if bytes.len() > HEAD_BYTES_MAX + BODY_BYTES_MAX || stream.read_buf(&mut bytes).await? == 0
        {
            return Ok(None);
        }
    }
}

fn post(stage: &Arc<Stage>, body: &[u8]) -> (u16, String) {
    let mut play = stage.play();
    if let Some(status) = play.mischief.no_http {
        return (status, "<html>no such service</html>".into());
    }
    let Ok(Value::Object(message)) = serde_json::from_slice(body) else {
        let body = String::from_utf8_lossy(body);
        return (400, json!({ "error": "invalid JSON", "request_body": body }).to_string());
    };
    match command(&mut play, &message) {
        Ok(()) => (200, json!({ "id": message.get("id") }).to_string()),
        Err(error) => (400, error.to_string()),
    }
}

fn get(stage: &Arc<Stage>, path: &str) -> (u16, String) {
    let kinds = [
        ("indigo.devices", Feed::Device),
        ("indigo.variables", Feed::Variable),
        ("indigo.actionGroups", Feed::Action),
    ];
    let path = path.rsplit_once("/v2/api/").map_or(path, |(_, path)| path);
    let (kind, id) = path.split_once('/').unwrap_or((path, ""));
    let missing = (404, json!({ "error": "not found" }).to_string());
    let Some((_, feed)) = kinds.into_iter().find(|(name, _)| *name == kind) else { return missing };
    let all = stage.play().world.objects(feed);
    if id.is_empty() {
        return (200, Value::from(all.into_values().collect::<Vec<_>>()).to_string());
    }
    match id.parse().ok().and_then(|id: i64| all.get(&id).cloned()) {
        Some(object) => (200, object.to_string()),
        None => missing,
    }
}
