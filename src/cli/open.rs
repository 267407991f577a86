//! `portero open front`: opens a door through the running server, as a person at the machine's own
//! terminal, and says what became of it.

use anyhow::bail;
use clap::Args;

use super::At;
use super::control::Server;
use crate::node::nearest;
use crate::web::doors::OpenAnswer;

#[derive(Debug, Args)]
pub struct OpenArgs {
    /// Which door, by its name in the config; without it they are listed
    door: Option<String>,
    #[command(flatten)]
    at: At,
}

/// `portero open …`.
pub fn open(asked: &OpenArgs) -> anyhow::Result<u8> {
    let config = super::config(&asked.at.config)?;
    let doors = &config.house.doors;
    let Some(name) = &asked.door else {
        doors.all.values().for_each(|door| println!("{}\t{}", door.name, door.shown()));
        if doors.all.is_empty() {
            bail!("the config has no [doors.<name>]");
        }
        return Ok(0);
    };
    if doors.get(name).is_none() {
        match nearest(name, doors.all.keys().map(String::as_str)) {
            Some(near) => bail!("there is no door `{name}`; did you mean `{near}`?"),
            None => bail!("there is no door `{name}`; `portero open` lists them"),
        }
    }
    let store = &config.store.path;
    super::small_runtime()?.block_on(async {
        let Some(server) = Server::running(store)? else {
            bail!("no portero runs on {}: `portero run` starts one", store.display());
        };
        let answer: OpenAnswer = server.post(&format!("doors/{name}/open"), &()).await?;
        Ok(say(&answer))
    })
}

fn say(answer: &OpenAnswer) -> u8 {
    let OpenAnswer { outcome, why } = answer;
    if ["commanded", "confirmed"].contains(&outcome.as_str()) {
        println!("{outcome}");
        return 0;
    }
    eprintln!("portero: {outcome}: {why}");
    super::FAILED
}
