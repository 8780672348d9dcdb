//! The keyed hash of a flow.
//!
//! Invariant: without the key, which is drawn at random at each start, nobody can choose flows that share a
//! bucket. (It is a fast keyed hash in the manner of wyhash, not a cryptographic one: its values must never
//! be shown to anyone.)

use std::hash::{DefaultHasher, Hash, Hasher as _};

use waxwing_packet::plain::wire_words;
use waxwing_packet::{Address, Family, Protocol};

/// A packet's 5-tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Tuple {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: Protocol,
}

impl Tuple {
    /// The tuple of the opposite direction.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
        }
    }

    /// The same tuple to another port.
    #[must_use]
    pub const fn to_port(self, destination_port: u16) -> Self {
        Self {
            destination_port,
            ..self
        }
    }
}

/// A tuple's hash in one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FlowHash(pub(super) u64);

impl FlowHash {
    /// For tests that choose hashes.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// The key of a hash. One key gives one hash on every machine and in every version of Waxwing: the balancers
/// of a cluster rely on it.
#[derive(Clone)]
pub struct Key([u64; 6]);

/// The fractional digits of pi, so that a poor seed still makes a usable key.
const PI: [u64; 6] = [
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
    0x082e_fa98_ec4e_6c89,
    0x4528_21e6_38d0_1377,
    0xbe54_66cf_34e9_0c6c,
];

impl Key {
    /// A key from any seed.
    #[must_use]
    pub fn new([a, b, c, d]: [u64; 4]) -> Self {
        let seed = [
            a,
            b,
            c,
            d,
            fold(a ^ PI[4], c ^ PI[1]),
            fold(b ^ PI[5], d ^ PI[0]),
        ];
        Self(std::array::from_fn(|i| seed[i] ^ PI[i]))
    }

    #[inline]
    #[must_use]
    pub fn hash(&self, tuple: &Tuple) -> FlowHash {
        let [a, b, c, d, e, f] = self.0;
        let [source_high, source_low] = halves(tuple.source.bits());
        let [destination_high, destination_low] = halves(tuple.destination.bits());
        let rest = u64::from(tuple.source_port) << 32
            | u64::from(tuple.destination_port) << 16
            | tuple.protocol as u64;
        let source = fold(source_high ^ a, source_low ^ b);
        let destination = fold(destination_high ^ c, destination_low ^ d);
        FlowHash(fold(
            fold(source ^ destination.rotate_left(32), rest ^ e),
            f,
        ))
    }
}

/// Draws numbers that others may see, such as source ports, from hashes, of which they show nothing: a keyed
/// SipHash of the hash.
#[derive(Clone)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: [u64; 4]) -> Self {
        Self(siphash(&seed))
    }

    pub(super) fn of(&self, FlowHash(hash): FlowHash) -> u64 {
        siphash(&(self.0, hash))
    }
}

fn siphash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The hash of a table's own flows: by a packet's words as they are in its memory, and shorter for IPv4. It
/// depends on the machine's byte order, which nobody sees.
impl Key {
    /// `addresses`: source, then destination; `ports` likewise.
    #[inline(always)]
    pub(super) const fn local_v4(
        &self,
        addresses: u64,
        ports: u32,
        protocol: Protocol,
    ) -> FlowHash {
        let [a, b, c, ..] = self.0;
        FlowHash(fold(
            fold(addresses ^ a, local_rest(ports, protocol) ^ b),
            c,
        ))
    }

    /// `addresses`: two words of the source, then two of the destination.
    #[inline(always)]
    pub(super) const fn local_v6(
        &self,
        addresses: [u64; 4],
        ports: u32,
        protocol: Protocol,
    ) -> FlowHash {
        let [a, b, c, d, e, f] = self.0;
        let source = fold(addresses[0] ^ a, addresses[1] ^ b);
        let destination = fold(addresses[2] ^ c, addresses[3] ^ d);
        FlowHash(fold(
            fold(
                source ^ destination.rotate_left(32),
                local_rest(ports, protocol) ^ e,
            ),
            f,
        ))
    }

    /// The same by a tuple.
    pub(super) fn local(&self, tuple: &Tuple) -> FlowHash {
        let [a, b] = tuple.source_port.to_be_bytes();
        let [c, d] = tuple.destination_port.to_be_bytes();
        let ports = u32::from_ne_bytes([a, b, c, d]);
        let family = tuple.source.family();
        if family == Family::V4 && tuple.destination.family() == family {
            let word = |address: Address| u64::from(u32::from_ne_bytes(address.v4_octets()));
            let addresses = word(tuple.source) | word(tuple.destination) << 32;
            return self.local_v4(addresses, ports, tuple.protocol);
        }
        let [a, b] = wire_words(tuple.source);
        let [c, d] = wire_words(tuple.destination);
        self.local_v6([a, b, c, d], ports, tuple.protocol)
    }
}

#[inline(always)]
const fn local_rest(ports: u32, protocol: Protocol) -> u64 {
    (ports as u64) << 1 | matches!(protocol, Protocol::Udp) as u64
}

/// The XOR of the two halves of the 128-bit product: each bit of either factor affects each bit of the
/// result.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
const fn halves(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flows as they come in practice differ in a few low bits. Each of the two 20-bit windows
    /// that choose a bucket must spread them as evenly as chance would.
    #[test]
    fn like_flows_spread_evenly() {
        for seed in [
            [0; 4],
            [1, 2, 3, 4],
            [u64::MAX; 4],
            [0x9e37_79b9_7f4a_7c15, 7, 0, 1 << 63],
        ] {
            let key = Key::new(seed);
            let hashes: [fn(&Key, &Tuple) -> FlowHash; 2] = [Key::hash, Key::local];
            for hash in hashes {
                let mut counts = [vec![0_u32; 1024], vec![0_u32; 1024]];
                let flows = 256 * 1024_u32;
                for i in 0..flows {
                    let [_, x, y, z] = (i >> 6).to_be_bytes();
                    let low = u16::try_from(i & 63).expect("six bits");
                    let tuple = Tuple {
                        source: Address::v4([10, x, y, z]),
                        destination: Address::v4([203, 0, 113, 10]),
                        source_port: 40_000 + low,
                        destination_port: 80,
                        protocol: Protocol::Tcp,
                    };
                    let hash = hash(&key, &tuple).0;
                    counts[0][usize::try_from(hash >> 54).expect("ten bits")] += 1;
                    counts[1][usize::try_from(hash >> 22 & 1023).expect("ten bits")] += 1;
                }
                // Chi-squared with 1023 degrees of freedom: mean 1023, deviation 45; 6 deviations.
                let expected = f64::from(flows) / 1024.0;
                for window in counts {
                    let chi: f64 = window
                        .iter()
                        .map(|&n| (f64::from(n) - expected).powi(2) / expected)
                        .sum();
                    assert!(
                        (750.0..1300.0).contains(&chi),
                        "chi squared {chi} for seed {seed:x?}"
                    );
                }
            }
        }
    }

    /// A flow and its mirror, and the families, are different tuples.
    #[test]
    fn direction_protocol_and_key_matter() {
        let tuple = Tuple {
            source: Address::v4([10, 0, 0, 1]),
            destination: Address::v4([10, 0, 0, 2]),
            source_port: 1,
            destination_port: 2,
            protocol: Protocol::Tcp,
        };
        let mirror = Tuple {
            source: tuple.destination,
            destination: tuple.source,
            source_port: 2,
            destination_port: 1,
            ..tuple
        };
        let udp = Tuple {
            protocol: Protocol::Udp,
            ..tuple
        };
        let key = Key::new([1, 2, 3, 4]);
        assert_ne!(key.hash(&tuple), key.hash(&mirror));
        assert_ne!(key.hash(&tuple), key.hash(&udp));
        assert_ne!(key.hash(&tuple), Key::new([1, 2, 3, 5]).hash(&tuple));
        assert_eq!(key.hash(&tuple), key.hash(&tuple));
    }

    /// Each bit of a draw agrees with each bit of the hash in half of all cases.
    #[test]
    fn a_draw_shows_nothing_of_its_hash() {
        let seed = [1, 2, 3, 4];
        let (key, draws) = (Key::new(seed), Draws::new(seed));
        let count = 4096_u32;
        let mut agreements = [[0_u32; 64]; 64];
        for n in 0..count {
            let hash = key.hash(&Tuple {
                source: Address::v4(n.to_be_bytes()),
                destination: Address::v4([203, 0, 113, 10]),
                source_port: 4000,
                destination_port: 80,
                protocol: Protocol::Tcp,
            });
            let draw = draws.of(hash);
            for (by, agreed) in (0_u32..).zip(&mut agreements) {
                let same = !(draw ^ hash.bits().rotate_right(by));
                for (at, agreed) in agreed.iter_mut().enumerate() {
                    *agreed += u32::from(same >> at & 1 == 1);
                }
            }
        }
        for agreed in agreements.iter().flatten() {
            assert!(
                agreed.abs_diff(count / 2) < count / 16,
                "{agreed} of {count}"
            );
        }
    }
}
