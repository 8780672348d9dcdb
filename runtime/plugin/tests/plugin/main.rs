//! Tests of the hosts through their public API: modules in text form, real files, real time limits.

mod built;
mod checks;
mod common;
mod compiling;
mod containment;
mod files;
mod fuzz;
mod handover;
mod hostile;
mod loader;
mod native_parity;
mod one_story;
mod pipeline;
mod shared_cells;
mod states;
mod swap;
mod validation;
