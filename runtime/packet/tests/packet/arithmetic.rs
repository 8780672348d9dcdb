//! The arithmetic of checksums, proven: every case that the code can tell apart is tried.
//!
//! The claim (RFC 1624 section 3): where words of a message become others, `Delta::apply` gives the
//! checksum that a recomputation would. All 2^32 pairs of checksum and change need not be tried:
//!
//! 1. `apply` computes `!fold(!checksum + change)`. Both operands meet in one sum `t` and are not
//!    looked at again, so it is a function of `t`, from 0 to 0xffff + 0xfffe. Each `t` is tried, from
//!    both ends of the pairs that add up to it: the result is congruent to `t` modulo 65,535, and is
//!    zero for `t = 0` alone. A `Delta` is below 65,535, which is what leaves no other way to a zero.
//! 2. The words of a change meet in such a sum too, one after the other, and so do two changes that
//!    are added. Each `t` is tried; that the result is canonical again is what carries the
//!    induction over any number of words.
//! 3. In network order, the operands are swapped on most machines. To swap the bytes of a number is
//!    to multiply it by 256 modulo 65,535 (RFC 1071 section 2 B), which commutes with sums. Each
//!    number is tried.
//!
//! So the sum that a checksum complements is always in the class of the right one. A class has one
//! representative, but for zero: 0 and 0xffff. A recomputation gives 0 for nothing but zeros, and
//! the update for nothing but zeros that stay. Headers and pseudo-headers of IP have a version or a
//! protocol and are never all zero; an `ICMPv4` echo reply may be, and `icmp::answer_echo` knows of
//! that. The exception is a test of its own.

use waxwing_packet::{Address, Delta, Rewrite, Translation, checksum};
use waxwing_testkit::build;

use crate::samples::ip;

const MODULUS: u32 = 0xffff;

/// A change that adds a number below 65,535.
fn adding(number: u32) -> Delta {
    Delta::between(&[0], &[word(number)])
}

/// What a change adds. It rests on [`an_update_adds_modulo_65535`].
fn added(delta: Delta) -> u32 {
    u32::from(!delta.apply(0xffff))
}

fn word(number: u32) -> u16 {
    u16::try_from(number).expect("it is one word")
}

/// Every sum of two numbers, the first at most `first_max` and the second `second_max`: from the
/// pair with the largest first number, and from the one with the largest second.
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
fn to_swap_bytes_is_to_multiply() {
    for number in 0..=u16::MAX {
        let swapped = u32::from(number.swap_bytes());
        assert_eq!(swapped % MODULUS, u32::from(number) * 256 % MODULUS);
        assert_eq!(swapped == 0, number == 0);
    }
}

#[test]
fn what_becomes_all_zero_has_the_other_zero() {
    let delta = Delta::between(&[0x1234], &[0]);
    let before = checksum::of(&[0x12, 0x34]);
    assert_eq!((delta.apply(before), checksum::of(&[0, 0])), (0, 0xffff));
}

/// What UDP adds to it: no checksum stays none, and none becomes none (RFC 768). Every checksum is
/// tried with the one change that takes its sum to 0xffff, with those beside it, and with none.
#[test]
fn a_udp_checksum_comes_and_goes_never() {
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

/// A header whose identification is each word, and so whose checksum is each that there is; and
/// every TTL. A rewrite of all fields, and the recomputation.
#[test]
fn a_rewritten_header_is_right_for_every_checksum_and_every_ttl() {
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
    assert_eq!(missing, 1, "all but 0xffff, which no header has");
}
