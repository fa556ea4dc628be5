//! Weights of 4 or 8 bits, where the graph has them.
//!
//! ONNX Runtime has weights `2 i` and `2 i + 1` of a block in one byte, our kernels weights `i` and `i + 16`: so the inputs of each block are
//! put in that order, evens first, and every sum has the same parts. Codes of 8 bits are laid out alike.
//! Source: `MatMulNBits` in `ContribOperators.md` of ONNX Runtime.

use std::ffi::c_void;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::operator::KernelContext;
use ort::value::{PrimitiveTensorElementType, TensorValueType, ValueRef};
use rayon::prelude::*;
use tandem_core::arena::Arena;
use tandem_core::backend::Numerics;
use tandem_core::huge_pages::Copying;
use tandem_kernels::matrix::{MatrixView, Weights};
use tandem_kernels::quantize::{BLOCK, Bits, Blocks};
use tandem_kernels::strips::{InterleavedCopy, Layout};
use tandem_onnx_graph::BlockMatrix;

use super::{Floats, node_error};

/// A matrix of a node: its weights, and what they are.
pub(super) struct BlockWeights<'n> {
    /// `[rows, columns / BLOCK, bits.block_bytes()]`
    codes: ValueRef<'n, TensorValueType<u8>>,
    scales: Scales<'n>,
    /// What is added to the weights of each block, `[rows, columns / BLOCK]`.
    offsets: Option<Vec<f32>>,
    pub(super) bits: Bits,
    pub(super) rows: usize,
    pub(super) columns: usize,
    numerics: Numerics,
    /// A copy that products use once it is made.
    interleaved: Arc<OnceLock<InterleavedCopy>>,
}

/// A scale for each block, `[rows, columns / BLOCK]`.
enum Scales<'n> {
    /// The graph's own.
    Given(Floats<'n>),
    /// One that several blocks share, repeated.
    Repeated(Arc<[f32]>),
}

impl<'n> BlockWeights<'n> {
    /// Those that `matrix` describes, whose parts are constant inputs of the node.
    pub(super) fn new(context: &KernelContext<'n>, matrix: &BlockMatrix) -> ort::Result<Self> {
        let BlockMatrix { columns, rows, block_size: block, .. } = *matrix;
        let bits = match matrix.bits {
            4 => Bits::Four,
            8 => Bits::Eight,
            bits => return Err(node_error(format!("weights have {bits} bits"))),
        };
        if rows == 0 || columns == 0 || block == 0 || block % BLOCK != 0 || columns % block != 0 {
            return Err(node_error(format!("rows of {columns} weights are not whole blocks of {block}")));
        }
        let too_large = || node_error("a matrix is too large");
        let n_scales = rows.checked_mul(columns / block).ok_or_else(too_large)?;
        let n_bytes = n_scales.checked_mul(block / BLOCK * bits.block_bytes()).ok_or_else(too_large)?;
        let codes = context.constant_input::<TensorValueType<u8>>(matrix.codes)?;
        let scales = context.constant_input::<TensorValueType<f32>>(matrix.scales)?;
        let (n_codes, n_given) = (codes.shape().num_elements(), scales.shape().num_elements());
        if n_codes != n_bytes || n_given != n_scales {
            return Err(node_error(format!("{n_codes} bytes and {n_given} scales are not {rows} rows of {columns} weights")));
        }
        let numerics = if matrix.is_fast { Numerics::Fast } else { Numerics::Exact };
        let scales = Scales::of(scales, block);
        let mut weights = Self { offsets: None, scales, codes, bits, rows, columns, numerics, interleaved: Arc::default() };
        if let Some(zeros) = matrix.zeros {
            let zeros = context.constant_input::<TensorValueType<u8>>(zeros)?;
            weights.offsets = weights.offsets(zeros.extract_tensor().1, block)?;
        }
        Ok(weights)
    }

    /// The addresses of what it reads of the graph.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        let scales = match &self.scales {
            Scales::Given(scales) => Some(address_range(scales.data_ptr(), scales.shape().num_elements() * size_of::<f32>())),
            Scales::Repeated(_) => None,
        };
        [Some(address_range(self.codes.data_ptr(), self.codes.shape().num_elements())), scales].into_iter().flatten()
    }

    /// What makes the copy that products use, a part at a time; its memory is in `arena`. There is nothing to do where a copy is not worth it.
    ///
    /// # Safety
    /// The constants of the node stay where they are until all are called or dropped, and nobody writes to them.
    #[expect(unsafe_code, reason = "another thread reads what the engine keeps")]
    pub(super) unsafe fn copying(&self, arena: &Arc<Arena>) -> Vec<Copying> {
        /// Weights that are copied at a time: neither the end of the session nor the memory of both copies waits for more.
        const PART: usize = if cfg!(test) { 1 << 11 } else { 4 << 20 };
        if !self.is_interleaved() {
            return Vec::new();
        }
        let Self { bits, rows, columns, .. } = *self;
        let unfinished = Arc::<Mutex<Option<InterleavedCopy>>>::default();
        let part = |part: Range<usize>| -> Copying {
            let (arena, unfinished) = (Arc::clone(arena), Arc::clone(&unfinished));
            let interleaved = Arc::downgrade(&self.interleaved);
            let blocks = part.start * columns / BLOCK..part.end * columns / BLOCK;
            let within = |start: *const c_void, size: usize| {
                let start = start.expose_provenance();
                start + blocks.start * size..start + blocks.end * size
            };
            let codes = within(self.codes.data_ptr(), bits.block_bytes());
            let scales = match &self.scales {
                Scales::Given(scales) => Ok(within(scales.data_ptr(), size_of::<f32>())),
                Scales::Repeated(scales) => Err(Arc::clone(scales)),
            };
            Box::new(move || {
                // The engine may have made the node more than once.
                let Some(interleaved) = interleaved.upgrade() else { return Vec::new() };
                // SAFETY: the caller promises that the constants are there, and nobody writes to them; `Scales::of` has seen that they are aligned.
                let own_codes =
                    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(codes.start), codes.len()) };
                let own_scales = match &scales {
                    // SAFETY: as for the codes.
                    Ok(own) => unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(own.start), blocks.len()) },
                    Err(all) => &all[blocks.clone()],
                };
                let mut unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
                let copy = unfinished.get_or_insert_with(|| InterleavedCopy::new(bits, [rows, columns], &arena));
                copy.copy(part.start, Blocks { bits, codes: own_codes, scales: own_scales });
                if part.end == rows
                    && let Some(copy) = unfinished.take()
                {
                    interleaved.get_or_init(|| copy);
                }
                [Some(codes), scales.ok()].into_iter().flatten().collect()
            })
        };
        let together = (PART / columns).next_multiple_of(InterleavedCopy::ROWS).max(InterleavedCopy::ROWS);
        (0..rows).step_by(together).map(|first| part(first..rows.min(first + together))).collect()
    }

    /// Whether products are to use a copy.
    pub(super) fn is_interleaved(&self) -> bool {
        Layout::of(self.numerics) == Layout::Strips
    }

    /// What is computed with it.
    pub(super) fn view(&self) -> MatrixView<'_> {
        let rows =
            || Weights::Blocks(Blocks { bits: self.bits, codes: self.codes.extract_tensor().1, scales: self.scales.values() });
        let weights = self.interleaved.get().map_or_else(rows, |copy| Weights::Strips(copy.strips()));
        let matrix = MatrixView::new(weights, [self.rows, self.columns], self.numerics);
        self.offsets.as_deref().map_or(matrix, |offsets| matrix.with_offsets(offsets))
    }

    /// The offsets of blocks whose zero points are `zeros`, `[rows, columns / block * bits / 8]`; `None` where all are in the middle.
    fn offsets(&self, zeros: &[u8], block: usize) -> ort::Result<Option<Vec<f32>>> {
        let (per_row, repeated) = (self.columns / block, block / BLOCK);
        let (in_byte, middle) = match self.bits {
            Bits::Four => (2, 8),
            Bits::Eight => (1, 128),
        };
        let row_bytes = per_row.div_ceil(in_byte);
        if zeros.len() != self.rows * row_bytes {
            return Err(node_error(format!("{} bytes of zero points are not those of {} rows", zeros.len(), self.rows)));
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
}

impl<'n> Scales<'n> {
    /// One for each block of [`BLOCK`] from one for each of `block`.
    fn of(given: Floats<'n>, block: usize) -> Self {
        if block == BLOCK && given.data_ptr().cast::<f32>().is_aligned() {
            return Self::Given(given);
        }
        Self::Repeated(copies(&given).flat_map(|scale| std::iter::repeat_n(scale, block / BLOCK)).collect())
    }

    fn values(&self) -> &[f32] {
        match self {
            Self::Given(values) => values.extract_tensor().1,
            Self::Repeated(values) => values,
        }
    }
}

/// The values of a constant.
///
/// # Errors
/// When they are not in the memory of the processor.
pub(super) fn copied_floats(constant: &Floats<'_>) -> ort::Result<Vec<f32>> {
    if constant.memory_info().is_cpu_accessible() {
        Ok(copies(constant).collect())
    } else {
        Err(node_error("a constant is elsewhere"))
    }
}

/// The addresses of `n` bytes from `start` on.
pub(super) fn address_range(start: *const c_void, n: usize) -> Range<usize> {
    start.expose_provenance()..start.expose_provenance() + n
}

/// The values of `constant`, which a file may have put at any address.
pub(super) fn copies<F: PrimitiveTensorElementType + Debug + Copy>(constant: &Floats<'_, F>) -> impl Iterator<Item = F> + Clone {
    let pointer = constant.data_ptr().cast::<F>();
    (0..constant.shape().num_elements()).map(move |i| {
        // SAFETY: `i` is less than the number of values of this tensor, which lies in the memory of the processor.
        #[expect(unsafe_code, reason = "a slice of values that are not aligned is not allowed")]
        unsafe {
            pointer.add(i).read_unaligned()
        }
    })
}

/// Puts the inputs of each block into the order of weights of 4 bits.
pub(super) fn reorder(x: &[f32], out: &mut [f32]) {
    /// Blocks of a task.
    const TOGETHER: usize = 1024;
    let blocks = out.as_chunks_mut::<BLOCK>().0;
    blocks.par_chunks_mut(TOGETHER).zip(x.as_chunks::<BLOCK>().0.par_chunks(TOGETHER)).for_each(|(out, x)| {
        out.iter_mut().zip(x).for_each(|(out, x)| evens_first(x, out));
    });
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
