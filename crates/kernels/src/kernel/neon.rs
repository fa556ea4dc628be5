//! The kernels in NEON, which every AArch64 processor has, and its extensions for products of bytes.
//!
//! Products of floats are in `floats`, those of tiles in `tiles`, conversions of f16 in `halves`. Products of bytes are in `bytes`, with NEON alone or with dot products (`sdot`),
//! and in `i8mm` with products of matrices (`usmmla`). The sums of four rows of weights lie side by side in a vector, so that a block
//! adds one number to each, as in plain Rust: quantised products have the bits of the plain kernel.
//!
//! Not every intrinsic that is needed is stable in the least Rust that the project supports: `asm` has these instructions as functions.

mod asm;
mod blocks;
pub(super) mod bytes;
pub(super) mod floats;
pub(super) mod halves;
pub(super) mod i8mm;
mod tiles;

#[cfg(test)]
mod tests;
