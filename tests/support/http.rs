//! HTTP/1.1 by hand, so that a test can send what no client would.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Above every limit of the server's.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// One request on a connection of its own.
pub fn ask(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{more}Content-Length: {}\r\n\r\n",
        body.len()
    );
    raw(to, &[head.as_bytes(), body].concat()).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// `GET` without anything.
pub fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", path, &[], b"")
}

/// Sends these bytes, whatever they are, and reads one answer.
pub fn raw(to: SocketAddr, bytes: &[u8]) -> std::io::Result<Answer> {
    let mut stream = open(to)?;
    // The far side may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    read(&mut BufReader::new(stream))
}

/// A connection.
pub fn open(to: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads one answer; a body without a length ends with the connection.
pub fn read(from: &mut BufReader<TcpStream>) -> std::io::Result<Answer> {
    let (status, headers) = read_head(from)?;
    let mut answer = Answer { status, headers, body: Vec::new() };
    match answer.header("content-length").parse() {
        Ok(length) => {
            answer.body = vec![0; length];
            from.read_exact(&mut answer.body)?;
        }
        Err(_) => drop(from.read_to_end(&mut answer.body)?),
    }
    Ok(answer)
}

/// Reads the head of an answer or a request; the status of a request is 0.
pub fn read_head(from: &mut BufReader<TcpStream>) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let mut headers = vec![(":line".to_string(), line.trim_end().to_string())];
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
            }
            None => return Ok((status.unwrap_or(0), headers)),
        }
    }
}
