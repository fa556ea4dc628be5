//! Kernels on the processor, without an engine: what decoders and encoders compute, on slices of f32.
//!
//! # What is there
//!
//! - [`matrix`]: weights in f32, f16, bf16, 8 or 4 bits and their products, [`MatrixView::write_product`](matrix::MatrixView::write_product).
//!   A [`Matrix`](matrix::Matrix) owns its weights; a [`MatrixView`](matrix::MatrixView) borrows what lies elsewhere. Products of one input
//!   with several matrices are one loop, [`write_products`](matrix::write_products).
//! - [`quantize`]: the blocks of 8 and 4 bits.
//! - [`low_rank`]: what adapters add to a product, computed along with it.
//! - [`mlp`]: a feed-forward block with a gate; [`attention`]: attention over a KV cache; [`rotary`]: rotary positions.
//! - [`elementwise`]: norms, activation functions, sums.
//! - [`encoder`]: the parts of encoders, in a layout of their own.
//!
//! Inside, `kernel` has the inner loops for each instruction set, `product` the products with many rows, `quantized_activations` the inputs
//! of integer products, and `isa` finds the instruction set.
//!
//! # Layouts
//!
//! Everything is row-major, and shapes are written as `[rows, columns]`. A weight matrix has one row for each output, `[outputs, inputs]`,
//! as checkpoints have it, and is used where it lies: nothing is packed in advance, but for encoders. Quantised weights are blocks of 32
//! inputs: `codes` are `[outputs, inputs / 32, bytes of a block]`, `scales` `[outputs, inputs / 32]`, in f32. A block of 8 bits is 32
//! bytes, a block of 4 bits is 16, with weight `i` in the low half of byte `i` and weight `i + 16` in the high half. A weight is its integer,
//! from -128 to 127 or from -8 to 7, times the scale, plus the offset of its block where the matrix has offsets; [`quantize::Bits`] says
//! what code an integer has.
//!
//! # What is equal to the bit
//!
//! - With [`Kernels::ByShape`](matrix::Kernels::ByShape) a row of inputs gives the same outputs, whatever rows it shares a product with. With
//!   [`Kernels::Fastest`](matrix::Kernels::Fastest) the kernels of few rows and of many differ in the last bits of their outputs: sequences that
//!   share a product get what each gets alone with [`RowRun::of_sequences`](matrix::RowRun::of_sequences). Rows are few up to 8.
//! - Attention to a prompt does not depend on the chunks in which it comes, if each has more than 8 tokens.
//! - Weights in f16 and bf16 give what the same weights in f32 give.
//! - What an encoder gives for a text does not depend on its batch.
//! - Results do not depend on the number of threads, and neither do integers and scales of quantised weights on the processor.
//!
//! Instruction sets round sums differently: they agree to within the rounding of f32. Products with quantised weights are sums of integers
//! where [`Numerics::Fast`](tandem_core::backend::Numerics::Fast) allows it and the processor is faster so (AVX2, VNNI, NEON): inputs are then
//! rounded to 8 bits in each block of 32. With exact numerics inputs stay f32. On AArch64 these products have the same bits at every
//! instruction set.
//!
//! # Where loops run
//!
//! On rayon's current pool: that in which the caller runs ([`Threads::run`]), otherwise the global one. What is small runs on the calling
//! thread alone. Nothing waits for anything but the other tasks of the same call, so calls from several threads of a pool are fine.
//!
//! The instruction set is the best of the processor ([`instruction_set`]), unless the environment variable `TANDEM_ISA` names a lower
//! one. Loops exist for AVX-512 with and without VNNI, AVX2 with and without VNNI, NEON with products of matrices of bytes (i8mm), with dot
//! products and without either, and in plain Rust for every other processor.

pub mod attention;
mod buffers;
pub mod elementwise;
pub mod encoder;
mod float;
#[cfg(all(test, target_os = "linux"))]
mod guarded;
mod isa;
mod kernel;
pub mod low_rank;
pub mod matrix;
#[doc(hidden)]
pub mod measured;
pub mod mlp;
mod product;
pub mod quantize;
mod quantized_activations;
pub mod rotary;
pub mod strips;
mod threads;
mod tiles;

pub use buffers::{scratch_slice, zeros};
pub use float::Float;
pub use isa::{check_instruction_set, instruction_set};
pub use threads::Threads;
