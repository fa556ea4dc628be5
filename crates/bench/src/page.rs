//! A report as one HTML file: it needs no script, no network and no other file, and is read on a phone, on paper and by a screen
//! reader, in light and in dark.
//!
//! A page is plain data ([`Page`], [`Section`], [`Block`]), so that what it says can be tested without reading HTML. In every text,
//! `` `code` `` is set as code.

mod chart;
mod table;
mod text;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use self::chart::{Bar, BarChart, BarGroup, LineChart, Point, Scale, Series};
pub use self::table::{Cell, Table};
use self::text::inline;

/// How a text, a cell or a bar is meant. Never by colour alone: each has a sign of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// To be looked at.
    Warning,
    /// Not as it should be.
    Bad,
}

/// A whole report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The heading of the page and its name in the browser.
    pub title: String,
    /// The finding, for readers of nothing else.
    pub lead: Vec<Block>,
    /// The rest, with a list of contents before it.
    pub sections: Vec<Section>,
}

/// A part of a page with a heading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// What it says.
    pub blocks: Vec<Block>,
}

/// One thing on a page.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A paragraph that stands out.
    Notice(Tone, String),
    /// A list of texts.
    List(Vec<String>),
    /// Text with its spaces and line ends.
    Code(String),
    /// A table.
    Table(Table),
    /// A chart of bars, with its figures as a table.
    Bars(BarChart),
    /// A chart of lines, with its figures as a table.
    Lines(LineChart),
    /// Charts side by side where there is room.
    Row(Vec<Block>),
    /// What is shown on demand only.
    Details(String, Vec<Block>),
}

impl Page {
    /// The page as one HTML file.
    pub fn render(&self) -> String {
        let mut ids = Ids::default();
        let lead = blocks(&self.lead, &mut ids);
        let sections: Vec<Markup> =
            self.sections.iter().enumerate().map(|(i, section)| section_of(i, section, &mut ids)).collect();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(include_str!("page/style.css"))) }
                }
                body {
                    main {
                        h1 { (self.title) }
                        div.lead { (lead) }
                        @if self.sections.len() > 2 { (contents(&self.sections)) }
                        @for section in &sections { (section) }
                    }
                }
            }
        }
        .into_string()
    }
}

impl Section {
    /// A section of `blocks`.
    pub fn new(heading: impl Into<String>, blocks: impl Into<Vec<Block>>) -> Self {
        Self { heading: heading.into(), blocks: blocks.into() }
    }
}

impl Block {
    /// A paragraph.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A paragraph that stands out.
    pub fn notice(tone: Tone, text: impl Into<String>) -> Self {
        Self::Notice(tone, text.into())
    }
}

impl Tone {
    /// The class that it has in the style sheet.
    fn class(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("good"),
            Self::Warning => Some("warning"),
            Self::Bad => Some("bad"),
        }
    }

    /// Its sign, which a screen reader speaks as the word beside it.
    fn sign(self) -> Markup {
        let (sign, word) = match self {
            Self::Plain => return html! {},
            Self::Good => ("✓", "good"),
            Self::Warning => ("!", "warning"),
            Self::Bad => ("✗", "bad"),
        };
        html! { span.sign aria-hidden="true" { (sign) } span.spoken { (word) ": " } }
    }
}

/// Gives each element that is referred to an id of its own.
#[derive(Debug, Default)]
struct Ids(usize);

impl Ids {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("i{}", self.0)
    }
}

fn contents(sections: &[Section]) -> Markup {
    html! {
        nav aria-label="Contents" {
            ul { @for (i, section) in sections.iter().enumerate() { li { a href=(format!("#s{i}")) { (inline(&section.heading)) } } } }
        }
    }
}

fn section_of(i: usize, section: &Section, ids: &mut Ids) -> Markup {
    html! {
        section id=(format!("s{i}")) {
            h2 { (inline(&section.heading)) }
            (blocks(&section.blocks, ids))
        }
    }
}

fn blocks(blocks: &[Block], ids: &mut Ids) -> Markup {
    let parts: Vec<Markup> = blocks.iter().map(|part| block(part, ids)).collect();
    html! { @for part in &parts { (part) } }
}

fn block(block: &Block, ids: &mut Ids) -> Markup {
    match block {
        Block::Text(text) => html! { p { (inline(text)) } },
        Block::Notice(tone, text) => {
            html! { p class=(format!("notice {}", tone.class().unwrap_or_default())) { (tone.sign()) (inline(text)) } }
        }
        Block::List(texts) => html! { ul { @for text in texts { li { (inline(text)) } } } },
        Block::Code(text) => html! { pre tabindex="0" { code { (text) } } },
        Block::Table(table) => table.render(ids),
        Block::Bars(chart) => chart.render(ids),
        Block::Lines(chart) => chart.render(ids),
        Block::Row(parts) => html! { div.row { (self::blocks(parts, ids)) } },
        Block::Details(summary, parts) => html! { details { summary { (inline(summary)) } (self::blocks(parts, ids)) } },
    }
}
