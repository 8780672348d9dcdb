//! What the process uses, by the names that Prometheus's own clients give it.

use std::io;

use rustix::process::Resource;
use rustix::time::ClockId;

use super::text::Page;
use crate::admin::report::Reporter;
use crate::time::unix_seconds;

/// Writes them; what `/proc` does not tell is left out.
pub(super) fn write(reporter: &Reporter, page: &mut Page<'_>) -> io::Result<()> {
    let cpu = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    page.counter(
        "process_cpu_seconds_total",
        "Processor time of all threads, in seconds.",
    )?
    .value(format_args!("{}.{:09}", cpu.tv_sec, cpu.tv_nsec))?;
    page.gauge(
        "process_start_time_seconds",
        "When the process started, in seconds since 1970.",
    )?
    .value(unix_seconds(reporter.started_at))?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (key, unit, name, help) in [
        (
            "VmRSS:",
            1024,
            "process_resident_memory_bytes",
            "Memory in use, in bytes.",
        ),
        (
            "VmSize:",
            1024,
            "process_virtual_memory_bytes",
            "Address space, in bytes.",
        ),
        ("Threads:", 1, "process_threads", "Threads."),
    ] {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        if let Some(number) = number {
            page.gauge(name, help)?.value(number * unit)?;
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open files.")?
            .value(open.count())?;
    }
    if let Some(max) = rustix::process::getrlimit(Resource::Nofile).current {
        page.gauge("process_max_fds", "The most files that may be open.")?
            .value(max)?;
    }
    Ok(())
}
