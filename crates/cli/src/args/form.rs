//! The form of a graph that is made: how it holds its weights, what it takes and what it gives.

use clap::Args;
use tandem::DType;
use tandem::backends::{GraphFormat, GraphOutputs};

use super::engine::{among, one_of};

#[derive(Args, Debug)]
pub(crate) struct FormOptions {
    /// The dtype of the weights
    ///
    /// f32 loses nothing, as when a checkpoint is run without a dtype. f16 is for accelerators. int8 takes a quarter of the space and
    /// int4 an eighth, and both are faster on a processor; int4 is less exact.
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = among::<DType>(&["f32", "f16", "int8", "int4"]))]
    pub(crate) dtype: DType,
    /// The dtype of the head, and of the embedding where they are one [default: that of the weights]
    ///
    /// int4 with a head of int8 takes a little more space and loses much less.
    #[arg(long, value_name = "DTYPE", value_parser = among::<DType>(&["f32", "f16", "int8", "int4"]))]
    pub(crate) head_dtype: Option<DType>,
    /// How many inputs of a quantised matrix share a scale: larger blocks are smaller and faster, and less exact
    #[arg(long, value_name = "INPUTS", default_value = "32", value_parser = among::<usize>(&["16", "32", "64", "128"]))]
    pub(crate) block_size: usize,
    /// Give each block a zero point besides its scale: more exact, a little larger
    #[arg(long)]
    pub(crate) zero_points: bool,
    /// What the graph computes: logits for generation, hidden states for embeddings
    #[arg(long, value_name = "WHICH", default_value = "logits", value_parser = one_of::<GraphOutputs>())]
    pub(crate) outputs: GraphOutputs,
    /// Give the projections inputs for a low-rank adapter of any rank; without one they take some 5 % of its speed
    #[arg(long)]
    pub(crate) adapter_inputs: bool,
}

impl FormOptions {
    pub(crate) fn form(&self) -> GraphFormat {
        GraphFormat {
            dtype: self.dtype,
            head_dtype: self.head_dtype.unwrap_or(self.dtype),
            block_size: self.block_size,
            zero_points: self.zero_points,
            outputs: self.outputs,
            adapter_inputs: self.adapter_inputs,
        }
    }
}
