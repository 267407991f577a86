//! Web Push against the standards' own numbers (RFC 8291 section 5, RFC 8292 section 2.4), and
//! against an independent implementation of the receiving side: p256, hkdf and aes-gcm.

use aes_gcm::aead::{Aead as _, KeyInit as _};
use aes_gcm::{Aes128Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use portero::delivery::push::encrypt::{self, ReceiverKeys};
use proptest::prelude::*;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use sha2::Sha256;

const PLAINTEXT: &str = "When I grow up, I want to be a watermelon";
const AS_PUBLIC: &str =
    "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8";
const UA_PRIVATE: &str = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94";
const UA_PUBLIC: &str =
    "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";
const SALT: &str = "DGv6ra1nlYgDCS1FRnbzlw";
const ECDH: &str = "kyrL1jIIOHEzg3sM2ZWRHDRB62YACZhhSlknJ672kSs";
const PRK_KEY: &str = "Snr3JMxaHVDXHWJn5wdC52WjpCtd2EIEGBykDcZW32k";
const IKM: &str = "S4lYMb_L0FxCeq0WhDx813KgSYqU26kOyzWUdsXYyrg";
const PRK: &str = "09_eUZGrsvxChDCGRCdkLiDXrReGOEVeSCdCcPBSJSc";
const CEK: &str = "oIhVW04MRdy2XN9CiKLxTg";
const NONCE: &str = "4h_95klXJ5E_qnoN";
const BODY: &str = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vC\
                    YLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXL\
                    WyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";

const TOKEN: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJhdWQiOiJodHRwczovL3B1c2guZXhhbXBsZS5u\
                     ZXQiLCJleHAiOjE0NTM1MjM3NjgsInN1YiI6Im1haWx0bzpwdXNoQGV4YW1wbGUuY29tIn0.i3CYb7\
                     t4xfxCDquptFOepC9GAu_HLGkMlMuCGSK2rpiUfnK9ojFwDXb1JrErtmysazNjjvW2L9OkSSHzvoD1\
                     oA";
const TOKEN_KEY: &str =
    "BA1Hxzyi1RUM1b5wjxsn7nGxAszw2u61m164i3MrAIxHF6YK5h4SDYic-dRuU_RCPCfA5aq9ojSwk5Y2EmClBPs";

fn bytes<const N: usize>(text: &str) -> [u8; N] {
    URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[test]
fn rfc_8291_section_5_step_by_step() {
    let (as_public, salt) = (bytes(AS_PUBLIC), bytes(SALT));
    let derived = encrypt::derive(&bytes(ECDH), &as_public, &bytes(UA_PUBLIC), &bytes(AUTH), &salt);
    assert_eq!(text(&derived.prk_key), PRK_KEY);
    assert_eq!(text(&derived.ikm), IKM);
    assert_eq!(text(&derived.prk), PRK);
    assert_eq!(text(&derived.cek), CEK);
    assert_eq!(text(&derived.nonce), NONCE);
    let body = encrypt::seal(&derived, &as_public, &salt, PLAINTEXT.as_bytes()).unwrap();
    assert_eq!(text(&body), BODY);
}

#[test]
fn the_reference_receiver_reads_the_standards_own_message() {
    let body = URL_SAFE_NO_PAD.decode(BODY).unwrap();
    let opened = open(&body, &private(), &bytes(AUTH));
    assert_eq!(opened, PLAINTEXT.as_bytes());
}

#[test]
fn rfc_8292_section_2_4_verifies_as_ours_does() {
    let (signed, signature) = TOKEN.rsplit_once('.').unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, bytes::<65>(TOKEN_KEY));
    key.verify(signed.as_bytes(), &bytes::<64>(signature)).unwrap();
    let header = URL_SAFE_NO_PAD.decode(signed.split_once('.').unwrap().0).unwrap();
    assert_eq!(header, br#"{"typ":"JWT","alg":"ES256"}"#);
}

fn private() -> p256::SecretKey {
    p256::SecretKey::from_slice(&bytes::<32>(UA_PRIVATE)).unwrap()
}

/// The receiving side of RFC 8291, written from the standard with other crates than ours.
fn open(body: &[u8], private: &p256::SecretKey, auth: &[u8; 16]) -> Vec<u8> {
    let (salt, rest) = body.split_at(16);
    let (record_bytes, rest) = rest.split_at(4);
    assert_eq!(record_bytes, 4096u32.to_be_bytes());
    assert_eq!(rest[0], 65);
    let (as_public, sealed) = rest[1..].split_at(65);
    let sender = p256::PublicKey::from_sec1_bytes(as_public).unwrap();
    let secret = diffie_hellman(private.to_nonzero_scalar(), sender.as_affine());
    let ua_public = private.public_key().to_sec1_point(false);
    let info = [b"WebPush: info\0", ua_public.as_bytes(), as_public].concat();
    let ikm: [u8; 32] = expand(auth, secret.raw_secret_bytes(), &info);
    let cek: [u8; 16] = expand(salt, &ikm, b"Content-Encoding: aes128gcm\0");
    let nonce: [u8; 12] = expand(salt, &ikm, b"Content-Encoding: nonce\0");
    let cipher = Aes128Gcm::new(&Key::<Aes128Gcm>::from(cek));
    let mut plain = cipher.decrypt(&Nonce::from(nonce), sealed).unwrap();
    assert_eq!(plain.pop(), Some(2), "the mark of the last record");
    plain
}

fn expand<const N: usize>(salt: &[u8], ikm: &[u8], info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    Hkdf::<Sha256>::new(Some(salt), ikm).expand(info, &mut out).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_we_encrypt_the_reference_receiver_reads(
        plain in proptest::collection::vec(any::<u8>(), 0..=encrypt::PLAINTEXT_BYTES_MAX),
        auth: [u8; 16],
    ) {
        let keys = ReceiverKeys::parse(UA_PUBLIC, &text(&auth)).unwrap();
        let body = encrypt::encrypt(&keys, &plain).unwrap();
        prop_assert!(body.len() <= 4096);
        prop_assert_eq!(open(&body, &private(), &auth), plain);
    }
}
