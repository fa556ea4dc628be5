//! The KV cache of one sequence.
//!
//! `GroupQueryAttention` appends in place when the same value is its past and its present: nothing is copied for a token, and a
//! rewind only lowers the count, since rows beyond it are never read. Such a cache is a slot of a slab, so that a run can take those of
//! several sequences ([`Stack`]). Other graphs return their presents as new values, which are the pasts of the next run.

mod blocks;
mod slab;
mod stack;
mod transfer;

use std::ptr;

use half::f16;
use ort::AsPointer;
use ort::memory::Allocator;
use ort::session::Session;
use ort::value::{DynTensor, DynValue, PrimitiveTensorElementType, TensorElementType};
use tandem_core::kv_memory::resident_tokens;
use tandem_core::{Error, Result};

use self::blocks::Blocks;
use self::slab::Slot;
pub(crate) use self::stack::Stack;
use crate::error::Doing;
use crate::graph::{CachePort, DecoderGraph, check_shape};
use crate::operators::CacheMemory;
use crate::run::{RawValue, take};

/// Capacity of the first buffer, in tokens.
const FIRST_CAPACITY: usize = 256;

/// Spare tokens of a buffer that grows for a prompt, so that the first tokens of the answer do not grow it again.
const ROOM_FOR_AN_ANSWER: usize = 128;

/// Keys and values of the tokens held, one tensor for each port: `[1, kv_heads, tokens, head_dim]`.
pub(crate) enum KvCache {
    InBlocks(InBlocks),
    InPlace(InPlace),
    Carried(Carried),
}

/// What Tandem's operators append to and read.
pub(crate) struct InBlocks {
    ports: Vec<CachePort>,
    blocks: Blocks,
}

/// Buffers for `capacity` tokens, to which the engine writes at the positions that the attention mask gives.
pub(crate) struct InPlace {
    ports: Vec<CachePort>,
    /// Over the memory of `slot`, which is given back after them.
    buffers: Vec<DynValue>,
    /// `None` for memory of a device that the host does not reach: its buffers are for the whole context, and no run takes several.
    slot: Option<Slot>,
    capacity: usize,
    /// The most tokens that were in the slot at once.
    most_held: usize,
    context_length: usize,
}

/// The presents of the last run.
pub(crate) struct Carried {
    ports: Vec<CachePort>,
    pasts: Vec<DynValue>,
}

impl KvCache {
    /// An empty cache that Tandem's operators append to, up to `context_length`.
    pub(crate) fn in_blocks(ports: &[CachePort], context_length: usize) -> Result<Self> {
        Ok(Self::InBlocks(InBlocks { ports: ports.to_vec(), blocks: Blocks::new(ports, context_length)? }))
    }

    /// An empty cache whose buffers the engine appends to. They double on demand, up to `context_length`.
    pub(crate) fn in_place(ports: &[CachePort], context_length: usize) -> Result<Self> {
        let capacity = FIRST_CAPACITY.min(context_length);
        let slot = Slot::alone(ports, capacity)?;
        let buffers = slot.tensors(ports)?;
        Ok(Self::InPlace(InPlace { ports: ports.to_vec(), buffers, slot: Some(slot), capacity, most_held: 0, context_length }))
    }

    /// The same in memory of `allocator` that the host cannot copy, and so for `context_length` tokens at once.
    pub(crate) fn on_device(ports: &[CachePort], allocator: &Allocator, context_length: usize) -> Result<Self> {
        let buffers = ports.iter().map(|port| new_buffer(port, allocator, context_length)).collect::<Result<_>>()?;
        let (ports, capacity) = (ports.to_vec(), context_length);
        Ok(Self::InPlace(InPlace { ports, buffers, slot: None, capacity, most_held: 0, context_length }))
    }

    /// An empty cache of values that each run replaces.
    pub(crate) fn carried(ports: &[CachePort]) -> Result<Self> {
        let mut cache = Carried { ports: ports.to_vec(), pasts: Vec::new() };
        cache.clear()?;
        Ok(Self::Carried(cache))
    }

    /// Reserves capacity for `n_tokens`, of which the first `held` are kept.
    pub(crate) fn reserve(&mut self, held: usize, n_tokens: usize) -> Result<()> {
        match self {
            Self::InBlocks(cache) => cache.blocks.reserve(&cache.ports, n_tokens),
            Self::InPlace(cache) => cache.reserve(held, n_tokens),
            Self::Carried(_) => Ok(()),
        }
    }

    /// Sets the pasts among the inputs, and where to write the presents among the outputs of a run.
    pub(crate) fn bind(&mut self, inputs: &mut [RawValue], outputs: &mut [RawValue]) {
        match self {
            Self::InBlocks(cache) => {
                for (port, tensor) in cache.ports.iter().zip(cache.blocks.tensors()) {
                    let value = tensor.ptr().cast_mut();
                    inputs[port.input] = value;
                    outputs[port.output] = value;
                }
            }
            Self::InPlace(cache) => {
                for (port, buffer) in cache.ports.iter().zip(&mut cache.buffers) {
                    let value = buffer.ptr_mut();
                    inputs[port.input] = value;
                    outputs[port.output] = value;
                }
            }
            Self::Carried(cache) => {
                for (port, past) in cache.ports.iter().zip(&cache.pasts) {
                    inputs[port.input] = past.ptr().cast_mut();
                    outputs[port.output] = ptr::null_mut();
                }
            }
        }
    }

    /// Takes the presents that a run allocated.
    pub(crate) fn take_presents(&self, session: &Session, outputs: &mut [RawValue]) -> Vec<DynValue> {
        match self {
            Self::InBlocks(_) | Self::InPlace(_) => Vec::new(),
            Self::Carried(cache) => cache.ports.iter().filter_map(|port| take(session, &mut outputs[port.output])).collect(),
        }
    }

    /// Keeps the presents of a run of `graph`, which hold `n_tokens`.
    ///
    /// # Errors
    /// [`Error::BadField`] when they have other shapes; the cache is unchanged then.
    pub(crate) fn commit(&mut self, graph: &DecoderGraph, presents: Vec<DynValue>, n_tokens: usize) -> Result<()> {
        let Self::Carried(cache) = self else { return Ok(()) };
        if presents.len() != cache.ports.len() {
            return Err(Error::bad_field(&*graph.file, "graph.output", "a present of the KV cache was not computed"));
        }
        for (port, present) in cache.ports.iter().zip(&presents) {
            let name = graph.output_names[port.output].to_string_lossy();
            check_shape(&graph.file, &name, present, &[1, port.kv_heads, n_tokens, port.head_dim])?;
        }
        cache.pasts = presents;
        Ok(())
    }

    /// Takes the first `n_tokens` of `other`, of the same graph, in the place of what it holds.
    pub(crate) fn copy_from(&mut self, other: &Self, n_tokens: usize) -> Result<()> {
        self.reserve(0, n_tokens)?;
        match (self, other) {
            (Self::InBlocks(cache), Self::InBlocks(other)) => {
                cache.blocks.copy_from(&other.blocks, n_tokens);
                Ok(())
            }
            (Self::InPlace(cache), Self::InPlace(other)) => {
                let buffers = other.buffers.iter().zip(&mut cache.buffers);
                cache.ports.iter().zip(buffers).try_for_each(|(port, (from, to))| copy_tokens(port, from, to, n_tokens))
            }
            (Self::Carried(cache), Self::Carried(other)) if n_tokens > 0 => {
                cache.pasts = other.shortened(n_tokens)?;
                Ok(())
            }
            (cache, _) => cache.rewind(usize::MAX, 0),
        }
    }

    /// The tokens for which there is memory, of `held`.
    pub(crate) fn capacity(&self, held: usize) -> usize {
        match self {
            Self::InBlocks(cache) => cache.blocks.capacity(),
            Self::InPlace(cache) => cache.reserved(),
            Self::Carried(_) => held,
        }
    }

    /// The memory of each cache in blocks.
    pub(crate) fn memory(&mut self) -> Vec<CacheMemory> {
        if let Self::InBlocks(cache) = self { cache.blocks.memory() } else { Vec::new() }
    }

    /// Keeps the first `n_tokens` of `held`.
    pub(crate) fn rewind(&mut self, held: usize, n_tokens: usize) -> Result<()> {
        match self {
            Self::InBlocks(_) | Self::InPlace(_) => Ok(()),
            Self::Carried(cache) if n_tokens == 0 => cache.clear(),
            Self::Carried(cache) if n_tokens < held => cache.shorten(held, n_tokens),
            Self::Carried(_) => Ok(()),
        }
    }
}

impl InPlace {
    fn reserve(&mut self, held: usize, n_tokens: usize) -> Result<()> {
        if n_tokens > self.capacity {
            let capacity = room_for(n_tokens).min(self.context_length);
            self.move_to(Slot::alone(&self.ports, capacity)?, held)?;
        }
        self.most_held = self.most_held.max(n_tokens);
        Ok(())
    }

    /// Takes the `held` tokens to `slot`, which has room for them. After an error they are where they were.
    fn move_to(&mut self, mut slot: Slot, held: usize) -> Result<()> {
        let Some(own) = &mut self.slot else {
            return Err(Error::ContextFull { held, asked: slot.slab().capacity() - held, max: self.capacity });
        };
        let buffers = slot.tensors(&self.ports)?;
        slot.take_over(own, held);
        // Before the memory that they lie over.
        self.buffers = buffers;
        (self.capacity, self.most_held) = (slot.slab().capacity(), held);
        self.slot = Some(slot);
        Ok(())
    }

    /// The tokens for which there is memory: that of a slot among others comes with what is written.
    fn reserved(&self) -> usize {
        match &self.slot {
            Some(slot) if slot.slab().n_slots() > 1 => (resident_tokens(self.most_held as u64) as usize).min(self.capacity),
            _ => self.capacity,
        }
    }
}

/// The capacity of buffers that are to hold so many tokens.
fn room_for(n_tokens: usize) -> usize {
    (n_tokens + ROOM_FOR_AN_ANSWER).next_power_of_two()
}

impl Carried {
    fn clear(&mut self) -> Result<()> {
        self.pasts = self.ports.iter().map(|port| empty_past(port, 1)).collect::<Result<_>>()?;
        Ok(())
    }

    fn shorten(&mut self, held: usize, n_tokens: usize) -> Result<()> {
        debug_assert!(n_tokens < held, "only a shorter cache is copied");
        self.pasts = self.shortened(n_tokens)?;
        Ok(())
    }

    /// The first `n_tokens`.
    fn shortened(&self, n_tokens: usize) -> Result<Vec<DynValue>> {
        let mut shorter = Vec::with_capacity(self.pasts.len());
        for (port, past) in self.ports.iter().zip(&self.pasts) {
            let mut buffer = new_buffer(port, &Allocator::default(), n_tokens)?;
            copy_tokens(port, past, &mut buffer, n_tokens)?;
            shorter.push(buffer);
        }
        Ok(shorter)
    }
}

/// The past of so many empty sequences.
pub(crate) fn empty_past(port: &CachePort, n_sequences: usize) -> Result<DynValue> {
    let shape = [n_sequences, port.kv_heads, 0, port.head_dim];
    Ok(DynTensor::new(&Allocator::default(), port.dtype, shape).doing("to allocate the KV cache")?.into_dyn())
}

fn new_buffer(port: &CachePort, allocator: &Allocator, n_tokens: usize) -> Result<DynValue> {
    let bytes = [port.kv_heads, n_tokens, port.head_dim, port.dtype.byte_size(1).unwrap_or(0)]
        .into_iter()
        .try_fold(1_usize, usize::checked_mul)
        .filter(|&bytes| isize::try_from(bytes).is_ok());
    if bytes.is_none() {
        return Err(Error::invalid_option("context", n_tokens, "exceeds the address space"));
    }
    let shape = [1, port.kv_heads, n_tokens, port.head_dim];
    Ok(DynTensor::new(allocator, port.dtype, shape).doing("to allocate the KV cache")?.into_dyn())
}

/// Copies the first `n_tokens` rows of each head between tensors of different capacities.
fn copy_tokens(port: &CachePort, from: &DynValue, to: &mut DynValue, n_tokens: usize) -> Result<()> {
    if n_tokens == 0 {
        return Ok(());
    }
    match port.dtype {
        TensorElementType::Float16 => copy_rows::<f16>(port, from, to, n_tokens),
        _ => copy_rows::<f32>(port, from, to, n_tokens),
    }
}

fn copy_rows<T>(port: &CachePort, from: &DynValue, to: &mut DynValue, n_tokens: usize) -> Result<()>
where
    T: PrimitiveTensorElementType + Copy,
{
    const DOING: &str = "to copy the KV cache";
    let (_, from) = from.try_extract_tensor::<T>().doing(DOING)?;
    let (_, to) = to.try_extract_tensor_mut::<T>().doing(DOING)?;
    let (from_head, to_head) = (from.len() / port.kv_heads, to.len() / port.kv_heads);
    let n = n_tokens * port.head_dim;
    for head in 0..port.kv_heads {
        to[head * to_head..][..n].copy_from_slice(&from[head * from_head..][..n]);
    }
    Ok(())
}
