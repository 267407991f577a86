//! What tests of the whole binary share: a home in a temporary folder, the process, and a
//! Netatmo that signs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

#[allow(dead_code)] // Not every test uses all of it.
pub mod http;
#[allow(dead_code)] // Not every test uses all of it.
pub mod push;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The client secret of the test home.
pub const SECRET: &str = "a test's client secret";

/// A folder with config, rules and data.
pub struct Home {
    folder: tempfile::TempDir,
}

#[allow(dead_code)] // Not every test uses all of it.
impl Home {
    /// A home with these rules.
    pub fn new(rules: &str) -> Home {
        let home = Home { folder: tempfile::tempdir().unwrap() };
        home.write(
            "portero.toml",
            &format!(
                "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nworkers = 2\n\
                 [push]\nallow_insecure_endpoints = true\n\
                 [netatmo.home]\nclient_secret = \"{SECRET}\"\n\
                 [people.ana]\n[people.ben]\n[groups]\nfamily = [\"ana\", \"ben\"]\n"
            ),
        );
        home.write("rules/rules.yaml", rules);
        home
    }

    /// Writes a file below the folder.
    pub fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A path below the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes the config's text.
    pub fn configure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("portero.toml")).unwrap();
        assert!(text.contains(from), "{text}");
        self.write("portero.toml", &text.replace(from, to));
    }

    /// What `portero events` prints, with more arguments.
    pub fn events(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let output = self.run(&[&["events"], args].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Starts the server and waits until it takes events.
    pub fn start(&self) -> Server {
        self.start_by(self.command(&["run"]))
    }

    /// Starts the server by this command, which must be made of [`Home::command`].
    pub fn start_by(&self, mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        // "… ready listen=127.0.0.1:1234 admin=127.0.0.1:1235"
        let ready = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it did not start:\n{said}");
            said.push_str(&line);
            if line.contains("ready") {
                break line;
            }
        };
        let address = |name: &str| {
            let at = ready.split_once(name).unwrap().1;
            at.split_whitespace().next().unwrap().parse().unwrap()
        };
        let (listen, admin) = (address("listen="), address("admin="));
        // Somebody must read on, or the log's pipe fills and the server stands still.
        let log = std::thread::spawn(move || {
            let mut rest = String::new();
            let _ = log.read_to_string(&mut rest);
            rest
        });
        Server { child, listen, admin, log: Some(log) }
    }

    /// Runs a command of the binary to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// A command of the binary, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portero"));
        command.args(args).arg("--config").arg(self.path("portero.toml"));
        command.env("NO_COLOR", "1").env_remove("RUST_LOG").stdout(Stdio::piped());
        command
    }
}

/// A running server.
#[allow(dead_code)] // Not every test uses all of it.
pub struct Server {
    child: Child,
    /// Webhooks and the page.
    pub listen: SocketAddr,
    /// Health, metrics, control.
    #[allow(dead_code)] // Not every test asks.
    pub admin: SocketAddr,
    log: Option<std::thread::JoinHandle<String>>,
}

#[allow(dead_code)] // Not every test uses all of it.
impl Server {
    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal, as `kill` does.
    pub fn signal(&self, signal: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// SIGTERM; its exit code and what it logged since it was ready.
    pub fn terminate(mut self) -> (Option<i32>, String) {
        self.signal("-TERM");
        let code = self.child.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The signature Netatmo sends with a body (`protocols/netatmo.md`).
pub fn sign(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One keep-alive connection that posts webhooks.
pub struct Netatmo {
    stream: BufReader<TcpStream>,
}

#[allow(dead_code)] // Not every test uses all of it.
impl Netatmo {
    /// Connects.
    pub fn connect(to: SocketAddr) -> std::io::Result<Netatmo> {
        let stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        Ok(Netatmo { stream: BufReader::new(stream) })
    }

    /// Posts a signed body; the status it was answered with.
    pub fn post(&mut self, body: &[u8]) -> std::io::Result<u16> {
        self.post_signed(body, Some(&sign(body)))
    }

    /// Posts a body with this signature.
    pub fn post_signed(&mut self, body: &[u8], signature: Option<&str>) -> std::io::Result<u16> {
        let signature = signature.map_or(String::new(), |s| format!("X-Netatmo-secret: {s}\r\n"));
        let head = format!(
            "POST /hooks/netatmo/home HTTP/1.1\r\nHost: test\r\n\
             Content-Type: application/json\r\n{signature}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(&[head.as_bytes(), body].concat())?;
        self.answer()
    }

    fn answer(&mut self) -> std::io::Result<u16> {
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            } else if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap_or(0);
            } else if let Some(bytes) = line.strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(status)
    }
}

/// Asks again and again until there is an answer, for at most ten seconds.
#[allow(dead_code)] // Not every test uses all of it.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(std::time::Duration::from_secs(10), what, ask)
}

/// Asks again and again until there is an answer, for at most that long.
#[allow(dead_code)] // Not every test uses all of it.
pub fn within<T>(limit: std::time::Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = tokio::time::Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
}
