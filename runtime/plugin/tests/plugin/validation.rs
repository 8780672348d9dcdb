//! Validation of a module's bytes. The texts of refusals are in the table of hostile modules
//! (`waxwing_tests::hostile`).

use proptest::prelude::*;
use waxwing_plugin::{Kind, ModuleLimits, validate};
use waxwing_tests::check_wat::CheckWat;
use waxwing_tests::wat::{PICK_NINE, Wat};

#[test]
fn a_valid_module_is_accepted_with_its_section() {
    let info = validate(
        &Wat::default().bytes(),
        Kind::Policy,
        &ModuleLimits::default(),
    )
    .expect("it is valid");
    assert_eq!(
        (info.name.as_str(), info.version.as_str(), info.payload),
        ("test", "7", 0)
    );
}

#[test]
fn sizes_have_limits() {
    let good = Wat::default().bytes();
    let tight = |change: fn(&mut ModuleLimits)| {
        let mut limits = ModuleLimits::default();
        change(&mut limits);
        validate(&good, Kind::Policy, &limits)
            .expect_err("over the limit")
            .to_string()
    };
    assert!(tight(|l| l.file_bytes_max = 100).contains("over the limit of 100"));
    assert!(tight(|l| l.body_bytes_max = 10).contains("bytes in one function"));
    assert!(tight(|l| l.functions_max = 2).contains("3 functions"));
    assert!(tight(|l| l.locals_max = 0).contains("local variables"));
    assert!(tight(|l| l.items_max = 1).contains("types"));
}

#[test]
fn every_truncation_is_refused() {
    // Without names of locals, because a name section at the end could be left out.
    let good = Wat::picking(PICK_NINE).bytes();
    for len in 0..good.len() {
        assert!(
            validate(&good[..len], Kind::Policy, &ModuleLimits::default()).is_err(),
            "cut at {len}"
        );
    }
}

/// Validates bytes as a module of either kind.
fn validate_all(bytes: &[u8]) {
    for kind in [Kind::Policy, Kind::Health] {
        let _ = validate(bytes, kind, &ModuleLimits::default());
    }
}

proptest! {
    #[test]
    fn validation_never_panics_on_random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        validate_all(&bytes);
        validate_all(&[b"\0asm\x01\0\0\0", bytes.as_slice()].concat());
    }

    #[test]
    fn validation_never_panics_on_a_mutated_module(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for mut bytes in [Wat::default().bytes(), CheckWat::default().bytes()] {
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            validate_all(&bytes);
        }
    }
}
