//! Clients by their network, for policies that keep a client on its backend.

use alloc::format;

use crate::{ConfigError, Flow};

/// What counts as one client: the first bits of an address.
///
/// ```
/// use waxwing_sdk::client::ClientPrefix;
/// use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, hash};
///
/// /// Keeps each /64 of IPv6, and each IPv4 address, on one backend.
/// struct ByNetwork(ClientPrefix);
///
/// impl Policy for ByNetwork {
///     type Config = NoConfig;
///
///     fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
///         Ok(Self(ClientPrefix::new(32, 64)?))
///     }
///
///     fn pick(&mut self, flow: &Flow<'_>, backends: &Backends<'_>) -> Pick {
///         backends.by_hash(hash::bytes(&self.0.of(flow).to_be_bytes())).into()
///     }
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientPrefix {
    mask_v4: u128,
    mask_v6: u128,
}

impl ClientPrefix {
    /// Makes a prefix of `bits_v4` (1 to 32) bits of an IPv4 address and `bits_v6` (1 to 128) bits of
    /// an IPv6 address.
    ///
    /// # Errors
    /// Fails if a length is out of range. The text names the config keys `policy_config.prefix_v4` and
    /// `policy_config.prefix_v6`.
    pub fn new(bits_v4: u32, bits_v6: u32) -> Result<Self, ConfigError> {
        Ok(Self {
            mask_v4: mask("prefix_v4", bits_v4, 32)?,
            mask_v6: mask("prefix_v6", bits_v6, 128)?,
        })
    }

    /// Returns the bits of the flow's client, as the address with all other bits 0; an IPv4 address in
    /// mapped form.
    #[must_use]
    pub fn of(&self, flow: &Flow<'_>) -> u128 {
        let mask = if flow.source().is_ipv4() {
            self.mask_v4
        } else {
            self.mask_v6
        };
        u128::from_be_bytes(*flow.source_octets()) & mask
    }
}

/// Returns the mask for addresses that vary in their last `bits_max` bits.
fn mask(key: &str, bits: u32, bits_max: u32) -> Result<u128, ConfigError> {
    if !(1..=bits_max).contains(&bits) {
        let text = format!("policy_config.{key} = {bits}: expected 1 to {bits_max} bits");
        return Err(text.into());
    }
    Ok(u128::MAX << (bits_max - bits))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use core::net::IpAddr;

    use super::*;
    use crate::testing;

    #[test]
    fn addresses_with_equal_first_bits_are_one_client() {
        let client = |prefix: ClientPrefix, address: &str| {
            let address: IpAddr = address.parse().unwrap();
            let flow = testing::flows(1).next().unwrap().from_address(address);
            prefix.of(&Flow::new(&flow.record, &[]))
        };
        let cases = [
            (24, 64, "192.0.2.1", "192.0.2.254", true),
            (24, 64, "192.0.2.1", "192.0.3.1", false),
            (32, 64, "192.0.2.1", "192.0.2.2", false),
            (24, 64, "2001:db8::1", "2001:db8::ffff:0:0:1", true),
            (24, 128, "2001:db8::1", "2001:db8::2", false),
            (1, 1, "10.0.0.1", "126.0.0.1", true),
            (1, 1, "10.0.0.1", "130.0.0.1", false),
        ];
        for (bits_v4, bits_v6, one, other, is_same) in cases {
            let prefix = ClientPrefix::new(bits_v4, bits_v6).unwrap();
            let (one_bits, other_bits) = (client(prefix, one), client(prefix, other));
            assert_eq!(one_bits == other_bits, is_same, "{one} and {other}");
        }
    }

    #[test]
    fn lengths_out_of_range_are_refused() {
        for (bits_v4, bits_v6, key) in [(0, 1, "v4"), (33, 1, "v4"), (1, 0, "v6"), (1, 129, "v6")] {
            let error = ClientPrefix::new(bits_v4, bits_v6).unwrap_err();
            assert!(error.reason().contains(key), "{error}");
        }
    }
}
