//! `GroupQueryAttention`: causal attention over a KV cache, which is appended to in place where its past and its present are one buffer.
//!
//! The cache is of f32, or of f16 for the operator of that name; the rest is f32.
//!
//! Source: `GroupQueryAttention` in `ContribOperators.md` of ONNX Runtime, and its `group_query_attention_helper.h`.

mod packed;

use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;
use std::slice;
use std::sync::Arc;

use half::f16;
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{PrimitiveTensorElementType, SymbolicDimensions, TensorElementType, ValueType};
use rayon::prelude::*;
use tandem_core::kv_memory::BLOCK_POSITIONS;
use tandem_kernels::attention::{AttentionMask, CacheLayout, CacheView, Scoring, append, attention};
use tandem_kernels::matrix::Kernels;
use tandem_kernels::rotary::rotate_pairs;
use tandem_kernels::{Float, scratch_slice};
use tandem_onnx_graph::F16_ATTENTION;

use super::{Floats, FloatsMut, Scratch, ScratchPool, batch, count, input, node_error, optional_input, output, shape};
use crate::block_addresses::{PartOfBlocks, part_of_blocks};

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

/// The values of queries, keys and values of all tokens, each with the distance between tokens.
type Rows<'v> = [(&'v [f32], usize); 3];

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

    fn rows(&self, heads: usize, kv_heads: usize) -> Rows<'_> {
        let (query, kv) = (heads * self.head_dim, kv_heads * self.head_dim);
        let queries = self.queries.extract_tensor().1;
        match &self.apart {
            None => [0, query, query + kv].map(|start| (&queries[start.min(queries.len())..], query + 2 * kv)),
            Some([keys, values]) => [(queries, query), (keys.extract_tensor().1, kv), (values.extract_tensor().1, kv)],
        }
    }
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

/// The tokens of one sequence that are appended, and what it holds.
struct Own<'o, F> {
    /// Its rows among all tokens of the node: two ranges, one after the other.
    rows: [Range<usize>; 2],
    /// The position of the first.
    start: usize,
    kernels: Kernels,
    /// Its keys and its values.
    cache: [Cache<'o, F>; 2],
    /// The result for each range of rows, `[n, heads * head_dim]`.
    out: [&'o mut [f32]; 2],
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
        let several = batch::current();
        let [lengths, total] = [input::<i32>(context, LAST_POSITIONS)?, input::<i32>(context, TOTAL)?];
        let spans = match &several {
            Some(several) => several.spans([batch, n], n_past)?,
            None => spans(lengths.extract_tensor().1, total.extract_tensor().1, [batch, n], n_past)?,
        };
        let capacity = spans.capacity;
        let tables = [optional_input(context, COSINES)?, optional_input(context, SINES)?];
        let tables = if node.rotates { Some(rotation(&tables, head_dim, spans.end)?) } else { None };
        let mut out = output::<f32>(context, 0, &[batch, n, node.heads * head_dim])?;
        let size = [batch, node.kv_heads, capacity, head_dim];
        let mut presents = [output::<F>(context, 1, &size)?, output::<F>(context, 2, &size)?];
        for (past, present) in pasts.iter().zip(&mut presents) {
            carry(past, present, [batch * node.kv_heads, n_past, capacity], head_dim)?;
        }
        let out = out.extract_tensor_mut().1;
        if out.is_empty() {
            return Ok(());
        }
        let given = projected.rows(node.heads, node.kv_heads);
        let attend = |own| self.scratch.with(|scratch| node.attend(given, own, head_dim, tables.as_ref(), scratch));
        if let Some(several) = &several {
            return several.owned(&mut presents, [node.kv_heads, head_dim], out)?.into_par_iter().try_for_each(attend);
        }
        let [keys, values] = &mut presents;
        let caches = Cache::of_rows(keys, size)?.into_iter().zip(Cache::of_rows(values, size)?);
        let rows = out.chunks_mut(n * node.heads * head_dim).zip(caches).zip(spans.starts).enumerate();
        rows.map(|(row, ((out, (keys, values)), start))| Own {
            rows: [0..0, row * n..(row + 1) * n],
            start,
            kernels: Kernels::Fastest,
            cache: [keys, values],
            out: [&mut [], out],
        })
        .try_for_each(attend)
    }
}

impl NodeShape {
    /// Puts keys and values into the cache of one sequence, and writes the attention of its queries.
    fn attend<F: Held>(
        &self,
        given: Rows<'_>,
        own: Own<'_, F>,
        head_dim: usize,
        tables: Option<&Tables<'_>>,
        scratch: &mut Scratch,
    ) -> ort::Result<()> {
        let Own { rows, start, kernels, cache: [mut keys, mut values], out: [first, last] } = own;
        let n = rows[0].len() + rows[1].len();
        let to = Place { rows, start, head_dim };
        let appended = scratch_slice(&mut scratch.appended, self.kv_heads * n * head_dim);
        for (given, tables, cache) in [(given[1], tables, &mut keys), (given[2], None, &mut values)] {
            place(given, tables, appended, &to);
            let layout = cache.layout;
            append(appended, cache.values_mut(), layout, start).map_err(|value| node_error(format!("{TOO_LARGE}{value}")))?;
        }
        let width = self.heads * head_dim;
        let queries = scratch_slice(&mut scratch.inputs, n * width);
        place(given[0], tables, queries, &to);
        let scale = self.scale.unwrap_or_else(|| (head_dim as f32).sqrt().recip());
        let attend = |out: &mut [f32]| {
            let mask = AttentionMask { n_past: start, window: self.window, ahead: None };
            let scoring = Scoring { scale, softcap: self.softcap };
            attention(queries, [keys.view(), values.view()], [self.heads, n], mask, scoring, kernels, out);
        };
        match (first.is_empty(), last.is_empty()) {
            (true, _) => attend(last),
            (_, true) => attend(first),
            _ => {
                let both = scratch_slice(&mut scratch.packed, n * width);
                attend(both);
                let (before, after) = both.split_at(first.len());
                first.copy_from_slice(before);
                last.copy_from_slice(after);
            }
        }
        Ok(())
    }
}

/// The keys or the values of one sequence: its part of a tensor, or what blocks have of a port.
struct Cache<'c, F> {
    first: *mut F,
    /// In blocks, keys and values of others are among them.
    n_values: usize,
    layout: CacheLayout,
    memory: PhantomData<&'c mut F>,
}

// SAFETY: it stands for a slice that can be written to, of values that any thread may write.
#[expect(unsafe_code, reason = "an address in the place of a slice")]
unsafe impl<F: Send> Send for Cache<'_, F> {}

impl<'c, F: Held> Cache<'c, F> {
    /// Those of each row of `present`, which is `[batch, kv_heads, capacity, head_dim]`.
    fn of_rows(present: &'c mut FloatsMut<'_, F>, [batch, kv_heads, capacity, head_dim]: [usize; 4]) -> ort::Result<Vec<Self>> {
        let first = present.data_ptr().cast_mut().cast::<F>();
        if let Some(part) = part_of_blocks(first.addr()) {
            let cache = Self::in_blocks(first, part, [kv_heads, head_dim], capacity)?;
            return if batch == 1 { Ok(vec![cache]) } else { Err(node_error("blocks hold one sequence")) };
        }
        let layout = CacheLayout::contiguous([kv_heads, capacity, head_dim]);
        let n_values = layout.block_len();
        let row = |row| Self { first: first.wrapping_add(row * n_values), n_values, layout, memory: PhantomData };
        Ok((0..batch).map(row).collect())
    }

    /// That from `first` on in the blocks of which `part` is from there on, with room for `positions`.
    fn in_blocks(first: *mut F, part: PartOfBlocks, [kv_heads, head_dim]: [usize; 2], positions: usize) -> ort::Result<Self> {
        let of_block = CacheLayout::contiguous([kv_heads, BLOCK_POSITIONS, head_dim]);
        let layout = CacheLayout { stride: part.stride_bytes / size_of::<F>(), ..of_block };
        let n_values = part.n_bytes / size_of::<F>();
        if layout.capacity(n_values) < positions {
            return Err(node_error(format!("blocks for {} positions do not hold {positions}", layout.capacity(n_values))));
        }
        Ok(Self { first, n_values, layout, memory: PhantomData })
    }

    /// The keys or the values, and what lies between them.
    #[expect(unsafe_code, reason = "blocks of keys have those of values between them")]
    fn values_mut(&mut self) -> &mut [F] {
        // SAFETY: a row of a tensor, or what its session, which waits for this run, has of blocks from there on. While the result is used
        // nobody else reads or writes any of it.
        unsafe { slice::from_raw_parts_mut(self.first, self.n_values) }
    }

    #[expect(unsafe_code, reason = "blocks of keys have those of values between them")]
    fn view(&self) -> CacheView<'_, F> {
        // SAFETY: as in `values_mut`, but that nothing is written meanwhile.
        let values = unsafe { slice::from_raw_parts(self.first, self.n_values) };
        CacheView { values, layout: self.layout }
    }
}

/// The tokens that are put somewhere: their rows, and the position of the first.
struct Place {
    rows: [Range<usize>; 2],
    start: usize,
    head_dim: usize,
}

/// Puts the heads of some tokens one after the other, `[heads, n, head_dim]`, rotated where `tables` are given.
fn place((given, width): (&[f32], usize), tables: Option<&Tables<'_>>, out: &mut [f32], to: &Place) {
    let n = to.rows[0].len() + to.rows[1].len();
    let head = |(head, out): (usize, &mut [f32])| {
        let rows = to.rows.iter().flat_map(Range::clone);
        for (position, (row, out)) in (to.start..).zip(rows.zip(out.chunks_exact_mut(to.head_dim))) {
            out.copy_from_slice(&given[row * width + head * to.head_dim..][..to.head_dim]);
            if let Some(tables) = tables {
                tables.rotate(out, position);
            }
        }
    };
    match out.len() < FEW_VALUES {
        true => out.chunks_mut(n * to.head_dim).enumerate().for_each(head),
        false => out.par_chunks_mut(n * to.head_dim).enumerate().for_each(head),
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
