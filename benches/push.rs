//! What one push costs beyond its cryptography. Three measurements in one run:
//!
//! * `bare`: ECDH with a fresh key, HKDF, AES-128-GCM in ring over the same plaintext, and reading
//!   a signature that was made before: the least any sender must do.
//! * `prepare`: all that [`PushClient`] does up to the wire: endpoint check, payload, encryption,
//!   cached VAPID, request and headers.
//! * `encrypt`: our encryption alone.
//!
//! The aim is `prepare` ≤ 1.3 × `bare`; the last line says what it was.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::Criterion;
use jiff::Timestamp;
use portero::action::{ActionId, Message, PhoneId, Urgency};
use portero::clock::Clock;
use portero::delivery::push::PushRequest;
use portero::delivery::push::client::{PushClient, Setup, Timeouts};
use portero::delivery::push::encrypt::{self, ReceiverKeys};
use portero::delivery::push::endpoint::Policy;
use portero::delivery::push::payload::{Composer, Form};
use portero::delivery::push::vapid::{Contact, Vapid, VapidKeys};
use portero::record::Subscription;
use portero::secret::Secret;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use ring::rand::{SecureRandom as _, SystemRandom};

const P256DH: &str =
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";
/// Enough pushes for a median that stands still, in well under a second each.
const ROUNDS: usize = 5000;

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(salt: &[u8], ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let prk = Salt::new(HKDF_SHA256, salt).extract(ikm);
    prk.expand(info, Len(out.len())).unwrap().fill(out).unwrap();
}

/// The cryptography of one push and nothing else, written straight onto ring.
fn bare(ua_public: &[u8], auth: &[u8], plaintext: &[u8], header: &Arc<str>) -> (Vec<u8>, Arc<str>) {
    let random = SystemRandom::new();
    let private = EphemeralPrivateKey::generate(&ECDH_P256, &random).unwrap();
    let as_public = private.compute_public_key().unwrap();
    let mut salt = [0u8; 16];
    random.fill(&mut salt).unwrap();
    let peer = UnparsedPublicKey::new(&ECDH_P256, ua_public);
    let (mut ikm, mut cek, mut nonce) = ([0u8; 32], [0u8; 16], [0u8; 12]);
    agree_ephemeral(private, &peer, |secret| {
        expand(auth, secret, &[b"WebPush: info\0", ua_public, as_public.as_ref()], &mut ikm);
    })
    .unwrap();
    let prk = Salt::new(HKDF_SHA256, &salt).extract(&ikm);
    let fill = |info: &[u8], out: &mut [u8]| {
        prk.expand(&[info], Len(out.len())).unwrap().fill(out).unwrap();
    };
    fill(b"Content-Encoding: aes128gcm\0", &mut cek);
    fill(b"Content-Encoding: nonce\0", &mut nonce);
    let mut body = Vec::with_capacity(plaintext.len() + 103);
    body.extend_from_slice(&salt);
    body.extend_from_slice(&[0, 0, 16, 0, 65]);
    body.extend_from_slice(as_public.as_ref());
    let mut record = plaintext.to_vec();
    record.push(2);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &cek).unwrap());
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut record).unwrap();
    body.append(&mut record);
    (body, header.clone())
}

/// What both sides send: a doorbell, as a rule renders it.
struct World {
    client: PushClient,
    composer: Composer,
    subscription: Subscription,
    request: PushRequest,
    now: Timestamp,
}

fn world() -> World {
    let composer = Composer::new("https://home.example.org".parse().unwrap(), Secret::new("k"));
    let contact = Contact::parse("mailto:ana@example.org").unwrap();
    let client = PushClient::new(Setup {
        policy: Policy::Public,
        composer: composer.clone(),
        vapid: Vapid::new(Arc::new(VapidKeys::generate().unwrap().0), contact),
        roots: rustls::RootCertStore::empty(),
        timeouts: Timeouts::default(),
        clock: Clock::system(),
    });
    let message = Message {
        title: "Someone is at the door of Maison".into(),
        body: "The doorbell rang".into(),
        image: Some("https://netatmo.example/api/getcamerapicture?image_id=1&key=2".into()),
        url: Some("/#event=0123456789abcdef0123456789abcdef".into()),
        tag: Some("ring-0123456789".into()),
        urgency: Urgency::High,
        ttl_s: 60,
        buttons: Vec::new(),
    };
    let now: Timestamp = "2026-11-20T10:00:00Z".parse().unwrap();
    World {
        client: client.unwrap(),
        composer,
        subscription: Subscription {
            endpoint: format!("https://push.example.org/wpush/v2/{}", "g".repeat(180)),
            p256dh: P256DH.into(),
            auth: AUTH.into(),
            vapid: String::new(),
        },
        request: PushRequest {
            action: ActionId([7; 16]),
            phone: PhoneId("00112233aabbccdd".into()),
            message: Arc::new(message),
            urgency: Urgency::High,
            deadline: now + jiff::SignedDuration::from_secs(60),
            form: Form::Full,
        },
        now,
    }
}

/// The median of each of two workloads, run in turns so that both meet the same machine.
#[allow(clippy::disallowed_methods)] // A benchmark measures real time.
fn medians(mut a: impl FnMut(), mut b: impl FnMut()) -> (Duration, Duration) {
    let time = |work: &mut dyn FnMut()| {
        let begun = Instant::now();
        work();
        begun.elapsed()
    };
    let mut times: Vec<(Duration, Duration)> =
        (0..ROUNDS).map(|_| (time(&mut a), time(&mut b))).collect();
    times.sort_by_key(|(a, _)| *a);
    let median_a = times[ROUNDS / 2].0;
    times.sort_by_key(|(_, b)| *b);
    (median_a, times[ROUNDS / 2].1)
}

fn main() {
    let World { client, composer, subscription, request, now } = world();
    let payload = composer.compose(&request.action, &request.phone, &request.message, Form::Full);
    let keys = ReceiverKeys::parse(P256DH, AUTH).unwrap();
    let ua_public = URL_SAFE_NO_PAD.decode(P256DH).unwrap();
    let auth = URL_SAFE_NO_PAD.decode(AUTH).unwrap();
    let header: Arc<str> = "vapid t=signed before, k=known".into();
    let mut do_bare = || drop(black_box(bare(&ua_public, &auth, payload.as_bytes(), &header)));
    let mut do_prepare = || drop(black_box(client.prepare(&subscription, &request, now).unwrap()));

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("push");
    group.bench_function("bare", |b| b.iter(&mut do_bare));
    group.bench_function("encrypt", |b| {
        b.iter(|| encrypt::encrypt(&keys, black_box(payload.as_bytes())).unwrap());
    });
    group.bench_function("prepare", |b| b.iter(&mut do_prepare));
    group.finish();

    let (bare, prepare) = medians(&mut do_bare, &mut do_prepare);
    let ratio = prepare.as_secs_f64() / bare.as_secs_f64();
    println!(
        "push of {} bytes: bare {bare:?}, prepare {prepare:?}, ratio {ratio:.3} (aim 1.3)",
        payload.len()
    );
}
