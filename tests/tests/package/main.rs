//! The Debian package on a real systemd: installed, configured, started, reloaded, upgraded, stopped and
//! purged, while clients and servers in network namespaces use it.
//!
//! Invariant: it takes what `cargo xtask package` packed, and changes nothing outside of the container.

mod rights;
mod walk;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use waxwing_tests::{container, netns};

fn main() {
    let arguments = Arguments::from_args();
    if !arguments.list
        && let Err(error) = netns::remove_own_on_signal(|| {})
    {
        eprintln!("cannot prepare: {error:#}");
    }
    let walk = Trial::ignorable_test(walk::NAME, || {
        if let Some(reason) = container::missing() {
            eprintln!("ignored: {}: {reason}", walk::NAME);
            return Ok(Completion::ignored_with(reason));
        }
        walk::run()
            .map(|()| Completion::Completed)
            .map_err(|error| Failed::from(format!("{error:#}")))
    });
    let conclusion = libtest_mimic::run(&arguments, vec![walk]);
    netns::remove_own();
    conclusion.exit();
}
