//! How the kernels of a product are chosen, so that rows get the bits that they would have alone.

use crate::tiles::MAX_ROWS;

/// How the kernels of products are chosen. The order means nothing: sorted rows have those of the same kernels side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernels {
    /// By the number of rows of inputs, the fastest for that. Those of a few rows and of many give results that differ in the last bits.
    Fastest,
    /// Those of many rows, for any number: a row gives the same bits, whatever it shares a product with.
    ByShape,
    /// Those that are the fastest for so many rows, for any number: a row gives the same bits as in a product of so many.
    OfRows(usize),
}

/// Consecutive rows of inputs whose products are computed by one choice of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowRun {
    /// How many.
    pub n_rows: usize,
    /// By which.
    pub kernels: Kernels,
}

impl RowRun {
    /// Rows of several sequences that share products, of which those of each get the bits that they get alone: `lengths` are the rows of
    /// each.
    pub fn of_sequences(lengths: impl IntoIterator<Item = usize>) -> Vec<Self> {
        Self::of_parts(lengths.into_iter().map(|n| (n, n)))
    }

    /// As [`of_sequences`](Self::of_sequences), of parts of sequences: each with its rows, and those of its whole sequence.
    pub fn of_parts(parts: impl IntoIterator<Item = (usize, usize)>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for (n_rows, of_sequence) in parts.into_iter().filter(|(n_rows, _)| *n_rows > 0) {
            let kernels = Kernels::of_sequence(of_sequence);
            match runs.last_mut().filter(|run| run.kernels == kernels) {
                Some(run) => run.n_rows += n_rows,
                None => runs.push(Self { n_rows, kernels }),
            }
        }
        runs
    }
}

impl Kernels {
    /// Those that give each of any number of rows what it has in a product of `n_rows` that is computed [the fastest](Self::Fastest) way.
    pub fn of_sequence(n_rows: usize) -> Self {
        if n_rows <= MAX_ROWS { Self::OfRows(MAX_ROWS) } else { Self::ByShape }
    }

    /// How many rows of inputs kernels are chosen for where there are `n`.
    pub(crate) fn rows(self, n: usize) -> usize {
        match self {
            Self::Fastest => n,
            Self::ByShape => usize::MAX,
            Self::OfRows(rows) => rows,
        }
    }
}
