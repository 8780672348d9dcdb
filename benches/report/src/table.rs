//! Markdown tables that are aligned, to be read in a terminal as well as on a page.
//!
//! Invariant: every row has as many cells as the head.

use std::fmt;

/// A table: a head, then rows. A column of numbers is set to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With this head and no rows yet.
    #[must_use]
    pub fn new<T: Into<String>>(head: impl IntoIterator<Item = T>) -> Self {
        Self {
            rows: vec![head.into_iter().map(Into::into).collect()],
        }
    }

    /// Adds a row; a bar within a cell is escaped.
    ///
    /// # Panics
    /// It has more or fewer cells than the head: a bug of the bench.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let row: Vec<String> = cells
            .into_iter()
            .map(|cell| cell.into().replace('|', "\\|"))
            .collect();
        assert_eq!(row.len(), self.rows[0].len(), "cells under a head: {row:?}");
        self.rows.push(row);
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(3)
    }

    /// Whether what stands in a column are numbers, or nothing.
    fn is_numeric(&self, column: usize) -> bool {
        self.rows[1..].iter().all(|row| {
            let digits = row[column].trim_start_matches(['+', '-']);
            row[column].is_empty() || digits.starts_with(|first: char| first.is_ascii_digit())
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<(usize, bool)> = (0..self.rows[0].len())
            .map(|column| (self.width(column), column > 0 && self.is_numeric(column)))
            .collect();
        for (at, row) in self.rows.iter().enumerate() {
            for (cell, (width, numeric)) in row.iter().zip(&columns) {
                if *numeric {
                    write!(f, "| {cell:>width$} ")?;
                } else {
                    write!(f, "| {cell:<width$} ")?;
                }
            }
            writeln!(f, "|")?;
            if at == 0 {
                for (width, numeric) in &columns {
                    let end = if *numeric { ':' } else { '-' };
                    write!(f, "|{}{end}", "-".repeat(width + 1))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_set_to_the_right() {
        let mut table = Table::new(["what", "ns", "note"]);
        table.row(["hit", "41.2", "a|b"]);
        table.row(["a miss", "+250", ""]);
        assert_eq!(
            table.to_string(),
            "| what   |   ns | note |\n\
             |--------|-----:|------|\n\
             | hit    | 41.2 | a\\|b |\n\
             | a miss | +250 |      |\n"
        );
    }

    #[test]
    #[should_panic(expected = "cells under a head")]
    fn a_row_has_the_heads_cells() {
        Table::new(["what", "ns"]).row(["hit"]);
    }
}
