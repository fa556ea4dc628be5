//! What is computed between tokens and hidden states, kept in a pass that is to be shown.
//!
//! A block's last product is added to the states, and the activation is applied to the first one's output, as they are computed: where they
//! are to be shown by themselves they are computed once more.

use std::ops::Range;

use tandem_core::backend::{Probe, ProbePoint};
use tandem_core::{CancelToken, TokenId};
use tandem_kernels::encoder::{Columns, PackedInputs, PackedLinear, Then};

use super::{Buffers, Encoder, Texts};

/// Values of a pass at the points that were requested; none of them in a pass for speed.
#[derive(Default)]
pub(super) struct Recording {
    points: Vec<ProbePoint>,
    shown: Vec<(ProbePoint, Vec<f32>)>,
}

impl Encoder {
    /// What one pass over `tokens`, all of the first type, computes at `points`, in the order of computation.
    pub(crate) fn probe(&self, tokens: &[TokenId], points: &[ProbePoint]) -> Vec<Probe> {
        let recording = Recording { points: points.to_vec(), shown: Vec::new() };
        let mut buffers = Buffers { recording, ..Buffers::default() };
        let mut out = vec![0.0; tokens.len() * self.hidden_size];
        let texts = Texts { ids: tokens, types: None, lengths: &[tokens.len()] };
        self.forward(&texts, &CancelToken::new(), &mut buffers, &mut out);
        let shown = buffers.recording.shown;
        shown.into_iter().map(|(point, values)| Probe::new(point, values, tokens)).collect()
    }
}

impl Recording {
    /// Keeps `columns`, if `point` is requested.
    pub(super) fn add(&mut self, point: ProbePoint, columns: &Columns) {
        self.add_rows(point, columns, 0..columns.width());
    }

    /// Keeps the successive parts of `columns`, each of `width` values a token.
    pub(super) fn add_parts(&mut self, points: &[ProbePoint], columns: &Columns, width: usize) {
        for (part, &point) in points.iter().enumerate() {
            self.add_rows(point, columns, part * width..(part + 1) * width);
        }
    }

    /// Keeps the product of `linear` with `input`.
    pub(super) fn add_product(&mut self, point: ProbePoint, linear: &PackedLinear, input: &Columns) {
        if self.points.contains(&point) {
            let mut product = Columns::default();
            product.reset(linear.outputs(), input.n_tokens());
            linear.forward(input, Then::Write, &mut product, &mut PackedInputs::default());
            self.add(point, &product);
        }
    }

    fn add_rows(&mut self, point: ProbePoint, columns: &Columns, rows: Range<usize>) {
        if self.points.contains(&point) {
            let mut values = vec![0.0; columns.n_tokens() * columns.width()];
            columns.write_rows(&mut values);
            let of_token = values.chunks_exact(columns.width()).flat_map(|token| &token[rows.clone()]);
            self.shown.push((point, of_token.copied().collect()));
        }
    }
}
