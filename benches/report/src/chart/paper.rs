//! What all charts have: a white page, a title, a legend in one row below it, axes, a grid.
//!
//! Invariant: the colours are told apart by colour-blind readers, too (Okabe and Ito's), and come in
//! one order, so that the first series has the same one in every chart.

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

/// Why there is no chart.
pub type DrawError = DrawingAreaErrorKind<io::Error>;

/// The area between the axes.
pub(super) type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Ticked, RangedCoordf64>>;

const SIZE: (u32, u32) = (860, 460);
/// A generic family: what reads the file has one.
const FONT: &str = "sans-serif";
const TITLE_SIZE: u32 = 22;
const TEXT_SIZE: u32 = 16;
/// An average letter's width, in parts of the letters' size.
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

/// An axis whose ticks are given.
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

/// What is to be drawn around the values.
pub(super) struct Paper<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    /// The left and the right end of the axis below.
    pub(super) from_to: (f64, f64),
    /// The highest value.
    pub(super) highest: f64,
    /// What stands below the axis, and where.
    pub(super) ticks: &'a [(f64, String)],
    /// The legend.
    pub(super) names: &'a [&'a str],
}

impl Paper<'_> {
    /// Draws it, and the values by `values`.
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
        // An axis without length cannot be drawn.
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

/// How wide a text is, in pixels, as far as one can say without its font.
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
