//! Prefixes of both families as ranges of one space of addresses, IPv4 in its mapped form.
//!
//! Invariant: bits behind the prefix are zero; what an operator writes otherwise is an error.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use waxwing_sdk::ConfigError;

/// A network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prefix {
    first: u128,
    bits: u32,
}

/// How many bits an IPv4 address has in front of it in its mapped form.
const MAPPED: u32 = 96;

/// All of IPv4.
pub(crate) const IPV4: Prefix = Prefix {
    first: 0xffff << 32,
    bits: MAPPED,
};

impl Prefix {
    /// From `10.0.0.0/8` or `2001:db8::/32`.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address
            .parse()
            .map_err(|_| "expected an address and a length, like 10.0.0.0/8")?;
        let (first, before) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), MAPPED),
            IpAddr::V6(v6) => (v6.to_bits(), 0),
        };
        let bits_max = u128::BITS - before;
        if bits.is_empty() {
            return Err(
                format!("it has no length; for one address write {address}/{bits_max}").into(),
            );
        }
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| *bits <= bits_max)
            .ok_or_else(|| format!("a prefix has 0 to {bits_max} bits"))?;
        let written = Self {
            first,
            bits: before + bits,
        };
        let prefix = Self {
            first: first & !written.behind(),
            ..written
        };
        let is_mapped = address.is_ipv6() && prefix.bits >= MAPPED && prefix.is_ipv4();
        if prefix != written || is_mapped {
            return Err(format!("write {prefix}").into());
        }
        Ok(prefix)
    }

    /// The lowest address.
    pub(crate) const fn first(&self) -> u128 {
        self.first
    }

    /// The highest address.
    pub(crate) fn last(&self) -> u128 {
        self.first | self.behind()
    }

    /// The prefix's length in the common space: 96 more than written for IPv4.
    pub(crate) const fn bits(&self) -> u32 {
        self.bits
    }

    /// The bits behind the prefix.
    fn behind(&self) -> u128 {
        u128::MAX.checked_shr(self.bits).unwrap_or(0)
    }

    const fn is_ipv4(&self) -> bool {
        self.bits >= MAPPED && self.first >> 32 == IPV4.first >> 32
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.first);
        match address.to_ipv4_mapped().filter(|_| self.is_ipv4()) {
            Some(v4) => write!(f, "{v4}/{}", self.bits - MAPPED),
            None => write!(f, "{address}/{}", self.bits),
        }
    }
}
