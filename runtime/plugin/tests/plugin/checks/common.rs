//! A host of checks and servers to check: what the tests share.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use waxwing_packet::Protocol;
use waxwing_plugin::ModuleError;
use waxwing_plugin::checks::{
    Check, CheckConfig, CheckHost, CheckOptions, CheckOutcome, CheckRoots, CheckTarget, CheckTls,
};
use waxwing_tests::check_wat::CheckWat;

/// A host with one shipped check, named `test`.
pub(crate) fn host(wat: &CheckWat, folder: Option<PathBuf>) -> CheckHost {
    CheckHost::new(CheckOptions::default(), &[("test", wat.shipped())], folder).expect("a host")
}

/// Binds `test` for a service named `web`.
pub(crate) fn bind(host: &CheckHost) -> Result<Arc<Check>, ModuleError> {
    let config = CheckConfig {
        service: "web".into(),
        json: "{}".into(),
    };
    host.bind("test", &[config])
}

/// A backend at an address.
pub(crate) fn target(address: SocketAddr) -> CheckTarget {
    CheckTarget {
        service: "web".into(),
        backend: "s1".into(),
        address,
        protocol: Protocol::Tcp,
        config_json: "{}".into(),
        tls: None,
        timeout: Duration::from_secs(5),
        signals: Arc::new(["queue".into()]),
    }
}

/// TLS with whoever answers.
pub(crate) fn anyone() -> Arc<CheckTls> {
    let anyone = CheckRoots::accept_any().expect("it is good");
    Arc::new(CheckTls::new(&anyone, None).expect("it is good"))
}

/// A body without an end.
pub(crate) const LOOP: &str = "(loop $l (br $l)) (i32.const 0)";

/// A check that adds this to the good one.
pub(crate) fn with(more: &str) -> CheckWat {
    CheckWat {
        more: format!("{}{more}", CheckWat::GOOD.more).leak(),
        ..CheckWat::GOOD
    }
}

/// Nobody's address.
pub(crate) fn nowhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1).into()
}

/// One run of a check.
pub(crate) async fn run(wat: &CheckWat, target: &CheckTarget) -> CheckOutcome {
    let host = host(wat, None);
    let check = bind(&host).expect("it takes its config");
    host.run(&check, target).await
}

/// A server of TCP that serves each connection so.
pub(crate) async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that keeps connections open and says nothing.
pub(crate) async fn silent() -> SocketAddr {
    server(async |stream| {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await
}
