//! The metrics, in Prometheus's text format.
//!
//! Invariant: it reads as the [`Reporter`] does, without waiting for a change, and writes as it reads, so
//! that ten thousand services take some megabytes. Names and labels keep their meaning. A counter falls only
//! when what it counts began again: a service's never while it is in the config.

mod balancer;
mod process;
mod services;
mod text;
mod workers;

use std::io;

use crate::admin::filter::ServiceFilter;
use crate::admin::report::Reporter;
use crate::admin::stream::Answer;
use text::Page;

/// Writes all metrics, of services only those that pass the filter.
pub(crate) fn write(
    reporter: &Reporter,
    filter: &ServiceFilter,
    answer: &mut Answer,
) -> io::Result<()> {
    let view = reporter.view.get();
    let page = &mut Page::new(answer);
    balancer::write(reporter, &view, page)?;
    workers::write(reporter, page)?;
    services::write(reporter, &view, filter, page)?;
    process::write(reporter, page)
}
