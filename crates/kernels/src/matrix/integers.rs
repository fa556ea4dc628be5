//! Products of a few quantised inputs with quantised weights, in rows or in strips.

use std::ops::Range;

use tandem_core::backend::Numerics;

use super::MatrixView;
use crate::kernel::SumOrder;
use crate::product::Weights;
use crate::quantize::Bits;
use crate::quantized_activations::{BlockPair, QuantizedActivations, RowGroup};
use crate::strips::Layout;

/// A few inputs, as the kernels take them.
pub(super) enum FewIntegers {
    Pairs(Vec<BlockPair>),
    Group(RowGroup<'static>),
}

impl MatrixView<'_> {
    /// The bits of weights whose inputs are quantised.
    pub(super) fn integer_bits(self) -> Option<Bits> {
        let quantizes = self.numerics == Numerics::Fast && self.isa.quantizes_activations();
        self.weights.bits().filter(|_| quantizes)
    }

    /// Whether weights lie in strips, and tasks have whole ones.
    pub(super) fn is_in_strips(self) -> bool {
        matches!(self.weights, Weights::Strips(_))
    }

    /// The inputs `rows`, as they are multiplied the fastest.
    pub(super) fn few_integers(self, inputs: &QuantizedActivations, rows: Range<usize>) -> FewIntegers {
        let offset = self.weights.bits().map_or(0, Bits::offset);
        match self.is_in_strips() || self.isa.has_strips() && rows.len() > 1 {
            true => FewIntegers::Group(inputs.group(rows, offset)),
            false => FewIntegers::Pairs(inputs.pairs_of(rows, offset)),
        }
    }

    /// The products of some rows of weights with inputs in pairs, `[rows, n]`.
    pub(super) fn products_of_pairs(self, rows: Range<usize>, pairs: &[BlockPair], out: &mut [f32]) {
        match self.weights {
            Weights::Blocks(blocks) => {
                self.isa.integer_products(blocks.rows(rows, self.columns), pairs, self.columns, out);
            }
            _ => unreachable!("pairs are made for quantised weights in rows"),
        }
    }

    /// The products of some rows of weights with the inputs of `group`, a slice for each.
    pub(super) fn products_of_group(self, rows: Range<usize>, group: &RowGroup<'_>, out: &mut [&mut [f32]]) {
        let weights = match self.weights {
            Weights::Strips(strips) => (strips.rows(rows).memory(), Layout::Strips),
            Weights::Blocks(blocks) => (blocks.rows(rows, self.columns), Layout::Rows),
            _ => unreachable!("groups are made for quantised weights"),
        };
        self.isa.group_products(weights, SumOrder::InTurns, group, out);
    }
}
