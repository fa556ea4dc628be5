//! `GroupQueryAttention`: causal attention over a KV cache, which is appended to in place where its past and its present are one buffer.
//!
//! The cache is of f32, or of f16 for the operator of that name; the rest is f32.
//!
//! Source: `GroupQueryAttention` in `ContribOperators.md` of ONNX Runtime, and its `group_query_attention_helper.h`.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::slice;
use std::sync::Arc;

use half::f16;
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{PrimitiveTensorElementType, SymbolicDimensions, TensorElementType, ValueType};
use rayon::prelude::*;
use tandem_core::kv_memory::BLOCK_POSITIONS;
use tandem_kernels::attention::{AttentionMask, CacheLayout, CacheView, Scoring, append, attention};
use tandem_kernels::rotary::rotate_pairs;
use tandem_kernels::{Float, scratch_slice};
use tandem_onnx_graph::F16_ATTENTION;

use super::{Floats, FloatsMut, Scratch, ScratchPool, count, input, node_error, optional_input, output, shape};
use crate::block_addresses::part_of_blocks;

/// The places of the inputs.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const PAST_KEYS: usize = 3;
const PAST_VALUES: usize = 4;
const LAST_POSITIONS: usize = 5;
const TOTAL: usize = 6;
const COSINES: usize = 7;
const SINES: usize = 8;

/// Fewer values are moved by one thread.
const FEW_VALUES: usize = 1 << 14;

/// How a message about a value that f16 cannot hold begins; its magnitude follows.
pub(crate) const TOO_LARGE: &str = "too large for f16: ";

/// A type that keys and values are held in.
pub(super) trait Held: Float + PrimitiveTensorElementType + Debug + Default + 'static {
    /// What the operator is called.
    const OPERATOR: &'static str;
}

impl Held for f32 {
    const OPERATOR: &'static str = "GroupQueryAttention";
}

impl Held for f16 {
    const OPERATOR: &'static str = F16_ATTENTION;
}

/// The operator, with a cache of `F`.
pub(super) struct Attention<F> {
    scratch: Arc<ScratchPool>,
    cache: PhantomData<fn() -> F>,
}

impl<F> Attention<F> {
    pub(super) fn new(scratch: &Arc<ScratchPool>) -> Self {
        Self { scratch: Arc::clone(scratch), cache: PhantomData }
    }
}

/// One node.
pub(super) struct AttentionKernel<F> {
    shape: NodeShape,
    scratch: Arc<ScratchPool>,
    cache: PhantomData<fn() -> F>,
}

/// What a node says of itself.
#[derive(Clone, Copy)]
struct NodeShape {
    heads: usize,
    kv_heads: usize,
    rotates: bool,
    window: Option<usize>,
    /// `None` for `1 / √head_dim`.
    scale: Option<f32>,
    softcap: Option<f32>,
}

impl<F: Held> Operator for Attention<F> {
    type Kernel<'attr> = AttentionKernel<F>;

    fn name(&self) -> &str {
        F::OPERATOR
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        const FLOAT: TensorElementType = TensorElementType::Float32;
        let optional = || OperatorInput::optional(FLOAT);
        let past = || OperatorInput::optional(F::into_tensor_element_type());
        let [length, total] = [(); 2].map(|()| OperatorInput::required(TensorElementType::Int32));
        let query = OperatorInput::required(FLOAT);
        // Exporters write names of nothing for those that are left out behind the tables.
        let unused = [TensorElementType::Int64, FLOAT, FLOAT, FLOAT, FLOAT].map(OperatorInput::optional);
        let known = [query, optional(), optional(), past(), past(), length, total, optional(), optional()];
        known.into_iter().chain(unused)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let held = F::into_tensor_element_type();
        [TensorElementType::Float32, held, held].map(OperatorOutput::required)
    }

    fn infer_shape(&self, context: &mut ShapeInferenceContext) -> ort::Result<()> {
        let inputs = context.inputs();
        let Some(ValueType::Tensor { ty, shape, dimension_symbols }) = inputs.first() else { return Ok(()) };
        let heads = context.attr::<i64>("num_heads")?;
        // A shape that is not known has no sizes.
        let Some(ValueType::Tensor { shape: past, .. }) = inputs.get(PAST_KEYS) else { return Ok(()) };
        if let (&[batch, n, _], &[_, _, _, head_dim]) = (&shape[..], &past[..])
            && head_dim > 0
        {
            let shape = [batch, n, heads * head_dim].into();
            let mut symbols = dimension_symbols.to_vec();
            symbols[2].clear();
            let dimension_symbols = SymbolicDimensions::new(symbols);
            return context.set_output(0, &ValueType::Tensor { ty: *ty, shape, dimension_symbols });
        }
        Ok(())
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<AttentionKernel<F>> {
        let (heads, kv_heads) = (count(context, "num_heads")?, count(context, "kv_num_heads")?);
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 {
            return Err(node_error(format!("{heads} heads do not share the keys of {kv_heads}")));
        }
        let window = context.get::<i64>("local_window_size").and_then(|window| usize::try_from(window).ok());
        let positive = |name: &str| context.get::<f32>(name).filter(|value| *value > 0.0);
        let shape = NodeShape {
            heads,
            kv_heads,
            rotates: context.get::<i64>("do_rotary").unwrap_or(0) != 0,
            window: window.filter(|&window| window > 0),
            scale: context.get::<f32>("scale").filter(|scale| *scale != 0.0),
            softcap: positive("softcap"),
        };
        Ok(AttentionKernel { shape, scratch: Arc::clone(&self.scratch), cache: PhantomData })
    }
}

/// What is multiplied, `[batch, n, width]` each: of one tensor, or of three.
struct Projected<'c> {
    queries: Floats<'c>,
    /// Keys and values, where they are not with the queries.
    apart: Option<[Floats<'c>; 2]>,
    batch: usize,
    n: usize,
    head_dim: usize,
}

/// One row of the batch: the values of queries, keys and values, each with the distance between tokens.
type Row<'v> = [(&'v [f32], usize); 3];

impl<'c> Projected<'c> {
    fn of(kernel: &NodeShape, context: &'c ComputeContext) -> ort::Result<Self> {
        let queries = input(context, QUERY)?;
        let &[batch, n, width] = &*shape(&queries)? else { return Err(node_error("queries have three dimensions")) };
        let apart = match (optional_input(context, KEY)?, optional_input(context, VALUE)?) {
            (Some(key), Some(value)) => Some([key, value]),
            (None, None) => None,
            _ => return Err(node_error("keys and values must be given together")),
        };
        let heads = if apart.is_some() { kernel.heads } else { kernel.heads + 2 * kernel.kv_heads };
        let head_dim = width / heads;
        let fits = |value: &Floats<'_>| Ok::<_, ort::Error>(shape(value)? == [batch, n, kernel.kv_heads * head_dim]);
        let fit = match &apart {
            Some([key, value]) => fits(key)? && fits(value)?,
            None => true,
        };
        if head_dim == 0 || width != heads * head_dim || !fit {
            return Err(node_error(format!(
                "the widths of queries, keys and values do not match {} and {} heads",
                kernel.heads, kernel.kv_heads
            )));
        }
        Ok(Self { queries, apart, batch, n, head_dim })
    }

    fn row(&self, row: usize, heads: usize, kv_heads: usize) -> Row<'_> {
        let (query, kv) = (heads * self.head_dim, kv_heads * self.head_dim);
        let queries = self.queries.extract_tensor().1;
        let of = |values, width: usize| slice_of_row(values, row, self.n * width);
        match &self.apart {
            None => {
                let width = query + 2 * kv;
                let own = of(queries, width);
                [0, query, query + kv].map(|start| (&own[start.min(own.len())..], width))
            }
            Some([keys, values]) => {
                let [keys, values] = [keys.extract_tensor().1, values.extract_tensor().1];
                [(of(queries, query), query), (of(keys, kv), kv), (of(values, kv), kv)]
            }
        }
    }
}

fn slice_of_row(values: &[f32], row: usize, size: usize) -> &[f32] {
    &values[row * size..(row + 1) * size]
}

/// Cosines and sines, `[positions, width]` each, of the first `2 width` values of a head.
struct Tables<'v> {
    cosines: &'v [f32],
    sines: &'v [f32],
    width: usize,
}

impl Tables<'_> {
    /// Rotates the pairs `(i, i + width)` of `head` by its position.
    fn rotate(&self, head: &mut [f32], position: usize) {
        let own = position * self.width..(position + 1) * self.width;
        rotate_pairs(&mut head[..2 * self.width], &self.cosines[own.clone()], &self.sines[own]);
    }
}

impl<F: Held> Kernel for AttentionKernel<F> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let node = &self.shape;
        let projected = Projected::of(node, context)?;
        let Projected { batch, n, head_dim, .. } = projected;
        let pasts = [input::<F>(context, PAST_KEYS)?, input::<F>(context, PAST_VALUES)?];
        let n_past = match (&*shape(&pasts[0])?, &*shape(&pasts[1])?) {
            (&[b, heads, n_past, width], values)
                if [b, heads, width] == [batch, node.kv_heads, head_dim] && *values == [b, heads, n_past, width] =>
            {
                n_past
            }
            (keys, values) => {
                return Err(node_error(format!("past keys of {keys:?} and values of {values:?} do not match the queries")));
            }
        };
        let [lengths, total] = [input::<i32>(context, LAST_POSITIONS)?, input::<i32>(context, TOTAL)?];
        let spans = spans(lengths.extract_tensor().1, total.extract_tensor().1, [batch, n], n_past)?;
        let capacity = spans.capacity;
        let tables = [optional_input(context, COSINES)?, optional_input(context, SINES)?];
        let tables = if node.rotates { Some(rotation(&tables, head_dim, spans.end)?) } else { None };
        let mut out = output::<f32>(context, 0, &[batch, n, node.heads * head_dim])?;
        let size = [batch, node.kv_heads, capacity, head_dim];
        let mut presents = [output::<F>(context, 1, &size)?, output::<F>(context, 2, &size)?];
        let [present_keys, present_values] = &mut presents;
        for (past, present) in pasts.iter().zip([&mut *present_keys, &mut *present_values]) {
            carry(past, present, [batch * node.kv_heads, n_past, capacity], head_dim)?;
        }
        let out = out.extract_tensor_mut().1;
        if out.is_empty() {
            return Ok(());
        }
        let mut caches = [Cache::of(present_keys, size)?, Cache::of(present_values, size)?];
        for (row, out) in out.chunks_mut(n * node.heads * head_dim).enumerate() {
            let given = projected.row(row, node.heads, node.kv_heads);
            let to = Place { n, start: spans.starts[row], head_dim };
            self.scratch.with(|scratch| node.attend(given, to, tables.as_ref(), scratch, (&mut caches, row), out))?;
        }
        Ok(())
    }
}

impl NodeShape {
    /// Puts keys and values into the cache of one row, and writes the attention of its queries to `out`.
    fn attend<F: Held>(
        &self,
        given: Row<'_>,
        to: Place,
        tables: Option<&Tables<'_>>,
        scratch: &mut Scratch,
        (caches, row): (&mut [Cache<'_, F>; 2], usize),
        out: &mut [f32],
    ) -> ort::Result<()> {
        let Place { n, start, head_dim } = to;
        let appended = scratch_slice(&mut scratch.appended, self.kv_heads * n * head_dim);
        for (given, tables, cache) in [(given[1], tables, 0), (given[2], None, 1)] {
            place(given, tables, appended, to);
            let layout = caches[cache].layout;
            append(appended, caches[cache].values_mut(row), layout, start)
                .map_err(|value| node_error(format!("{TOO_LARGE}{value}")))?;
        }
        let queries = scratch_slice(&mut scratch.inputs, out.len());
        place(given[0], tables, queries, to);
        let scale = self.scale.unwrap_or_else(|| (head_dim as f32).sqrt().recip());
        attention(
            queries,
            [caches[0].view(row), caches[1].view(row)],
            [self.heads, n],
            AttentionMask { n_past: start, window: self.window, ahead: None },
            Scoring { scale, softcap: self.softcap },
            out,
        );
        Ok(())
    }
}

/// The keys or the values of all rows of a batch: a tensor of them, or, of one row, what blocks have of a port.
struct Cache<'c, F> {
    first: *mut F,
    /// Values of a row; in blocks keys and values of others are among them.
    n_values: usize,
    layout: CacheLayout,
    tensor: PhantomData<&'c mut F>,
}

impl<'c, F: Held> Cache<'c, F> {
    /// What lies where `present` points to, which is `[batch, kv_heads, capacity, head_dim]`.
    fn of(present: &'c mut FloatsMut<'_, F>, [batch, kv_heads, capacity, head_dim]: [usize; 4]) -> ort::Result<Self> {
        let first = present.data_ptr().cast_mut().cast::<F>();
        let contiguous = CacheLayout::contiguous([kv_heads, capacity, head_dim]);
        let (n_values, layout) = match part_of_blocks(first.addr()) {
            None => (contiguous.block_len(), contiguous),
            Some(part) => {
                let blocks = CacheLayout::contiguous([kv_heads, BLOCK_POSITIONS, head_dim]);
                (part.n_bytes / size_of::<F>(), CacheLayout { stride: part.stride_bytes / size_of::<F>(), ..blocks })
            }
        };
        if layout != contiguous && (batch != 1 || layout.capacity(n_values) < capacity) {
            return Err(node_error(format!("blocks for {} positions are not a cache of {capacity}", layout.capacity(n_values))));
        }
        Ok(Self { first, n_values, layout, tensor: PhantomData })
    }

    /// The keys or the values of number `row` of the batch, and what lies between them.
    #[expect(unsafe_code, reason = "blocks of keys have those of values between them")]
    fn values_mut(&mut self, row: usize) -> &mut [F] {
        // SAFETY: a tensor of as many rows, or what its session, which waits for this run, has of blocks from there on. While the result is used
        // nobody else reads or writes any of it.
        unsafe { slice::from_raw_parts_mut(self.first.add(row * self.n_values), self.n_values) }
    }

    /// Those of number `row` of the batch.
    #[expect(unsafe_code, reason = "blocks of keys have those of values between them")]
    fn view(&self, row: usize) -> CacheView<'_, F> {
        // SAFETY: as in `values_mut`, but that nothing is written meanwhile.
        let values = unsafe { slice::from_raw_parts(self.first.add(row * self.n_values), self.n_values) };
        CacheView { values, layout: self.layout }
    }
}

/// The tokens that are put somewhere: their number, and the position of the first.
#[derive(Clone, Copy)]
struct Place {
    n: usize,
    start: usize,
    head_dim: usize,
}

/// Puts the heads of some tokens one after the other, `[heads, n, head_dim]`, rotated where `tables` are given.
fn place((given, width): (&[f32], usize), tables: Option<&Tables<'_>>, out: &mut [f32], to: Place) {
    let head = |(head, out): (usize, &mut [f32])| {
        for (token, out) in out.chunks_exact_mut(to.head_dim).enumerate() {
            out.copy_from_slice(&given[token * width + head * to.head_dim..][..to.head_dim]);
            if let Some(tables) = tables {
                tables.rotate(out, to.start + token);
            }
        }
    };
    match given.len() < FEW_VALUES {
        true => out.chunks_mut(to.n * to.head_dim).enumerate().for_each(head),
        false => out.par_chunks_mut(to.n * to.head_dim).enumerate().for_each(head),
    }
}

/// Where the new tokens of each row stand.
struct Spans {
    /// The position of the first.
    starts: Vec<usize>,
    /// Behind the last of all rows.
    end: usize,
    /// Positions of the cache.
    capacity: usize,
}

/// The first positions of `n` new tokens of each row of a batch, whose last ones are `lengths`; a cache holds `n_past` positions.
fn spans(lengths: &[i32], total: &[i32], [batch, n]: [usize; 2], n_past: usize) -> ort::Result<Spans> {
    let total = total.first().and_then(|&total| usize::try_from(total).ok()).ok_or_else(|| node_error("a length is negative"))?;
    let capacity = total.max(n_past);
    if lengths.len() != batch {
        return Err(node_error(format!("{} lengths are not those of {batch} rows", lengths.len())));
    }
    let start = |&last: &i32| match n == total {
        // A prompt: shorter rows are padded behind.
        true => Some(0),
        false => usize::try_from(last).ok().and_then(|last| (last + 1).checked_sub(n)),
    };
    let starts: Option<Vec<usize>> = lengths.iter().map(start).collect();
    let starts = starts.ok_or_else(|| node_error(format!("{n} tokens are more than the length of a row")))?;
    let last = starts.iter().copied().max().unwrap_or(0);
    if last > n_past || last + n > capacity {
        return Err(node_error(format!("{n} tokens after {last} do not fit a cache of {capacity} with {n_past}")));
    }
    Ok(Spans { end: last + n, starts, capacity })
}

/// The tables of cosines and sines, which must reach to position `end`.
fn rotation<'v>(tables: &'v [Option<Floats<'_>>; 2], head_dim: usize, end: usize) -> ort::Result<Tables<'v>> {
    let [Some(cosines), Some(sines)] = tables else { return Err(node_error("cosines and sines are missing")) };
    let size = shape(cosines)?;
    match size[..] {
        [positions, width] if end <= positions && 2 * width <= head_dim && shape(sines)? == size => {
            let [cosines, sines] = [cosines.extract_tensor().1, sines.extract_tensor().1];
            Ok(Tables { cosines, sines, width })
        }
        _ => Err(node_error(format!("rotation to position {end} of heads of {head_dim} has tables of {size:?}"))),
    }
}

/// Copies the past of a cache of `n_heads` heads in all, `n_past` positions each, to its present of `capacity`, unless they are one buffer.
fn carry<F: Held>(
    past: &Floats<'_, F>,
    present: &mut FloatsMut<'_, F>,
    [n_heads, n_past, capacity]: [usize; 3],
    head_dim: usize,
) -> ort::Result<()> {
    let from = past.data_ptr().cast::<F>();
    if from == present.data_ptr().cast() {
        return Ok(());
    }
    let present = present.extract_tensor_mut().1;
    if n_past == 0 {
        present.fill(F::default());
        return Ok(());
    }
    // SAFETY: `past` is a tensor of `F` of this shape, whose memory is another than the one that is written.
    #[expect(unsafe_code, reason = "where both are one buffer, there must not be a second slice of it")]
    let past = unsafe { slice::from_raw_parts(from, n_heads * n_past * head_dim) };
    let heads = present.par_chunks_mut(capacity * head_dim).zip(past.par_chunks(n_past * head_dim));
    heads.for_each(|(present, past)| {
        let (before, after) = present.split_at_mut(past.len());
        before.copy_from_slice(past);
        after.fill(F::default());
    });
    Ok(())
}
