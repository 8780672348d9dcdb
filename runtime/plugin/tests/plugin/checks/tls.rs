//! TLS: which certificates a check accepts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedKey, KeyPair};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use waxwing_plugin::checks::{CheckOutcome, CheckRoots, CheckTarget, CheckTls};
use waxwing_sdk::abi::health::errors;
use waxwing_tests::check_wat::CheckWat;

use super::common::{run, server, target, with};

/// Returns a self-signed certificate for these names.
fn certificate(names: &[&str]) -> CertifiedKey<KeyPair> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    rcgen::generate_simple_self_signed(names).expect("made")
}

/// Starts a server that sends `hello` over TLS to clients that offer the protocol `h2`.
async fn tls_server(own: &CertifiedKey<KeyPair>) -> SocketAddr {
    let key = own.signing_key.serialize_der();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("known")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.try_into().expect("a key"))
        .expect("key and certificate match");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // It closes without close_notify, as many servers do.
                let _ = stream.write_all(b"hello").await;
                let _ = stream.flush().await;
            }
        }
    })
    .await
}

/// Reads twice after a handshake; returns the error of a failed handshake.
const READS: &str = "(local $c i32) (local $n i32)
    (local.set $c (call $connect (i32.const 6)))
    (local.set $n (call $tls (local.get $c) (i32.const 0x3000) (i32.const 5)))
    (if (i32.lt_s (local.get $n) (i32.const 0)) (then (return (call $say (local.get $n)))))
    (local.set $n (call $recv (local.get $c) (i32.const 0x2000) (i32.const 100)))
    (drop (call $say (call $recv (local.get $c) (i32.const 0x2100) (i32.const 100))))
    (i32.store (i32.const 0x1024) (local.get $n))
    (i32.const 0x1000)";

async fn check(address: SocketAddr, tls: Option<CheckTls>, alpn: &str) -> CheckOutcome {
    let wat = CheckWat {
        check: READS,
        ..with(&format!("(data (i32.const 0x3000) \"{alpn}\")"))
    };
    let target = CheckTarget {
        tls: tls.map(Arc::new),
        ..target(address)
    };
    run(&wat, &target).await
}

/// A file of certificates in PEM form.
struct Roots(tempfile::TempDir);

impl Roots {
    fn of(own: &CertifiedKey<KeyPair>) -> Self {
        let roots = Self(tempfile::tempdir().expect("a folder"));
        std::fs::write(roots.path(), own.cert.pem()).expect("written");
        roots
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ca.pem")
    }

    fn tls(&self, name: Option<&str>) -> Option<CheckTls> {
        let roots = CheckRoots::read(Some(&self.path())).expect("the roots are valid");
        Some(CheckTls::new(&roots, name).expect("it is valid"))
    }
}

#[tokio::test]
async fn a_server_with_a_valid_certificate_is_accepted() {
    let own = certificate(&["api.example", "127.0.0.1"]);
    let (address, roots) = (tls_server(&own).await, Roots::of(&own));
    for name in [Some("api.example"), None] {
        let outcome = check(address, roots.tls(name), "h2,h3").await;
        assert_eq!(
            (outcome.signals[0], &*outcome.reason),
            (Some(0), "hello"),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn a_failed_handshake_reports_its_cause() {
    let own = certificate(&["api.example"]);
    let (address, roots) = (tls_server(&own).await, Roots::of(&own));
    let strangers = Roots::of(&certificate(&["api.example"]));
    let plain = server(async |mut stream| {
        let _ = stream.write_all(b"HTTP/1.0 400 no TLS here\r\n\r\n").await;
    })
    .await;
    let cases = [
        (
            address,
            strangers.tls(Some("api.example")),
            "h2,h2",
            "the server's certificate is not signed by a trusted authority; see `roots`",
        ),
        (
            address,
            roots.tls(Some("www.example")),
            "h2,h2",
            "the server's certificate is for another name; see `server_name`",
        ),
        (
            address,
            roots.tls(None),
            "h2,h2",
            "the server's certificate is for another name; see `server_name`",
        ),
        (
            address,
            roots.tls(Some("api.example")),
            "h3,h3",
            "TLS: received fatal alert: NoApplicationProtocol",
        ),
        (plain, roots.tls(Some("api.example")), "h2,h2", "TLS: "),
        (
            address,
            None,
            "h2,h2",
            "TLS is not set up; write `tls = {}` for this check",
        ),
    ];
    for (address, tls, alpn, text) in cases {
        let outcome = check(address, tls, alpn).await;
        let number = outcome.signals[0].map(u32::cast_signed);
        assert_eq!(number, Some(errors::TLS), "{outcome:?}");
        assert!(
            outcome.reason.contains(text),
            "{:?} lacks {text:?}",
            outcome.reason
        );
        assert!(!outcome.fault);
    }
}

#[tokio::test]
async fn without_verification_any_certificate_is_accepted() {
    let address = tls_server(&certificate(&["api.example"])).await;
    let anyone = CheckRoots::accept_any().expect("it is valid");
    let tls = CheckTls::new(&anyone, None).expect("it is valid");
    let outcome = check(address, Some(tls), "h2,h2").await;
    assert_eq!(outcome.reason, "hello");
}

#[test]
fn files_without_valid_roots_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.pem");
    let refused = || {
        let refused = CheckRoots::read(Some(&path)).expect_err("no roots");
        refused.to_string()
    };
    assert!(refused().contains("No such file"), "{}", refused());
    std::fs::write(&path, "no certificate").expect("written");
    assert!(refused().contains("holds no certificate"), "{}", refused());
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    std::fs::write(&path, broken).expect("written");
    assert!(refused().contains("ca.pem: "), "{}", refused());
}

#[test]
fn an_invalid_server_name_is_refused() {
    let anyone = CheckRoots::accept_any().expect("it is valid");
    let why = CheckTls::new(&anyone, Some("no name")).expect_err("a space");
    let why = why.to_string();
    assert!(why.contains("is not a host name"), "{why}");
    let checked = CheckTls::check_name("no name").expect_err("a space");
    assert_eq!(checked.to_string(), why);
    assert!(CheckTls::check_name("api.example").is_ok());
}

#[tokio::test]
async fn roots_are_read_once_for_any_number_of_names() {
    let own = certificate(&["api.example", "www.example"]);
    let (address, files) = (tls_server(&own).await, Roots::of(&own));
    let roots = CheckRoots::read(Some(&files.path())).expect("the roots are valid");
    std::fs::remove_file(files.path()).expect("removed");
    for name in ["api.example", "www.example"] {
        let tls = CheckTls::new(&roots, Some(name)).expect("no file is read");
        let outcome = check(address, Some(tls), "h2,h2").await;
        assert_eq!(outcome.reason, "hello", "{name}");
    }
}

#[test]
fn the_system_certificates_are_found() {
    let bundle = std::path::Path::new("/etc/ssl/certs/ca-certificates.crt");
    if bundle.exists() {
        assert!(CheckRoots::read(None).is_ok());
    }
}
