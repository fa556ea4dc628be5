//! Scores before softmax, and which of them a caller asks for.

/// The positions whose logits [`Session::append_into`](super::Session::append_into) returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsRequest {
    /// None: the tokens only enter the cache.
    None,
    /// Those of the last so many tokens, or of all when fewer are appended: `[n, vocab_size]`. More than one needs
    /// [`Capability::AllLogits`](super::Capability::AllLogits).
    Last(usize),
    /// Those of every token: `[n_tokens, vocab_size]`.
    All,
}

impl LogitsRequest {
    /// The number of rows for `n_tokens` appended tokens.
    pub fn n_rows(self, n_tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last(n) => n.min(n_tokens),
            Self::All => n_tokens,
        }
    }

    /// Whether more than the last position may be returned.
    pub(super) fn exceeds_last(self) -> bool {
        !matches!(self, Self::None | Self::Last(0 | 1))
    }
}

/// Scores before softmax, `[n, vocab_size]`, row-major. The memory is kept from use to use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    values: Vec<f32>,
    vocab_size: usize,
}

impl Logits {
    /// Takes `values` of shape `[values.len() / vocab_size, vocab_size]`.
    ///
    /// # Panics
    /// When `values` is not a whole number of rows.
    pub fn new(values: Vec<f32>, vocab_size: usize) -> Self {
        assert!(vocab_size > 0 && values.len().is_multiple_of(vocab_size), "logits are whole rows");
        Self { values, vocab_size }
    }

    /// Makes room for `n_rows` of `vocab_size` and returns their values, `[n_rows, vocab_size]`, for the caller to write.
    pub fn resize(&mut self, n_rows: usize, vocab_size: usize) -> &mut [f32] {
        self.vocab_size = vocab_size;
        self.values.resize(n_rows * vocab_size, 0.0);
        &mut self.values
    }

    /// The number of rows.
    pub fn n_rows(&self) -> usize {
        self.values.len().checked_div(self.vocab_size).unwrap_or(0)
    }

    /// The size of a row.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Row `i`: `[vocab_size]`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.vocab_size..(i + 1) * self.vocab_size]
    }

    /// The last row, if there is one.
    pub fn last(&self) -> Option<&[f32]> {
        self.n_rows().checked_sub(1).map(|i| self.row(i))
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}
