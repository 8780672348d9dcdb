//! Charts as SVG: lines over something that grows, and groups of bars.
//!
//! Invariant: values begin at zero; each has a whisker from its lowest run to its highest; the ticks
//! below a line chart are where something was measured.

mod paper;

use plotters::element::{Circle, PathElement, Rectangle};
use plotters::series::LineSeries;
use plotters::style::Color as _;

pub use self::paper::DrawError;
use self::paper::{Chart, Paper, colour};
use crate::figure::count;
use crate::spread::Spread;

/// How the values below a line chart are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Equal steps are sums.
    Linear,
    /// Equal steps are factors; all values are above zero.
    Log,
}

impl Scale {
    fn place(self, x: f64) -> f64 {
        match self {
            Self::Linear => x,
            Self::Log => x.max(f64::MIN_POSITIVE).log10(),
        }
    }
}

/// Lines over something that grows.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What the chart shows.
    pub title: String,
    /// What grows, with its unit.
    pub x: String,
    /// How it is laid out.
    pub scale: Scale,
    /// What was measured, with its unit.
    pub y: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Where on the axis.
    pub x: f64,
    /// What was measured there.
    pub y: Spread,
}

/// Groups of bars beside each other.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What the chart shows.
    pub title: String,
    /// What was measured, with its unit.
    pub y: String,
    /// From left to right; bars of one name have one colour in all of them.
    pub groups: Vec<Group>,
}

/// Bars that are to be compared.
#[derive(Clone, Debug)]
pub struct Group {
    /// What stands below it.
    pub name: String,
    /// From left to right.
    pub bars: Vec<Bar>,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What the legend calls it.
    pub name: String,
    /// How high it is.
    pub value: Spread,
}

impl Bar {
    /// A bar of this name and height.
    #[must_use]
    pub fn new(name: impl Into<String>, value: Spread) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}

impl Lines {
    /// Draws them.
    ///
    /// # Errors
    /// What the drawing library says; it has no reason to with numbers that are finite.
    pub fn svg(&self) -> Result<String, DrawError> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let names: Vec<&str> = self.series.iter().map(|series| &*series.name).collect();
        let ticks = self.ticks();
        let (first, last) = ends(ticks.iter().map(|(at, _)| *at));
        let margin = 0.04 * (last - first).max(0.1);
        Paper {
            title: &self.title,
            x: &self.x,
            y: &self.y,
            from_to: (first - margin, last + margin),
            highest: points().map(|point| point.y.highest).fold(0.0, f64::max),
            ticks: &ticks,
            names: &names,
        }
        .draw(|chart| {
            for (number, series) in self.series.iter().enumerate() {
                self.line(chart, number, series)?;
            }
            Ok(())
        })
    }

    fn line(&self, chart: &mut Chart<'_>, number: usize, series: &Series) -> Result<(), DrawError> {
        let colour = colour(number);
        let place = |point: &Point| (self.scale.place(point.x), point.y.median);
        let places = series.points.iter().map(place);
        chart.draw_series(LineSeries::new(places.clone(), colour.stroke_width(2)))?;
        chart.draw_series(places.map(|at| Circle::new(at, 3, colour.filled())))?;
        chart.draw_series(series.points.iter().map(|point| {
            let (x, _) = place(point);
            whisker(x, point.y, colour.stroke_width(1))
        }))?;
        Ok(())
    }

    /// Where anything was measured, but for places whose labels would run into each other.
    fn ticks(&self) -> Vec<(f64, String)> {
        let points = self.series.iter().flat_map(|series| &series.points);
        let mut all: Vec<f64> = points.map(|point| point.x).collect();
        all.sort_by(f64::total_cmp);
        let (first, last) = ends(all.iter().map(|x| self.scale.place(*x)));
        let apart = (last - first) / 14.0;
        let mut ticks: Vec<(f64, String)> = Vec::new();
        for x in all {
            let at = self.scale.place(x);
            if ticks.last().is_none_or(|(before, _)| at - before > apart) {
                ticks.push((at, count(x)));
            }
        }
        ticks
    }
}

impl Bars {
    /// Draws them.
    ///
    /// # Errors
    /// What the drawing library says; it has no reason to with numbers that are finite.
    pub fn svg(&self) -> Result<String, DrawError> {
        let names = self.names();
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let ticks: Vec<(f64, String)> = (0_u32..)
            .zip(&self.groups)
            .map(|(at, group)| (f64::from(at) + 0.5, group.name.clone()))
            .collect();
        Paper {
            title: &self.title,
            x: "",
            y: &self.y,
            from_to: (0.0, ends(ticks.iter().map(|(at, _)| *at)).1 + 0.5),
            highest: bars().map(|bar| bar.value.highest).fold(0.0, f64::max),
            ticks: &ticks,
            names: &names,
        }
        .draw(|chart| {
            for (from, group) in (0_u32..).zip(&self.groups) {
                group.draw(chart, f64::from(from), &names)?;
            }
            Ok(())
        })
    }

    /// The bars' names, each once, as they come.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for bar in self.groups.iter().flat_map(|group| &group.bars) {
            if !names.contains(&&*bar.name) {
                names.push(&bar.name);
            }
        }
        names
    }
}

impl Group {
    /// Between `from` and one more.
    fn draw(&self, chart: &mut Chart<'_>, from: f64, names: &[&str]) -> Result<(), DrawError> {
        const MARGIN: f64 = 0.1;
        let width = (1.0 - 2.0 * MARGIN) / (0..self.bars.len()).fold(0.0, |n, _| n + 1.0);
        let mut left = from + MARGIN;
        for bar in &self.bars {
            let number = names.iter().position(|name| *name == bar.name);
            let right = left + width;
            let body = [
                (left + 0.05 * width, 0.0),
                (right - 0.05 * width, bar.value.median),
            ];
            let colour = colour(number.unwrap_or(0));
            chart.draw_series([Rectangle::new(body, colour.filled())])?;
            let middle = f64::midpoint(left, right);
            let ink = plotters::style::BLACK.stroke_width(1);
            chart.draw_series([whisker(middle, bar.value, ink)])?;
            left = right;
        }
        Ok(())
    }
}

/// From the lowest run to the highest.
fn whisker(x: f64, y: Spread, style: plotters::style::ShapeStyle) -> PathElement<(f64, f64)> {
    PathElement::new(vec![(x, y.lowest), (x, y.highest)], style)
}

/// The lowest and the highest; of nothing, 0 and 0.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    ends.unwrap_or((0.0, 0.0))
}

#[cfg(test)]
mod tests;
