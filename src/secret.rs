//! Texts that must never be seen: passwords, client secrets, tokens. `Debug` and `Display` show
//! that there is one, never what it is; the memory is wiped on drop.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

/// A secret text. Reading it takes a call that says so: [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes a text out of sight.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(SecretString::from(text.into()))
    }

    /// The text itself. Never let it reach a log, an error, a metric or the page.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether `offered` is this secret, in time that does not depend on where they differ.
    pub fn matches(&self, offered: &str) -> bool {
        self.expose().as_bytes().ct_eq(offered.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing_and_compares() {
        let secret = Secret::new("open sesame");
        assert!(!format!("{secret:?} {secret}").contains("sesame"));
        assert!(secret.matches("open sesame"));
        assert!(!secret.matches("open sesam"));
    }
}
