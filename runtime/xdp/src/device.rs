//! Device settings that busy polling needs.
//!
//! Invariant: dropping a [`DeviceSetting`] restores the previous value. Either both settings are changed
//! or none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::attach::PortReport;
use crate::socket::QueueSocket;
use crate::{Options, PollMode, sys};

/// Defers the device's interrupts for this many polls and nanoseconds (Documentation/networking/napi.rst).
const DEVICE_SETTINGS: [(&str, &str); 2] = [
    ("napi_defer_hard_irqs", "2"),
    ("gro_flush_timeout", "200000"),
];

/// A changed setting; its previous value is restored on drop.
pub(crate) struct DeviceSetting {
    path: PathBuf,
    before: String,
}

/// Defers the interrupts of each port that the kernel can busy poll, if `options` ask for busy polling.
/// Other ports keep their interrupts, because frames would wait for the timer: a socket in copy mode has
/// no known NAPI instance before the first frame, and one on veth never has.
pub(crate) fn defer_interrupts_of(
    reports: &mut [PortReport],
    bound: &[Vec<QueueSocket>],
    options: &Options,
) -> Vec<DeviceSetting> {
    let mut settings = Vec::new();
    for (report, sockets) in reports.iter_mut().zip(bound) {
        let has_napi = |socket: &QueueSocket| sys::can_busy_poll(socket.rings.socket());
        if options.poll != PollMode::Busy || !sockets.iter().all(has_napi) {
            continue;
        }
        let device = PathBuf::from("/sys/class/net").join(&report.interface.name);
        match DeviceSetting::change_all(&device) {
            Ok(changed) => {
                settings.extend(changed);
                report.interrupts_deferred = true;
            }
            Err(error) => tracing::warn!(
                "{error}; busy polling continues without deferred interrupts; to defer them, run as root \
                 with a writable /sys"
            ),
        }
    }
    settings
}

/// A setting could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
struct SettingError {
    path: PathBuf,
    source: io::Error,
}

impl DeviceSetting {
    /// Changes both settings or none: one has no effect without the other.
    fn change_all(device: &Path) -> Result<Vec<Self>, SettingError> {
        let change = |(name, value)| {
            let path = device.join(name);
            let before = fs::read_to_string(&path);
            let changed = before.and_then(|before| fs::write(&path, value).map(|()| before));
            match changed {
                Ok(before) => Ok(Self { path, before }),
                Err(source) => Err(SettingError { path, source }),
            }
        };
        DEVICE_SETTINGS.into_iter().map(change).collect()
    }
}

impl Drop for DeviceSetting {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, &self.before) {
            tracing::warn!(
                "{}: {error}; its previous value {} was not restored",
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
    fn settings_are_changed_both_or_none_and_restored_on_drop() {
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
