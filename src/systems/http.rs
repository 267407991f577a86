//! Calls to systems over HTTP: one call, one answer, with limits, and errors that say whether the
//! request can have arrived. No redirects and no retries of its own: a repeated request may open
//! a door twice or drain a list for nobody.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, RETRY_AFTER};
use serde_json::Value;
use url::{Host, Url};

use super::tls::{Tls, TlsError};
use crate::secret::Secret;

/// A system in the house answers in milliseconds, one far away in a second or two.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// From sending to the last byte of the answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The most bytes of an answer; far above any list of these systems.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A client for one system.
#[derive(Debug, Clone)]
pub struct Http {
    client: reqwest::Client,
    tls: Tls,
}

/// One request.
#[derive(Clone)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// The whole address with its query.
    pub url: Url,
    /// Headers beside those of the body; `Accept: application/json` is always sent.
    pub headers: Vec<(&'static str, String)>,
    /// Sent as `Authorization: Bearer`.
    pub bearer: Option<Secret>,
    /// What is sent.
    pub content: Content,
}

/// What a request carries.
#[derive(Clone)]
pub enum Content {
    /// Nothing.
    None,
    /// `application/x-www-form-urlencoded`.
    Form(Vec<(String, String)>),
    /// `application/json`.
    Json(Value),
    /// These bytes, of this type.
    Raw(&'static str, Vec<u8>),
}

/// What came back, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Without parameters, in small letters; empty if there is none.
    pub content_type: String,
    /// `Retry-After`, if it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// The server's clock, by its `Date` header.
    pub date: Option<Timestamp>,
    /// `Location`, if it leads elsewhere.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// No answer came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No connection: the request never left.
    #[error("not sent: {0}")]
    Unsent(String),
    /// It may have arrived.
    #[error("no answer: {0}")]
    Unknown(String),
}

impl Ask {
    /// A request without a body.
    pub fn new(method: Method, url: Url) -> Ask {
        Ask { method, url, headers: Vec::new(), bearer: None, content: Content::None }
    }

    /// The same with a body.
    pub fn with(mut self, content: Content) -> Ask {
        self.content = content;
        self
    }

    /// The same with a bearer token.
    pub fn bearer(mut self, token: &Secret) -> Ask {
        self.bearer = Some(token.clone());
        self
    }
}

/// A token as it can stand in a header: trimmed, and none if what is left is nothing or no header
/// can carry it. A request with such a token could never leave, whatever was tried.
pub fn token(text: &str) -> Option<Secret> {
    let text = text.trim();
    let fits = !text.is_empty() && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    fits.then(|| Secret::new(text))
}

/// Neither query, body nor headers: all may hold secrets.
impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url.path())
    }
}

// === impl Http ===

impl Http {
    /// A client for the system at `base`. Without `reuse` every call has a connection of its own,
    /// so that none is lost on one that the server has just closed.
    pub fn new(base: &Url, tls: Tls, reuse: bool) -> Result<Http, TlsError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured((*tls.config()).clone())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .referer(false);
        if is_near(base) {
            builder = builder.no_proxy();
        }
        if !reuse {
            builder = builder.pool_max_idle_per_host(0);
        }
        let client = builder.build().map_err(|error| TlsError::Tls(error.to_string()))?;
        Ok(Http { client, tls })
    }

    /// TLS of this client.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// Asks once.
    pub async fn call(&self, ask: Ask) -> Result<Answer, Fault> {
        match self.drain(ask).await? {
            (answer, None) => Ok(answer),
            (_, Some(fault)) => Err(fault),
        }
    }

    /// Asks once for what the system forgets as it hands it out: what came of an answer counts,
    /// also if the rest is lost. Then it comes with the fault.
    pub async fn drain(&self, ask: Ask) -> Result<(Answer, Option<Fault>), Fault> {
        let mut request =
            self.client.request(ask.method, ask.url).header(ACCEPT, "application/json");
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        if let Some(token) = &ask.bearer {
            request = request.bearer_auth(token.expose());
        }
        request = match ask.content {
            Content::None => request,
            Content::Form(fields) => request.form(&fields),
            Content::Json(value) => request.json(&value),
            Content::Raw(kind, bytes) => request.header(CONTENT_TYPE, kind).body(bytes),
        };
        let answer = request.send().await.map_err(fault)?;
        self.tls.connected();
        Ok(read(answer).await)
    }
}

async fn read(mut answer: reqwest::Response) -> (Answer, Option<Fault>) {
    let status = answer.status().as_u16();
    let headers = answer.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let content_type = text(CONTENT_TYPE).and_then(|text| text.split(';').next()).unwrap_or("");
    let mut kept = Answer {
        status,
        content_type: content_type.trim().to_ascii_lowercase(),
        retry_after: retry_after(headers),
        date: text(DATE)
            .and_then(|text| jiff::fmt::rfc2822::parse(text).ok())
            .map(|at| at.timestamp()),
        location: text(reqwest::header::LOCATION).map(String::from),
        body: Vec::new(),
    };
    loop {
        match answer.chunk().await {
            Ok(None) => return (kept, None),
            Ok(Some(chunk)) if kept.body.len() + chunk.len() <= BODY_BYTES_MAX => {
                kept.body.extend_from_slice(&chunk);
            }
            Ok(Some(_)) => {
                let why = format!("the answer is longer than {BODY_BYTES_MAX} bytes");
                return (kept, Some(Fault::Unknown(why)));
            }
            Err(error) => return (kept, Some(fault(error))),
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The error without its address, which may hold a key.
fn fault(error: reqwest::Error) -> Fault {
    let never_left = error.is_connect() || error.is_builder();
    let error = error.without_url();
    let mut why = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        why = format!("{why}: {inner}");
        cause = inner.source();
    }
    if never_left { Fault::Unsent(why) } else { Fault::Unknown(why) }
}

/// Whether the host is named by an address of this machine or this house, where no proxy leads.
fn is_near(url: &Url) -> bool {
    let ip: IpAddr = match url.host() {
        Some(Host::Domain(name)) => return name == "localhost" || name.ends_with(".local"),
        Some(Host::Ipv4(ip)) => ip.into(),
        Some(Host::Ipv6(ip)) => ip.into(),
        None => return false,
    };
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::systems::Certificate;
    use crate::systems::link::Keep;

    /// What comes of an answer that ends after these bytes.
    async fn drained(answer: &'static str) -> Result<(Answer, Option<Fault>), Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serve = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let _ = socket.read(&mut asked).await.unwrap();
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
            // Until the other side has gone, or its bytes would be lost with a reset.
            let _ = socket.read(&mut asked).await;
        };
        let folder = tempfile::tempdir().unwrap();
        let tls = Tls::new(&Certificate::Insecure, &Keep::new(folder.path(), "x/y").unwrap());
        let url: Url = format!("http://{at}/x").parse().unwrap();
        let http = Http::new(&url, tls.unwrap(), false).unwrap();
        tokio::join!(http.drain(Ask::new(Method::GET, url)), serve).0
    }

    #[tokio::test]
    async fn what_came_of_a_cut_answer_comes_with_the_fault() {
        for cut in [
            "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n[1,2",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[1,2\r\n9\r\n",
        ] {
            let (answer, fault) = drained(cut).await.unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"[1,2"[..]), "{cut}");
            assert!(matches!(fault, Some(Fault::Unknown(_))), "{fault:?}");
        }
        let whole = drained("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]").await.unwrap();
        assert_eq!((whole.0.body, whole.1), (b"[]".to_vec(), None));
    }

    #[test]
    fn a_token_is_trimmed_and_fits_into_a_header() {
        let read = |text| token(text).map(|token| token.expose().to_string());
        assert_eq!(read(" abc-._~+/=\n").as_deref(), Some("abc-._~+/="));
        for odd in ["", " \n", "a\nb", "caf\u{e9}", "a\u{0}", "\u{7f}"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }
}
