//! Parses the argument `--backends`.
//!
//! Invariant: the result has at least one backend, and at most as many as a service can have.

use anyhow::{Result, bail};
use waxwing_workbench::{BACKENDS_MAX, BackendSpec};

/// The value of `--backends`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Specs(pub(super) Vec<BackendSpec>);

/// Parses a number of backends (`5`) or their weights (`3,1,1`), optionally with tags (`3@7,1@8`).
pub(super) fn specs(text: &str) -> Result<Specs> {
    let count = (!text.contains([',', '@'])).then(|| backends_count(text));
    if let Some(count) = count {
        return Ok(Specs(vec![BackendSpec { weight: 1, tag: 0 }; count?]));
    }
    let specs: Vec<_> = text.split(',').map(spec).collect::<Result<_>>()?;
    if specs.len() > BACKENDS_MAX {
        bail!(
            "{} backends; a service has at most {BACKENDS_MAX}",
            specs.len()
        );
    }
    Ok(Specs(specs))
}

fn spec(text: &str) -> Result<BackendSpec> {
    let (weight, tag) = text.split_once('@').unwrap_or((text, "0"));
    match (weight.trim().parse(), tag.trim().parse()) {
        (Ok(weight), Ok(tag)) => Ok(BackendSpec { weight, tag }),
        _ => bail!("{text:?} is not a backend; write WEIGHT or WEIGHT@TAG as whole numbers"),
    }
}

/// Parses a number of backends.
fn backends_count(text: &str) -> Result<usize> {
    match text.parse() {
        Ok(count) if (1..=BACKENDS_MAX).contains(&count) => Ok(count),
        _ => bail!("write 1 to {BACKENDS_MAX}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_a_count_or_weights_with_tags() {
        let backend = |weight, tag| BackendSpec { weight, tag };
        let cases = [
            ("3", vec![backend(1, 0); 3]),
            ("3,1", vec![backend(3, 0), backend(1, 0)]),
            ("5@2", vec![backend(5, 2)]),
            (
                "3@7, 0@8,1",
                vec![backend(3, 7), backend(0, 8), backend(1, 0)],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(specs(text).ok(), Some(Specs(expected)), "{text}");
        }
        for bad in ["", "0", "4097", "1,,2", "1@", "a", "-1,2", "1.5,1"] {
            assert!(specs(bad).is_err(), "{bad}");
        }
    }
}
