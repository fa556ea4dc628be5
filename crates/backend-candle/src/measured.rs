//! The inner loops as the bench `kernels` of `tandem-bench` times them. No interface: it changes as they do.

use candle_core::{Result, Tensor};
use half::bf16;

use crate::attention::Sight;
use crate::kernel::Level;
use crate::product;
use crate::quantize::{BLOCK, Bits, Blocks};
use crate::rounded::Rounded;
use crate::values::zeros;

/// A set of instructions that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Instructions(Level);

/// Weights of 8 or 4 bits.
#[derive(Clone, Debug)]
pub struct Quantized {
    bits: Bits,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl Instructions {
    /// Every one, the best last.
    pub fn all() -> Vec<Self> {
        Level::all().into_iter().map(Self).collect()
    }

    /// `weights`, `[rows, columns]`, times a few `inputs`, `[n, columns]`, on one thread: `[rows, n]`.
    pub fn products(self, weights: &[f32], inputs: &[f32], columns: usize, out: &mut [f32]) {
        self.0.products(weights, inputs, columns, out);
    }

    /// As [`products`](Self::products), widened as they are read.
    pub fn bf16_products(self, weights: &[bf16], inputs: &[f32], columns: usize, out: &mut [f32]) {
        self.0.products(weights, inputs, columns, out);
    }

    /// As [`products`](Self::products).
    pub fn block_products(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        self.0.block_products(weights.blocks(), inputs, columns, out);
    }

    /// As [`block_products`](Self::block_products), with `inputs` rounded first.
    pub fn rounded_products(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        let inputs = Rounded::new(inputs, columns).pairs(weights.bits.offset());
        self.0.rounded_products(weights.blocks(), &inputs, columns, out);
    }

    /// As [`block_product`](Self::block_product), with `inputs` rounded first.
    pub fn rounded_product(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::rounded_product(self.0, weights.blocks(), &Rounded::new(inputs, columns), out);
    }

    /// `weights`, `[rows, columns]`, times many `inputs`, `[n, columns]`, on the threads of the current pool: `[n, rows]`.
    pub fn product(self, weights: &[f32], inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::product(self.0, product::Weights::F32(weights), inputs, columns, &mut zeros(inputs.len()), out);
    }

    /// As [`product`](Self::product), widened as they are read.
    pub fn bf16_product(self, weights: &[bf16], inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::product(self.0, product::Weights::Bf16(weights), inputs, columns, &mut zeros(inputs.len()), out);
    }

    /// As [`product`](Self::product).
    pub fn block_product(self, weights: &Quantized, inputs: &[f32], columns: usize, out: &mut [f32]) {
        product::product(self.0, product::Weights::Blocks(weights.blocks()), inputs, columns, &mut zeros(inputs.len()), out);
    }
}

impl Quantized {
    /// Whole blocks of weights in eight bits.
    pub fn eight(weights: &[f32]) -> Self {
        Self::new(Bits::Eight, weights)
    }

    /// Whole blocks of weights in four bits.
    pub fn four(weights: &[f32]) -> Self {
        Self::new(Bits::Four, weights)
    }

    /// The weights that they stand for.
    pub fn dequantize(&self, out: &mut [f32]) {
        self.blocks().dequantize(out);
    }

    fn new(bits: Bits, weights: &[f32]) -> Self {
        let blocks = weights.len() / BLOCK;
        let (mut codes, mut scales) = (vec![0; blocks * bits.block_bytes()], vec![0.0; blocks]);
        bits.quantize(weights, &mut codes, &mut scales);
        Self { bits, codes, scales }
    }

    fn blocks(&self) -> Blocks<'_> {
        Blocks { bits: self.bits, codes: &self.codes, scales: &self.scales }
    }
}

/// `queries` are `[heads, n, head_dim]`, `keys` and `values` `[kv_heads, n_past + n, head_dim]`.
///
/// # Errors
/// Tensors that are not on the processor or have gaps.
pub fn attention(queries: &Tensor, keys: &Tensor, values: &Tensor, n_past: usize) -> Result<Tensor> {
    crate::attention::attention(queries, keys, values, Sight { n_past, window: None })
}
