//! Seeded randomness.
//!
//! Invariant: the simulator has no other source of randomness: no clock, no thread, no map with a random key.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// A hash map with the same iteration order in every run.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

pub(crate) use waxwing_testkit::random::Random;
