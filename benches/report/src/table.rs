//! Markdown tables with aligned columns, readable in a terminal too.
//!
//! Invariant: every row has as many cells as the header.

use std::fmt;

/// A header and rows. Columns of numbers are right-aligned.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table without rows.
    pub fn new<T: Into<String>>(header: impl IntoIterator<Item = T>) -> Self {
        Self {
            rows: vec![header.into_iter().map(Into::into).collect()],
        }
    }

    /// Adds a row; `|` in a cell is escaped.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let row: Vec<String> = cells
            .into_iter()
            .map(|cell| cell.into().replace('|', "\\|"))
            .collect();
        assert_eq!(
            row.len(),
            self.rows[0].len(),
            "the row does not fit the header: {row:?}"
        );
        self.rows.push(row);
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(3)
    }

    /// Whether all cells of a column are numbers or empty.
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
    fn columns_of_numbers_are_right_aligned() {
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
    #[should_panic(expected = "the row does not fit the header")]
    fn a_row_that_does_not_fit_the_header_panics() {
        Table::new(["what", "ns"]).row(["hit"]);
    }
}
