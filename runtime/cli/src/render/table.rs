//! Tables without borders: columns padded with spaces, for people and for `awk`.

use std::fmt::{self, Display};

use comfy_table::{CellAlignment, presets};

/// A table. A cell may have several lines.
pub(super) struct Table {
    rows: comfy_table::Table,
    indent: usize,
}

impl Table {
    /// Creates a table with these column headers. A column whose header starts with `>` is
    /// right-aligned.
    pub(super) fn new<const N: usize>(headers: [&str; N]) -> Self {
        let mut rows = comfy_table::Table::new();
        rows.load_style(presets::NOTHING);
        rows.set_header(headers.map(|header| header.trim_start_matches('>')));
        for (column, header) in rows.column_iter_mut().zip(headers) {
            column.set_padding((0, 2));
            if header.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { rows, indent: 0 }
    }

    /// Indents all lines by two spaces.
    pub(super) fn indented(self) -> Self {
        Self { indent: 2, ..self }
    }

    pub(super) fn add<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.add_row(cells);
    }
}

/// Prints nothing if there are no rows.
impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        for line in self.rows.lines() {
            writeln!(f, "{:indent$}{}", "", line.trim_end(), indent = self.indent)?;
        }
        Ok(())
    }
}
