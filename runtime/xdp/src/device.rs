//! Settings of a device that busy polling wants otherwise.
//!
//! Invariant: what is changed here is put back when its [`DeviceSetting`] is dropped, and both settings are
//! changed or neither.

use std::fs;
use std::path::{Path, PathBuf};

use crate::attach::PortReport;
use crate::socket::QueueSocket;
use crate::{Options, PollMode, sys};

/// Busy polling wants the device's interrupts deferred for so long between two polls.
const DEVICE_SETTINGS: [(&str, &str); 2] = [
    ("napi_defer_hard_irqs", "2"),
    ("gro_flush_timeout", "200000"),
];

/// A device's setting as it was; restored on drop.
pub(crate) struct DeviceSetting {
    path: PathBuf,
    before: String,
}

/// For busy polling: defers the interrupts of each port that the kernel can busy poll. Where it
/// cannot (it does not know a copy mode socket's receive loop before the first frame, and of veth
/// never), frames would wait for the timer, and the port keeps its interrupts.
pub(crate) fn defer_interrupts_of(
    reports: &mut [PortReport],
    bound: &[Vec<QueueSocket>],
    options: &Options,
) -> Vec<DeviceSetting> {
    let mut settings = Vec::new();
    for (report, sockets) in reports.iter_mut().zip(bound) {
        let known = |socket: &QueueSocket| sys::can_busy_poll(socket.rings.socket());
        if options.poll != PollMode::Busy || !sockets.iter().all(known) {
            continue;
        }
        let device = PathBuf::from("/sys/class/net").join(&report.interface.name);
        match DeviceSetting::change_all(&device) {
            Ok(changed) => {
                settings.extend(changed);
                report.interrupts_deferred = true;
            }
            Err(error) => tracing::warn!(
                "{error}; busy polling goes on with its interrupts: deferring them takes root, and a \
                 /sys that can be written"
            ),
        }
    }
    settings
}

impl DeviceSetting {
    /// All of them, or none: one works only with the other.
    fn change_all(device: &Path) -> Result<Vec<Self>, String> {
        let change = |(name, value)| {
            let path = device.join(name);
            let before = fs::read_to_string(&path);
            let changed = before.and_then(|before| fs::write(&path, value).map(|()| before));
            let before = changed.map_err(|error| format!("{}: {error}", path.display()))?;
            Ok(Self { path, before })
        };
        DEVICE_SETTINGS.into_iter().map(change).collect()
    }
}

impl Drop for DeviceSetting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            tracing::warn!(
                "{}: {error}; it was {}",
                self.path.display(),
                self.before.trim()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_settings_are_changed_together_or_not_at_all_and_restored() {
        let device = std::env::temp_dir().join(format!("wwx-settings-{}", std::process::id()));
        fs::create_dir_all(&device).expect("a directory");
        let files = DEVICE_SETTINGS.map(|(name, _)| device.join(name));
        let read = || files.each_ref().map(|file| fs::read_to_string(file).ok());
        let are =
            |one: &str, other: &str| assert_eq!(read(), [one, other].map(|s| Some(s.to_owned())));
        fs::write(&files[0], "0\n").expect("a file");
        assert!(DeviceSetting::change_all(&device).is_err());
        assert_eq!(read(), [Some("0\n".to_owned()), None]);
        fs::write(&files[1], "1\n").expect("a file");
        let settings = DeviceSetting::change_all(&device).expect("changed");
        are("2", "200000");
        drop(settings);
        are("0\n", "1\n");
        fs::remove_dir_all(&device).expect("removed");
    }
}
