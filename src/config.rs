//! `portero.toml`, read and checked whole: every problem is listed with its place before anything
//! starts. Relative paths are relative to the config file. It opens nothing but the files that
//! hold secrets.

mod doors;
mod house;
mod systems;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use url::Url;

pub use systems::Systems;

use crate::delivery::push::vapid::Contact;
use crate::door::Doors;
use crate::journal;
use crate::node::{Cursor, Given, Problem, Problems, Reader, SourceFile, Table};
use crate::rules::{House, Quiet, System};
use crate::secret::Secret;
use crate::systems::netatmo;
use crate::telemetry::LogFormat;

/// What a config may leave out.
const LISTEN: &str = "127.0.0.1:8080";
const ADMIN: &str = "127.0.0.1:8081";

/// A secret file holds one line; more is a mistake about which file was meant.
const SECRET_BYTES_MAX: u64 = 16 * 1024;

/// The whole config.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub server: Server,
    /// Where data is kept and for how long.
    pub store: Store,
    /// Web Push.
    pub push: Push,
    /// The folder of rule files.
    pub rules: PathBuf,
    /// Netatmo accounts by the user's name for them.
    pub netatmo: BTreeMap<String, netatmo::Config>,
    /// The other systems.
    pub systems: Systems,
    /// The names that rules may use.
    pub house: House,
    /// How logs are written.
    pub log: LogFormat,
    /// Secrets that are named but not there: `run` refuses to start, `check` only says so.
    pub missing: Vec<String>,
}

/// `[server]`.
#[derive(Debug, Clone)]
pub struct Server {
    /// Webhooks and the page; behind a proxy that speaks HTTPS.
    pub listen: SocketAddr,
    /// Health, metrics and control; never public.
    pub admin: SocketAddr,
    /// The page's address as phones see it.
    pub public_url: Url,
    /// Threads that serve HTTP.
    pub workers: usize,
}

/// `[store]`.
#[derive(Debug, Clone)]
pub struct Store {
    /// The data folder.
    pub path: PathBuf,
    /// Segment size and retention.
    pub journal: journal::Config,
}

/// `[push]`.
#[derive(Debug, Clone)]
pub struct Push {
    /// Whom push services may write to when something is wrong (RFC 8292 section 2.1).
    pub contact: String,
    /// Tests only: lets endpoints be plain HTTP and on private addresses.
    pub allow_insecure_endpoints: bool,
}

impl Config {
    /// Reads and checks the file. The problems that come with a config are warnings.
    pub fn load(path: &Path) -> Result<(Config, Problems), Problems> {
        usable(Config::examine(path))
    }

    /// As [`Config::load`], but gives what could be understood even if there are errors: to look
    /// at, never to run.
    pub fn examine(path: &Path) -> (Option<Config>, Problems) {
        let shown = path.display().to_string();
        let file = match std::fs::read(path) {
            Ok(bytes) => SourceFile::from_bytes(shown, &bytes),
            Err(error) => {
                let file = SourceFile::new(shown, "");
                let problem = Problem::error(&file, 0..0, format!("cannot be read: {error}"));
                Err(Box::new(problem.help("`portero init` writes a first config here")))
            }
        };
        let base = path.parent().unwrap_or(Path::new("."));
        match file {
            Ok(file) => decode(file, base, &|name| std::env::var(name).ok()),
            Err(problem) => (None, Problems::from_iter([*problem])),
        }
    }

    /// Checks the text of a config whose relative paths start at `base`; `env` gives environment
    /// variables.
    pub fn parse(
        file: SourceFile,
        base: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Config, Problems), Problems> {
        usable(decode(file, base, env))
    }
}

fn usable(read: (Option<Config>, Problems)) -> Result<(Config, Problems), Problems> {
    match read {
        (Some(config), problems) if !problems.has_errors() => Ok((config, problems)),
        (_, problems) => Err(problems),
    }
}

fn decode(
    file: SourceFile,
    base: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> (Option<Config>, Problems) {
    let reader = Reader::new(file);
    let config = {
        let mut decoder = Decoder { base, env, missing: Vec::new() };
        reader.toml().and_then(Cursor::table).map(|root| decoder.config(root))
    };
    (config, reader.into_problems())
}

/// What decoding needs beside the text.
struct Decoder<'a> {
    base: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
    missing: Vec<String>,
}

// === impl Decoder ===

impl Decoder<'_> {
    /// Builds a config of whatever can be understood; the reader knows whether it may be used.
    fn config(&mut self, mut root: Table<'_>) -> Config {
        let server = self.server(root.optional("server").and_then(Cursor::table));
        let store = self.store(root.optional("store").and_then(Cursor::table));
        let push = push(root.optional("push").and_then(Cursor::table), &server.public_url);
        let rules = self.rules(root.optional("rules").and_then(Cursor::table));
        let netatmo = self.netatmo(root.optional("netatmo"), &server.public_url);
        let systems = self.systems(&mut root, &netatmo);
        let mut doors = doors::doors(root.optional("doors"), &systems);
        let (people, quiet) = people(root.optional("people"), &mut doors);
        let groups = groups(root.optional("groups"), &people);
        let (time_zone, place) = house::house(root.optional("house").and_then(Cursor::table));
        let log = log(root.optional("log").and_then(Cursor::table));
        root.done();
        let webhooks = netatmo.keys().map(|name| format!("netatmo/{name}"));
        let sources = webhooks.chain(systems.sources().into_keys()).collect();
        let commanded = System::group(systems.sources());
        let trust = systems::trust(&netatmo, &systems);
        let doors = Arc::new(doors);
        let house = House {
            people,
            groups,
            sources,
            systems: commanded,
            doors,
            trust,
            time_zone,
            place,
            quiet,
        };
        let missing = std::mem::take(&mut self.missing);
        Config { server, store, push, rules, netatmo, systems, house, log, missing }
    }

    fn server(&mut self, table: Option<Table<'_>>) -> Server {
        let address = |at: Option<Cursor<'_>>, default: &str| {
            let given = at.and_then(|at| at.parse("an address such as 127.0.0.1:8080"));
            given.or_else(|| default.parse().ok()).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
        };
        let workers_by_cores = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let Some(mut table) = table else {
            let listen = address(None, LISTEN);
            let public_url = local_url(listen);
            return Server {
                listen,
                admin: address(None, ADMIN),
                public_url,
                workers: workers_by_cores,
            };
        };
        let listen = address(table.optional("listen"), LISTEN);
        let admin = address(table.optional("admin"), ADMIN);
        let public_url = table.optional("public_url").and_then(public_url);
        let workers = table.optional("workers").and_then(|at| at.int(1..=64));
        table.done();
        Server {
            listen,
            admin,
            public_url: public_url.unwrap_or_else(|| local_url(listen)),
            workers: workers.and_then(|n| usize::try_from(n).ok()).unwrap_or(workers_by_cores),
        }
    }

    fn store(&mut self, table: Option<Table<'_>>) -> Store {
        let mut journal = journal::Config::default();
        let Some(mut table) = table else {
            return Store { path: self.base.join("data"), journal };
        };
        let path = table.optional("path").and_then(Cursor::text).unwrap_or("data");
        let path = self.base.join(path);
        let day = Duration::from_secs(24 * 3600);
        if let Some(keep) = table.optional("keep").and_then(|at| at.duration(day, day * 36_500)) {
            journal.keep = keep;
        }
        // Two segments are the least that can be rolled; a petabyte is a typing error.
        let bytes = table.optional("keep_mb").and_then(|at| at.int(64..=1_000_000_000));
        if let Some(mb) = bytes.and_then(|mb| u64::try_from(mb).ok()) {
            journal.keep_bytes = mb * 1024 * 1024;
        }
        table.done();
        Store { path, journal }
    }

    fn rules(&mut self, table: Option<Table<'_>>) -> PathBuf {
        let mut table = table;
        let path = table.as_mut().and_then(|t| t.optional("path")).and_then(Cursor::text);
        if let Some(table) = table {
            table.done();
        }
        self.base.join(path.unwrap_or("rules"))
    }

    fn netatmo(
        &mut self,
        at: Option<Cursor<'_>>,
        public_url: &Url,
    ) -> BTreeMap<String, netatmo::Config> {
        let mut accounts = BTreeMap::new();
        for (key, at) in at.and_then(Cursor::named).unwrap_or_default() {
            if !is_name(&key.name) {
                at.reader().wrong(key.range.clone(), NAME_RULE);
            }
            if let Some(table) = at.table() {
                accounts.insert(
                    key.name.clone(),
                    self.netatmo_account(&key.name, at, table, public_url),
                );
            }
        }
        accounts
    }

    fn netatmo_account(
        &mut self,
        name: &str,
        at: Cursor<'_>,
        mut table: Table<'_>,
        public_url: &Url,
    ) -> netatmo::Config {
        use netatmo::Signature::{IfPresent, Off, Require};
        let words = [("require", Require), ("if-present", IfPresent), ("off", Off)];
        let signature = table.optional("signature").and_then(|at| at.one_of(&words));
        let signature = signature.unwrap_or_default();
        let secret = table.optional("client_secret");
        if secret.is_none() && signature != Off {
            at.wrong_help(
                "`client_secret` is missing: signatures cannot be checked without it",
                "it stands beside the client id in your Netatmo app's settings",
            );
        }
        let client_secret = secret.and_then(|at| self.secret(at));
        let api = self.netatmo_api(name, &mut table, client_secret.clone(), public_url);
        let names = table.optional("names").and_then(Cursor::named).unwrap_or_default();
        let names = names
            .into_iter()
            .filter_map(|(key, at)| Some((key.name.clone(), at.text()?.to_string())))
            .collect();
        table.done();
        netatmo::Config { client_secret, signature, names, api }
    }

    /// Fetches a secret; one that is not there is noted, not fatal for `check`.
    fn secret(&mut self, at: Cursor<'_>) -> Option<Secret> {
        let given = at.secret()?;
        let (found, what) = match given {
            Given::Text(secret) => return Some(secret),
            Given::Env(name) => ((self.env)(&name), format!("the environment variable {name}")),
            Given::File(path) => {
                let path = self.base.join(path);
                (read_secret(&path), format!("the secret file {}", path.display()))
            }
        };
        let found = found.map(|text| text.trim().to_string()).filter(|text| !text.is_empty());
        if found.is_none() {
            let message = format!("{what} is missing or empty; `portero run` will not start");
            at.reader().push(Problem::warning(at.reader().file(), at.range(), message));
            self.missing.push(format!("{}: {what} is missing or empty", at.place()));
        }
        found.map(Secret::new)
    }
}

/// What names in the config must look like, since they stand in URLs and paths.
const NAME_RULE: &str = "a name is made of a-z, A-Z, 0-9, `-` and `_`";

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn read_secret(path: &Path) -> Option<String> {
    let small = std::fs::metadata(path).is_ok_and(|file| file.len() <= SECRET_BYTES_MAX);
    small.then(|| std::fs::read_to_string(path).ok()).flatten()
}

fn local_url(listen: SocketAddr) -> Url {
    // A phone on the same machine is all that an address without a public name can serve.
    let text = format!("http://localhost:{}", listen.port());
    Url::parse(&text).expect("a host and a port are a URL")
}

fn public_url(at: Cursor<'_>) -> Option<Url> {
    let url: Url = at.parse("an address such as https://home.example.org")?;
    let is_local = url.host_str().is_some_and(is_loopback);
    if url.scheme() != "https" && !(url.scheme() == "http" && is_local) {
        at.wrong_help(
            "`public_url` must begin with https://",
            "browsers give notifications to https pages only; localhost is the one exception",
        );
        return None;
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        at.wrong("`public_url` is an origin, without a path: https://home.example.org");
        return None;
    }
    Some(url)
}

fn is_loopback(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].contains(&host)
}

fn push(table: Option<Table<'_>>, public_url: &Url) -> Push {
    // Push services want somebody to write to; a host's own webmaster is the honest default.
    let host = public_url.host_str().filter(|host| host.contains('.') && !is_loopback(host));
    let contact = format!("mailto:webmaster@{}", host.unwrap_or("example.org"));
    let Some(mut table) = table else {
        return Push { contact, allow_insecure_endpoints: false };
    };
    let given = table.optional("contact").and_then(|at| {
        let text = at.text()?;
        if let Err(error) = Contact::parse(text) {
            at.wrong_help(format!("`contact`: {error}"), "write mailto:somebody@example.org");
        }
        Some(text.to_string())
    });
    let insecure = table.optional("allow_insecure_endpoints").and_then(Cursor::flag);
    table.done();
    Push { contact: given.unwrap_or(contact), allow_insecure_endpoints: insecure.unwrap_or(false) }
}

fn people(
    at: Option<Cursor<'_>>,
    doors: &mut Doors,
) -> (BTreeSet<String>, BTreeMap<String, Quiet>) {
    let (mut people, mut quiet) = (BTreeSet::new(), BTreeMap::new());
    for (key, at) in at.and_then(Cursor::named).unwrap_or_default() {
        if !is_name(&key.name) {
            at.reader().wrong(key.range.clone(), NAME_RULE);
        }
        if let Some(mut table) = at.table() {
            if let Some(at) = table.optional("doors") {
                doors.rights.insert(key.name.clone(), doors::rights(at, doors));
            }
            if let Some(hours) = table.optional("quiet").and_then(house::quiet) {
                quiet.insert(key.name.clone(), hours);
            }
            table.done();
        }
        people.insert(key.name.clone());
    }
    (people, quiet)
}

fn groups(at: Option<Cursor<'_>>, people: &BTreeSet<String>) -> BTreeMap<String, Vec<String>> {
    let mut groups = BTreeMap::new();
    for (key, at) in at.and_then(Cursor::named).unwrap_or_default() {
        if people.contains(&key.name) {
            let message = format!("`{}` is a person; a group needs a name of its own", key.name);
            at.reader().wrong(key.range.clone(), message);
        }
        let mut members = Vec::new();
        for at in at.list().unwrap_or_default() {
            let Some(name) = at.text() else { continue };
            if !people.contains(name) {
                let near = crate::node::nearest(name, people.iter().map(String::as_str));
                let help = near.map_or_else(
                    || format!("add [people.{name}] to the config"),
                    |near| format!("did you mean `{near}`?"),
                );
                at.wrong_help(format!("nobody is called `{name}`"), help);
            }
            members.push(name.to_string());
        }
        groups.insert(key.name.clone(), members);
    }
    groups
}

fn log(table: Option<Table<'_>>) -> LogFormat {
    let Some(mut table) = table else { return LogFormat::default() };
    let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = table.optional("format").and_then(|at| at.one_of(&words));
    table.done();
    format.unwrap_or_default()
}
