//! The plugin host from outside: modules in text form, real files, real time limits.

mod checks;
mod common;
mod containment;
mod files;
mod fuzz;
mod hostile;
mod loader;
mod pipeline;
mod swap;
mod validation;
