//! Interleaved measurements, and the sections of the report: a chart, a table and JSON rows each.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use waxwing_report::{Bar, Bars, Group, Lines, Output, Point, Scale, Series, Spread, Table, count};

/// A repeatable measurement.
pub(crate) struct Cell<'a> {
    /// The name of its line or bar.
    pub(crate) series: String,
    /// Its place on the x axis.
    pub(crate) x: f64,
    /// Measures once, in the chart's unit.
    pub(crate) measure: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Cell<'a> {
    pub(crate) fn new(
        series: impl Into<String>,
        x: impl Into<f64>,
        measure: impl FnMut() -> Result<f64> + 'a,
    ) -> Self {
        Self {
            series: series.into(),
            x: x.into(),
            measure: Box::new(measure),
        }
    }
}

/// The result of a [`Cell`].
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    series: String,
    x: f64,
    #[serde(flatten)]
    value: Spread,
}

/// Runs every cell once to warm up, then all cells in turn, `runs` times.
pub(crate) fn interleave(mut cells: Vec<Cell<'_>>, runs: usize) -> Result<Vec<Measured>> {
    for cell in &mut cells {
        (cell.measure)()?;
    }
    let mut values = vec![Vec::with_capacity(runs); cells.len()];
    for _ in 0..runs {
        for (cell, values) in cells.iter_mut().zip(&mut values) {
            values.push((cell.measure)()?);
        }
    }
    let measured = cells.into_iter().zip(values);
    Ok(measured
        .map(|(cell, values)| Measured {
            series: cell.series,
            x: cell.x,
            value: Spread::of(&values),
        })
        .collect())
}

/// The texts of a section.
pub(crate) struct Subject {
    /// The chart's file name, and the name in the JSON.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// The quantity that grows.
    pub(crate) x: &'static str,
    /// The measured quantity.
    pub(crate) y: &'static str,
    /// What explains the figures, above all why a curve is not flat.
    pub(crate) note: &'static str,
}

/// The report so far.
pub(crate) struct Report {
    output: Output,
    charts: Vec<Chart>,
}

#[derive(Serialize)]
struct Chart {
    name: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    figures: Vec<Measured>,
}

impl Report {
    pub(crate) fn begin(target: &Path) -> Result<Self> {
        Ok(Self {
            output: Output::begin(target, "cost", "What work costs as it grows")?,
            charts: Vec::new(),
        })
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.output.say(text);
    }

    /// Adds a table without a chart.
    pub(crate) fn table(&mut self, table: &Table) {
        self.output.table(table);
    }

    /// Adds a section with a line chart over a logarithmic axis.
    pub(crate) fn lines(&mut self, subject: &Subject, figures: Vec<Measured>) -> Result<()> {
        let points = |name: &str| {
            let of_series = figures.iter().filter(|figure| figure.series == *name);
            let point = |figure: &Measured| Point {
                x: figure.x,
                y: figure.value,
            };
            of_series.map(point).collect()
        };
        let series = names(&figures).into_iter().map(|name| Series {
            points: points(&name),
            name,
        });
        let chart = Lines {
            title: subject.title.to_owned(),
            x: subject.x.to_owned(),
            scale: Scale::Log,
            y: subject.y.to_owned(),
            series: series.collect(),
        };
        self.add(subject, figures, &chart.svg()?)
    }

    /// Adds a section with a bar chart, grouped by the quantity that grows.
    pub(crate) fn bars(&mut self, subject: &Subject, figures: Vec<Measured>) -> Result<()> {
        let groups = places(&figures).into_iter().map(|x| Group {
            name: format!("{} {}", count(x), subject.x),
            bars: figures
                .iter()
                .filter(|figure| figure.x == x)
                .map(|figure| Bar::new(&figure.series, figure.value))
                .collect(),
        });
        let chart = Bars {
            title: subject.title.to_owned(),
            y: subject.y.to_owned(),
            groups: groups.collect(),
        };
        self.add(subject, figures, &chart.svg()?)
    }

    fn add(&mut self, subject: &Subject, figures: Vec<Measured>, svg: &str) -> Result<()> {
        let Subject {
            name, title, x, y, ..
        } = *subject;
        self.say(&format!("## {title}, {y}"));
        self.output.table(&table(x, &figures));
        self.say(subject.note);
        self.output.chart(name, title, svg)?;
        self.charts.push(Chart {
            name,
            title,
            x,
            y,
            figures,
        });
        Ok(())
    }

    pub(crate) fn end(self) -> Result<()> {
        self.output.end(&self.charts)?;
        Ok(())
    }
}

/// A table with a row per place and a column per series.
fn table(x: &str, figures: &[Measured]) -> Table {
    let series = names(figures);
    let mut table = Table::new([x.to_owned()].iter().chain(&series).cloned());
    for place in places(figures) {
        let cells = series.iter().map(|name| {
            let figure = figures
                .iter()
                .find(|figure| figure.series == *name && figure.x == place);
            figure.map_or(String::new(), |figure| figure.value.to_string())
        });
        table.row([count(place)].into_iter().chain(cells));
    }
    table
}

/// The names of the series, each once, in order of appearance.
fn names(figures: &[Measured]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for figure in figures {
        if !names.contains(&figure.series) {
            names.push(figure.series.clone());
        }
    }
    names
}

/// The places, each once, ascending.
fn places(figures: &[Measured]) -> Vec<f64> {
    let mut places: Vec<f64> = figures.iter().map(|figure| figure.x).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    places
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::cell::RefCell;

    use super::*;

    #[test]
    fn runs_are_interleaved_after_a_warm_up_of_each() {
        let order = RefCell::new(String::new());
        let cell = |name: &'static str, x: u32| {
            let order = &order;
            Cell::new(name, x, move || {
                order.borrow_mut().push_str(name);
                Ok(f64::from(x))
            })
        };
        let measured = interleave(vec![cell("a", 1), cell("b", 2)], 3).unwrap();
        assert_eq!(*order.borrow(), "abababab");
        assert_eq!(measured[1].value, Spread::of(&[2.0, 2.0, 2.0]));
    }

    #[test]
    fn a_table_has_a_row_per_place_and_a_column_per_series() {
        let figure = |series: &str, x: f64| Measured {
            series: series.to_owned(),
            x,
            value: Spread::exact(x),
        };
        let figures = [figure("a", 1000.0), figure("b", 1.0), figure("a", 1.0)];
        assert_eq!(
            table("things", &figures).to_string(),
            "| things |     a |    b |\n\
             |--------|------:|-----:|\n\
             | 1      |  1.00 | 1.00 |\n\
             | 1 k    | 1,000 |      |\n"
        );
    }
}
