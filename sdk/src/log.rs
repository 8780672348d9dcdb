//! Lines that a policy writes for the operator.

/// Writes a line for the operator, in the form of [`alloc::format!`]. `waxwing module logs NAME` shows it,
/// with the worker that wrote it, and so does the balancer's log at debug level; natively it goes to
/// standard error.
///
/// The host collects the lines four times a second, up to 4096 bytes each time; what is over is counted
/// and left out. Formatting takes time of the batch: write what happens rarely, and never a line for each
/// flow.
///
/// ```
/// # let (group, available) = (2, 3);
/// waxwing_sdk::log!("group {group} serves, {available} of its backends are available");
/// ```
#[macro_export]
macro_rules! log {
    ($($line:tt)*) => { $crate::export::log(::core::format_args!($($line)*)) };
}

#[cfg(any(target_arch = "wasm32", test))]
pub(crate) use lines::Lines;

/// Natively lines are printed, so nothing collects them.
#[cfg(any(target_arch = "wasm32", test))]
mod lines {
    use alloc::string::String;
    use core::fmt::{self, Write as _};

    use crate::abi::LOG_MAX;

    /// The lines since the host's last call.
    pub(crate) struct Lines {
        text: String,
        left_out: u32,
        /// The host has `text`, so the next line starts anew.
        taken: bool,
    }

    impl Lines {
        pub(crate) const fn new() -> Self {
            Self {
                text: String::new(),
                left_out: 0,
                taken: false,
            }
        }

        /// Adds a line, if there is room for it.
        pub(crate) fn add(&mut self, line: fmt::Arguments<'_>) {
            self.start_anew();
            let len = self.text.len();
            // Room for the note on lines left out.
            let is_written =
                writeln!(self.text, "{line}").is_ok() && self.text.len() < LOG_MAX - 64;
            if !is_written {
                self.text.truncate(len);
                self.left_out += 1;
            }
        }

        /// Returns the lines, which stay valid until the next [`Lines::add`].
        pub(crate) fn take(&mut self) -> &str {
            self.start_anew();
            if self.left_out > 0 {
                let _ = writeln!(self.text, "({} more lines left out)", self.left_out);
            }
            self.taken = true;
            &self.text
        }

        fn start_anew(&mut self) {
            if self.taken {
                *self = Self::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::LOG_MAX;

    #[test]
    fn lines_are_taken_once_and_counted_when_there_are_too_many() {
        let mut lines = Lines::new();
        assert_eq!(lines.take(), "");
        lines.add(format_args!("one {}", 1));
        lines.add(format_args!("two"));
        assert_eq!(lines.take(), "one 1\ntwo\n");
        assert_eq!(lines.take(), "");
        for n in 0..1000 {
            lines.add(format_args!("line {n}"));
        }
        let text = lines.take();
        assert!(text.len() <= LOG_MAX, "{}", text.len());
        let written = text.lines().count() - 1;
        let last = alloc::format!("({} more lines left out)", 1000 - written);
        assert_eq!(text.lines().last(), Some(last.as_str()));
        lines.add(format_args!("after"));
        assert_eq!(lines.take(), "after\n");
    }
}
