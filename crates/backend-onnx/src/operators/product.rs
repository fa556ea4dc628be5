//! `MatMulNBits`: a product with constant weights of 4 or 8 bits.
//!
//! ONNX Runtime has weights `2 i` and `2 i + 1` of a block in one byte, our kernels weights `i` and `i + 16`: so the inputs of each block are
//! put in that order, evens first, and every sum has the same parts. Codes of 8 bits are laid out alike.
//! Source: `MatMulNBits` in `ContribOperators.md` of ONNX Runtime.

use std::sync::Arc;

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{Shape, SymbolicDimensions, TensorElementType, TensorValueType, ValueRef, ValueType};
use rayon::prelude::*;
use tandem_core::backend::Numerics;
use tandem_kernels::matrix::{Kernels, MatrixView, Terms, Weights};
use tandem_kernels::quantize::{BLOCK, Bits, Blocks};
use tandem_onnx_graph::{ADAPTER_PLACE, MODULE_ATTRIBUTE};

use super::{Floats, ModelUpdates, ScratchPool, Updates, count, first, input, mistake, optional_input, output, shape};

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
}

/// One node.
pub(super) struct ProductKernel<'n> {
    /// `[rows, columns / BLOCK, bits.block_bytes()]`
    codes: ValueRef<'n, TensorValueType<u8>>,
    scales: Scales<'n>,
    /// What is added to the weights of each block, `[rows, columns / BLOCK]`.
    offsets: Option<Vec<f32>>,
    bits: Bits,
    rows: usize,
    columns: usize,
    numerics: Numerics,
    kernels: Kernels,
    scratch: Arc<ScratchPool>,
    /// What adapters call the product.
    module: Option<String>,
    updates: Arc<Updates>,
}

/// A scale for each block, `[rows, columns / BLOCK]`.
enum Scales<'n> {
    /// The graph's own.
    Given(Floats<'n>),
    /// One that several blocks share, repeated.
    Repeated(Vec<f32>),
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
        let (rows, columns, block) = (count(context, "N")?, count(context, "K")?, count(context, "block_size")?);
        let bits = match context.get::<i64>("bits").unwrap_or(4) {
            4 => Bits::Four,
            8 => Bits::Eight,
            bits => return Err(mistake(format!("weights have {bits} bits"))),
        };
        if rows == 0 || columns == 0 || block == 0 || block % BLOCK != 0 || columns % block != 0 {
            return Err(mistake(format!("rows of {columns} weights are not whole blocks of {block}")));
        }
        let n_scales = rows.checked_mul(columns / block).ok_or_else(|| mistake("a matrix is too large"))?;
        let codes = context.constant_input::<TensorValueType<u8>>(CODES)?;
        let scales = context.constant_input::<TensorValueType<f32>>(SCALES)?;
        let (n_codes, n_given) = (codes.shape().num_elements(), scales.shape().num_elements());
        if n_codes != n_scales * (block / BLOCK) * bits.block_bytes() || n_given != n_scales {
            return Err(mistake(format!("{n_codes} bytes and {n_given} scales are not {rows} rows of {columns} weights")));
        }
        let is_integer = context.get::<i64>("accuracy_level") == Some(INTEGERS);
        let mut kernel = ProductKernel {
            offsets: None,
            scales: Scales::of(scales, block),
            codes,
            bits,
            rows,
            columns,
            numerics: if is_integer { Numerics::Fast } else { Numerics::Exact },
            kernels: self.kernels,
            scratch: Arc::clone(&self.scratch),
            module: context.get::<String>(MODULE_ATTRIBUTE),
            updates: Arc::clone(&self.updates),
        };
        // One that is left out is not a constant; all that are given are, or the edit would have left the node alone.
        if let Ok(zeros) = context.constant_input::<TensorValueType<u8>>(ZEROS) {
            kernel.offsets = kernel.offsets(zeros.extract_tensor().1, block)?;
        }
        Ok(kernel)
    }
}

impl ProductKernel<'_> {
    /// The offsets of blocks whose zero points are `zeros`, `[rows, columns / block * bits / 8]`; `None` where all are in the middle.
    fn offsets(&self, zeros: &[u8], block: usize) -> ort::Result<Option<Vec<f32>>> {
        let (per_row, repeated) = (self.columns / block, block / BLOCK);
        let (in_byte, middle) = match self.bits {
            Bits::Four => (2, 8),
            Bits::Eight => (1, 128),
        };
        let row_bytes = per_row.div_ceil(in_byte);
        if zeros.len() != self.rows * row_bytes {
            return Err(mistake(format!("{} bytes of zero points are not those of {} rows", zeros.len(), self.rows)));
        }
        let zero = |row: usize, block: usize| {
            let byte = zeros[row * row_bytes + block / in_byte];
            i32::from(if in_byte == 1 { byte } else { byte >> (4 * (block % 2)) & 15 })
        };
        let steps = (0..self.rows).flat_map(|row| (0..per_row * repeated).map(move |block| middle - zero(row, block / repeated)));
        if steps.clone().all(|step| step == 0) {
            return Ok(None);
        }
        Ok(Some(steps.zip(self.scales.values()).map(|(step, scale)| step as f32 * scale).collect()))
    }

    /// The adapted model that this run is with.
    fn adapted(&self, context: &ComputeContext) -> ort::Result<Option<Arc<ModelUpdates>>> {
        let number = optional_input::<i64>(context, ADAPTER_PLACE)?;
        match number.and_then(|number| number.extract_tensor().1.first().copied()) {
            None | Some(0) => Ok(None),
            Some(number) => {
                self.updates.of(number).map(Some).ok_or_else(|| mistake(format!("no adapters have the number {number}")))
            }
        }
    }

    /// Puts the inputs of each block into the order of the weights.
    fn reorder(&self, x: &[f32], out: &mut [f32]) {
        /// Blocks of a task.
        const TOGETHER: usize = 1024;
        let blocks = out.as_chunks_mut::<BLOCK>().0;
        blocks.par_chunks_mut(TOGETHER).zip(x.as_chunks::<BLOCK>().0.par_chunks(TOGETHER)).for_each(|(out, x)| {
            out.iter_mut().zip(x).for_each(|(out, x)| evens_first(x, out));
        });
    }
}

/// Puts the inputs of whole rows into the order in which a product with weights of `bits` takes them.
pub(crate) fn order_inputs(rows: &mut [f32], bits: i64) {
    if bits == 4 {
        for block in rows.as_chunks_mut::<BLOCK>().0 {
            evens_first(&block.clone(), block);
        }
    }
}

fn evens_first(x: &[f32; BLOCK], out: &mut [f32; BLOCK]) {
    let (evens, odds) = out.split_at_mut(BLOCK / 2);
    for ((even, odd), [first, second]) in evens.iter_mut().zip(odds).zip(x.as_chunks::<2>().0) {
        (*even, *odd) = (*first, *second);
    }
}

impl Kernel for ProductKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let given: Floats<'_> = input(context, 0)?;
        let mut sizes = shape(&given)?;
        match sizes.last_mut() {
            Some(last) if *last == self.columns => *last = self.rows,
            _ => {
                return Err(mistake(format!("rows of {} weights are multiplied by inputs of the shape {sizes:?}", self.columns)));
            }
        }
        let mut result = output(context, 0, &sizes)?;
        let (x, out) = (given.extract_tensor().1, result.extract_tensor_mut().1);
        let bias: Option<Floats<'_>> = optional_input(context, BIAS)?;
        let bias = bias.as_ref().map(|bias| bias.extract_tensor().1);
        if bias.is_some_and(|bias| bias.len() != self.rows) {
            return Err(mistake(format!("a bias is not one of {} values", self.rows)));
        }
        let blocks = Blocks { bits: self.bits, codes: self.codes.extract_tensor().1, scales: self.scales.values() };
        let matrix = MatrixView::new(Weights::Blocks(blocks), [self.rows, self.columns], self.numerics);
        let matrix = self.offsets.as_deref().map_or(matrix, |offsets| matrix.with_offsets(offsets));
        let adapted = self.adapted(context)?;
        let update = adapted.as_ref().zip(self.module.as_ref()).and_then(|(model, module)| model.get(module));
        let terms = Terms { bias, update };
        self.scratch.with(|scratch| {
            let x = match self.bits {
                Bits::Eight => x,
                Bits::Four => {
                    let inputs = first(&mut scratch.inputs, x.len());
                    self.reorder(x, inputs);
                    inputs
                }
            };
            matrix.write_product(x, terms, self.kernels, &mut scratch.packed, out);
        });
        Ok(())
    }
}

impl<'n> Scales<'n> {
    /// One for each block of [`BLOCK`] from one for each of `block`.
    fn of(given: Floats<'n>, block: usize) -> Self {
        let pointer = given.data_ptr().cast::<f32>();
        if block == BLOCK && pointer.is_aligned() {
            return Self::Given(given);
        }
        let scale = |i: usize| {
            // SAFETY: `i` is less than the number of values of this tensor, which lies in the memory of the processor; a file may have put it at
            // any address.
            #[expect(unsafe_code, reason = "a slice of values that are not aligned is not allowed")]
            unsafe {
                pointer.add(i).read_unaligned()
            }
        };
        let n = given.shape().num_elements();
        Self::Repeated((0..n).flat_map(|i| std::iter::repeat_n(scale(i), block / BLOCK)).collect())
    }

    fn values(&self) -> &[f32] {
        match self {
            Self::Given(values) => values.extract_tensor().1,
            Self::Repeated(values) => values,
        }
    }
}
