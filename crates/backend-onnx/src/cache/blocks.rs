//! A cache for Tandem's operators: in the blocks of [`KvMemory`], in each of which every port has its place.
//!
//! The engine sees a tensor for each port, `[1, kv_heads, capacity, head_dim]`, that begins where the port's part of the first block does. It
//! passes them on and reads nothing of them; an operator asks [`block_addresses`](crate::block_addresses) how what a tensor points to really lies.

use std::fmt::Debug;
use std::io;
use std::ptr::NonNull;

use half::f16;
use ort::memory::MemoryInfo;
use ort::value::{DynValueRefMut, PrimitiveTensorElementType, Shape, TensorElementType, TensorRefMut};
use tandem_core::kv_memory::{BLOCK_POSITIONS, KvMemory};
use tandem_core::{BackendKind, Error, Result};
use tandem_kernels::Float;
use tandem_kernels::attention::{CacheLayout, CacheView};

use crate::block_addresses::{PartOfBlocks, RegisteredBlocks};
use crate::error::Doing;
use crate::graph::CachePort;
use crate::operators::CacheMemory;

/// The keys and values of all ports.
pub(super) struct Blocks {
    /// Lets operators find the blocks. It ends before they are freed, when others may come there.
    registered: Option<RegisteredBlocks>,
    /// What the engine is given: one for each port, over the memory, which is freed after them.
    tensors: Vec<DynValueRefMut<'static>>,
    memory: KvMemory,
    /// Where the ports begin in a block, in bytes.
    starts: Vec<usize>,
}

/// A type that ports are of.
pub(super) trait Held: Float + PrimitiveTensorElementType + Debug {}

impl Held for f32 {}
impl Held for f16 {}

impl Blocks {
    /// Those of an empty cache that grows up to `context_length`.
    pub(super) fn new(ports: &[CachePort], context_length: usize) -> Result<Self> {
        let mut block_bytes = 0_usize;
        let mut starts = Vec::with_capacity(ports.len());
        for port in ports {
            starts.push(block_bytes);
            let own = port.dtype.byte_size(layout(port, 0).block_len()).unwrap_or(0);
            block_bytes = block_bytes.checked_add(own).ok_or_else(|| failed(io::ErrorKind::OutOfMemory.into()))?;
        }
        let memory = KvMemory::new(block_bytes, context_length).map_err(failed)?;
        Ok(Self { memory, starts, tensors: Vec::new(), registered: None })
    }

    /// Tokens for which there are blocks.
    pub(super) fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Makes blocks for `n_tokens` usable.
    pub(super) fn reserve(&mut self, ports: &[CachePort], n_tokens: usize) -> Result<()> {
        if n_tokens <= self.capacity() {
            return Ok(());
        }
        // Their memory may be freed.
        self.registered = None;
        self.tensors.clear();
        let reserved = self.memory.reserve(n_tokens).map_err(failed);
        let n_bytes = self.capacity() / BLOCK_POSITIONS * self.memory.block_bytes();
        self.registered = RegisteredBlocks::new(self.memory.first().addr(), n_bytes, self.memory.block_bytes());
        let (first, capacity) = (self.memory.first(), self.capacity());
        let tensors = ports.iter().zip(&self.starts).map(|(port, start)| {
            // A part of a port in each of the blocks is not more than the rest of all blocks.
            tensor(port, first.wrapping_add(*start), capacity)
        });
        self.tensors = tensors.collect::<Result<_>>()?;
        reserved
    }

    /// The tensors of the ports, to be bound.
    pub(super) fn tensors(&mut self) -> &mut [DynValueRefMut<'static>] {
        &mut self.tensors
    }

    /// The memory of each port.
    pub(super) fn memory(&mut self) -> Vec<CacheMemory> {
        let stride_bytes = self.memory.block_bytes();
        let bytes = self.memory.values_mut::<u8>();
        let of = |start: &usize| {
            let part = bytes.get_mut(*start..).unwrap_or_default();
            let n_bytes = part.len();
            CacheMemory { start: NonNull::from(part).cast(), part: PartOfBlocks { n_bytes, stride_bytes } }
        };
        self.starts.iter().map(of).collect()
    }

    /// Takes the blocks of the first `n_tokens` of `other`, of the same ports; there is room for them.
    pub(super) fn copy_from(&mut self, other: &Self, n_tokens: usize) {
        let n_bytes = n_tokens.div_ceil(BLOCK_POSITIONS) * self.memory.block_bytes();
        self.memory.values_mut::<u8>()[..n_bytes].copy_from_slice(&other.memory.values()[..n_bytes]);
    }

    /// The keys or the values of port number `place`, `port`.
    pub(super) fn view<F: Held>(&self, port: &CachePort, place: usize) -> CacheView<'_, F> {
        let first = self.starts[place] / size_of::<F>();
        let values = self.memory.values().get(first..).unwrap_or_default();
        CacheView { values, layout: layout(port, self.memory.block_bytes() / size_of::<F>()) }
    }

    /// As [`view`](Self::view), to be written to.
    pub(super) fn values_mut<F: Held>(&mut self, port: &CachePort, place: usize) -> (&mut [F], CacheLayout) {
        let (first, stride) = (self.starts[place] / size_of::<F>(), self.memory.block_bytes() / size_of::<F>());
        (self.memory.values_mut().get_mut(first..).unwrap_or_default(), layout(port, stride))
    }
}

/// How the keys or the values of `port` lie in blocks that are `stride` values apart.
fn layout(port: &CachePort, stride: usize) -> CacheLayout {
    CacheLayout { stride, ..CacheLayout::contiguous([port.kv_heads, BLOCK_POSITIONS, port.head_dim]) }
}

/// A tensor for `capacity` positions of `port` at `first`.
fn tensor(port: &CachePort, first: *mut u8, capacity: usize) -> Result<DynValueRefMut<'static>> {
    match port.dtype {
        TensorElementType::Float16 => tensor_of::<f16>(port, first, capacity),
        _ => tensor_of::<f32>(port, first, capacity),
    }
}

fn tensor_of<F: Held>(port: &CachePort, first: *mut u8, capacity: usize) -> Result<DynValueRefMut<'static>> {
    let shape = Shape::new([1, port.kv_heads, capacity, port.head_dim].map(|size| size as i64));
    // SAFETY: from `first` on there are as many values in the blocks, and the tensors are dropped before the blocks move or are freed.
    #[expect(unsafe_code, reason = "a tensor over memory that the engine did not allocate")]
    let tensor = unsafe { TensorRefMut::<F>::from_raw(MemoryInfo::default(), first.cast(), shape) };
    Ok(tensor.doing("to bind the KV cache")?.into_dyn())
}

/// The error of the system, which has no memory.
fn failed(error: io::Error) -> Error {
    Error::engine(BackendKind::Onnx, "to allocate the KV cache", error)
}

#[cfg(test)]
mod tests {
    use tandem_core::conformance::{describe, with_fixture};

    use super::*;
    use crate::block_addresses::{PartOfBlocks, part_of_blocks};
    use crate::library;

    fn ports(dtype: TensorElementType) -> Vec<CachePort> {
        (0..4).map(|i| CachePort { input: i, output: i, dtype, kv_heads: 1 + i % 2, head_dim: 8 }).collect()
    }

    fn with_engine(test: impl FnOnce()) {
        with_fixture(|| library::environment(None).map_err(|error| describe(&error)), |_| test());
    }

    #[test]
    fn each_port_has_its_part_of_every_block() {
        with_engine(|| {
            for dtype in [TensorElementType::Float16, TensorElementType::Float32] {
                let ports = ports(dtype);
                let mut blocks = Blocks::new(&ports, 5000).unwrap();
                for n_tokens in [1, 300, 2000] {
                    blocks.reserve(&ports, n_tokens).unwrap();
                    let capacity = n_tokens.next_multiple_of(BLOCK_POSITIONS);
                    assert_eq!((blocks.capacity(), blocks.tensors().len()), (capacity, 4));
                    let size = dtype.byte_size(1).unwrap();
                    let of_block = 6 * 8 * BLOCK_POSITIONS * size;
                    for (i, port) in ports.iter().enumerate() {
                        let tensor = &blocks.tensors()[i];
                        let (shape, address) = (tensor.shape().to_vec(), data_address(tensor));
                        assert_eq!(shape, [1, port.kv_heads as i64, capacity as i64, 8]);
                        let part = part_of_blocks(address).unwrap();
                        let before = [0, 1, 3, 4][i] * 8 * BLOCK_POSITIONS * size;
                        let n_bytes = capacity / BLOCK_POSITIONS * of_block - before;
                        assert_eq!(part, PartOfBlocks { n_bytes, stride_bytes: of_block });
                        assert!(port.kv_heads * capacity * 8 * size <= n_bytes, "the engine may touch what it knows");
                    }
                }
            }
        });
    }

    #[test]
    fn blocks_that_are_gone_are_not_found() {
        with_engine(|| {
            let ports = ports(TensorElementType::Float16);
            let mut blocks = Blocks::new(&ports, 100).unwrap();
            blocks.reserve(&ports, 1).unwrap();
            let first = data_address(&blocks.tensors()[0]);
            assert!(part_of_blocks(first).is_some() && part_of_blocks(first - 1).is_none_or(|part| part.n_bytes == 1));
            drop(blocks);
            // Another session may have come there.
            assert!(part_of_blocks(first).is_none_or(|part| part.stride_bytes != 6 * 8 * BLOCK_POSITIONS * 2));
            assert_eq!(part_of_blocks(8), None);
        });
    }

    fn data_address(tensor: &DynValueRefMut<'_>) -> usize {
        match tensor.try_extract_tensor::<f16>() {
            Ok((_, values)) => values.as_ptr().addr(),
            Err(_) => tensor.try_extract_tensor::<f32>().unwrap().1.as_ptr().addr(),
        }
    }
}
