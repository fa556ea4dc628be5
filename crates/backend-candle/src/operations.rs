//! Our kernels on candle's tensors: values of tensors on the processor go in, new tensors come out.

use candle_core::{DType, Device, Result, Tensor};
use half::f16;
use tandem_kernels::attention::{self, AttentionMask, CacheLayout, CacheView, Scoring};
use tandem_kernels::elementwise::{self, GateActivation};
use tandem_kernels::matrix::{Kernels, Matrix, RowRun, Weights};
use tandem_kernels::mlp::{Observe, ScratchPool};
use tandem_kernels::rotary::{Heads, Norms, Table};
use tandem_kernels::{Float, zeros};

use crate::linear::Linear;
use crate::values::{Stored, Values, tensor};

/// See [`elementwise::rms_norm`].
pub(crate) fn rms_norm(x: &Tensor, weight: &[f32], eps: f32) -> Result<Tensor> {
    let values = Values::of(x)?;
    let mut out = zeros(values.len());
    elementwise::rms_norm(&values, weight, eps, &mut out);
    tensor(out, x.shape())
}

/// `x + y` of tensors of one shape. candle's own sum runs on a pool of its own, with as many threads as the machine has.
pub(crate) fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (left, right) = (Values::of(x)?, Values::of(y)?);
    if left.len() != right.len() {
        candle_core::bail!("{:?} and {:?} cannot be added", x.shape(), y.shape());
    }
    tensor(elementwise::add(&left, &right), x.shape())
}

/// `softmax(scale * q kᵀ) v`: `queries` are `[heads, n, head_dim]`, `keys` and `values` `[kv_heads, capacity, head_dim]`, of which
/// the first `n_past + n` positions are used, in f32 or f16; the result is `[n, heads * head_dim]`.
pub(crate) fn attention(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: AttentionMask,
    scoring: Scoring,
) -> Result<Tensor> {
    match keys.dtype() {
        DType::F16 => attention_of::<f16>(queries, [keys, values], mask, scoring),
        _ => attention_of::<f32>(queries, [keys, values], mask, scoring),
    }
}

fn attention_of<F: Stored>(queries: &Tensor, caches: [&Tensor; 2], mask: AttentionMask, scoring: Scoring) -> Result<Tensor> {
    let layout = CacheLayout::contiguous(<[usize; 3]>::from(caches[0].dims3()?));
    let (keys, values) = (Values::<F>::stored(caches[0])?, Values::<F>::stored(caches[1])?);
    let caches = [&keys[..], &values[..]].map(|values| CacheView { values, layout });
    attention_to(queries, caches, mask, (scoring, Kernels::Fastest))
}

/// As [`attention`], of keys and values that lie anyhow, by `kernels`.
pub(crate) fn attention_to<F: Float>(
    queries: &Tensor,
    caches: [CacheView<'_, F>; 2],
    mask: AttentionMask,
    (scoring, kernels): (Scoring, Kernels),
) -> Result<Tensor> {
    let (n_heads, n, head_dim) = queries.dims3()?;
    let capacity = caches[0].capacity();
    if mask.n_past + n > capacity {
        candle_core::bail!("{} positions of a cache of {capacity}", mask.n_past + n);
    }
    let mut out = zeros(n * n_heads * head_dim);
    attention::attention(&Values::of(queries)?, caches, [n_heads, n], mask, scoring, kernels, &mut out);
    tensor(out, (n, n_heads * head_dim))
}

/// `x` rounded to f16.
pub(crate) fn narrowed(x: &Tensor) -> Result<Tensor> {
    let values = Values::of(x)?;
    let mut out = vec![f16::ZERO; values.len()];
    f16::narrow(&values, &mut out);
    Tensor::from_vec(out, x.shape(), &Device::Cpu)
}

/// See [`Table::heads`]: `[queries + 2 * keys, n, head_dim]`.
pub(crate) fn heads(
    table: &Table,
    projected: &Tensor,
    heads: &Heads,
    norms: Option<Norms<'_>>,
    positions: &[usize],
) -> Result<Tensor> {
    let (n, width) = projected.dims2()?;
    let mut out = zeros(n * width);
    table.heads(&Values::of(projected)?, heads, norms, positions, &mut out);
    tensor(out, (heads.queries + 2 * heads.keys, n, heads.head_dim))
}

/// The rows of `matrix` numbered `ids`: `[ids.len(), columns]`.
pub(crate) fn select(matrix: &Matrix, ids: &[u32]) -> Result<Tensor> {
    let mut out = vec![0.0; ids.len() * matrix.columns];
    matrix.view().select(ids, &mut out);
    tensor(out, (ids.len(), matrix.columns))
}

/// The weights as a tensor, `[rows, columns]`.
///
/// # Errors
/// When they are quantised.
pub(crate) fn to_tensor(matrix: &Matrix) -> Result<Tensor> {
    let shape = (matrix.rows, matrix.columns);
    match matrix.weights() {
        Weights::F32(values) => Tensor::from_slice(values, shape, &Device::Cpu),
        Weights::F16(values) => Tensor::from_slice(values, shape, &Device::Cpu),
        Weights::Bf16(values) => Tensor::from_slice(values, shape, &Device::Cpu),
        Weights::Blocks(_) | Weights::Strips(_) => candle_core::bail!("quantised weights cannot be moved from the processor"),
    }
}

/// `x W` of whole rows `x`, `[n, rows]`: `[n, columns]`. The inputs stay floats.
///
/// # Errors
/// For weights with offsets.
pub(crate) fn transposed_product(matrix: &Matrix, x: &[f32]) -> Result<Vec<f32>> {
    if matrix.has_offsets() {
        candle_core::bail!("weights with offsets are not multiplied from the left");
    }
    Ok(matrix.view().transposed_product(x))
}

/// See [`ScratchPool::mlp`]: of `x`, `[n, hidden_size]`, as wide.
pub(crate) fn mlp(
    pool: &ScratchPool,
    (gate_up, activation, down): (&Linear, GateActivation, &Linear),
    x: &Tensor,
    runs: &[RowRun],
    observe: &mut Observe<'_, candle_core::Error>,
) -> Result<Tensor> {
    let (n, columns) = x.dims2()?;
    let width = down.weights.columns;
    if columns != gate_up.weights.columns || gate_up.weights.rows != 2 * width {
        candle_core::bail!("an MLP of {} and {width} columns cannot take {columns} inputs", gate_up.weights.rows);
    }
    let out = pool.mlp(gate_up.projection(), activation, down.projection(), &Values::of(x)?, runs, observe)?;
    tensor(out, (n, down.weights.rows))
}
