//! The custom section that describes a module.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use super::{
    ABI_MAJOR, ABI_MINOR, COUNTER_NAME_MAX, COUNTERS_MAX, PAYLOAD_MAX, SECTION_MAX, SECTION_NAME,
    SHARED_MAX, TICK_MS_MAX, TICK_MS_MIN,
};

/// What a module is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Chooses backends.
    Policy,
    /// Checks whether a backend is healthy.
    Health,
}

impl Kind {
    /// Returns the value of the section's key `kind`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Health => "health",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policy => "a policy",
            Self::Health => "a health check",
        })
    }
}

/// The content of the custom section [`SECTION_NAME`]: UTF-8 lines of `key=value`, each ended by a line
/// feed, without other control characters.
///
/// The host ignores unknown keys. In a health check it also ignores a policy's keys, from `payload` on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleInfo {
    /// `kind`.
    pub kind: Kind,
    /// `abi`, before the point.
    pub abi_major: u16,
    /// `abi`, after the point.
    pub abi_minor: u16,
    /// `name`: the author's name for the module, for people. A config names a module by its file.
    pub name: String,
    /// `version`: the author's version, for people; may be empty.
    pub version: String,
    /// `sdk`: the SDK and its version; empty if the module was made without one.
    pub sdk: String,
    /// `payload`: bytes of each flow's payload that the module wants, at most [`PAYLOAD_MAX`].
    pub payload: usize,
    /// `tick`: milliseconds between two calls of `waxwing_tick`; 0 for none.
    pub tick_ms: u32,
    /// `counters`: the names of the module's counters.
    pub counters: Vec<String>,
    /// `gauges`: the names of the module's gauges.
    pub gauges: Vec<String>,
    /// `keep`: the serving instance continues when backends change, after a call of
    /// `waxwing_backends_changed`.
    pub keep: bool,
    /// `shared`: the number of cells of a service that the workers share, at most [`SHARED_MAX`].
    pub shared: usize,
    /// `saves`: the module's state goes on in the instances that take the place of others.
    pub saves: bool,
}

/// Why the host cannot serve a module with this custom section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SectionError(String);

impl fmt::Display for SectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "custom section {SECTION_NAME}: {}", self.0)
    }
}

impl core::error::Error for SectionError {}

impl ModuleInfo {
    /// Parses a section and checks that this version of the ABI serves the module.
    ///
    /// # Errors
    /// Returns which key is missing or wrong, and what is expected.
    pub fn parse(section: &[u8]) -> Result<Self, SectionError> {
        if section.len() > SECTION_MAX {
            return Err(SectionError(format!(
                "{} bytes long; at most {SECTION_MAX} are read",
                section.len()
            )));
        }
        let text = core::str::from_utf8(section)
            .map_err(|error| SectionError(format!("not UTF-8 text: {error}")))?;
        // Terminals and logs show the text.
        if let Some(control) = text.chars().find(|c| c.is_control() && *c != '\n') {
            return Err(SectionError(format!(
                "contains the control character {control:?}; expected lines of text"
            )));
        }
        let find = |key: &str| {
            text.lines()
                .find_map(|line| line.split_once('=').filter(|(k, _)| *k == key))
        };
        let value = |key: &str| find(key).map(|(_, value)| value);
        let required = |key: &str, expected: &str| {
            value(key)
                .ok_or_else(|| SectionError(format!("no line `{key}=…`; expected {expected}")))
        };
        let kind = match required("kind", "`kind=policy` or `kind=health`")? {
            "policy" => Kind::Policy,
            "health" => Kind::Health,
            other => {
                return Err(SectionError(format!(
                    "kind={other} is unknown; expected `policy` or `health`"
                )));
            }
        };
        let (abi_major, abi_minor) = parse_abi(required("abi", "`abi=1.1`")?)?;
        let of_policy = |key: &str| value(key).filter(|_| kind == Kind::Policy);
        // Not keys of ABI 1.0, and so ignored there.
        let of_abi_1_1 = |key: &str| of_policy(key).filter(|_| abi_minor > 0);
        let counters = parse_names("counters", of_policy("counters").unwrap_or_default(), &[])?;
        let gauges = of_abi_1_1("gauges").unwrap_or_default();
        Ok(Self {
            kind,
            abi_major,
            abi_minor,
            name: required("name", "the module's name")?.to_string(),
            version: value("version").unwrap_or_default().to_string(),
            sdk: value("sdk").unwrap_or_default().to_string(),
            payload: parse_payload(of_policy("payload").unwrap_or("0"))?,
            tick_ms: parse_tick(of_policy("tick").unwrap_or("0"))?,
            gauges: parse_names("gauges", gauges, &counters)?,
            counters,
            keep: parse_flag("keep", of_policy("keep").unwrap_or("0"))?,
            shared: parse_shared(of_abi_1_1("shared").unwrap_or("0"))?,
            saves: parse_flag("saves", of_abi_1_1("saves").unwrap_or("0"))?,
        })
    }

    /// Returns the section's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let Self {
            kind,
            abi_major,
            abi_minor,
            name,
            version,
            sdk,
            payload,
            tick_ms,
            counters,
            gauges,
            keep,
            shared,
            saves,
        } = self;
        let common = format!(
            "kind={}\nabi={abi_major}.{abi_minor}\nname={name}\nversion={version}\nsdk={sdk}\n",
            kind.as_str()
        );
        let (counters, keep) = (counters.join(","), u8::from(*keep));
        let gauges = match &gauges[..] {
            [] => String::new(),
            names => format!("gauges={}\n", names.join(",")),
        };
        let shared = match shared {
            0 => String::new(),
            cells => format!("shared={cells}\n"),
        };
        let saves = if *saves { "saves=1\n" } else { "" };
        match kind {
            Kind::Policy => format!(
                "{common}payload={payload}\ntick={tick_ms}\ncounters={counters}\nkeep={keep}\n\
                 {gauges}{shared}{saves}"
            ),
            Kind::Health => common,
        }
    }
}

fn parse_abi(value: &str) -> Result<(u16, u16), SectionError> {
    let (major, minor) = value
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| SectionError(format!("abi={value} is not a version; expected `abi=1.1`")))?;
    if major != ABI_MAJOR || minor > ABI_MINOR {
        return Err(SectionError(format!(
            "made for ABI {major}.{minor}; this host serves {ABI_MAJOR}.0 to \
             {ABI_MAJOR}.{ABI_MINOR}; build the module with a matching SDK"
        )));
    }
    Ok((major, minor))
}

fn parse_payload(value: &str) -> Result<usize, SectionError> {
    value
        .parse()
        .ok()
        .filter(|bytes| *bytes <= PAYLOAD_MAX)
        .ok_or_else(|| {
            SectionError(format!(
                "payload={value}; expected bytes from 0 to {PAYLOAD_MAX}"
            ))
        })
}

fn parse_tick(value: &str) -> Result<u32, SectionError> {
    value
        .parse()
        .ok()
        .filter(|ms| *ms == 0 || (TICK_MS_MIN..=TICK_MS_MAX).contains(ms))
        .ok_or_else(|| {
            SectionError(format!(
                "tick={value}; expected milliseconds from {TICK_MS_MIN} to {TICK_MS_MAX}, or 0 for \
                 none"
            ))
        })
}

/// Parses names of a kind of numbers, beside those of another kind.
fn parse_names(key: &str, value: &str, others: &[String]) -> Result<Vec<String>, SectionError> {
    let names = value.split(',').filter(|name| !name.is_empty());
    let names: Vec<String> = names.map(ToString::to_string).collect();
    let is_new = |at: usize| !names[..at].contains(&names[at]) && !others.contains(&names[at]);
    let all_differ = (0..names.len()).all(is_new);
    let count = others.len() + names.len();
    if count <= COUNTERS_MAX && all_differ && names.iter().all(|name| is_counter_name(name)) {
        return Ok(names);
    }
    Err(SectionError(format!(
        "{key}={value}; expected at most {COUNTERS_MAX} counters and gauges, with different names of at most \
         {COUNTER_NAME_MAX} of a-z, 0-9 and `_`, separated by commas"
    )))
}

fn parse_flag(key: &str, value: &str) -> Result<bool, SectionError> {
    match value {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(SectionError(format!("{key}={value}; expected 0 or 1"))),
    }
}

fn parse_shared(value: &str) -> Result<usize, SectionError> {
    let cells = value.parse().ok().filter(|cells| *cells <= SHARED_MAX);
    cells.ok_or_else(|| {
        SectionError(format!(
            "shared={value}; expected a number of cells from 0 to {SHARED_MAX}"
        ))
    })
}

/// Returns whether a counter or gauge may have this name: 1 to [`COUNTER_NAME_MAX`] of `a-z`, `0-9` and `_`.
#[must_use]
pub const fn is_counter_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !(bytes[at].is_ascii_lowercase() || bytes[at].is_ascii_digit() || bytes[at] == b'_') {
            return false;
        }
        at += 1;
    }
    at > 0 && at <= COUNTER_NAME_MAX
}
