//! Certificates for servers that speak TLS: each vouches for itself.
//!
//! Invariant: a certificate is of no authority, so that a verifier that takes an authority's for a
//! server's own, which none may, is not misled by the tests into doing so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process;

/// Makes one for a name, valid for two days, in a directory: `NAME.pem`, and `NAME.key`. Returns the
/// certificate's path.
///
/// # Errors
/// `openssl` is not installed.
pub fn make(directory: &Path, name: &str) -> Result<PathBuf> {
    let config = directory.join(format!("{name}.conf"));
    let text = format!(
        "[req]\ndistinguished_name = subject\nx509_extensions = extensions\nprompt = no\n\
         [subject]\nCN = {name}\n\
         [extensions]\nsubjectAltName = DNS:{name}\nbasicConstraints = critical, CA:FALSE\n"
    );
    fs::write(&config, text)?;
    let certificate = directory.join(format!("{name}.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
    openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.arg("-config").arg(config);
    openssl
        .arg("-keyout")
        .arg(certificate.with_extension("key"));
    process::run(openssl.arg("-out").arg(&certificate))?;
    Ok(certificate)
}
