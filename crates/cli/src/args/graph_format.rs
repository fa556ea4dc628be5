//! The format of a graph that is made: how it holds its weights, what it takes and what it gives.

use clap::Args;
use tandem::DType;
use tandem::backends::{GraphFormat, GraphOutputs};

use super::engine::{among, one_of};

#[derive(Args, Debug)]
pub(crate) struct GraphFormatArgs {
    /// Dtype of the weights
    ///
    /// f32 is lossless. f16 is for accelerators. int8 takes a quarter of the space and int4 an eighth, and both are faster on a
    /// processor; int4 is less accurate.
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = among::<DType>(&["f32", "f16", "int8", "int4"]))]
    pub(crate) dtype: DType,
    /// Dtype of the head, and of the embedding where both share weights [default: that of the weights]
    ///
    /// int4 with an int8 head takes slightly more space and is much more accurate.
    #[arg(long, value_name = "DTYPE", value_parser = among::<DType>(&["f32", "f16", "int8", "int4"]))]
    pub(crate) head_dtype: Option<DType>,
    /// Number of inputs of a quantised matrix that share a scale: larger blocks are smaller, faster and less accurate
    #[arg(long, value_name = "INPUTS", default_value = "32", value_parser = among::<usize>(&["16", "32", "64", "128"]))]
    pub(crate) block_size: usize,
    /// Store a zero point for each block besides its scale: more accurate, slightly larger
    #[arg(long)]
    pub(crate) zero_points: bool,
    /// Outputs of the graph: logits for generation, hidden states for embeddings
    #[arg(long, value_name = "WHICH", default_value = "logits", value_parser = one_of::<GraphOutputs>())]
    pub(crate) outputs: GraphOutputs,
    /// Add inputs for a low-rank adapter of any rank to the projections; unused, they cost about 5 % of speed
    #[arg(long)]
    pub(crate) adapter_inputs: bool,
}

impl GraphFormatArgs {
    pub(crate) fn format(&self) -> GraphFormat {
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
