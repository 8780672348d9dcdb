//! The process that holds the XDP program of an interface.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// A process that has attached an XDP program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    pub pid: u32,
    /// Its program's name, as `ps` shows it.
    pub program: String,
}

impl Holder {
    /// Finds the process whose link attaches a program to an interface of this network namespace, else a
    /// process of this program that this one may not look into, as one that has given up its rights. `None`
    /// for a program without a link, which `ip link` and old programs attach.
    pub(crate) fn of(interface: u32) -> Option<Self> {
        Self::seen(interface).or_else(Self::hidden)
    }

    fn seen(interface: u32) -> Option<Self> {
        let own = fs::read_link("/proc/self/ns/net").ok()?;
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut holders = processes.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let process = entry.path();
            let is_here = fs::read_link(process.join("ns/net")).is_ok_and(|other| other == own);
            (is_here && has_link(&process, interface)).then(|| Self {
                pid,
                program: name_of(&process),
            })
        });
        holders.next()
    }

    /// Returns the oldest process of this program whose descriptors may not be listed.
    fn hidden() -> Option<Self> {
        let program = name_of("/proc/self".as_ref());
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let ours = processes.filter_map(|entry| {
            let process = entry.path();
            let is_hidden = name_of(&process) == program
                && fs::read_dir(process.join("fdinfo"))
                    .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
            is_hidden.then(|| entry.file_name().to_str()?.parse().ok())?
        });
        let pid = ours.min()?;
        Some(Self { pid, program })
    }

    /// Returns whether it runs this program.
    pub(crate) fn is_of_our_kind(&self) -> bool {
        self.program == name_of("/proc/self".as_ref())
    }
}

fn name_of(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Returns whether one of a process's descriptors is an XDP link of an interface.
fn has_link(process: &Path, interface: u32) -> bool {
    let descriptors = fs::read_dir(process.join("fdinfo"));
    descriptors
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_to_string(entry.path()).is_ok_and(|info| is_link(&info, interface)))
}

/// Returns whether a descriptor is an XDP link of an interface, by its `fdinfo` (see
/// `bpf_link_show_fdinfo` in the kernel).
fn is_link(info: &str, interface: u32) -> bool {
    let value = |key: &str| {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        lines.find_map(|(name, value)| (name == key).then(|| value.trim()))
    };
    value("link_type") == Some("xdp") && value("ifindex") == Some(&*interface.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_known_by_its_type_and_interface() {
        let info =
            "pos:\t0\nflags:\t02000002\nlink_type:\txdp\nlink_id:\t4\nprog_id:\t9\nifindex:\t12\n";
        assert!(is_link(info, 12));
        assert!(!is_link(info, 1));
        assert!(!is_link(&info.replace("xdp", "tcx"), 12));
        assert!(!is_link("pos:\t0\n", 12));
    }
}
