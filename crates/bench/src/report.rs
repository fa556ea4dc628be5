//! What a bench says: which backend, dtype and thread count to use here, what that loses, and how far the figures can be trusted.

mod advice;
mod changes;
mod html;
mod noise;
mod text;
mod words;

pub use self::advice::{Advice, Choice, advise};
pub use self::changes::{Change, GATE_LOSS, changes, disturbances, unjudged};
pub use self::html::page;
pub use self::noise::noise;
pub use self::text::text;
