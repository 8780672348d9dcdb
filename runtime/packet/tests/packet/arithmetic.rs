//! Proves the checksum arithmetic by trying every distinguishable case.
//!
//! Claim (RFC 1624 section 3): when words of a message change, `Delta::apply` returns the checksum that
//! a recomputation returns. It is not necessary to try all 2^32 pairs of checksum and change:
//!
//! 1. `apply` computes `!fold(!checksum + change)`. Both operands occur only in the sum `t`, so the
//!    result is a function of `t`, from 0 to 0xffff + 0xfffe. The tests try each `t`, with the largest
//!    first and the largest second operand: the result is congruent to `t` modulo 65,535, and zero for
//!    `t = 0` only. A `Delta` is below 65,535, so no other `t` gives zero.
//! 2. The words of a change, and two changes that are added, occur only in such a sum as well. The tests
//!    try each `t`; the result is canonical again, which extends the proof to any number of words by
//!    induction.
//! 3. The operands are in network order, swapped on most machines. Swapping the bytes of a number
//!    multiplies it by 256 modulo 65,535 (RFC 1071 section 2 B), which commutes with sums. The tests try
//!    each number.
//!
//! So the complemented sum is always congruent to the correct one. Each residue class has one
//! representative, except zero, which has 0 and 0xffff. A recomputation gives 0 only for all-zero
//! words; an update, only for all-zero words that stay so. IP headers and pseudo-headers contain a
//! version or a protocol and are never all zero. An `ICMPv4` echo reply may be; `icmp::answer_echo`
//! handles it. The exception has a test of its own.

use waxwing_packet::{Address, Delta, Rewrite, Translation, checksum};
use waxwing_testkit::build;

use crate::samples::ip;

const MODULUS: u32 = 0xffff;

/// Returns a change that adds a number below 65,535.
fn adding(number: u32) -> Delta {
    Delta::between(&[0], &[word(number)])
}

/// Returns the number that a change adds. Correct by [`an_update_adds_modulo_65535`].
fn added(delta: Delta) -> u32 {
    u32::from(!delta.apply(0xffff))
}

fn word(number: u32) -> u16 {
    u16::try_from(number).expect("a 16-bit number")
}

/// Returns two pairs for every sum of a number up to `first_max` and one up to `second_max`: the pair
/// with the largest first number, and that with the largest second.
fn sums(first_max: u32, second_max: u32) -> impl Iterator<Item = (u32, u32)> {
    (0..=first_max + second_max).flat_map(move |sum| {
        let (first, second) = (sum.min(first_max), sum.min(second_max));
        [(first, sum - first), (sum - second, second)]
    })
}

#[test]
fn an_update_adds_modulo_65535() {
    for (sum, change) in sums(0xffff, 0xfffe) {
        let updated = u32::from(!adding(change).apply(!word(sum)));
        assert_eq!(updated % MODULUS, (sum + change) % MODULUS);
        assert_eq!(updated == 0, sum + change == 0, "{sum:#x} and {change:#x}");
    }
}

#[test]
fn the_words_of_a_change_add_up_modulo_65535() {
    for (sum, next) in sums(0xfffe, 0xffff) {
        let delta = Delta::between(&[], &[word(sum), word(next)]);
        assert_eq!(added(delta), (sum + next) % MODULUS);
    }
    for old in 0..=u16::MAX {
        assert_eq!(Delta::between(&[old], &[]), Delta::between(&[], &[!old]));
    }
}

#[test]
fn two_changes_add_up_modulo_65535() {
    for (a, b) in sums(0xfffe, 0xfffe) {
        assert_eq!(added(adding(a) + adding(b)), (a + b) % MODULUS);
    }
}

#[test]
fn swapping_bytes_multiplies_by_256() {
    for number in 0..=u16::MAX {
        let swapped = u32::from(number.swap_bytes());
        assert_eq!(swapped % MODULUS, u32::from(number) * 256 % MODULUS);
        assert_eq!(swapped == 0, number == 0);
    }
}

#[test]
fn an_update_to_all_zero_words_gives_the_other_zero() {
    let delta = Delta::between(&[0x1234], &[0]);
    let before = checksum::of(&[0x12, 0x34]);
    assert_eq!((delta.apply(before), checksum::of(&[0, 0])), (0, 0xffff));
}

/// RFC 768: "no checksum" stays so, and no checksum becomes "no checksum". Tries every checksum with the
/// change that takes its sum to 0xffff, the changes next to that one, and small ones.
#[test]
fn a_udp_update_neither_adds_nor_removes_the_checksum() {
    for old in 0..=u16::MAX {
        let to_zero = (MODULUS - u32::from(!old)) % MODULUS;
        for change in [
            0,
            1,
            to_zero,
            (to_zero + 1) % MODULUS,
            (to_zero + MODULUS - 1) % MODULUS,
        ] {
            let delta = adding(change);
            let expected = match (old, delta.apply(old)) {
                (0, _) => 0,
                (_, 0) => 0xffff,
                (_, plain) => plain,
            };
            assert_eq!(delta.apply_udp(old), expected, "{old:#x} and {change:#x}");
        }
    }
}

/// Compares a rewrite with a recomputation. Every identification, hence every checksum, and every TTL.
#[test]
fn a_rewritten_header_is_correct_for_every_checksum_and_every_ttl() {
    const IDENTIFICATION: usize = 14 + 4;
    const CHECKSUM: usize = 14 + 10;

    let vip = (Address::v4([203, 0, 113, 10]), 80);
    let backend = (Address::v4([10, 2, 0, 11]), 8080);
    let rewrite = Rewrite {
        destination: Some(Translation::new(vip, backend)),
        decrement_hop_limit: true,
        ..Rewrite::default()
    };
    let mut seen = vec![false; 1 << 16];
    let rows = (0..=u16::MAX).map(|id| (id, 64));
    let rows = rows.chain((1..=u8::MAX).map(|ttl| (0x4711, ttl)));
    for (identification, hop_limit) in rows {
        let mut frame = build::Udp {
            source: (Address::v4([192, 0, 2, 1]), 4000),
            destination: vip,
            hop_limit,
            ..build::Udp::default()
        }
        .frame();
        frame[IDENTIFICATION..IDENTIFICATION + 2].copy_from_slice(&identification.to_be_bytes());
        frame[CHECKSUM..CHECKSUM + 2].fill(0);
        let right = checksum::of(&frame[14..34]);
        frame[CHECKSUM..CHECKSUM + 2].copy_from_slice(&right.to_be_bytes());
        seen[usize::from(right)] = true;
        let packet = ip(&frame);
        rewrite.apply(&mut frame, &packet);
        assert_eq!(ip(&frame).hop_limit, hop_limit - 1);
        assert_eq!(build::verify_checksums(&frame), Ok(()));
    }
    let missing = seen.iter().filter(|seen| !**seen).count();
    assert_eq!(missing, 1, "all but 0xffff, which no header can have");
}
