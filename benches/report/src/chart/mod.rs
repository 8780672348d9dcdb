//! Charts as SVG: lines over a growing quantity, and groups of bars.
//!
//! Invariant: the value axis starts at zero; each value has a whisker from its lowest run to its highest;
//! ticks of a line chart's x axis are at measured places.

mod frame;

use plotters::element::{Circle, PathElement, Rectangle};
use plotters::series::LineSeries;
use plotters::style::Color as _;

pub use self::frame::DrawError;
use self::frame::{Chart, Frame, colour};
use crate::figure::count;
use crate::spread::Spread;

/// The scale of a line chart's x axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Equal distances are equal differences.
    Linear,
    /// Equal distances are equal factors; all values are above zero.
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

/// A line chart over a growing quantity.
#[derive(Clone, Debug)]
pub struct Lines {
    /// The chart's title.
    pub title: String,
    /// The growing quantity, with its unit.
    pub x: String,
    /// The x axis's scale.
    pub scale: Scale,
    /// The measured quantity, with its unit.
    pub y: String,
    /// The lines.
    pub series: Vec<Series>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// The name in the legend.
    pub name: String,
    /// The measurements, from left to right.
    pub points: Vec<Point>,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// The place on the x axis.
    pub x: f64,
    /// The measured value.
    pub y: Spread,
}

/// A chart of bar groups side by side.
#[derive(Clone, Debug)]
pub struct Bars {
    /// The chart's title.
    pub title: String,
    /// The measured quantity, with its unit.
    pub y: String,
    /// The groups, from left to right; bars of the same name have the same colour in all groups.
    pub groups: Vec<Group>,
}

/// Bars that are to be compared.
#[derive(Clone, Debug)]
pub struct Group {
    /// The label below the group.
    pub name: String,
    /// The bars, from left to right.
    pub bars: Vec<Bar>,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The name in the legend.
    pub name: String,
    /// The height.
    pub value: Spread,
}

impl Bar {
    /// Makes a bar.
    pub fn new(name: impl Into<String>, value: Spread) -> Self {
        Self {
            name: name.into(),
            value,
        }
    }
}

impl Lines {
    /// Draws the chart as SVG.
    pub fn svg(&self) -> Result<String, DrawError> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let names: Vec<&str> = self.series.iter().map(|series| &*series.name).collect();
        let ticks = self.ticks();
        let (first, last) = ends(ticks.iter().map(|(at, _)| *at));
        let margin = 0.04 * (last - first).max(0.1);
        Frame {
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

    /// The measured places, without those whose labels would overlap.
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
    /// Draws the chart as SVG.
    pub fn svg(&self) -> Result<String, DrawError> {
        let names = self.names();
        let bars = || self.groups.iter().flat_map(|group| &group.bars);
        let ticks: Vec<(f64, String)> = (0_u32..)
            .zip(&self.groups)
            .map(|(at, group)| (f64::from(at) + 0.5, group.name.clone()))
            .collect();
        Frame {
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

    /// The bars' names, each once, in order of appearance.
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
    /// Draws the group between `from` and `from + 1`.
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

/// A line from the lowest run to the highest.
fn whisker(x: f64, y: Spread, style: plotters::style::ShapeStyle) -> PathElement<(f64, f64)> {
    PathElement::new(vec![(x, y.lowest), (x, y.highest)], style)
}

/// The lowest and the highest value; 0 and 0 without values.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let ends = values.fold(None, |ends: Option<(f64, f64)>, value| {
        let (low, high) = ends.unwrap_or((value, value));
        Some((low.min(value), high.max(value)))
    });
    ends.unwrap_or((0.0, 0.0))
}

#[cfg(test)]
mod tests;
