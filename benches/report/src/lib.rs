//! Reports of the benchmarks: the spread of repeated runs, Markdown tables, SVG charts, and the directory
//! that a bench writes them to.
//!
//! ```
//! use waxwing_report::{Bar, Bars, Group, Spread, Table};
//!
//! let (bare, ours) = ([1.02, 0.99, 1.01], [0.97, 0.93, 0.95]);
//! let mut table = Table::new(["forwarder", "M packets/s"]);
//! table.row(["bare".to_owned(), Spread::of(&bare).to_string()]);
//! table.row(["Waxwing".to_owned(), Spread::of(&ours).to_string()]);
//! table.row(["ratio".to_owned(), Spread::of_ratio(&ours, &bare).to_string()]);
//! println!("{table}");
//!
//! let bars = Bars {
//!     title: "Established UDP".to_owned(),
//!     y: "M packets/s".to_owned(),
//!     groups: vec![Group {
//!         name: "64 bytes".to_owned(),
//!         bars: vec![Bar::new("bare", Spread::of(&bare)), Bar::new("Waxwing", Spread::of(&ours))],
//!     }],
//! };
//! assert!(bars.svg().is_ok_and(|svg| svg.starts_with("<svg")));
//! ```
//!
//! Invariant: a measured figure is shown with its spread; nothing is smoothed and no run is left out. Value
//! axes start at zero.

pub mod about;
pub mod chart;
pub mod figure;
pub mod output;
pub mod spread;
pub mod table;

pub use about::About;
pub use chart::{Bar, Bars, Group, Lines, Point, Scale, Series};
pub use figure::{count, figure};
pub use output::Output;
pub use spread::Spread;
pub use table::Table;
