//! The parts of an encoder's forward pass, in a layout of their own: tokens are columns, in blocks of 32 ([`Columns`]).
//!
//! Texts are concatenated without padding, linear layers run over all of their tokens, and attention over those of each text. Nothing that
//! is computed for a token depends on the others but through the attention of its own text: what a text gets does not depend on its batch,
//! to the bit.

mod attention;
mod columns;
mod packed;
mod pairs;
mod relative;
mod rotation;

pub use self::attention::{Attention, Sequence};
pub use self::columns::{Columns, LayerNorm};
pub use self::packed::{PackedInputs, PackedLinear, Then};
pub use self::relative::RelativeBias;
pub use self::rotation::Rotation;
pub use crate::kernel::PairProducts;
