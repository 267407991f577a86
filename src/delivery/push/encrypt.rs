//! Message encryption for Web Push (RFC 8291 over RFC 8188 `aes128gcm`): one record, a fresh key
//! and salt for every message. Everything after the ECDH is a pure function of its inputs, so
//! that RFC 8291 section 5 can be checked byte by byte; must not send anything or know an
//! endpoint.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::agreement::{ECDH_P256, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// An uncompressed P-256 point (SEC 1 section 2.3.3): a 4, then x and y.
pub const POINT_BYTES: usize = 65;
/// The authentication secret (RFC 8291 section 3.2).
pub const AUTH_BYTES: usize = 16;
/// The salt (RFC 8188 section 2.1).
pub const SALT_BYTES: usize = 16;
/// The record size we declare. A push service need not take bodies beyond 4096 bytes
/// (RFC 8291 section 4), and a message is exactly one record.
pub const RECORD_BYTES: u32 = 4096;
/// Salt, record size, key id length, key id (RFC 8188 section 2.1).
pub const HEADER_BYTES: usize = SALT_BYTES + 4 + 1 + POINT_BYTES;
/// The most one message can carry: 4096 less the header, the last-record mark and the tag
/// (RFC 8291 section 4). What we send stays far below, see [`super::payload::PAYLOAD_BYTES_MAX`].
pub const PLAINTEXT_BYTES_MAX: usize = RECORD_BYTES as usize - HEADER_BYTES - 1 - TAG_BYTES;

const TAG_BYTES: usize = 16;
/// Ends the last record (RFC 8188 section 2); a message has no other.
const LAST_RECORD: u8 = 2;
/// A key or secret never needs more text than this; what is longer is not decoded at all.
const KEY_TEXT_CHARS_MAX: usize = 128;

/// The two keys of a subscription, checked once when it is added.
#[derive(Clone, PartialEq, Eq)]
pub struct ReceiverKeys {
    public: [u8; POINT_BYTES],
    auth: [u8; AUTH_BYTES],
}

/// What a subscription's keys got wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64 in either alphabet.
    #[error("`{key}` is not base64url")]
    Base64 {
        /// `p256dh` or `auth`.
        key: &'static str,
    },
    /// Base64 of the wrong number of bytes.
    #[error("`{key}` has {got} bytes, it must have {want}")]
    Length {
        /// `p256dh` or `auth`.
        key: &'static str,
        /// Bytes found.
        got: usize,
        /// Bytes expected.
        want: usize,
    },
    /// The right length, but no point on the curve.
    #[error("`p256dh` is not an uncompressed point on the curve P-256")]
    NotAPoint,
}

/// A message could not be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    /// Longer than [`PLAINTEXT_BYTES_MAX`].
    #[error("the message has {0} bytes, one push carries at most {PLAINTEXT_BYTES_MAX}")]
    TooLong(usize),
    /// The receiver's key does not agree with ours, or the system has no randomness.
    #[error("the key agreement failed")]
    Agreement,
}

impl std::fmt::Debug for ReceiverKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReceiverKeys(hidden)")
    }
}

impl ReceiverKeys {
    /// Reads what `PushSubscription.toJSON()` gives: base64url without padding. Padding and the
    /// standard alphabet are taken as well, because people paste keys from elsewhere.
    ///
    /// # Errors
    /// Names the key and what is wrong with it, never its value.
    pub fn parse(p256dh: &str, auth: &str) -> Result<ReceiverKeys, KeyError> {
        let keys = ReceiverKeys::read(p256dh, auth)?;
        // ring checks that a point lies on the curve only when it agrees with one.
        ecdh(&keys.public).map_err(|_| KeyError::NotAPoint)?;
        Ok(keys)
    }

    /// Reads keys that were checked when they were added; a point off the curve then still fails
    /// in [`encrypt`], at the cost of one agreement less per message.
    ///
    /// # Errors
    /// As [`ReceiverKeys::parse`], but for [`KeyError::NotAPoint`].
    pub fn read(p256dh: &str, auth: &str) -> Result<ReceiverKeys, KeyError> {
        Ok(ReceiverKeys { public: decode("p256dh", p256dh)?, auth: decode("auth", auth)? })
    }
}

fn decode<const N: usize>(key: &'static str, text: &str) -> Result<[u8; N], KeyError> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const EITHER: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);
    if text.len() > KEY_TEXT_CHARS_MAX {
        return Err(KeyError::Base64 { key });
    }
    let text = text.trim().replace('+', "-").replace('/', "_");
    let bytes = EITHER.decode(text).map_err(|_| KeyError::Base64 { key })?;
    let got = bytes.len();
    bytes.try_into().map_err(|_| KeyError::Length { key, got, want: N })
}

/// Encrypts one message under a fresh key and salt: the body of the push request.
///
/// # Errors
/// [`EncryptError`]; nothing is left half done.
pub fn encrypt(to: &ReceiverKeys, plaintext: &[u8]) -> Result<Vec<u8>, EncryptError> {
    let (secret, as_public) = ecdh(&to.public).map_err(|_| EncryptError::Agreement)?;
    let mut salt = [0; SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(|_| EncryptError::Agreement)?;
    let keys = derive(&secret, &as_public, &to.public, &to.auth, &salt);
    seal(&keys, &as_public, &salt, plaintext)
}

/// The ECDH secret with a fresh key of ours, and that key's public half.
fn ecdh(
    ua_public: &[u8; POINT_BYTES],
) -> Result<([u8; 32], [u8; POINT_BYTES]), ring::error::Unspecified> {
    let private = EphemeralPrivateKey::generate(&ECDH_P256, &SystemRandom::new())?;
    let as_public = private.compute_public_key()?.as_ref().try_into();
    let as_public = as_public.map_err(|_| ring::error::Unspecified)?;
    let peer = UnparsedPublicKey::new(&ECDH_P256, ua_public);
    let secret = agree_ephemeral(private, &peer, |secret| <[u8; 32]>::try_from(secret))?;
    Ok((secret.map_err(|_| ring::error::Unspecified)?, as_public))
}

/// The steps of RFC 8291 section 3.4, kept so that a test can compare each with section 5.
pub struct Derived {
    /// `PRK_key = HMAC(auth, ecdh)`.
    pub prk_key: [u8; 32],
    /// `IKM = HMAC(PRK_key, key_info || 1)`.
    pub ikm: [u8; 32],
    /// `PRK = HMAC(salt, IKM)`.
    pub prk: [u8; 32],
    /// The content encryption key.
    pub cek: [u8; 16],
    /// The nonce of the one record.
    pub nonce: [u8; 12],
}

/// Derives the record's key and nonce (RFC 8291 section 3.4). Each HKDF here expands to one
/// block, so an expansion is a single HMAC over the info and a 1 (RFC 5869 section 2.3).
pub fn derive(
    ecdh_secret: &[u8; 32],
    as_public: &[u8; POINT_BYTES],
    ua_public: &[u8; POINT_BYTES],
    auth: &[u8; AUTH_BYTES],
    salt: &[u8; SALT_BYTES],
) -> Derived {
    let prk_key = hmac_sha256(auth, &[ecdh_secret]);
    let ikm = hmac_sha256(&prk_key, &[b"WebPush: info\0", ua_public, as_public, &[1]]);
    let prk = hmac_sha256(salt, &[&ikm]);
    let cek = first(hmac_sha256(&prk, &[b"Content-Encoding: aes128gcm\0", &[1]]));
    let nonce = first(hmac_sha256(&prk, &[b"Content-Encoding: nonce\0", &[1]]));
    Derived { prk_key, ikm, prk, cek, nonce }
}

fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

fn first<const N: usize>(block: [u8; 32]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&block[..N]);
    out
}

/// Writes the body: the header of RFC 8188 section 2.1, then the sealed record.
///
/// # Errors
/// [`EncryptError::TooLong`].
pub fn seal(
    keys: &Derived,
    as_public: &[u8; POINT_BYTES],
    salt: &[u8; SALT_BYTES],
    plaintext: &[u8],
) -> Result<Vec<u8>, EncryptError> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(EncryptError::TooLong(plaintext.len()));
    }
    let mut body = Vec::with_capacity(HEADER_BYTES + plaintext.len() + 1 + TAG_BYTES);
    body.extend(salt);
    body.extend(RECORD_BYTES.to_be_bytes());
    body.push(POINT_BYTES as u8);
    body.extend(as_public);
    body.extend(plaintext);
    body.push(LAST_RECORD);
    let key = UnboundKey::new(&AES_128_GCM, &keys.cek).map_err(|_| EncryptError::Agreement)?;
    let nonce = Nonce::assume_unique_for_key(keys.nonce);
    let record = &mut body[HEADER_BYTES..];
    let tag = LessSafeKey::new(key)
        .seal_in_place_separate_tag(nonce, Aad::empty(), record)
        .map_err(|_| EncryptError::Agreement)?;
    body.extend(tag.as_ref());
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P256DH: &str =
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    #[test]
    fn keys_are_taken_in_every_spelling_of_base64() {
        let plain = ReceiverKeys::parse(P256DH, AUTH).unwrap();
        let standard = P256DH.replace('-', "+").replace('_', "/") + "=";
        assert_eq!(ReceiverKeys::parse(&standard, "BTBZMqHH6r4Tts7J/aSIgg==").unwrap(), plain);
        assert_eq!(ReceiverKeys::parse(&format!(" {P256DH}\n"), AUTH).unwrap(), plain);
    }

    #[test]
    fn keys_that_cannot_work_are_named() {
        let check = |p256dh: &str, auth: &str, says: &str| {
            let error = ReceiverKeys::parse(p256dh, auth).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        check("", AUTH, "`p256dh` has 0 bytes, it must have 65");
        check(&P256DH[..40], AUTH, "`p256dh` has 30 bytes");
        check(P256DH, "AAAA", "`auth` has 3 bytes, it must have 16");
        check("*", AUTH, "`p256dh` is not base64url");
        check(P256DH, &"A".repeat(1000), "`auth` is not base64url");
        let off_curve = format!("{}AAAA", &P256DH[..P256DH.len() - 4]);
        check(&off_curve, AUTH, "not an uncompressed point");
        let compressed_mark = format!("A{}", &P256DH[1..]);
        check(&compressed_mark, AUTH, "not an uncompressed point");
    }

    #[test]
    fn a_message_fits_or_is_refused() {
        let keys = ReceiverKeys::parse(P256DH, AUTH).unwrap();
        assert_eq!(PLAINTEXT_BYTES_MAX, 3993);
        let body = encrypt(&keys, &[b'x'; PLAINTEXT_BYTES_MAX]).unwrap();
        assert_eq!(body.len(), 4096);
        let error = encrypt(&keys, &[b'x'; PLAINTEXT_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(error, EncryptError::TooLong(3994));
    }

    #[test]
    fn every_message_has_its_own_salt_and_key() {
        let keys = ReceiverKeys::parse(P256DH, AUTH).unwrap();
        let (a, b) = (encrypt(&keys, b"x").unwrap(), encrypt(&keys, b"x").unwrap());
        assert_ne!(a[..SALT_BYTES], b[..SALT_BYTES]);
        assert_ne!(a[SALT_BYTES + 5..HEADER_BYTES], b[SALT_BYTES + 5..HEADER_BYTES]);
    }
}
