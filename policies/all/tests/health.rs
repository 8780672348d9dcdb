//! The health checks that ship, with the configs of their rows.

use std::net::TcpListener;
use std::time::Duration;

use waxwing_sdk::testing::{TestTarget, check};

macro_rules! ask_nobody {
    ($($name:ident :: $check:ident, $package:literal, $config:literal;)*) => {
        fn ask_nobody(target: &TestTarget) -> Vec<(&'static str, String)> {
            vec![$({
                let found = check::<waxwing_policies::$name::$check>($config, target.clone());
                assert_eq!($package, format!("waxwing-health-{}", stringify!($name)));
                (stringify!($name), found.expect_err(stringify!($name)).reason().to_string())
            }),*]
        }
    };
}

waxwing_policies::for_each_health_check!(ask_nobody);

#[test]
fn every_check_takes_its_config_and_finds_nobody() -> std::io::Result<()> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let target = TestTarget::new(address).timeout(Duration::from_millis(200));
    for (name, reason) in ask_nobody(&target) {
        assert!(reason.contains("connection refused"), "{name}: {reason}");
    }
    Ok(())
}
