//! The frame of every chart: white background, title, a legend in one row, axes, grid.
//!
//! Invariant: colour-blind readers can distinguish the colours (Okabe and Ito). Series get them in a fixed
//! order, so the first series has the same colour in every chart.

use std::io;
use std::ops::Range;

use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea as _};
use plotters::element::{Rectangle, Text};
use plotters::style::{Color as _, IntoFont as _, RGBColor, WHITE};

use crate::figure::count;

/// Why a chart could not be drawn.
pub type DrawError = DrawingAreaErrorKind<io::Error>;

/// The area between the axes.
pub(super) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Ticked, RangedCoordf64>>;

const SIZE: (u32, u32) = (860, 460);
/// A generic font family, which every viewer resolves.
const FONT: &str = "sans-serif";
const TITLE_SIZE: u32 = 22;
const TEXT_SIZE: u32 = 16;
/// The average width of a letter as a share of the font size.
const LETTER: f64 = 0.45;

const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(90, 90, 90),
];

/// The colour of a series.
pub(super) fn colour(number: usize) -> RGBColor {
    COLOURS[number % COLOURS.len()]
}

/// An axis with given ticks.
pub(super) struct Ticked {
    inner: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Ranged for Ticked {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(value, limit)
    }

    fn key_points<H: KeyPointHint>(&self, _hint: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.inner.range()
    }
}

/// Everything that is drawn around the values.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// The ends of the x axis.
    pub(super) from_to: (f64, f64),
    /// The highest value of the y axis.
    pub(super) highest: f64,
    /// Places and labels of the x axis's ticks.
    pub(super) ticks: &'a [(f64, String)],
    /// The names in the legend.
    pub(super) names: &'a [&'a str],
}

impl Frame<'_> {
    /// Draws the frame, and the values by `values`.
    pub(super) fn draw(
        &self,
        values: impl FnOnce(&mut Chart<'_>) -> Result<(), DrawError>,
    ) -> Result<String, DrawError> {
        let mut svg = String::new();
        {
            let page = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            page.fill(&WHITE)?;
            let page = page.titled(self.title, (FONT, TITLE_SIZE))?;
            let (legend, page) = page.split_vertically(2 * TEXT_SIZE);
            self.legend(&legend)?;
            let mut chart = self.axes(&page)?;
            values(&mut chart)?;
            page.present()?;
        }
        Ok(svg)
    }

    fn legend(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), DrawError> {
        let mut left = 40;
        let (top, bottom) = (8, 20);
        for (number, name) in self.names.iter().enumerate() {
            let swatch = [(left, top), (left + 12, bottom)];
            area.draw(&Rectangle::new(swatch, colour(number).filled()))?;
            let font = (FONT, TEXT_SIZE).into_font();
            area.draw(&Text::new((*name).to_owned(), (left + 18, top), font))?;
            left += 36 + letters(name);
        }
        Ok(())
    }

    fn axes<'a>(&self, page: &DrawingArea<SVGBackend<'a>, Shift>) -> Result<Chart<'a>, DrawError> {
        // The library cannot draw an axis of length zero.
        let (from, to) = self.from_to;
        let below = Ticked {
            inner: (from..to.max(from + 1e-9)).into(),
            ticks: self.ticks.iter().map(|(at, _)| *at).collect(),
        };
        let up = 0.0..(self.highest * 1.08).max(1e-9);
        let mut chart = ChartBuilder::on(page)
            .margin(14)
            .x_label_area_size(if self.x.is_empty() { 28 } else { 48 })
            .y_label_area_size(64)
            .build_cartesian_2d(below, up)?;
        let label = |at: &f64| {
            let tick = self.ticks.iter().find(|(tick, _)| tick == at);
            tick.map_or(String::new(), |(_, label)| label.clone())
        };
        chart
            .configure_mesh()
            .light_line_style(plotters::style::TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .axis_style(RGBColor(120, 120, 120))
            .label_style((FONT, TEXT_SIZE))
            .axis_desc_style((FONT, TEXT_SIZE))
            .x_desc(self.x)
            .y_desc(self.y)
            .y_labels(8)
            .x_label_formatter(&label)
            .y_label_formatter(&|y| count(*y))
            .draw()?;
        Ok(chart)
    }
}

/// Estimates a text's width in pixels; the font is unknown.
fn letters(text: &str) -> i32 {
    let width = text
        .chars()
        .fold(0.0, |width, _| width + LETTER * f64::from(TEXT_SIZE));
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a legend's width in pixels"
    )]
    let width = width as i32;
    width
}
