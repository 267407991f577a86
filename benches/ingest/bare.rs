//! The two servers to compare with, each in a process of its own: this binary, started again with
//! [`MODE`] set. Both read, verify and parse the body as little as can be; `durable` also has it
//! on the disk before it answers.
//!
//! The durable one has a writer of its own, with nothing of Portero's journal but the idea: a
//! thread that writes what queued while its last fdatasync ran, a length and a checksum before
//! each body.

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use portero::secret::Secret;
use portero::systems::netatmo::{Config, signature};
use serde::Deserialize;
use tokio::sync::oneshot;

/// The environment variable that makes this process a server.
pub const MODE: &str = "PORTERO_INGEST_SERVE";
/// Its value for the one that only reads.
pub const BARE: &str = "bare";
/// Its value for the one that also writes.
pub const DURABLE: &str = "durable";

/// What the least any receiver must read of a body.
#[derive(Deserialize)]
struct Body<'a> {
    event_type: &'a str,
    event_id: &'a str,
    camera_id: &'a str,
}

/// Which server this process was started to be.
pub fn asked_for() -> Option<String> {
    std::env::var(MODE).ok()
}

/// Serves until killed; says on standard output where.
pub fn serve(mode: &str) {
    let disk = (mode == DURABLE).then(|| Disk::start(File::create("bodies.log").unwrap()));
    let config =
        Config { client_secret: Some(Secret::new(super::load::SECRET)), ..Config::default() };
    let data = web::Data::new((config, disk));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    let app = move || {
        App::new().app_data(data.clone()).route("/hooks/netatmo/{name}", web::post().to(hook))
    };
    let server = HttpServer::new(app).workers(1).listen(listener).unwrap().run();
    actix_web::rt::System::new().block_on(server).unwrap();
}

async fn hook(
    request: HttpRequest,
    body: web::Bytes,
    data: web::Data<(Config, Option<Disk>)>,
) -> HttpResponse {
    let header = request.headers().get(signature::HEADER).map(|value| value.as_bytes());
    if signature::verify(&data.0, header, &body).is_err() {
        return HttpResponse::Unauthorized().finish();
    }
    let Ok(Body { event_type, event_id, camera_id }) = serde_json::from_slice(&body) else {
        return HttpResponse::BadRequest().finish();
    };
    if event_type.is_empty() || event_id.is_empty() || camera_id.is_empty() {
        return HttpResponse::BadRequest().finish();
    }
    if let Some(disk) = &data.1 {
        disk.append(&body).await.unwrap();
    }
    HttpResponse::Ok().finish()
}

/// Bodies that wait for the disk, and who waits for them.
type Waiting = (Vec<u8>, Vec<oneshot::Sender<()>>);

struct Disk(Arc<(Mutex<Waiting>, Condvar)>);

impl Disk {
    fn start(mut file: File) -> Disk {
        let shared = Arc::new((Mutex::new(Waiting::default()), Condvar::new()));
        let (disk, mut batch) = (Disk(shared.clone()), Waiting::default());
        std::thread::spawn(move || {
            loop {
                let waiting = shared.0.lock().unwrap();
                let mut waiting = shared.1.wait_while(waiting, |(_, who)| who.is_empty()).unwrap();
                std::mem::swap(&mut *waiting, &mut batch);
                drop(waiting);
                file.write_all(&batch.0).unwrap();
                file.sync_data().unwrap();
                batch.0.clear();
                batch.1.drain(..).for_each(|who| who.send(()).unwrap());
            }
        });
        disk
    }

    async fn append(&self, body: &[u8]) -> Result<(), oneshot::error::RecvError> {
        let (done, is_durable) = oneshot::channel();
        {
            let mut waiting = self.0.0.lock().unwrap();
            waiting.0.extend((body.len() as u32).to_le_bytes());
            waiting.0.extend(crc32fast::hash(body).to_le_bytes());
            waiting.0.extend(body);
            waiting.1.push(done);
        }
        self.0.1.notify_one();
        is_durable.await
    }
}
