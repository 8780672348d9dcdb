#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;

fn lines(scale: Scale, xs: &[f64]) -> Lines {
    let points = |factor: f64| {
        let point = |x: &f64| Point {
            x: *x,
            y: Spread::of(&[40.0 * factor, 42.0 * factor, 50.0 * factor]),
        };
        xs.iter().map(point).collect()
    };
    let series = |name: &str, factor| Series {
        name: name.to_owned(),
        points: points(factor),
    };
    Lines {
        title: "A hit".to_owned(),
        x: "sessions".to_owned(),
        scale,
        y: "ns a packet".to_owned(),
        series: vec![series("uniform", 1.0), series("zipf", 0.8)],
    }
}

/// The text elements, in the order of the file.
fn texts(svg: &str) -> Vec<&str> {
    svg.split("</text>")
        .filter_map(|part| part.rsplit_once('>'))
        .map(|(_, text)| text.trim())
        .filter(|text| !text.is_empty())
        .collect()
}

#[test]
fn a_line_chart_has_title_legend_axis_labels_and_ticks_at_measured_places() {
    let svg = lines(Scale::Log, &[1e3, 1e5, 1e6, 8e6]).svg().unwrap();
    let texts = texts(&svg);
    for text in [
        "A hit",
        "uniform",
        "zipf",
        "sessions",
        "ns a packet",
        "1 k",
        "100 k",
        "1 M",
        "8 M",
    ] {
        assert!(texts.contains(&text), "{text} is not in {texts:?}");
    }
    assert!(
        texts.contains(&"0"),
        "the value axis starts at zero: {texts:?}"
    );
}

#[test]
fn ticks_whose_labels_would_overlap_are_left_out() {
    let many: Vec<f64> = (0..200).map(f64::from).collect();
    let ticks = lines(Scale::Linear, &many).ticks();
    assert!((5..=15).contains(&ticks.len()), "{ticks:?}");
}

#[test]
fn bars_of_the_same_name_have_the_same_colour_in_every_group() {
    let group = |name: &str, bars: &[&str]| Group {
        name: name.to_owned(),
        bars: bars
            .iter()
            .map(|bar| Bar::new(*bar, Spread::of(&[1.0, 2.0])))
            .collect(),
    };
    let bars = Bars {
        title: "Packets".to_owned(),
        y: "M packets/s".to_owned(),
        groups: vec![
            group("established", &["bare", "Waxwing"]),
            group("new", &["Waxwing"]),
        ],
    };
    assert_eq!(bars.names(), ["bare", "Waxwing"]);
    let svg = bars.svg().unwrap();
    let fills = |colour: &str| svg.matches(&format!("fill=\"{colour}\"")).count();
    // Each name also has a swatch in the legend.
    assert_eq!((fills("#0072B2"), fills("#D55E00")), (1 + 1, 1 + 2));
    assert!(texts(&svg).contains(&"established"));
}

#[test]
fn a_chart_of_one_point_or_none_is_drawn() {
    assert!(lines(Scale::Log, &[64.0]).svg().is_ok());
    assert!(lines(Scale::Linear, &[]).svg().is_ok());
    let bars = Bars {
        title: String::new(),
        y: String::new(),
        groups: Vec::new(),
    };
    assert!(bars.svg().is_ok());
}
