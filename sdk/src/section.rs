//! The custom section of a module, which `export_policy!` and `export_health_check!` build at
//! compile time.
//!
//! Invariant: [`ModuleInfo::parse`](crate::abi::ModuleInfo::parse) accepts every section built
//! here; a section that it would refuse does not compile.

use crate::abi::{
    ABI_VERSION, COUNTERS_MAX, Kind, PAYLOAD_MAX, SECTION_MAX, SHARED_MAX, TICK_MS_MAX,
    TICK_MS_MIN, is_counter_name,
};

/// The content of a section, without the versions of the ABI and of the SDK.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// What the module is. A health check leaves the policy's fields at zero.
    pub kind: Kind,
    /// The crate's name.
    pub name: &'static str,
    /// The crate's version.
    pub version: &'static str,
    /// [`Policy::PAYLOAD_BYTES`](crate::Policy::PAYLOAD_BYTES).
    pub payload: usize,
    /// [`Policy::TICK_MS`](crate::Policy::TICK_MS).
    pub tick_ms: u32,
    /// [`Policy::COUNTERS`](crate::Policy::COUNTERS).
    pub counters: &'static [&'static str],
    /// [`Policy::GAUGES`](crate::Policy::GAUGES).
    pub gauges: &'static [&'static str],
    /// [`Policy::SHARED`](crate::Policy::SHARED).
    pub shared: usize,
    /// [`Policy::SAVES`](crate::Policy::SAVES).
    pub saves: bool,
}

impl Section {
    /// Returns the section of a health check.
    #[must_use]
    pub const fn health(name: &'static str, version: &'static str) -> Self {
        Self {
            kind: Kind::Health,
            name,
            version,
            payload: 0,
            tick_ms: 0,
            counters: &[],
            gauges: &[],
            shared: 0,
            saves: false,
        }
    }

    /// Returns the length of the text, in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.write(Text::<0>::new()).end
    }

    /// Returns `false`: every section has keys.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Returns the text; `N` is [`Section::len`].
    #[must_use]
    pub const fn text<const N: usize>(&self) -> [u8; N] {
        self.check();
        self.write(Text::new()).bytes
    }

    const fn check(&self) {
        assert!(
            self.payload <= PAYLOAD_MAX,
            "Policy::PAYLOAD_BYTES must be at most 128"
        );
        assert!(
            self.tick_ms == 0 || (TICK_MS_MIN <= self.tick_ms && self.tick_ms <= TICK_MS_MAX),
            "Policy::TICK_MS must be 0, or 10 to 60000"
        );
        assert!(
            self.counters.len() + self.gauges.len() <= COUNTERS_MAX,
            "Policy::COUNTERS and Policy::GAUGES must have at most 16 names"
        );
        check_names(self.counters);
        check_names(self.gauges);
        assert!(
            self.shared <= SHARED_MAX,
            "Policy::SHARED must be at most 65536"
        );
        assert!(
            self.len() <= SECTION_MAX,
            "the crate's name and version are too long"
        );
    }

    const fn write<const N: usize>(&self, text: Text<N>) -> Text<N> {
        let text = text
            .put("kind=")
            .put(self.kind.as_str())
            .put("\nabi=")
            .put(ABI_VERSION)
            .put("\nname=")
            .put(self.name)
            .put("\nversion=")
            .put(self.version)
            .put("\nsdk=")
            .put(env!("CARGO_PKG_NAME"))
            .put(" ")
            .put(env!("CARGO_PKG_VERSION"))
            .put("\n");
        match self.kind {
            Kind::Policy => self.write_policy(text),
            Kind::Health => text,
        }
    }

    const fn write_policy<const N: usize>(&self, text: Text<N>) -> Text<N> {
        let text = text
            .put("payload=")
            .number(self.payload as u64)
            .put("\ntick=")
            .number(self.tick_ms as u64)
            .put("\ncounters=");
        // Each policy says itself, at each change, whether it goes on.
        let text = text.names(self.counters).put("\nkeep=1\n");
        let text = if self.gauges.is_empty() {
            text
        } else {
            text.put("gauges=").names(self.gauges).put("\n")
        };
        let text = match self.shared {
            0 => text,
            cells => text.put("shared=").number(cells as u64).put("\n"),
        };
        if self.saves {
            text.put("saves=1\n")
        } else {
            text
        }
    }
}

const fn check_names(names: &[&str]) {
    let mut at = 0;
    while at < names.len() {
        assert!(
            is_counter_name(names[at]),
            "a name in Policy::COUNTERS and Policy::GAUGES must have 1 to 32 of a-z, 0-9 and _"
        );
        at += 1;
    }
}

/// A text that grows; beyond `N` bytes only its length counts on.
#[derive(Clone, Copy)]
struct Text<const N: usize> {
    bytes: [u8; N],
    end: usize,
}

impl<const N: usize> Text<N> {
    const fn new() -> Self {
        Self {
            bytes: [0; N],
            end: 0,
        }
    }

    const fn put(self, text: &str) -> Self {
        self.put_bytes(text.as_bytes())
    }

    const fn put_bytes(mut self, more: &[u8]) -> Self {
        let mut at = 0;
        while at < more.len() {
            if self.end < N {
                self.bytes[self.end] = more[at];
            }
            self.end += 1;
            at += 1;
        }
        self
    }

    /// Appends names, separated by commas.
    const fn names(self, names: &[&str]) -> Self {
        let mut text = self;
        let mut at = 0;
        while at < names.len() {
            if at > 0 {
                text = text.put(",");
            }
            text = text.put(names[at]);
            at += 1;
        }
        text
    }

    /// Appends a number in decimal.
    const fn number(self, value: u64) -> Self {
        let text = if value >= 10 {
            self.number(value / 10)
        } else {
            self
        };
        text.put_bytes(&[b"0123456789"[(value % 10) as usize]])
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec::Vec;

    use super::*;
    use crate::abi::ModuleInfo;

    const SECTION: Section = Section {
        kind: Kind::Policy,
        name: "by-token",
        version: "0.2.0",
        payload: 128,
        tick_ms: 60_000,
        counters: &["spilled", "kept_2"],
        gauges: &["clients"],
        shared: 1000,
        saves: true,
    };

    #[test]
    fn a_policys_section_parses_and_round_trips() {
        const TEXT: [u8; SECTION.len()] = SECTION.text();
        let info = ModuleInfo::parse(&TEXT).map_err(|error| error.to_string());
        let info = info.as_ref();
        assert_eq!(info.map(|info| &*info.name), Ok("by-token"));
        assert_eq!(info.map(|info| &*info.version), Ok("0.2.0"));
        assert_eq!(info.map(|info| info.payload), Ok(128));
        assert_eq!(info.map(|info| info.tick_ms), Ok(60_000));
        let names = info.map(|info| info.counters.iter().map(|n| &**n).collect::<Vec<_>>());
        assert_eq!(names, Ok(SECTION.counters.to_vec()));
        assert_eq!(info.map(|info| &*info.gauges[0]), Ok("clients"));
        assert_eq!(info.map(|info| info.shared), Ok(1000));
        assert_eq!(info.map(|info| info.saves), Ok(true));
        let again = info.map(ModuleInfo::encode);
        assert_eq!(
            again.as_deref(),
            Ok(core::str::from_utf8(&TEXT).unwrap_or_default())
        );
    }

    #[test]
    fn a_health_checks_section_has_no_policy_keys() {
        const SECTION: Section = Section::health("ping", "1.2.3");
        const TEXT: [u8; SECTION.len()] = SECTION.text();
        let text = core::str::from_utf8(&TEXT).unwrap_or_default();
        let sdk = env!("CARGO_PKG_VERSION");
        let expected = alloc::format!(
            "kind=health\nabi=1.1\nname=ping\nversion=1.2.3\nsdk=waxwing-sdk {sdk}\n"
        );
        assert_eq!(text, expected);
        let info = ModuleInfo::parse(&TEXT).map_err(|error| error.to_string());
        assert_eq!(info.as_ref().map(|info| info.kind), Ok(Kind::Health));
        assert_eq!(info.as_ref().map(ModuleInfo::encode).as_deref(), Ok(text));
    }
}
