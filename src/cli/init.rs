//! `portero init`: a first config and the sample rules, to be changed by hand.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use rust_embed::RustEmbed;

/// The documented sample, which is also the one in the source tree.
const CONFIG: &str = include_str!("../../portero.toml");

/// The sample rules.
#[derive(RustEmbed)]
#[folder = "rules/"]
pub struct SampleRules;

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where to write portero.toml and rules/
    #[arg(default_value = ".")]
    folder: PathBuf,
}

/// `portero init`. Writes nothing over what is there.
pub fn init(args: &InitArgs) -> anyhow::Result<u8> {
    let mut files = vec![(args.folder.join("portero.toml"), CONFIG.as_bytes().to_vec())];
    files.extend(SampleRules::iter().filter_map(|name| {
        let file = SampleRules::get(&name)?;
        Some((args.folder.join("rules").join(&*name), file.data.into_owned()))
    }));
    if let Some((there, _)) = files.iter().find(|(path, _)| path.exists()) {
        bail!("{} is there already; nothing was written", there.display());
    }
    std::fs::create_dir_all(args.folder.join("rules"))?;
    for (path, content) in &files {
        let written = File::create_new(path).and_then(|mut file| file.write_all(content));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    println!("\nNext: put your names into portero.toml, then `portero check` and `portero run`.");
    Ok(0)
}
