//! Self-signed certificates for TLS servers.
//!
//! Invariant: no certificate is an authority's (`CA:FALSE`): a verifier must not accept an authority's
//! certificate as a server's, and the tests must not need it to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::process;

/// Writes `NAME.pem` and `NAME.key` to a directory, valid for two days, and returns the certificate's path.
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
