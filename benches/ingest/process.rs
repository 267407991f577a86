//! The servers' processes: started on their core in a new folder, looked at through `/proc`, and
//! killed when dropped.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::bare;
use super::load::{SECRET, now};

/// The core of the servers.
const SERVER_CORE: usize = 0;
/// The core of the load.
pub const LOAD_CORE: usize = 1;
/// A server that does not answer within this time has failed.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How often a starting server is asked.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// A pause after a burst, in which memory may go back.
pub const SETTLE: Duration = Duration::from_secs(5);
/// The kernel counts processor time in hundredths of a second towards processes.
const TICKS_PER_S: f64 = 100.0;

/// Which server.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// See [`bare`].
    Bare,
    /// See [`bare`].
    Durable,
    /// Portero with so many rules, one of which fires.
    Rules(usize),
    /// Portero with the rules of the repository.
    Sample,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Bare => f.pad("bare"),
            Kind::Durable => f.pad("durable (the limit)"),
            Kind::Rules(1) => f.pad("portero, 1 rule"),
            Kind::Rules(count) => f.pad(&format!("portero, {count} rules")),
            Kind::Sample => f.pad("portero, sample rules"),
        }
    }
}

/// A running server.
pub struct Server {
    child: Child,
    /// Where it takes webhooks.
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts it; returns when it accepts connections.
    pub fn start(kind: Kind) -> Server {
        let server = Server::spawn(kind);
        let begun = now();
        while TcpStream::connect(server.address).is_err() {
            assert!(begun.elapsed() < START_WITHIN, "{kind} did not start");
            std::thread::sleep(ASK_EVERY);
        }
        server
    }

    fn spawn(kind: Kind) -> Server {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut command = match kind {
            Kind::Bare | Kind::Durable => {
                let mut command = on_core(&std::env::current_exe().unwrap());
                let is_bare = matches!(kind, Kind::Bare);
                command.env(bare::MODE, if is_bare { bare::BARE } else { bare::DURABLE });
                command.stdout(Stdio::piped());
                command
            }
            Kind::Rules(_) | Kind::Sample => on_core(Path::new(env!("CARGO_BIN_EXE_portero"))),
        };
        let mut address = free_address();
        if let Kind::Rules(_) | Kind::Sample = kind {
            write_home(folder.path(), kind, address);
            command.arg("run").env("RUST_LOG", "warn");
        }
        let mut child = command.current_dir(&folder).spawn().unwrap();
        if let Some(out) = child.stdout.take() {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).unwrap();
            address = line.trim().parse().unwrap();
        }
        Server { child, address, _folder: folder }
    }

    /// Processor time so far, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(self.proc("stat")).unwrap();
        // The second field may hold blanks and ends with the last bracket.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
        Duration::from_secs_f64(ticks / TICKS_PER_S)
    }

    /// Memory in use now, in megabytes.
    pub fn rss_mb(&self) -> f64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024.0 / 1e6
    }

    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.child.id()).into()
    }
}

/// From the start of a new process to its first 200.
pub fn first_200(kind: Kind, request: &[u8]) -> Duration {
    let begun = now();
    let server = Server::spawn(kind);
    loop {
        assert!(begun.elapsed() < START_WITHIN, "{kind} did not start");
        let Ok(mut stream) = TcpStream::connect(server.address) else {
            std::thread::sleep(ASK_EVERY);
            continue;
        };
        stream.write_all(request).unwrap();
        let mut line = [0; 12];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"HTTP/1.1 200");
        return begun.elapsed();
    }
}

/// Keeps this process, which must not have started threads yet, on one core.
pub fn take_core(core: usize) {
    let mut command = Command::new("taskset");
    command.args(["-cp", &core.to_string(), &std::process::id().to_string()]);
    let done = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !done.is_ok_and(|status| status.success()) {
        eprintln!("no taskset: servers and load share all cores");
    }
}

/// A command on the servers' core, if `taskset` knows how.
fn on_core(program: &Path) -> Command {
    let core = SERVER_CORE.to_string();
    let works = Command::new("taskset").args(["-c", &core, "true"]).status();
    if !works.is_ok_and(|status| status.success()) {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core]).arg(program);
    command
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

fn write_home(folder: &Path, kind: Kind, listen: SocketAddr) {
    let rules = match kind {
        Kind::Sample => Path::new(env!("CARGO_MANIFEST_DIR")).join("rules"),
        _ => folder.join("rules"),
    };
    let config = format!(
        "[server]\nlisten = \"{listen}\"\nadmin = \"127.0.0.1:0\"\n\
         [rules]\npath = {rules:?}\n[netatmo.home]\nclient_secret = \"{SECRET}\"\n\
         [people.ana]\n[people.ben]\n[groups]\nfamily = [\"ana\", \"ben\"]\n"
    );
    std::fs::write(folder.join("portero.toml"), config).unwrap();
    if let Kind::Rules(count) = kind {
        std::fs::create_dir(&rules).unwrap();
        std::fs::write(rules.join("rules.yaml"), rules_text(count)).unwrap();
    }
}

/// One rule that fires for every request, and others for other cameras and snapshots.
fn rules_text(count: usize) -> String {
    let mut text = String::from(
        "rules:\n  - name: somebody is there\n    \
         when: { type: netatmo.human, data: { camera_id: \"70:ee:50:aa:00:02\" } }\n    \
         if: event.data.message is defined\n    do:\n      \
         - push: { to: [family], title: \"{{ event.data.home_name }}\", \
         body: \"{{ event.data.message }}\", ttl: 60s }\n",
    );
    for n in 1..count {
        let which = match n % 2 {
            0 => format!("subject: \"70:ee:50:bb:{:02x}:{:02x}\"", n >> 8, n & 255),
            _ => format!("data: {{ snapshot_id: \"{n:012x}\" }}"),
        };
        text.push_str(&format!(
            "  - name: other {n}\n    when: {{ type: netatmo.human, {which} }}\n    \
             do: [ {{ push: {{ to: [ana], title: \"Number {n}\" }} }} ]\n"
        ));
    }
    text
}
