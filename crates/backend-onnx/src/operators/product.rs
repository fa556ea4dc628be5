//! `MatMulNBits` alone: a product with constant weights of 4 or 8 bits.

use std::sync::Arc;

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{Shape, SymbolicDimensions, TensorElementType, TensorValueType, ValueType};
use tandem_kernels::matrix::{Kernels, Terms};
use tandem_kernels::quantize::Bits;
use tandem_kernels::scratch_slice;
use tandem_onnx_graph::{ADAPTER_PLACE, BlockMatrix, MODULE_ATTRIBUTE};

use super::weights::{BlockWeights, reorder};
use super::{Floats, MappedWeights, ScratchPool, Updates, batch, count, input, node_error, optional_input, output, shape};

/// The places of the inputs.
const CODES: usize = 1;
const SCALES: usize = 2;
const ZEROS: usize = 3;
const BIAS: usize = 5;

/// The value of `accuracy_level` that has inputs quantised to 8 bits.
const INTEGERS: i64 = 4;

/// The operator.
pub(super) struct Product {
    pub(super) kernels: Kernels,
    pub(super) scratch: Arc<ScratchPool>,
    pub(super) updates: Arc<Updates>,
    pub(super) mapped: Arc<MappedWeights>,
}

/// One node.
pub(super) struct ProductKernel<'n> {
    weights: BlockWeights<'n>,
    kernels: Kernels,
    scratch: Arc<ScratchPool>,
    /// What adapters call the product.
    module: Option<String>,
    updates: Arc<Updates>,
}

impl Operator for Product {
    type Kernel<'attr> = ProductKernel<'attr>;

    fn name(&self) -> &str {
        "MatMulNBits"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(TensorElementType::Uint8),
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Uint8),
            OperatorInput::optional(TensorElementType::Int32),
            OperatorInput::optional(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Int64),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let Some(ValueType::Tensor { ty, shape, dimension_symbols }) = context.inputs().into_iter().next() else { return Ok(()) };
        let mut sizes = shape.to_vec();
        let mut symbols: Vec<String> = dimension_symbols.iter().cloned().collect();
        // A shape that is not known has no sizes.
        let (Some(size), Some(symbol)) = (sizes.last_mut(), symbols.last_mut()) else { return Ok(()) };
        (*size, *symbol) = (context.attr::<i64>("N")?, String::new());
        let dimension_symbols = SymbolicDimensions::new(symbols);
        context.set_output(0, &ValueType::Tensor { ty, shape: Shape::from(sizes), dimension_symbols })
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<ProductKernel<'attr>> {
        let (rows, columns, block_size) = (count(context, "N")?, count(context, "K")?, count(context, "block_size")?);
        let bits = context.get::<i64>("bits").unwrap_or(4);
        // One that is left out is not a constant; all that are given are, or the edit would have left the node alone.
        let zeros = context.constant_input::<TensorValueType<u8>>(ZEROS).is_ok().then_some(ZEROS);
        let matrix = BlockMatrix {
            codes: CODES,
            scales: SCALES,
            zeros,
            bias: None,
            columns,
            rows,
            bits: usize::try_from(bits).map_err(|_| node_error(format!("weights have {bits} bits")))?,
            block_size,
            is_fast: context.get::<i64>("accuracy_level") == Some(INTEGERS),
        };
        let weights = BlockWeights::new(context, &matrix)?;
        self.mapped.add(&weights);
        Ok(ProductKernel {
            weights,
            kernels: self.kernels,
            scratch: Arc::clone(&self.scratch),
            module: context.get::<String>(MODULE_ATTRIBUTE),
            updates: Arc::clone(&self.updates),
        })
    }
}

impl Kernel for ProductKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let given: Floats<'_> = input(context, 0)?;
        let mut sizes = shape(&given)?;
        match sizes.last_mut() {
            Some(last) if *last == self.weights.columns => *last = self.weights.rows,
            _ => {
                return Err(node_error(format!(
                    "rows of {} weights are multiplied by inputs of the shape {sizes:?}",
                    self.weights.columns
                )));
            }
        }
        let mut result = output(context, 0, &sizes)?;
        let (x, out) = (given.extract_tensor().1, result.extract_tensor_mut().1);
        let bias: Option<Floats<'_>> = optional_input(context, BIAS)?;
        let bias = bias.as_ref().map(|bias| bias.extract_tensor().1);
        if bias.is_some_and(|bias| bias.len() != self.weights.rows) {
            return Err(node_error(format!("a bias is not one of {} values", self.weights.rows)));
        }
        let adapted = self.updates.given(context, ADAPTER_PLACE)?;
        let update = adapted.as_ref().zip(self.module.as_ref()).and_then(|(model, module)| model.get(module));
        let terms = Terms { bias, update };
        let runs = batch::runs(self.kernels, sizes[..sizes.len() - 1].iter().product())?;
        self.scratch.with(|scratch| {
            let x = match self.weights.bits {
                Bits::Eight => x,
                Bits::Four => {
                    let inputs = scratch_slice(&mut scratch.inputs, x.len());
                    reorder(x, inputs);
                    inputs
                }
            };
            self.weights.view().write_products(x, terms, &runs, &mut scratch.packed, out);
        });
        Ok(())
    }
}
