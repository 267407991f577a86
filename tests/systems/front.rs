//! TLS in front of a simulator, with certificates that nobody signed, at one address.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A running front; it ends with the test.
pub struct Front {
    /// `localhost` and this port.
    pub port: u16,
    acceptor: Arc<Mutex<TlsAcceptor>>,
}

impl Front {
    /// In front of what listens on this port of loopback.
    pub async fn start(inner: u16) -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = Arc::new(Mutex::new(certificate().0));
        let now = acceptor.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = now.lock().unwrap().clone();
                tokio::spawn(pass(acceptor, socket, SocketAddr::from(([127, 0, 0, 1], inner))));
            }
        });
        Front { port, acceptor }
    }

    /// Shows another certificate from now on; its SHA-256.
    pub fn change_certificate(&self) -> String {
        let (acceptor, pin) = certificate();
        *self.acceptor.lock().unwrap() = acceptor;
        pin
    }
}

async fn pass(acceptor: TlsAcceptor, socket: TcpStream, inner: SocketAddr) {
    let Ok(mut outside) = acceptor.accept(socket).await else { return };
    let Ok(mut inside) = TcpStream::connect(inner).await else { return };
    // Either side may end it as it likes.
    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
}

fn certificate() -> (TlsAcceptor, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let der = made.cert.der().clone();
    let sum = ring::digest::digest(&ring::digest::SHA256, &der);
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der], key.into())
        .unwrap();
    let pin = format!("sha256:{}", portero::secret::hex(sum.as_ref()));
    (TlsAcceptor::from(Arc::new(tls)), pin)
}
