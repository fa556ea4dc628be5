//! What every page of a report has, whatever stands on it.

use tandem_bench::page::{Bar, BarChart, BarGroup, Block, Cell, LineChart, Page, Point, Scale, Section, Series, Table, Tone};

fn page() -> Page {
    let bar = |name: &str, value: f64| Bar { name: name.into(), value, interval: Some((value * 0.9, value * 1.1)), series: 1 };
    let bars = BarChart {
        title: "Decode".into(),
        description: "int4 is the fastest.".into(),
        unit: "tokens/s".into(),
        groups: vec![BarGroup { name: "depth 0".into(), bars: vec![bar("a <b>", 20.0), bar("none", f64::NAN)] }],
    };
    let lines = LineChart {
        title: "Prefill".into(),
        description: "It falls.".into(),
        x_label: "tokens".into(),
        y_label: "tokens/s".into(),
        x_scale: Scale::Ordinal,
        series: vec![Series {
            name: "onnx".into(),
            points: vec![
                Point { x: 32.0, y: 300.0, interval: None },
                Point { x: 512.0, y: 250.0, interval: Some((240.0, 260.0)) },
            ],
        }],
    };
    let mut table = Table::new("Speeds", &["what", "tokens/s"]);
    table.rows.push(vec![Cell::text("`onnx`").with(Tone::Good), Cell::figure("71.2").with(Tone::Bad)]);
    Page {
        title: "A <report> & more".into(),
        lead: vec![Block::text("Use `--dtype int4`."), Block::notice(Tone::Warning, "noisy")],
        sections: vec![
            Section::new("Speed", [Block::Row(vec![Block::Bars(bars), Block::Lines(lines)])]),
            Section::new("Figures", [Block::Table(table), Block::List(vec!["one".into()]), Block::Code("a\n b".into())]),
            Section::new("More", [Block::Details("raw".into(), vec![Block::text("x")])]),
        ],
    }
}

/// Every attribute `name="…"` in the page.
fn attributes<'h>(html: &'h str, name: &str) -> Vec<&'h str> {
    let start = format!(" {name}=\"");
    html.split(start.as_str()).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn pages_load_nothing_from_elsewhere() {
    let html = page().render();
    assert!(html.starts_with("<!DOCTYPE html>"));
    for outside in ["<script", "<link", "<img", "src=", "@import", "url(", "http"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn pages_escape_text() {
    let html = page().render();
    assert!(html.contains("A &lt;report&gt; &amp; more") && html.contains("a &lt;b&gt;"));
    assert!(!html.contains("<report>") && !html.contains("a <b>"));
}

#[test]
fn pages_have_landmarks_for_screen_readers() {
    let html = page().render();
    assert!(html.contains("<html lang=\"en\">") && html.contains("name=\"viewport\""));
    assert_eq!(html.matches("<h1").count(), 1);
    assert_eq!(html.matches("<h2").count(), 3);
    assert_eq!(html.matches("<table").count(), html.matches("<caption").count());
    let (headings, with_scope) = (html.matches("<th").count() - html.matches("<thead").count(), attributes(&html, "scope").len());
    assert_eq!(headings, with_scope, "every heading says of what");
    // Both charts have a title and a description, and figures as a table; marks of a legend are hidden.
    assert_eq!(html.matches("role=\"img\"").count(), 2);
    assert_eq!(html.matches("The chart as a table").count(), 2);
    assert_eq!(html.matches("<svg").count(), 2 + html.matches("viewBox=\"0 0 24 14\" aria-hidden=\"true\"").count());
    let ids = attributes(&html, "id");
    let unique: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len(), "{ids:?}");
    let references = attributes(&html, "aria-labelledby").into_iter().flat_map(str::split_whitespace);
    references.for_each(|id| assert!(ids.contains(&id), "{id}"));
    // Colour is never all there is.
    assert_eq!(html.matches("class=\"sign\"").count(), 3);
    assert_eq!(html.matches("class=\"spoken\"").count(), 3);
}

#[test]
fn charts_leave_out_values_that_are_not_finite() {
    let html = page().render();
    assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    let empty = LineChart { title: "none".into(), ..LineChart::default() };
    let html = Page { lead: vec![Block::Lines(empty), Block::Bars(BarChart::default())], ..Page::default() }.render();
    assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
}

#[test]
fn rows_that_become_cards_stay_a_table_to_a_screen_reader() {
    let mut table = Table::new("What to use", &["wish", "use", "speed"]).of_cards();
    table.rows.push(vec![Cell::text("the fastest"), Cell::text("`onnx`"), Cell::figure("71.2")]);
    let html = Page { lead: vec![Block::Table(table)], ..Page::default() }.render();
    for role in ["table", "rowgroup", "row", "columnheader", "rowheader", "cell"] {
        assert!(attributes(&html, "role").contains(&role), "{role}");
    }
    assert_eq!(attributes(&html, "data-label"), ["use", "speed"]);
}

#[test]
fn series_of_the_same_colour_have_different_marks() {
    let series = |i: usize| Series { name: i.to_string(), points: vec![Point { x: 0.0, y: 1.0, interval: None }] };
    let chart = LineChart { series: (0..16).map(series).collect(), ..LineChart::default() };
    let html = Page { lead: vec![Block::Lines(chart)], ..Page::default() }.render();
    // Marks of the legend are all drawn at one place, in the colour of what they stand in.
    let legend = html.split("class=\"legend\"").nth(1).unwrap();
    let colours = legend.split("class=\"c").skip(1).filter_map(|rest| rest.get(..1));
    let marks = attributes(legend, "d").into_iter().filter(|path| *path != "M1 7H23");
    let pairs: std::collections::HashSet<_> = colours.zip(marks).collect();
    assert_eq!(pairs.len(), 16);
}
