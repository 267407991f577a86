//! The sections of the systems: `[fibaro.*]`, `[indigo.*]`, `[emm.*]`, `[vms.*]`, the cloud's part of
//! `[netatmo.*]`, and `[sources.*]`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::tz::TimeZone;
use url::Url;

use super::{Decoder, NAME_RULE, is_name};
use crate::command::Spec;
use crate::event::Trust;
use crate::node::{Cursor, Table, nearest};
use crate::secret::Secret;
use crate::systems::indigo::Feed;
use crate::systems::{Certificate, emm, fibaro, indigo, netatmo, tls, vms, webhook};

/// Shorter silences are no silences; longer ones than a year nobody waits for.
const SILENT_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(365 * 86_400)];
/// The vendor asks for at least 30 s between two calls of `/changes`.
const EMM_POLL: Duration = Duration::from_secs(30);
/// Intercoms change rarely; their state may be half a minute old.
const VMS_POLL: Duration = Duration::from_secs(30);
/// A ring is news for seconds.
const VMS_POLL_CALLS: Duration = Duration::from_secs(3);
/// How often an Indigo server's objects are fetched anew against silent drift.
const INDIGO_REFRESH: Duration = Duration::from_secs(4 * 3600);
/// The limits of all these periods.
const PERIOD: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(7 * 86_400)];
/// Netatmo's cloud.
const NETATMO_API: &str = "https://api.netatmo.com";

/// Every system but Netatmo's webhooks, by the user's name for it.
#[derive(Debug, Clone, Default)]
pub struct Systems {
    /// Netatmo's cloud.
    pub netatmo: BTreeMap<String, netatmo::api::Config>,
    /// FIBARO Intercoms.
    pub fibaro: BTreeMap<String, fibaro::Config>,
    /// Indigo servers.
    pub indigo: BTreeMap<String, indigo::Config>,
    /// EMM paging systems.
    pub emm: BTreeMap<String, emm::Config>,
    /// Video systems.
    pub vms: BTreeMap<String, vms::Config>,
    /// Programs that are told by webhook.
    pub webhooks: BTreeMap<String, webhook::Config>,
    /// After how long a source's silence is told.
    pub silent_after: BTreeMap<String, Duration>,
}

impl Systems {
    /// Every system that can be told something, and its table of commands.
    pub fn sources(&self) -> BTreeMap<String, &'static [Spec]> {
        fn all<T>(
            system: &'static str,
            of: &BTreeMap<String, T>,
            table: &'static [Spec],
        ) -> Vec<(String, &'static [Spec])> {
            of.keys().map(|name| (format!("{system}/{name}"), table)).collect()
        }
        let mut sources = all("netatmo", &self.netatmo, netatmo::api::COMMANDS);
        sources.extend(all("fibaro", &self.fibaro, fibaro::COMMANDS));
        sources.extend(all("indigo", &self.indigo, indigo::COMMANDS));
        sources.extend(all("emm", &self.emm, emm::COMMANDS));
        sources.extend(all("vms", &self.vms, vms::COMMANDS));
        sources.extend(all("webhook", &self.webhooks, webhook::COMMANDS));
        sources.into_iter().collect()
    }
}

/// How far live events of each source can be vouched for, where the config makes it less than its
/// kind of system promises.
pub(super) fn trust(
    accounts: &BTreeMap<String, netatmo::Config>,
    systems: &Systems,
) -> BTreeMap<String, Trust> {
    let unsigned = accounts.iter().filter(|(_, a)| a.signature != netatmo::Signature::Require);
    let mut doubted: Vec<String> = unsigned.map(|(name, _)| format!("netatmo/{name}")).collect();
    let mut doubt = |system: &str, name: &str, certificate: &Certificate| {
        if matches!(certificate, Certificate::Insecure) {
            doubted.push(format!("{system}/{name}"));
        }
    };
    systems.fibaro.iter().for_each(|(name, one)| doubt("fibaro", name, &one.certificate));
    systems.indigo.iter().for_each(|(name, one)| doubt("indigo", name, &one.certificate));
    systems.emm.iter().for_each(|(name, one)| doubt("emm", name, &one.certificate));
    systems.vms.iter().for_each(|(name, one)| doubt("vms", name, &one.certificate));
    doubted.into_iter().map(|source| (source, Trust::Unverified)).collect()
}

// === impl Decoder ===

impl Decoder<'_> {
    pub(super) fn systems(
        &mut self,
        root: &mut Table<'_>,
        accounts: &BTreeMap<String, netatmo::Config>,
    ) -> Systems {
        let cloud = |(name, account): (&String, &netatmo::Config)| {
            Some((name.clone(), account.api.clone()?))
        };
        let mut systems = Systems {
            netatmo: accounts.iter().filter_map(cloud).collect(),
            fibaro: self.each(root.optional("fibaro"), Decoder::fibaro),
            indigo: self.each(root.optional("indigo"), Decoder::indigo),
            emm: self.each(root.optional("emm"), Decoder::emm),
            vms: self.each(root.optional("vms"), Decoder::vms),
            webhooks: self.each(root.optional("webhook"), Decoder::webhook),
            silent_after: BTreeMap::new(),
        };
        let webhooks = accounts.keys().map(|name| format!("netatmo/{name}"));
        let known: Vec<String> = webhooks.chain(systems.sources().into_keys()).collect();
        systems.silent_after = silences(root.optional("sources"), &known);
        systems
    }

    /// The cloud's keys of `[netatmo.<name>]`; without a client id it is off.
    pub(super) fn netatmo_api(
        &mut self,
        name: &str,
        table: &mut Table<'_>,
        client_secret: Option<Secret>,
        public_url: &Url,
    ) -> Option<netatmo::api::Config> {
        let client_id = table.optional("client_id");
        let refresh_token = table.optional("refresh_token").and_then(|at| self.secret(at));
        let api = table.optional("api").and_then(|at| url(at, &["https", "http"]));
        let client_id = client_id?.text()?.to_string();
        Some(netatmo::api::Config {
            name: name.to_string(),
            client_id,
            client_secret,
            refresh_token,
            api: api.or_else(|| Url::parse(NETATMO_API).ok())?,
            public_url: public_url.clone(),
        })
    }

    fn each<T>(
        &mut self,
        at: Option<Cursor<'_>>,
        decode: fn(&mut Self, &mut Table<'_>) -> Option<T>,
    ) -> BTreeMap<String, T> {
        let mut all = BTreeMap::new();
        for (key, at) in at.and_then(Cursor::named).unwrap_or_default() {
            if !is_name(&key.name) {
                at.reader().wrong(key.range.clone(), NAME_RULE);
            }
            let Some(mut table) = at.table() else { continue };
            if let Some(config) = decode(self, &mut table) {
                all.insert(key.name.clone(), config);
            }
            table.done();
        }
        all
    }

    fn fibaro(&mut self, table: &mut Table<'_>) -> Option<fibaro::Config> {
        let url = table.required("url").and_then(|at| url(at, &["wss", "ws"]));
        let user = table.required("user").and_then(Cursor::text);
        let pass = table.required("pass").and_then(|at| self.secret(at));
        // Intercoms sign their certificates themselves.
        let certificate = certificate(table).unwrap_or(Certificate::PinFirst);
        let names = table.optional("names").and_then(Cursor::named).unwrap_or_default();
        let names = names
            .into_iter()
            .filter_map(|(key, at)| Some((key.name.clone(), at.text()?.to_string())))
            .collect();
        Some(fibaro::Config { url: url?, user: user?.to_string(), pass, certificate, names })
    }

    fn indigo(&mut self, table: &mut Table<'_>) -> Option<indigo::Config> {
        let url = table.required("url").and_then(|at| url(at, &["ws", "wss", "http", "https"]));
        let api_key = table.optional("api_key").and_then(|at| self.secret(at));
        let key_in_query = table.optional("key_in_query").and_then(Cursor::flag).unwrap_or(false);
        let certificate = certificate(table).unwrap_or_default();
        let time_zone = table.optional("time_zone").and_then(super::house::zone);
        let words = Feed::ALL.map(|feed| (feed.as_str(), feed));
        let feeds = table.optional("feeds").and_then(Cursor::list);
        let feeds: Option<Vec<Feed>> =
            feeds.map(|all| all.into_iter().filter_map(|at| at.one_of(&words)).collect());
        let refresh = period(table, "refresh", INDIGO_REFRESH);
        Some(indigo::Config {
            url: url?,
            api_key,
            key_in_query,
            certificate,
            time_zone: time_zone.unwrap_or_else(TimeZone::system),
            feeds: feeds.unwrap_or_else(|| Feed::ALL.to_vec()),
            refresh,
        })
    }

    fn emm(&mut self, table: &mut Table<'_>) -> Option<emm::Config> {
        let url = table.required("url").and_then(|at| url(at, &["https", "http"]));
        let username = table.required("username").and_then(Cursor::text);
        let password = table.required("password").and_then(|at| self.secret(at));
        let certificate = certificate(table).unwrap_or_default();
        let poll = period(table, "poll", EMM_POLL);
        let flat_send = table.optional("flat_send").and_then(Cursor::flag).unwrap_or(false);
        let username = username?.to_string();
        Some(emm::Config { url: url?, username, password, certificate, poll, flat_send })
    }

    fn webhook(&mut self, table: &mut Table<'_>) -> Option<webhook::Config> {
        let url = table.required("url").and_then(|at| url(at, &["https", "http"]));
        let secret = table.optional("secret").and_then(|at| self.secret(at));
        Some(webhook::Config { url: url?, secret })
    }

    fn vms(&mut self, table: &mut Table<'_>) -> Option<vms::Config> {
        let url = table.required("url").and_then(|at| url(at, &["https", "http"]));
        let login = table.required("login").and_then(Cursor::text);
        let password = table.required("password").and_then(|at| self.secret(at));
        let certificate = certificate(table).unwrap_or_default();
        let intercoms = table.optional("intercoms").and_then(Cursor::list).unwrap_or_default();
        let intercoms = intercoms.into_iter().filter_map(|at| at.int(0..=i64::MAX));
        let intercoms = intercoms.filter_map(|id| u64::try_from(id).ok()).collect();
        let poll = period(table, "poll", VMS_POLL);
        let poll_calls = period(table, "poll_calls", VMS_POLL_CALLS);
        let client = table.optional("client").and_then(Cursor::text).unwrap_or("web");
        Some(vms::Config {
            url: url?,
            login: login?.to_string(),
            password,
            certificate,
            intercoms,
            poll,
            poll_calls,
            client: client.to_string(),
        })
    }
}

fn period(table: &mut Table<'_>, name: &'static str, default: Duration) -> Duration {
    let given = table.optional(name).and_then(|at| at.duration(PERIOD[0], PERIOD[1]));
    given.unwrap_or(default)
}

fn url(at: Cursor<'_>, schemes: &[&str]) -> Option<Url> {
    let url: Url = at.parse("an address with its scheme, such as https://192.168.0.5:8081")?;
    if !schemes.contains(&url.scheme()) || url.host_str().is_none() {
        let wanted: Vec<String> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
        at.wrong(format!("the address must begin with {}", wanted.join(" or ")));
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() {
        at.wrong("the address must hold no user and no password; they have keys of their own");
        return None;
    }
    Some(url)
}

fn certificate(table: &mut Table<'_>) -> Option<Certificate> {
    let at = table.optional("certificate")?;
    let text = at.text()?;
    let found = match text {
        "system" => Some(Certificate::System),
        "pin-first" => Some(Certificate::PinFirst),
        "insecure" => Some(Certificate::Insecure),
        pin => tls::parse(pin).map(Certificate::Pin),
    };
    if found.is_none() {
        let near = nearest(text, ["system", "pin-first", "insecure"]);
        let help = near.map_or_else(
            || "it is pin-first, system, insecure, or sha256: and 64 digits".to_string(),
            |near| format!("did you mean `{near}`?"),
        );
        at.wrong_help(format!("`{text}` says nothing about a certificate"), help);
    }
    found
}

/// `[sources."netatmo/home"] silent_after = "24h"`.
fn silences(at: Option<Cursor<'_>>, known: &[String]) -> BTreeMap<String, Duration> {
    let mut silences = BTreeMap::new();
    for (key, at) in at.and_then(Cursor::named).unwrap_or_default() {
        if !known.contains(&key.name) {
            let near = nearest(&key.name, known.iter().map(String::as_str));
            let help = near.map_or_else(
                || format!("sources are {}", known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            let message = format!("no system is called `{}`", key.name);
            at.reader().wrong_help(key.range.clone(), message, help);
        }
        let Some(mut table) = at.table() else { continue };
        let after = table.required("silent_after");
        let after = after.and_then(|at| at.duration(SILENT_AFTER[0], SILENT_AFTER[1]));
        table.done();
        if let Some(after) = after {
            silences.insert(key.name.clone(), after);
        }
    }
    silences
}
