//! Tables: with a caption, headings that a screen reader finds, and a frame of their own to scroll in on a phone.

use maud::{Markup, html};

use super::text::inline;
use super::{Ids, Tone};

/// A text of more characters gets room, however narrow the screen is.
const LONG: usize = 40;

/// A table; the first cell of each row is the row's heading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// The headings of the columns.
    pub columns: Vec<String>,
    /// The rows, each with as many cells as there are columns.
    pub rows: Vec<Vec<Cell>>,
    /// On a phone each row is a card: for few rows that are to be read whole.
    pub are_cards: bool,
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What it says.
    pub text: String,
    /// How it is meant.
    pub tone: Tone,
    /// It is a figure, and stands at the right.
    pub is_figure: bool,
}

impl Table {
    /// A table without rows.
    pub fn new(caption: impl Into<String>, columns: &[&str]) -> Self {
        Self { caption: caption.into(), columns: columns.iter().map(|&column| column.into()).collect(), ..Self::default() }
    }

    /// The same, with a card for each row where the screen is narrow.
    #[must_use]
    pub fn of_cards(self) -> Self {
        Self { are_cards: true, ..self }
    }

    pub(super) fn render(&self, ids: &mut Ids) -> Markup {
        let id = ids.next();
        let is_figure = |column: usize| self.rows.first().and_then(|row| row.get(column)).is_some_and(|cell| cell.is_figure);
        // A screen reader does not take a cell that is drawn as a block for a cell, unless it says so.
        let role = |role: &'static str| self.are_cards.then_some(role);
        let label = |column: usize| self.columns.get(column).filter(|_| self.are_cards);
        html! {
            div.scroll role="region" aria-labelledby=(id) tabindex="0" {
                table class=[self.are_cards.then_some("cards")] role=[role("table")] {
                    caption id=(id) { (inline(&self.caption)) }
                    thead role=[role("rowgroup")] { tr role=[role("row")] {
                        @for (i, column) in self.columns.iter().enumerate() {
                            th scope="col" role=[role("columnheader")] class=[is_figure(i).then_some("figure")] { (inline(column)) }
                        }
                    } }
                    tbody role=[role("rowgroup")] {
                        @for row in &self.rows { tr role=[role("row")] {
                            @for (i, cell) in row.iter().enumerate() {
                                @if i == 0 {
                                    th scope="row" role=[role("rowheader")] class=[cell.class()] { (cell.content()) }
                                } @else {
                                    td role=[role("cell")] data-label=[label(i)] class=[cell.class()] { (cell.content()) }
                                }
                            }
                        } }
                    }
                }
            }
        }
    }
}

impl Cell {
    /// A text.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A figure.
    pub fn figure(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_figure: true, ..Self::default() }
    }

    /// The same with `tone`.
    #[must_use]
    pub fn with(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    fn content(&self) -> Markup {
        html! { (self.tone.sign()) (inline(&self.text)) }
    }

    fn class(&self) -> Option<String> {
        let is_long = self.text.chars().count() > LONG && !self.text.starts_with('`');
        let classes = [self.is_figure.then_some("figure"), is_long.then_some("long"), self.tone.class()];
        let classes: Vec<&str> = classes.into_iter().flatten().collect();
        (!classes.is_empty()).then(|| classes.join(" "))
    }
}
