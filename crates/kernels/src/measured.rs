//! The kernels for the bench `kernels`; not a stable interface.

use half::bf16;
use tandem_core::backend::Numerics;

use crate::buffers::zeros;
use crate::isa::Isa;
use crate::matrix::{Kernels, MatrixView, Terms};
use crate::product::{self, Weights};
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::quantized_activations::QuantizedActivations;
use crate::strips::{self, Strips};
use crate::tiles::MAX_ROWS;

/// An instruction set of this processor.
#[derive(Clone, Copy, Debug)]
pub struct Instructions(Isa);

/// Weights of 8 or 4 bits.
#[derive(Clone, Debug)]
pub struct Quantized {
    bits: Bits,
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// Of rows of so many columns that lie in strips.
    columns: Option<usize>,
}

impl Instructions {
    /// All that this processor has, the best last.
    pub fn all() -> Vec<Self> {
        Isa::all().into_iter().map(Self).collect()
    }

    /// `weights`, `[rows, columns]`, times a few `inputs`, `[n, columns]`, on one thread: `[rows, n]`.
    pub fn products(self, weights: &[f32], inputs: &[f32], columns: usize, out: &mut [f32]) {
        self.0.products(weights, inputs, columns, out);
    }

    /// As [`products`](Self::products), of bf16 weights.
    pub fn bf16_products(self, weights: &[bf16], inputs: &[f32], columns: usize, out: &mut [f32]) {
        self.0.products(weights, inputs, columns, out);
    }

    /// As [`products`](Self::products), of quantised weights.
    pub fn block_products(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        self.0.block_products(weights.blocks(), inputs, columns, out);
    }

    /// As [`block_products`](Self::block_products), with quantised activations.
    pub fn integer_products(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        let inputs = QuantizedActivations::new(inputs, columns).pairs(weights.bits.offset());
        self.0.integer_products(weights.blocks(), &inputs, columns, out);
    }

    /// As [`integer_products`](Self::integer_products), of up to eight inputs that share the weights, each with the bits that it has alone, on
    /// the threads of the current pool: `[n, rows]`.
    pub fn integer_products_together(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        let rows = weights.scales.len() * BLOCK / columns;
        let weights = match weights.columns {
            Some(columns) => Weights::Strips(Strips::new(weights.bits, &weights.codes, &weights.scales, columns)),
            None => Weights::Blocks(weights.blocks()),
        };
        let matrix = MatrixView::new(weights, [rows, columns], Numerics::Fast).on(self.0);
        matrix.write_product(inputs, Terms::default(), Kernels::OfRows(MAX_ROWS), &mut Vec::new(), out);
    }

    /// As [`block_product`](Self::block_product), with quantised activations.
    pub fn integer_product(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::integer_product(
            self.0,
            Weights::Blocks(weights.blocks()),
            &QuantizedActivations::new(inputs, columns),
            None,
            out,
        );
    }

    /// `weights`, `[rows, columns]`, times many `inputs`, `[n, columns]`, on the threads of the current pool: `[n, rows]`.
    pub fn product(self, weights: &[f32], inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::product(self.0, (product::Weights::F32(weights), columns), inputs, None, &mut zeros(inputs.len()), out);
    }

    /// As [`product`](Self::product), of bf16 weights.
    pub fn bf16_product(self, weights: &[bf16], inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::product(self.0, (product::Weights::Bf16(weights), columns), inputs, None, &mut zeros(inputs.len()), out);
    }

    /// As [`product`](Self::product), of quantised weights.
    pub fn block_product(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::product(
            self.0,
            (product::Weights::Blocks(weights.blocks()), columns),
            inputs,
            None,
            &mut zeros(inputs.len()),
            out,
        );
    }
}

impl Quantized {
    /// Quantises whole blocks of weights to 8 bits.
    pub fn eight(weights: &[f32]) -> Self {
        Self::new(Bits::Eight, weights)
    }

    /// Quantises whole blocks of weights to 4 bits.
    pub fn four(weights: &[f32]) -> Self {
        Self::new(Bits::Four, weights)
    }

    /// The same in strips, for rows of `columns`, if the best instruction set of this processor has kernels of them.
    #[must_use]
    pub fn in_strips(mut self, columns: usize) -> Option<Self> {
        strips::interleave(self.bits, &mut self.codes, &mut self.scales, columns);
        Isa::all().last().is_some_and(|isa| isa.has_strips()).then_some(Self { columns: Some(columns), ..self })
    }

    /// Writes the dequantised weights to `out`.
    pub fn dequantize(&self, out: &mut [f32]) {
        self.blocks().dequantize(out);
    }

    fn new(bits: Bits, weights: &[f32]) -> Self {
        let blocks = weights.len() / BLOCK;
        let (mut codes, mut scales) = (vec![0; blocks * bits.block_bytes()], vec![0.0; blocks]);
        bits.quantize(weights, &mut codes, &mut scales);
        Self { bits, codes, scales, columns: None }
    }

    fn blocks(&self) -> Blocks<'_> {
        Blocks { bits: self.bits, codes: &self.codes, scales: &self.scales }
    }
}
