//! `portero pair` and `portero phone`: whether or not a server runs.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde::Deserialize;
use serde_json::Value;

use super::At;
use super::control::Server;
use super::offline::{Offline, look};
use crate::action::PhoneId;
use crate::app::vapid_public_key;
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery;
use crate::delivery::push::endpoint::Policy;
use crate::phones::{Ask, INVITE_LIVES};
use crate::record::Subscription;
use crate::secret::{CODE_DIGITS, fingerprint, random_code, random_name};
use crate::web::admin::{AddAsk, PairAnswer, PairAsk, unknown_person};
use crate::web::pair_link;

/// A subscription is below 1 KiB.
const SUBSCRIPTION_BYTES_MAX: u64 = 16 * 1024;

#[derive(Debug, Args)]
pub struct PairArgs {
    /// Whose phone it will be
    person: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub struct PhoneArgs {
    #[command(subcommand)]
    command: PhoneCommand,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Subcommand)]
enum PhoneCommand {
    /// Add a phone by the subscription that its browser gave
    Add {
        /// Whose phone it is
        person: String,
        /// A file with what PushSubscription.toJSON() gives; - reads standard input
        #[arg(long)]
        subscription: PathBuf,
        /// What to call it
        #[arg(long, default_value = "")]
        name: String,
    },
    /// List all phones and how they are doing
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Forget a phone: it is no longer pushed to, and its page sees nothing more
    Remove {
        /// Its id, as `portero phone list` shows it
        id: String,
    },
}

/// `portero pair ana`.
pub fn pair(args: &PairArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    check_person(&config, &args.person)?;
    let runtime = super::small_runtime()?;
    let PairAnswer { code, link } = runtime.block_on(invite(&config, &args.person))?;
    println!(
        "Open this link on {}'s phone within {} minutes:\n",
        args.person,
        INVITE_LIVES.as_mins()
    );
    println!("  {link}\n");
    if std::io::stdout().is_terminal() {
        let picture = QrCode::new(&link).map(|qr| qr.render::<Dense1x2>().build());
        println!("{}\n", picture.unwrap_or_default());
    }
    let (left, right) = code.split_at(CODE_DIGITS / 2);
    println!("Or open the page there and type the code {left}-{right}.");
    println!("On an iPhone, add the page to the Home Screen first and type the code in it.");
    Ok(0)
}

async fn invite(config: &Config, person: &str) -> anyhow::Result<PairAnswer> {
    if let Some(server) = Server::running(&config.store.path)? {
        return server.post("pair", &PairAsk { person: person.into() }).await;
    }
    let mut data = Offline::open(config).await?;
    let code = random_code();
    data.ask(Ask::Invite { person: person.into(), code: fingerprint(code.expose()) }).await?;
    Ok(PairAnswer {
        link: pair_link(&config.server.public_url, &code),
        code: code.expose().to_string(),
    })
}

/// `portero phone …`.
pub fn phone(args: &PhoneArgs) -> anyhow::Result<u8> {
    let config = super::config(&args.at.config)?;
    let runtime = super::small_runtime()?;
    runtime.block_on(async {
        match &args.command {
            PhoneCommand::Add { person, subscription, name } => {
                check_person(&config, person)?;
                let id = add(&config, person, name, read_subscription(subscription)?).await?;
                println!("{id}");
            }
            PhoneCommand::List { json } => print_list(&list(&config).await?, *json)?,
            PhoneCommand::Remove { id } => remove(&config, id).await?,
        }
        Ok(0)
    })
}

async fn add(
    config: &Config,
    person: &str,
    name: &str,
    subscription: Subscription,
) -> anyhow::Result<String> {
    let policy = Policy::from_config(config.push.allow_insecure_endpoints);
    delivery::push::check_subscription(&subscription, policy)?;
    let (person, name) = (person.to_string(), name.to_string());
    if let Some(server) = Server::running(&config.store.path)? {
        let answer: Value = server.post("phones", &AddAsk { person, name, subscription }).await?;
        return Ok(answer["id"].as_str().unwrap_or_default().to_string());
    }
    let id = PhoneId(random_name());
    let mut data = Offline::open(config).await?;
    data.ask(Ask::Add { id: id.clone(), person, name, subscription }).await?;
    Ok(id.0)
}

async fn list(config: &Config) -> anyhow::Result<Vec<Value>> {
    if let Some(server) = Server::running(&config.store.path)? {
        return server.get("phones").await;
    }
    let ledger = look(config)?;
    let (vapid, now) = (vapid_public_key(&config.store.path), Clock::system().now());
    Ok(ledger.phones.iter().map(|(id, phone)| phone.to_json(id, &vapid, now)).collect())
}

async fn remove(config: &Config, id: &str) -> anyhow::Result<()> {
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        bail!("`{id}` is no phone's id; `portero phone list` shows them");
    }
    if let Some(server) = Server::running(&config.store.path)? {
        return server.delete(&format!("phones/{id}")).await;
    }
    Offline::open(config).await?.ask(Ask::Remove { id: PhoneId(id.into()) }).await
}

fn print_list(phones: &[Value], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(phones)?);
        return Ok(());
    }
    if phones.is_empty() {
        println!("No phones yet. `portero pair NAME` makes a link for one.");
    }
    for phone in phones {
        let text = |field: &str| phone[field].as_str().unwrap_or("-").to_string();
        println!("{}  {:<12} {:<24} {}", text("id"), text("person"), text("name"), health(phone));
    }
    Ok(())
}

/// How a phone is doing, in words.
fn health(phone: &Value) -> String {
    let is = |field: &str| phone[field].as_bool().unwrap_or(false);
    let text = |field: &str| phone[field].as_str().unwrap_or("");
    let mut words = vec![match is("subscribed") {
        true => format!("notified by {}", text("host")),
        false => "not subscribed".into(),
    }];
    if is("vapid_changed") {
        words.push("its subscription is for another VAPID key: subscribe again".into());
    }
    if is("stale") {
        words.push(format!("not seen since {}", text("seen")));
    }
    if !text("failing").is_empty() {
        words.push(format!("failing: {}", text("failing")));
    }
    let drill = &phone["drill"];
    if let Some(sent) = drill["sent"].as_str() {
        let how = match (drill["shown_after_s"].as_f64(), drill["failed"].as_str()) {
            (Some(after), _) => format!("shown after {after:.1} s"),
            (None, Some(why)) => format!("not delivered ({why})"),
            (None, None) => "not shown".into(),
        };
        words.push(format!("last drill: {how}, at {sent}"));
    }
    words.join("; ")
}

fn check_person(config: &Config, person: &str) -> anyhow::Result<()> {
    let people: Vec<String> = config.house.people.iter().cloned().collect();
    if !people.iter().any(|name| name == person) {
        bail!("{}", unknown_person(person, &people));
    }
    Ok(())
}

/// What `PushSubscription.toJSON()` gives (W3C Push API); other fields are of no use here.
#[derive(Deserialize)]
struct BrowserSubscription {
    endpoint: String,
    keys: BrowserKeys,
    #[serde(default)]
    vapid: String,
}

#[derive(Deserialize)]
struct BrowserKeys {
    p256dh: String,
    auth: String,
}

fn read_subscription(path: &PathBuf) -> anyhow::Result<Subscription> {
    let mut text = String::new();
    let source: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(
            std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?,
        ),
    };
    let read = source.take(SUBSCRIPTION_BYTES_MAX).read_to_string(&mut text);
    read.with_context(|| format!("cannot read {}", path.display()))?;
    let given: BrowserSubscription = serde_json::from_str(&text).with_context(|| {
        format!("{} is not what PushSubscription.toJSON() gives", path.display())
    })?;
    let BrowserKeys { p256dh, auth } = given.keys;
    Ok(Subscription { endpoint: given.endpoint, p256dh, auth, vapid: given.vapid })
}
