//! The benches are in `benches/`; run them by `cargo xtask bench [FILTER]`.
