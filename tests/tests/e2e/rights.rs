//! What the running balancer may still do: read from `/proc`, of every thread; and that it is enough for
//! whatever changes while it runs, as root and as another user.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::unistd::User;
use waxwing_tests::process::retry;
use waxwing_tests::topology::VIP4;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Process, Topology, Waxwing, modules};

use crate::health::{three, wait_web};
use crate::host::wait_problem;
use crate::refused::{assert_says, run_in_vain};
use crate::traffic::assert_served;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(as_root_it_keeps_only_the_rights_that_it_uses),
    scenario!(as_another_user_it_keeps_only_the_rights_that_it_uses),
    scenario!(a_user_that_does_not_exist_is_said),
];

/// A user of every Debian host.
const USER: &str = "daemon";

/// `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_IPC_LOCK`, `CAP_PERFMON` and `CAP_BPF`, as the kernel prints them.
const KEPT: &str = "000000c000007000";
/// These and `CAP_DAC_READ_SEARCH`.
const KEPT_BY_ROOT: &str = "000000c000007004";
const NONE: &str = "0000000000000000";

fn as_root_it_keeps_only_the_rights_that_it_uses() -> Result<()> {
    keeps_only_the_rights_that_it_uses(None)
}

fn as_another_user_it_keeps_only_the_rights_that_it_uses() -> Result<()> {
    keeps_only_the_rights_that_it_uses(Some(USER))
}

/// Checks run, queues are added, a port is made again, a module is replaced, and the config is reloaded.
fn keeps_only_the_rights_that_it_uses(user: Option<&str>) -> Result<()> {
    const NAME: &str = "own";
    let topology = Topology::new(Layout {
        queues: 2,
        queues_max: 4,
        ..Layout::default()
    })?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.policy = NAME.to_owned();
    fs::create_dir_all(&config.modules)?;
    let [first, second] = ["waxwing-policy-round-robin", "waxwing-policy-maglev"];
    fs::write(config.modules.join("own.wasm"), modules::compile(first)?)?;
    let waxwing = Waxwing::start_as(&topology, &config, user)?;
    wait_web(&waxwing, ["up"; 3])?;
    assert_rights(&waxwing, user)?;
    assert_owner(&config.state, user)?;
    assert_owner(config.socket(), user)?;

    assert_second_names_first(&topology, &config, user)?;

    topology.set_queues(4)?;
    waxwing.wait_status("a socket for each queue", |status| {
        status.sockets().len() == 8
    })?;
    topology.set_far_queues(4)?;
    topology.replug_back()?;
    wait_problem(&waxwing, None)?;
    wait_web(&waxwing, ["up"; 3])?;
    // It may not have seen yet that the port was made again.
    retry(Duration::from_secs(20), || assert_served(&topology, VIP4))?;

    let before = waxwing.status()?.module_hash(NAME).map(str::to_owned);
    waxwing.drop_in("own.wasm", &modules::compile(second)?, Copy::Atomic)?;
    waxwing.wait_status("the build to serve on all workers", |status| {
        status.module_hash(NAME) != before.as_deref() && !status.has_canary(NAME)
    })?;
    waxwing.reload(&config)?;
    assert_served(&topology, VIP4)?;
    assert_rights(&waxwing, user)?;
    let log = waxwing.stop()?;
    for refused in ["not permitted", "denied"] {
        ensure!(!log.contains(refused), "it was refused something: {log}");
    }
    ensure!(!config.socket().exists(), "its socket is left");
    Ok(())
}

/// A second balancer on the same ports names the first, also where it has no right to look into it.
fn assert_second_names_first(
    topology: &Topology,
    config: &Config,
    user: Option<&str>,
) -> Result<()> {
    let mut config = config.clone();
    config.state = topology.scratch.path().join("second-state");
    let socket = config.socket().display().to_string();
    let text = config.to_toml()?.replace(&socket, &format!("{socket}.2"));
    let path = topology.scratch.write("second.toml", text)?;
    let mut command = topology.balancer_command(&[])?;
    command.args(["run", "--config"]).arg(path);
    command.args(user.map(|user| format!("--user={user}")));
    let second = Process::spawn("waxwing", &command)?.finish(Duration::from_secs(60))?;
    ensure!(!second.status.success(), "two balancers on one port");
    assert_says(&second, &["is running on it already (pid "])
}

/// Returns the words behind a key of a `status` in `/proc`.
fn words<'a>(status: &'a str, key: &str) -> Result<Vec<&'a str>> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let words = line
        .and_then(|line| line.strip_prefix(':'))
        .context(key.to_owned())?;
    Ok(words.split_whitespace().collect())
}

fn assert_rights(waxwing: &Waxwing<'_>, user: Option<&str>) -> Result<()> {
    let (uid, gid) = ids(user)?;
    let (uid, gid) = (uid.to_string(), gid.to_string());
    let pid = waxwing.status()?.0["pid"].to_string();
    let kept = user.map_or(KEPT_BY_ROOT, |_| KEPT);
    let mut workers = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let name = words(&status, "Name")?.concat();
        let is_worker = name.starts_with("worker-");
        workers += u32::from(is_worker);
        // A worker has a filter of its own beside that of all threads.
        let filters = if is_worker { "2" } else { "1" };
        let expected = [
            ("CapEff", vec![kept]),
            ("CapPrm", vec![kept]),
            ("CapInh", vec![NONE]),
            ("CapBnd", vec![NONE]),
            ("CapAmb", vec![NONE]),
            ("NoNewPrivs", vec!["1"]),
            ("Seccomp", vec!["2"]),
            ("Seccomp_filters", vec![filters]),
            ("Uid", vec![&*uid; 4]),
            ("Gid", vec![&*gid; 4]),
        ];
        for (key, expected) in expected {
            let found = words(&status, key)?;
            ensure!(
                found == expected,
                "{name}: {key} is {found:?}, not {expected:?}"
            );
        }
        let groups = words(&status, "Groups")?;
        ensure!(
            user.is_none() || groups.is_empty(),
            "{name}: groups {groups:?}"
        );
    }
    ensure!(workers == 2, "{workers} workers");
    Ok(())
}

/// Returns the ids of a user's and its group's; root's without a user.
fn ids(user: Option<&str>) -> Result<(u32, u32)> {
    let Some(name) = user else {
        return Ok((0, 0));
    };
    let user = User::from_name(name)?.with_context(|| format!("no user {name}"))?;
    Ok((user.uid.as_raw(), user.gid.as_raw()))
}

fn assert_owner(path: &Path, user: Option<&str>) -> Result<()> {
    let found = fs::metadata(path).with_context(|| path.display().to_string())?;
    let (expected, _) = ids(user)?;
    let owner = found.uid();
    ensure!(
        owner == expected,
        "{} is of user {owner}, not {expected}",
        path.display()
    );
    Ok(())
}

fn a_user_that_does_not_exist_is_said() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let text = config.to_toml()?;
    let script = "exec \"$0\" \"$@\" --user nobody-of-this-name";
    let finished = run_in_vain(&topology, &text, &["sh", "-c", script])?;
    assert_says(
        &finished,
        &["there is no user nobody-of-this-name", "useradd"],
    )
}
