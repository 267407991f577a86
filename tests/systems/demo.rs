//! `portero demo`: all five systems are there and talk.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::PATIENCE;
use crate::support::{http, within};

/// Every system of the demo.
const SOURCES: [&str; 5] =
    ["emm/block", "fibaro/gate", "indigo/house", "netatmo/home", "vms/block"];

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn all_five_systems_are_connected_and_tell_something() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_portero"));
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--pace-ms", "100"]).env("TMPDIR", folder.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut demo = Demo(child);
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("open http://")));
    let line = line.unwrap().unwrap();
    let address = line.split_once("http://").unwrap().1.split(' ').next().unwrap();
    let listen = address.parse().unwrap();
    let cookie = http::get(listen, "/").header("set-cookie").to_string();
    let cookie = cookie.split(';').next().unwrap();
    within(PATIENCE, "every system", || {
        let status = http::ask(listen, "GET", "/api/status", &[("Cookie", cookie)], b"").json();
        let sources = status["sources"].as_array().unwrap().clone();
        let talks = sources.iter().filter(|source| source["count"].as_u64() > Some(0));
        let talks: BTreeSet<&str> = talks.filter_map(|s| s["source"].as_str()).collect();
        let up = sources.iter().filter(|source| source["link"]["up"] == true).count();
        let needed = SOURCES.iter().all(|source| talks.contains(source));
        (needed && up == SOURCES.len()).then_some(())
    });
}
