//! `portero demo`: the real router, page and delivery, with simulators in place of the world: a
//! Netatmo that sends signed webhooks, the other systems on sockets of their own, and a push
//! service that two phones are subscribed to. Its data is thrown away.

mod sims;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use actix_web::{App as HttpApp, HttpResponse, HttpServer, web};
use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use ring::agreement::{ECDH_P256, EphemeralPrivateKey};
use ring::rand::SystemRandom;
use tokio_util::sync::CancellationToken;

use super::init::SampleRules;
use super::run;
use crate::action::PhoneId;
use crate::app::App;
use crate::config::Config;
use crate::node::SourceFile;
use crate::phones::Ask;
use crate::record::Subscription;
use crate::secret::{Secret, fingerprint, random, random_code, random_name, random_token};
use crate::systems::netatmo::sim::Sim;
use crate::systems::netatmo::story::{self, Mischief};
use crate::telemetry;

/// The other systems are less talkative than Netatmo, or nobody could follow.
const OTHERS_SLOWER: u32 = 3;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where to serve the page
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where to serve health and metrics
    #[arg(long, default_value = "127.0.0.1:8081")]
    admin: SocketAddr,
    /// The rules; ./rules if there is such a folder, else the built-in samples
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Milliseconds between two webhooks
    #[arg(long, default_value_t = 2500)]
    pace_ms: u64,
    /// Repeats the same story
    #[arg(long)]
    seed: Option<u64>,
}

/// `portero demo`.
pub fn demo(args: &DemoArgs) -> anyhow::Result<u8> {
    telemetry::logs(telemetry::LogFormat::Text);
    let folder = Folder::make()?;
    let secret = random_token();
    run::runtime()?.block_on(async {
        let mut signals = run::Signals::listen()?;
        let sims =
            sims::Sims::start(secret.clone()).await.context("cannot start the simulators")?;
        let config = config(args, &folder.0, &secret, &sims)?;
        let app = run::start(config, true).await?;
        let token = pair(&app).await?;
        app.face.set_demo_session(token);
        let stopping = CancellationToken::new();
        let sim = Sim::new(
            format!("http://{}/hooks/netatmo/home", app.listen),
            secret,
            args.seed.unwrap_or_else(|| u64::from_le_bytes(random())),
        )
        .misbehaving(Mischief::ALL);
        let http = reqwest::Client::builder().no_proxy().build()?;
        let pace = std::time::Duration::from_millis(args.pace_ms);
        tokio::spawn(sim.run(http, pace, stopping.clone()));
        sims.tell_stories(app.listen, pace * OTHERS_SLOWER, &stopping);
        println!("Portero's demo runs: open http://{} (Ctrl-C ends it)", app.listen);
        signals.asked().await;
        stopping.cancel();
        run::stop(app, signals).await
    })
}

/// A folder that is removed when the demo ends.
struct Folder(PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("portero-demo-{}", random_name()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The system's own clean-up of temporary files takes what is left.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn config(
    args: &DemoArgs,
    folder: &Path,
    secret: &Secret,
    sims: &sims::Sims,
) -> anyhow::Result<Config> {
    let rules = match &args.rules {
        Some(rules) => rules.clone(),
        None if Path::new("rules").is_dir() => PathBuf::from("rules"),
        None => sample_rules(folder)?,
    };
    let rules = std::path::absolute(rules)?;
    let text = format!(
        "[server]\nlisten = \"{}\"\nadmin = \"{}\"\n\
         [store]\npath = \"data\"\n[rules]\npath = {:?}\n\
         [push]\nallow_insecure_endpoints = true\n\
         [netatmo.home]\nclient_secret = \"{}\"\n{}{}\
         [people.ana]\n[people.ben]\n[groups]\nfamily = [\"ana\", \"ben\"]\n",
        args.listen,
        args.admin,
        rules,
        secret.expose(),
        sims.netatmo_keys(),
        sims.config(),
    );
    let (mut config, _) = Config::parse(SourceFile::new("demo", text), folder, &|_| None)?;
    if let Some(home) = config.netatmo.get_mut("home") {
        home.names = story::names();
    }
    Ok(config)
}

fn sample_rules(folder: &Path) -> anyhow::Result<PathBuf> {
    let rules = folder.join("rules");
    std::fs::create_dir_all(&rules)?;
    for name in SampleRules::iter() {
        if let Some(file) = SampleRules::get(&name) {
            std::fs::write(rules.join(&*name), file.data)?;
        }
    }
    Ok(rules)
}

/// Makes the visitor's own phone and a second one; the cookie of the first.
async fn pair(app: &App) -> anyhow::Result<Secret> {
    let service = push_service()?;
    let (id, code, token) = (PhoneId(random_name()), random_code(), random_token());
    let code = fingerprint(code.expose());
    let (person, name) = ("ana".to_string(), "This browser".to_string());
    app.face.ask(Ask::Invite { person, code: code.clone() }).await?;
    let session = fingerprint(token.expose());
    app.face.ask(Ask::Pair { id: id.clone(), code, name, session }).await?;
    app.face.ask(Ask::Subscribe { id, subscription: subscription(service, app)? }).await?;
    let (id, person, name) = (PhoneId(random_name()), "ben".into(), "Ben's phone".into());
    let subscription = subscription(service, app)?;
    app.face.ask(Ask::Add { id, person, name, subscription }).await?;
    Ok(token)
}

/// A subscription as a browser makes one, to the simulated push service.
fn subscription(service: SocketAddr, app: &App) -> anyhow::Result<Subscription> {
    let fault = |_| anyhow::anyhow!("no key could be made");
    let key = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new()).map_err(fault)?;
    let public = key.compute_public_key().map_err(fault)?;
    Ok(Subscription {
        endpoint: format!("http://{service}/push/{}", random_name()),
        p256dh: URL_SAFE_NO_PAD.encode(public),
        auth: URL_SAFE_NO_PAD.encode(random::<16>()),
        vapid: app.face.vapid.clone(),
    })
}

/// A push service that takes everything (RFC 8030 section 5: 201 Created).
fn push_service() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
    let address = listener.local_addr()?;
    let service = || {
        HttpApp::new().route(
            "/push/{phone}",
            web::post().to(async |_: web::Bytes| HttpResponse::Created().finish()),
        )
    };
    tokio::spawn(HttpServer::new(service).workers(1).disable_signals().listen(listener)?.run());
    Ok(address)
}
