//! Times, sizes and texts as people read them.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;

/// Formats a time in seconds; whole minutes from an hour on, whole hours from a day on.
pub(super) fn seconds(seconds: u64) -> impl Display {
    let step = match seconds {
        0..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    humantime::format_duration(Duration::from_secs(seconds - seconds % step))
}

/// Formats the time since `at`, which is in seconds since 1970.
pub(super) fn since(at: u64) -> impl Display {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    seconds(now.map_or(0, |now| now.as_secs().saturating_sub(at)))
}

/// Formats a size in binary units.
pub(super) fn bytes(bytes: usize) -> impl Display {
    ByteSize(bytes as u64).display().iec()
}

/// Indents every line by four spaces.
pub(super) fn indented(text: &str) -> String {
    let lines = text.trim_end().lines();
    lines.map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_have_at_most_two_units() {
        let times = [
            (5, "5s"),
            (65, "1m 5s"),
            (7265, "2h 1m"),
            (180_000, "2days 2h"),
        ];
        for (count, text) in times {
            assert_eq!(seconds(count).to_string(), text);
        }
        let sizes = [
            (17, "17 B"),
            (2048, "2.0 KiB"),
            (107 << 20, "107.0 MiB"),
            (3 << 29, "1.5 GiB"),
        ];
        for (count, text) in sizes {
            assert_eq!(bytes(count).to_string(), text);
        }
    }
}
