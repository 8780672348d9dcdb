//! Measuring in turns, and what becomes of it: a chart, a table, and rows of the JSON.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use waxwing_report::{Bar, Bars, Group, Lines, Output, Point, Scale, Series, Spread, Table, count};

/// Something to measure, again and again.
pub(crate) struct Cell<'a> {
    /// The line or the bar that it belongs to.
    pub(crate) series: String,
    /// Where on the axis.
    pub(crate) x: f64,
    /// One run, in the chart's unit.
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

/// What was measured of one.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    series: String,
    x: f64,
    #[serde(flatten)]
    value: Spread,
}

/// Runs each once to warm up, and then one after the other, so often.
pub(crate) fn in_turns(mut cells: Vec<Cell<'_>>, runs: usize) -> Result<Vec<Measured>> {
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

/// What a chart is about.
pub(crate) struct Subject {
    /// Its file, and its name in the JSON.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What grows.
    pub(crate) x: &'static str,
    /// What was measured.
    pub(crate) y: &'static str,
    /// What to know of it, and why it is not flat where it is not.
    pub(crate) note: &'static str,
}

/// All that was measured so far.
pub(crate) struct Book {
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

impl Book {
    pub(crate) fn begin(target: &Path) -> Result<Self> {
        Ok(Self {
            output: Output::begin(target, "cost", "What work costs as it grows")?,
            charts: Vec::new(),
        })
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.output.say(text);
    }

    /// Lines over what grows by factors.
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

    /// Bars, grouped by what grows.
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

/// A row for each place, a column for each series.
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

/// The series, each once, as they come.
fn names(figures: &[Measured]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for figure in figures {
        if !names.contains(&figure.series) {
            names.push(figure.series.clone());
        }
    }
    names
}

/// The places, each once, from left to right.
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
    fn runs_come_in_turns_and_the_first_of_each_warms_up() {
        let order = RefCell::new(String::new());
        let cell = |name: &'static str, x: u32| {
            let order = &order;
            Cell::new(name, x, move || {
                order.borrow_mut().push_str(name);
                Ok(f64::from(x))
            })
        };
        let measured = in_turns(vec![cell("a", 1), cell("b", 2)], 3).unwrap();
        assert_eq!(*order.borrow(), "abababab");
        assert_eq!(measured[1].value, Spread::of(&[2.0, 2.0, 2.0]));
    }

    #[test]
    fn a_table_has_a_row_for_each_place_and_a_column_for_each_series() {
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
