//! Posts webhooks. Which go, whether one is tried again, and when, is their lane's to say.

use std::sync::Arc;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::{Config, sign};
use crate::systems::Certificate;
use crate::systems::http::{Answer, Ask, Content, Fault, Http};
use crate::systems::link::{Link, Order, Reply};
use crate::systems::tls::Tls;

/// Posts on their way at once: the ordinary one, an alarm beside it, and room for one that its lane
/// has given up waiting for.
const POSTS_MAX: usize = 4;
/// What it is if the rule does not say.
const TYPE_DEFAULT: &str = "portero.rule";

/// Runs until Portero stops.
pub async fn run(config: Config, mut link: Link) {
    let tls = Tls::new(&Certificate::System, &link.keep);
    let http = match tls.and_then(|tls| Http::new(&config.url, tls, false)) {
        Ok(http) => http,
        Err(error) => {
            tracing::error!(source = link.source, %error, "no webhook can be sent");
            return;
        }
    };
    let (config, http) = (Arc::new(config), Arc::new(http));
    let mut posts = JoinSet::new();
    loop {
        // Posts end by their own timeout; an alarm does not wait for one that hangs.
        tokio::select! { biased;
            () = link.stopping.cancelled() => break,
            Some(_) = posts.join_next() => {}
            order = link.orders.recv(), if posts.len() < POSTS_MAX => match order {
                Some(order) => {
                    let (config, http, now) = (config.clone(), http.clone(), link.clock.now());
                    posts.spawn(async move { post(&config, &http, order, now).await });
                }
                None => break,
            }
        }
    }
}

async fn post(config: &Config, http: &Http, order: Order, now: Timestamp) {
    let body = body(&order.command.args);
    let (id, seconds) = (order.id.to_string(), now.as_second());
    let mut ask = Ask::new(Method::POST, config.url.clone());
    ask.headers.push(("webhook-id", id.clone()));
    ask.headers.push(("webhook-timestamp", seconds.to_string()));
    if let Some(secret) = &config.secret {
        ask.headers.push(("webhook-signature", sign::signature(secret, &id, seconds, &body)));
    }
    let reply = reply(http.call(ask.with(Content::Raw("application/json", body))).await);
    // Whoever asked may have gone.
    let _ = order.reply.send(reply);
}

/// The same bytes each time, since the receiver may compare them.
fn body(args: &Map<String, Value>) -> Vec<u8> {
    let kind = args.get("type").and_then(Value::as_str).unwrap_or(TYPE_DEFAULT);
    let data = args.get("data").cloned().unwrap_or_else(|| json!({}));
    json!({ "type": kind, "data": data }).to_string().into_bytes()
}

/// What may come later is tried again, also if it may have arrived: its id tells the receiver.
fn reply(answer: Result<Answer, Fault>) -> Reply {
    let answer = match answer {
        Ok(answer) => answer,
        Err(fault) => return Reply::Unsent(fault.to_string()),
    };
    match answer.status {
        200..=299 => Reply::Done(Value::Null),
        408 | 425 | 429 | 500..=599 => {
            let why = format!("HTTP {}", answer.status);
            match answer.retry_after {
                Some(after) => Reply::Later { why, after },
                None => Reply::Unsent(why),
            }
        }
        300..=399 => Reply::Refused("it leads elsewhere; put that address into the config".into()),
        410 => Reply::Refused("the receiver wants no more (HTTP 410)".into()),
        status => Reply::Refused(format!("HTTP {status}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_may_come_later_is_tried_again() {
        let answered = |status, retry_after| {
            let (content_type, body) = (String::new(), Vec::new());
            let (date, location) = (None, None);
            reply(Ok(Answer { status, content_type, retry_after, date, location, body }))
        };
        let answer = |status| answered(status, None);
        let after = Duration::from_secs(30);
        let why = "HTTP 429".to_string();
        assert_eq!(answered(429, Some(after)), Reply::Later { why, after });
        assert!(matches!(answered(204, Some(after)), Reply::Done(_)));
        assert!(matches!(answer(204), Reply::Done(_)));
        assert!(matches!(answer(503), Reply::Unsent(_)));
        assert!(matches!(answer(429), Reply::Unsent(_)));
        assert!(matches!(answer(301), Reply::Refused(_)));
        assert!(matches!(answer(410), Reply::Refused(_)));
        assert!(matches!(reply(Err(Fault::Unknown("timeout".into()))), Reply::Unsent(_)));
    }
}
