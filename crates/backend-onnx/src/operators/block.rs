//! `RowBlock`: products and what lies between them, on rows, as one node. The engine is not asked between two steps, and the threads of the
//! kernels stay awake.
//!
//! What the steps are is in attributes of the node ([`RowBlock`]). A step computes what the operator that it came from computes.

use std::mem;
use std::sync::Arc;

use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{Shape, SymbolicDimensions, TensorElementType, TensorValueType, ValueType};
use rayon::prelude::*;
use tandem_core::config::Activation;
use tandem_kernels::elementwise::{GateActivation, activate_all, rms_norm, sigmoid_all, write_gated, write_product, write_sum};
use tandem_kernels::matrix::{Kernels, MatrixView, ProductPart, RowRun, Terms, write_products};
use tandem_kernels::quantize::Bits;
use tandem_kernels::scratch_slice;
use tandem_onnx_graph::{
    BLOCK_OPERATOR, OUTPUTS_ATTRIBUTE, RowBlock, RowFunction, RowStep, STEPS_ATTRIBUTE, WIDTHS_ATTRIBUTE, product_attribute,
};

use super::floats::FloatWeights;
use super::places::{Place, Places};
use super::weights::{BlockWeights, copied_floats, reorder};
use super::{Floats, MappedWeights, ModelUpdates, Scratch, ScratchPool, Updates, batch, input, node_error, output, shape};

/// The operator.
pub(super) struct Block {
    pub(super) kernels: Kernels,
    pub(super) scratch: Arc<ScratchPool>,
    pub(super) updates: Arc<Updates>,
    pub(super) mapped: Arc<MappedWeights>,
}

/// One node.
pub(super) struct BlockKernel<'n> {
    block: RowBlock,
    /// Of the block; the number of an adapted model comes behind them.
    n_inputs: usize,
    steps: Vec<Step<'n>>,
    places: Places,
    is_adapted: bool,
    kernels: Kernels,
    scratch: Arc<ScratchPool>,
    updates: Arc<Updates>,
}

/// A step with its constants. Values are numbered as in the block.
struct Step<'n> {
    what: What<'n>,
    /// The rows that it reads.
    rows: Vec<usize>,
    /// The first of the values that it makes.
    first: usize,
}

enum What<'n> {
    Products(Vec<Product<'n>>),
    RmsNorm { weight: Vec<f32>, epsilon: f32 },
    Add,
    Mul,
    AddVector(Vec<f32>),
    Function(RowFunction),
    Gated(RowFunction),
    Columns { first: usize },
}

struct Product<'n> {
    weights: Matrix<'n>,
    bias: Option<Vec<f32>>,
    /// What adapters call it.
    module: Option<String>,
}

/// The weights of a product.
enum Matrix<'n> {
    Blocks(BlockWeights<'n>),
    Floats(FloatWeights<'n>),
}

impl Matrix<'_> {
    fn view(&self) -> MatrixView<'_> {
        match self {
            Self::Blocks(weights) => weights.view(),
            Self::Floats(weights) => weights.view(),
        }
    }

    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Blocks(weights) => [weights.rows, weights.columns],
            Self::Floats(weights) => [weights.rows, weights.columns],
        }
    }

    /// Whether inputs are put in another order for it.
    fn reorders(&self) -> bool {
        matches!(self, Self::Blocks(weights) if weights.bits == Bits::Four)
    }
}

impl Operator for Block {
    type Kernel<'attr> = BlockKernel<'attr>;

    fn name(&self) -> &str {
        BLOCK_OPERATOR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::variadic(1)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::variadic(1).homogenous(TensorElementType::Float32)]
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let Some(ValueType::Tensor { shape, dimension_symbols, .. }) = context.inputs().into_iter().next() else { return Ok(()) };
        let widths = context.attr::<Vec<i64>>(WIDTHS_ATTRIBUTE)?;
        for (index, value) in context.attr::<Vec<i64>>(OUTPUTS_ATTRIBUTE)?.into_iter().enumerate() {
            let width = usize::try_from(value).ok().and_then(|value| widths.get(value));
            let mut sizes = shape.to_vec();
            let mut symbols: Vec<String> = dimension_symbols.iter().cloned().collect();
            // A shape that is not known has no sizes.
            let (Some(size), Some(symbol), Some(width)) = (sizes.last_mut(), symbols.last_mut(), width) else { return Ok(()) };
            (*size, *symbol) = (*width, String::new());
            let (shape, dimension_symbols) = (Shape::from(sizes), SymbolicDimensions::new(symbols));
            context.set_output(index, &ValueType::Tensor { ty: TensorElementType::Float32, shape, dimension_symbols })?;
        }
        Ok(())
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<BlockKernel<'attr>> {
        let ints =
            |name: &str| context.get::<Vec<i64>>(name).ok_or_else(|| node_error(format!("the attribute `{name}` is missing")));
        let block = RowBlock::from_ints(&ints(STEPS_ATTRIBUTE)?, &ints(WIDTHS_ATTRIBUTE)?, &ints(OUTPUTS_ATTRIBUTE)?);
        let block = block.map_err(|error| node_error(error.to_string()))?;
        let n_inputs = block.n_inputs().ok_or_else(|| node_error("steps make more values than there are"))?;
        let (mut steps, mut first, mut n_products) = (Vec::new(), n_inputs, 0);
        for step in &block.steps {
            let what = what(context, step, &mut n_products)?;
            let made = Step { rows: what.rows(step), what, first };
            made.check(&block.widths)?;
            first += step.n_outputs();
            steps.push(made);
        }
        for product in steps.iter().flat_map(Step::products) {
            match &product.weights {
                Matrix::Blocks(weights) => self.mapped.add(weights),
                Matrix::Floats(weights) => self.mapped.add_floats(weights),
            }
        }
        let read = steps.iter().map(|step| (&step.rows[..], step.made()));
        let places = Places::new(n_inputs, &block.widths, &block.outputs, read);
        let is_named = |step: &Step<'_>| step.products().iter().any(|product| product.module.is_some());
        Ok(BlockKernel {
            places: places.ok_or_else(|| node_error("a block returns a value twice"))?,
            is_adapted: steps.iter().any(is_named),
            n_inputs,
            steps,
            block,
            kernels: self.kernels,
            scratch: Arc::clone(&self.scratch),
            updates: Arc::clone(&self.updates),
        })
    }
}

/// `step` with its constants; `n_products` counts the products of the block.
fn what<'n>(context: &KernelContext<'n>, step: &RowStep, n_products: &mut usize) -> ort::Result<What<'n>> {
    let vector = |place: usize| copied_floats(&context.constant_input::<TensorValueType<f32>>(place)?);
    let mut product = |weights: Matrix<'n>, bias: Option<usize>| -> ort::Result<_> {
        let module = context.get::<String>(product_attribute(*n_products));
        *n_products += 1;
        Ok(Product { weights, bias: bias.map(vector).transpose()?, module })
    };
    Ok(match step {
        RowStep::Products { matrices, .. } => {
            let each = matrices.iter().map(|m| product(Matrix::Blocks(BlockWeights::new(context, m)?), m.bias));
            What::Products(each.collect::<ort::Result<_>>()?)
        }
        RowStep::FloatProducts { matrices, .. } => {
            let each = matrices.iter().map(|m| product(Matrix::Floats(FloatWeights::new(context, m)?), m.bias));
            What::Products(each.collect::<ort::Result<_>>()?)
        }
        RowStep::RmsNorm { weight, epsilon, .. } => What::RmsNorm { weight: vector(*weight)?, epsilon: f32::from_bits(*epsilon) },
        RowStep::Add(_) => What::Add,
        RowStep::Mul(_) => What::Mul,
        RowStep::AddVector([_, place]) => What::AddVector(vector(*place)?),
        RowStep::Activation(function, _) => What::Function(*function),
        RowStep::Gated(RowFunction::Sigmoid, _) => return Err(node_error("a sigmoid is not a gate")),
        RowStep::Gated(function, _) => What::Gated(*function),
        RowStep::Columns { first, .. } => What::Columns { first: *first },
    })
}

impl What<'_> {
    /// The rows that `step` reads.
    fn rows(&self, step: &RowStep) -> Vec<usize> {
        let mut inputs = step.inputs();
        let n = match self {
            Self::Products(_) | Self::RmsNorm { .. } | Self::AddVector(_) | Self::Function(_) | Self::Columns { .. } => 1,
            Self::Add | Self::Mul | Self::Gated(_) => 2,
        };
        inputs.truncate(n);
        inputs
    }
}

impl<'n> Step<'n> {
    fn products(&self) -> &[Product<'n>] {
        if let What::Products(products) = &self.what { products } else { &[] }
    }

    /// How many values it makes.
    fn made(&self) -> usize {
        self.products().len().max(1)
    }

    /// That all widths fit together.
    fn check(&self, widths: &[usize]) -> ort::Result<()> {
        let (read, made) = (widths[self.rows[0]], &widths[self.first..self.first + self.made()]);
        let is_same = self.rows.iter().all(|&row| widths[row] == read);
        let fits = match &self.what {
            What::Products(products) => {
                let fits = |(product, &width): (&Product<'_>, &usize)| {
                    let has_bias = product.bias.as_ref().is_none_or(|bias| bias.len() == width);
                    product.weights.shape() == [width, read] && has_bias
                };
                !products.is_empty() && products.iter().zip(made).all(fits)
            }
            What::RmsNorm { weight, .. } => !weight.is_empty() && read.is_multiple_of(weight.len()) && made == [read],
            What::AddVector(vector) => vector.len() == read && made == [read],
            What::Columns { first } => made[0] > 0 && first.checked_add(made[0]).is_some_and(|end| end <= read),
            What::Add | What::Mul | What::Function(_) | What::Gated(_) => made == [read],
        };
        if fits && is_same && read > 0 { Ok(()) } else { Err(node_error("the widths of a block do not fit together")) }
    }
}

/// The buffers of a run.
struct Buffers<'b> {
    n: usize,
    runs: &'b [RowRun],
    inputs: &'b [Option<Floats<'b>>],
    /// Those between steps, then the outputs.
    own: Vec<&'b mut [f32]>,
}

impl Kernel for BlockKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let widths = &self.block.widths;
        let is_row = |value: &usize| widths[*value] > 0;
        let inputs = (0..self.n_inputs).map(|place| is_row(&place).then(|| input(context, place)).transpose());
        let inputs: Vec<Option<Floats<'_>>> = inputs.collect::<ort::Result<_>>()?;
        let first = inputs.first().and_then(Option::as_ref).ok_or_else(|| node_error("the first input is not rows"))?;
        let mut sizes = shape(first)?;
        let Some(last) = sizes.pop() else { return Err(node_error("rows have at least one dimension")) };
        let n = sizes.iter().product();
        let fits = |(value, width): (&Floats<'_>, usize)| value.shape().num_elements() == n * width;
        if last != widths[0] || !inputs.iter().zip(widths).filter_map(|(value, &width)| Some((value.as_ref()?, width))).all(fits)
        {
            return Err(node_error(format!("the inputs of a block are not rows of the shape {sizes:?} and its widths")));
        }
        let outputs = self.block.outputs.iter().enumerate();
        let made = outputs.map(|(place, &value)| output(context, place, &[&sizes[..], &[widths[value]]].concat()));
        let mut made = made.collect::<ort::Result<Vec<_>>>()?;
        let adapted = if self.is_adapted { self.updates.given(context, self.n_inputs)? } else { None };
        if n == 0 {
            return Ok(());
        }
        let runs = batch::runs(self.kernels, n)?;
        self.scratch.with(|scratch| {
            let Scratch { inputs: ordered, packed, slots, .. } = scratch;
            slots.resize_with(slots.len().max(self.places.slots.len()), Vec::new);
            let between = slots.iter_mut().zip(&self.places.slots).map(|(slot, width)| scratch_slice(slot, n * width));
            let own = between.chain(made.iter_mut().map(|output| output.extract_tensor_mut().1)).collect();
            let mut buffers = Buffers { n, runs: &runs, inputs: &inputs, own };
            for step in &self.steps {
                self.run(step, &mut buffers, adapted.as_deref(), (ordered, packed));
            }
        });
        Ok(())
    }
}

impl BlockKernel<'_> {
    fn run(
        &self,
        step: &Step<'_>,
        buffers: &mut Buffers<'_>,
        adapted: Option<&ModelUpdates>,
        (ordered, packed): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        let n = buffers.n;
        let made = step.first..step.first + step.made();
        let mut outs: Vec<&mut [f32]> =
            made.clone().map(|value| mem::take(&mut buffers.own[self.places.buffer(value)])).collect();
        let read = |place: usize| {
            let (value, values) = (step.rows[place], &*buffers);
            match self.places.of(value) {
                Place::Input(index) => values.inputs[index].as_ref().map_or(&[][..], |input| input.extract_tensor().1),
                Place::Buffer(index) => &values.own[index][..n * self.block.widths[value]],
            }
        };
        let x = read(0);
        if let What::Products(products) = &step.what {
            let x = match products[0].weights.reorders() {
                false => x,
                true => {
                    let ordered = scratch_slice(ordered, x.len());
                    reorder(x, ordered);
                    ordered
                }
            };
            let parts = products.iter().zip(&mut outs);
            let mut parts: Vec<_> = parts.map(|(product, out)| part(product, adapted, n, out)).collect();
            write_products(x, &mut parts, buffers.runs, packed);
        } else {
            let out = &mut outs[0][..n * self.block.widths[step.first]];
            match &step.what {
                What::Products(_) => {}
                What::Columns { first } => write_columns(x, self.block.widths[step.rows[0]], *first, n, out),
                What::RmsNorm { weight, epsilon } => rms_norm(x, weight, *epsilon, out),
                What::Add => write_sum(x, read(1), out),
                What::Mul => write_product(x, read(1), out),
                What::AddVector(vector) => {
                    let rows = out.chunks_exact_mut(vector.len()).zip(x.chunks_exact(vector.len()));
                    rows.for_each(|(out, x)| write_sum(x, vector, out));
                }
                What::Function(function) => {
                    out.copy_from_slice(x);
                    match function {
                        RowFunction::Silu => activate_all(Activation::Silu, out),
                        RowFunction::GeluTanh => activate_all(Activation::GeluTanh, out),
                        RowFunction::Sigmoid => sigmoid_all(out),
                    }
                }
                What::Gated(RowFunction::GeluTanh) => write_gated(GateActivation::GeluTanh, x, read(1), out),
                What::Gated(_) => write_gated(GateActivation::Silu, x, read(1), out),
            }
        }
        for (value, out) in made.zip(outs) {
            buffers.own[self.places.buffer(value)] = out;
        }
    }
}

/// Writes the columns from `first` on of each of `n` rows of `x` to `out`, as many as fit.
fn write_columns(x: &[f32], width: usize, first: usize, n: usize, out: &mut [f32]) {
    /// Values of a task.
    const TOGETHER: usize = 1 << 14;
    let columns = out.len() / n;
    let rows = out.par_chunks_mut(columns).zip(x.par_chunks(width)).with_min_len(TOGETHER.div_ceil(columns));
    rows.for_each(|(out, x)| out.copy_from_slice(&x[first..first + columns]));
}

/// One of the products of a step.
fn part<'p>(product: &'p Product<'_>, adapted: Option<&'p ModelUpdates>, n: usize, out: &'p mut [f32]) -> ProductPart<'p> {
    let update = adapted.zip(product.module.as_ref()).and_then(|(model, module)| model.get(module));
    ProductPart {
        matrix: product.weights.view(),
        terms: Terms { bias: product.bias.as_deref(), update },
        out: &mut out[..n * product.weights.shape()[0]],
    }
}
