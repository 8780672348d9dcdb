//! A host of checks and servers to check, shared by the tests.

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

/// Returns a host with one shipped check, named `test`.
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

/// Returns a target at an address.
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

/// Returns TLS settings without verification.
pub(crate) fn anyone() -> Arc<CheckTls> {
    let anyone = CheckRoots::accept_any().expect("it is valid");
    Arc::new(CheckTls::new(&anyone, None).expect("it is valid"))
}

/// A function body that never ends.
pub(crate) const LOOP: &str = "(loop $l (br $l)) (i32.const 0)";

/// Returns the valid check with this code added.
pub(crate) fn with(more: &str) -> CheckWat {
    CheckWat {
        more: format!("{}{more}", CheckWat::GOOD.more).leak(),
        ..CheckWat::GOOD
    }
}

/// Returns the valid check whose `waxwing_reserve` is this code.
pub(crate) fn reserving(reserve: &'static str) -> CheckWat {
    CheckWat {
        reserve,
        ..CheckWat::GOOD
    }
}

/// Returns a check with this body and this code added.
pub(crate) fn checking_with(check: &'static str, more: &str) -> CheckWat {
    CheckWat {
        check,
        ..with(more)
    }
}

/// Returns an address at which no server listens.
pub(crate) fn nowhere() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 1).into()
}

/// Runs a check once.
pub(crate) async fn run(wat: &CheckWat, target: &CheckTarget) -> CheckOutcome {
    let host = host(wat, None);
    let check = bind(&host).expect("the config is accepted");
    host.run(&check, target).await
}

/// Starts a TCP server that calls `serve` for each connection. Returns its address.
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

/// Starts a server that keeps connections open and sends nothing.
pub(crate) async fn silent() -> SocketAddr {
    server(async |stream| {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    })
    .await
}
