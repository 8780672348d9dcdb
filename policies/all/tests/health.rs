//! Runs every shipped health check with the config of its row.

use std::net::TcpListener;
use std::time::Duration;

use waxwing_sdk::testing::{TestTarget, check};

macro_rules! check_closed_port {
    ($($name:ident :: $check:ident, $package:literal, $config:literal;)*) => {
        fn check_closed_port(target: &TestTarget) -> Vec<(&'static str, String)> {
            vec![$({
                let found = check::<waxwing_policies::$name::$check>($config, target.clone());
                assert_eq!($package, format!("waxwing-health-{}", stringify!($name)));
                (stringify!($name), found.expect_err(stringify!($name)).reason().to_string())
            }),*]
        }
    };
}

waxwing_policies::for_each_health_check!(check_closed_port);

#[test]
fn every_check_accepts_its_config_and_reports_a_refused_connection() -> std::io::Result<()> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let target = TestTarget::new(address).timeout(Duration::from_millis(200));
    for (name, reason) in check_closed_port(&target) {
        assert!(reason.contains("connection refused"), "{name}: {reason}");
    }
    Ok(())
}
