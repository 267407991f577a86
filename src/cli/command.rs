//! `portero fibaro gate relay.open relay=0`, and the same for every other system: what a system
//! can be told, from its own table, and telling it through the running server. Secrets never
//! stand on the command line, which other users see and shells keep.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value};

use super::At;
use super::control::Server;
use crate::command::{Arg, Kind, Spec, find};
use crate::config::Config;
use crate::node::nearest;
use crate::systems::link::Keep;
use crate::systems::tls::{self, Tls};
use crate::systems::{Certificate, fibaro};
use crate::web::commands::{CommandAnswer, CommandAsk};

/// The most bytes of a secret in a file; the longest are tokens of a few hundred.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Shorter words for commands that people type in a hurry.
const SHORT: [(&str, &str); 1] = [("trust", fibaro::TRUST_CERTIFICATE)];

#[derive(Debug, Args)]
pub struct CommandArgs {
    /// Which one, by its name in the config; without it they are listed
    name: Option<String>,
    /// What to tell it; without it all commands are listed
    command: Option<String>,
    /// Its arguments, `key=value`; a value from elsewhere is `@env:NAME` or `@file:PATH`, and `?`
    /// asks for it
    #[arg(value_name = "KEY=VALUE")]
    args: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// `portero <system> …`.
pub fn command(system: &str, asked: &CommandArgs) -> anyhow::Result<u8> {
    let config = super::config(&asked.at.config)?;
    let sources = config.systems.sources();
    let prefix = format!("{system}/");
    let names: Vec<&str> =
        sources.keys().filter_map(|source| source.strip_prefix(&prefix)).collect();
    let Some(name) = &asked.name else {
        names.iter().for_each(|name| println!("{name}"));
        if names.is_empty() {
            bail!("the config has no [{system}.<name>]");
        }
        return Ok(0);
    };
    let to = format!("{system}/{name}");
    let Some(table) = sources.get(&to) else { bail!(unknown(system, name, &names)) };
    let Some(call) = &asked.command else {
        print!("{}", listed(&to, table));
        return Ok(0);
    };
    let call = SHORT.iter().find_map(|(short, long)| (short == call).then_some(*long));
    let call = call.unwrap_or(asked.command.as_deref().unwrap_or_default());
    let spec = find(table, call)?;
    let args = spec.check(read_args(spec, &asked.args)?)?;
    super::small_runtime()?.block_on(tell(&config, to, spec, args))
}

fn unknown(system: &str, name: &str, names: &[&str]) -> String {
    let hint = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if names.is_empty() => "it has none".into(),
        None => format!("there are {}", names.join(", ")),
    };
    format!("the config has no [{system}.{name}]; {hint}")
}

async fn tell(
    config: &Config,
    to: String,
    spec: &Spec,
    args: Map<String, Value>,
) -> anyhow::Result<u8> {
    let store = &config.store.path;
    let Some(server) = Server::running(store)? else {
        if spec.name == fibaro::TRUST_CERTIFICATE {
            return trust_offline(store, &to, &args);
        }
        bail!("no portero runs on {}: `portero run` starts one", store.display());
    };
    let ask = CommandAsk { to, call: spec.name.into(), args };
    let answer: CommandAnswer = server.post("commands", &ask).await?;
    if !answer.result.is_null() {
        println!("{}", serde_json::to_string_pretty(&answer.result)?);
    }
    if answer.outcome == "done" {
        return Ok(0);
    }
    let detail =
        if answer.detail.is_empty() { String::new() } else { format!(": {}", answer.detail) };
    eprintln!("portero: {}{detail}", answer.outcome);
    Ok(super::FAILED)
}

/// Without a server nobody has seen the new certificate: the one given is remembered, or the old
/// one forgotten, so that the next start takes what it finds.
fn trust_offline(store: &Path, to: &str, args: &Map<String, Value>) -> anyhow::Result<u8> {
    let keep = Keep::new(&store.join("systems"), to)?;
    let tls = Tls::new(&Certificate::PinFirst, &keep)?;
    match args.get("fingerprint").and_then(Value::as_str) {
        Some(text) => {
            let pin = fibaro::fingerprint(text).context("`fingerprint` is no SHA-256")?;
            tls.remember(pin)?;
            println!("{}", Value::from(tls::show(&pin)));
        }
        None => {
            tls.forget()?;
            eprintln!("portero: forgotten; the next start takes the certificate that it finds");
        }
    }
    Ok(0)
}

// --- The table.

/// All commands with their arguments, for people.
fn listed(to: &str, table: &[Spec]) -> String {
    let mut text = format!("{to} can be told:\n");
    for spec in table {
        text.push_str(&format!("\n{}{}\n    {}\n", spec.name, usage(spec), spec.about));
        for arg in spec.args {
            let (name, about, wanted) = (arg.name, arg.about, wanted(arg));
            text.push_str(&format!("    {name:<16} {about}; {wanted}\n"));
        }
    }
    text
}

fn usage(spec: &Spec) -> String {
    let usage = |arg: &Arg| match arg.required {
        true => format!(" {}=…", arg.name),
        false => format!(" [{}=…]", arg.name),
    };
    spec.args.iter().map(usage).collect()
}

fn wanted(arg: &Arg) -> String {
    match arg.kind {
        Kind::Secret => "a secret: `?`, `@env:NAME` or `@file:PATH`".into(),
        kind => kind.wanted(),
    }
}

// --- Arguments.

/// `key=value` as the table wants them. A key given twice is a list. Secrets that are needed and
/// not given are asked for.
fn read_args(spec: &'static Spec, given: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut args: Map<String, Value> = Map::new();
    for given in given {
        let Some((key, value)) = given.split_once('=') else {
            bail!("`{given}` is no key=value; `{}` takes{}", spec.name, usage(spec));
        };
        let arg = spec.arg(key)?;
        let value = read_value(arg, value)?;
        match args.get_mut(key) {
            None => drop(args.insert(key.into(), value)),
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    let secret = |arg: &&Arg| matches!(arg.kind, Kind::Secret) && arg.required;
    for arg in spec.args.iter().filter(secret) {
        if !args.contains_key(arg.name) {
            args.insert(arg.name.into(), ask_for(arg)?.into());
        }
    }
    Ok(args)
}

fn read_value(arg: &Arg, given: &str) -> anyhow::Result<Value> {
    let is_secret = matches!(arg.kind, Kind::Secret);
    let text = if given == "?" {
        ask_for(arg)?
    } else if let Some(name) = given.strip_prefix("@env:") {
        std::env::var(name).with_context(|| format!("`{}`: {name} is not set", arg.name))?
    } else if let Some(path) = given.strip_prefix("@file:") {
        read_file(Path::new(path)).with_context(|| format!("`{}`: {path}", arg.name))?
    } else if is_secret {
        bail!(
            "`{0}` is a secret, and command lines are seen by others: {0}=? asks for it, \
             {0}=@env:NAME and {0}=@file:PATH read it",
            arg.name
        );
    } else {
        given.to_string()
    };
    match arg.kind {
        // What is no JSON is a text.
        Kind::Json => Ok(serde_json::from_str(&text).unwrap_or(Value::String(text))),
        _ => Ok(Value::String(text)),
    }
}

fn read_file(path: &Path) -> anyhow::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_string())
}

/// Asks for a line, unseen if a person types it.
fn ask_for(arg: &Arg) -> anyhow::Result<String> {
    let unseen = matches!(arg.kind, Kind::Secret) && std::io::stdin().is_terminal();
    eprint!("{} ({}): ", arg.name, arg.about);
    std::io::stderr().flush()?;
    let echo = unseen.then(EchoOff::start);
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line)?;
    if echo.is_some() {
        eprintln!();
    }
    if read == 0 {
        bail!("`{}` was not given", arg.name);
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

/// The terminal shows nothing of what is typed until this is dropped. By `stty`, which every
/// system with terminals has; without it the text is seen, and the person is told.
struct EchoOff;

impl EchoOff {
    fn start() -> EchoOff {
        if !stty("-echo") {
            eprint!("(it will be seen) ");
        }
        EchoOff
    }
}

impl Drop for EchoOff {
    fn drop(&mut self) {
        stty("echo");
    }
}

fn stty(what: &str) -> bool {
    let ran = Process::new("stty").arg(what).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::systems::fibaro::COMMANDS;

    fn read(call: &str, given: &[&str]) -> Result<Value, String> {
        let spec = find(COMMANDS, call).unwrap();
        let given: Vec<String> = given.iter().map(|text| text.to_string()).collect();
        read_args(spec, &given).map(Value::Object).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn arguments_are_keys_and_values() {
        let open = read("relay.open", &["relay=0", "timeout=3s"]);
        assert_eq!(open.unwrap(), json!({ "relay": "0", "timeout": "3s" }));
        assert!(read("relay.open", &["0"]).unwrap_err().contains("relay=… [timeout=…]"));
        assert!(read("relay.open", &["rely=0"]).unwrap_err().contains("did you mean `relay`?"));
        let mode = read("day_night.set_mode", &["mode=night IR ext"]);
        assert_eq!(mode.unwrap(), json!({ "mode": "night IR ext" }));
    }

    #[test]
    fn a_secret_never_stands_on_the_command_line() {
        let error = read("users.change", &["user=ana", "pin=4711"]).unwrap_err();
        assert!(error.contains("pin=@env:NAME") && !error.contains("4711"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        std::fs::write(&path, "4711\n").unwrap();
        let given = format!("pin=@file:{}", path.display());
        let read_it = read("users.change", &["user=ana", &given]).unwrap();
        assert_eq!(read_it, json!({ "user": "ana", "pin": "4711" }));
        assert!(read("users.change", &["user=ana", "pin=@env:NOT_SET_ANYWHERE"]).is_err());
    }

    #[test]
    fn the_list_names_every_command_and_how_it_is_given() {
        let text = listed("fibaro/gate", COMMANDS);
        for spec in COMMANDS {
            assert!(text.contains(&format!("\n{}{}\n", spec.name, usage(spec))), "{}", spec.name);
        }
        assert!(text.contains("a time from 250 ms to 30000 ms"));
        assert!(text.contains("`@env:NAME`"));
    }
}
