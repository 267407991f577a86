//! A push service that does what a test tells it to, and the phones that subscribe to it. The
//! phones' side of RFC 8291 is written from the standard with other crates than ours.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes128Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{http, until};

/// What the service does with one request.
#[derive(Debug, Clone)]
pub enum Does {
    /// Answers this status with these header lines.
    Answers(u16, &'static str),
    /// Says nothing until the other side gives up.
    Hangs,
}

/// What came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The path, by which phones are told apart.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The sealed body.
    pub body: Vec<u8>,
}

impl Seen {
    /// A header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }
}

#[derive(Default)]
struct Told {
    scripts: HashMap<String, Vec<Does>>,
    seen: Vec<Seen>,
}

/// The service.
pub struct Service {
    /// Where it listens.
    pub at: SocketAddr,
    told: Arc<Mutex<Told>>,
}

impl Service {
    /// Takes everything with 201 until told otherwise.
    pub fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let told = Arc::new(Mutex::new(Told::default()));
        let shared = told.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = shared.clone();
                std::thread::spawn(move || serve(stream, &told));
            }
        });
        Service { at, told }
    }

    /// What it does with the next requests to this path; the last of these stays.
    pub fn tell(&self, path: &str, does: &[Does]) {
        let does = does.iter().rev().cloned().collect();
        self.told.lock().unwrap().scripts.insert(path.into(), does);
    }

    /// Everything that came to this path.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        let told = self.told.lock().unwrap();
        told.seen.iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Waits until so many came to this path.
    pub fn wait(&self, path: &str, count: usize) -> Vec<Seen> {
        until(&format!("{count} pushes to {path}"), || {
            Some(self.seen(path)).filter(|seen| seen.len() >= count)
        })
    }
}

fn serve(stream: TcpStream, told: &Mutex<Told>) {
    let mut stream = BufReader::new(stream);
    while let Ok((_, headers)) = http::read_head(&mut stream) {
        let line = headers[0].1.clone();
        let path = line.split(' ').nth(1).unwrap_or_default().to_string();
        let mut seen = Seen { path, headers, body: Vec::new() };
        seen.body = vec![0; seen.header("content-length").parse().unwrap_or(0)];
        if stream.read_exact(&mut seen.body).is_err() {
            return;
        }
        let does = {
            let mut told = told.lock().unwrap();
            let script = told.scripts.entry(seen.path.clone()).or_default();
            let does = if script.len() > 1 { script.pop() } else { script.last().cloned() };
            told.seen.push(seen);
            does.unwrap_or(Does::Answers(201, ""))
        };
        let (status, headers) = match does {
            Does::Answers(status, headers) => (status, headers),
            Does::Hangs => {
                let _ = stream.read(&mut [0]);
                return;
            }
        };
        let answer = format!("HTTP/1.1 {status} Told\r\n{headers}Content-Length: 0\r\n\r\n");
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A browser's side of one subscription.
pub struct Phone {
    private: p256::SecretKey,
    auth: [u8; 16],
    /// Where it is reached.
    pub endpoint: String,
}

impl Phone {
    /// A phone at this endpoint; `seed` makes its key.
    pub fn new(endpoint: impl Into<String>, seed: u8) -> Phone {
        let private = p256::SecretKey::from_slice(&[seed.max(1); 32]).unwrap();
        Phone { private, auth: [seed; 16], endpoint: endpoint.into() }
    }

    /// What `PushSubscription.toJSON()` gives.
    pub fn subscription(&self) -> Value {
        let public = self.private.public_key().to_sec1_point(false);
        json!({
            "endpoint": self.endpoint,
            "expirationTime": null,
            "keys": {
                "p256dh": URL_SAFE_NO_PAD.encode(public.as_bytes()),
                "auth": URL_SAFE_NO_PAD.encode(self.auth),
            },
        })
    }

    /// Opens a push (RFC 8291, RFC 8188).
    pub fn open(&self, body: &[u8]) -> Value {
        let (salt, rest) = body.split_at(16);
        let (as_public, sealed) = rest[5..].split_at(65);
        let sender = p256::PublicKey::from_sec1_bytes(as_public).unwrap();
        let secret = diffie_hellman(self.private.to_nonzero_scalar(), sender.as_affine());
        let own = self.private.public_key().to_sec1_point(false);
        let info = [b"WebPush: info\0", own.as_bytes(), as_public].concat();
        let ikm: [u8; 32] = expand(&self.auth, secret.raw_secret_bytes(), &info);
        let key: [u8; 16] = expand(salt, &ikm, b"Content-Encoding: aes128gcm\0");
        let nonce: [u8; 12] = expand(salt, &ikm, b"Content-Encoding: nonce\0");
        let cipher = Aes128Gcm::new(&Key::<Aes128Gcm>::from(key));
        let mut plain = cipher.decrypt(&Nonce::from(nonce), sealed).unwrap();
        plain.pop();
        serde_json::from_slice(&plain).unwrap()
    }
}

fn expand<const N: usize>(salt: &[u8], ikm: &[u8], info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::new(Some(salt), ikm).expand(info, &mut out).unwrap();
    out
}
