//! Memory for the in-place caches of several sequences: for each port a tensor, `[slots, kv_heads, capacity, head_dim]`. What one sequence has of
//! each, a slot, is a tensor too, and so is what consecutive slots have, which is how a run takes several sequences without copies.
//!
//! A slab is address space. Memory belongs to the slots: it comes as they are written to, and goes as they are dropped.

use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::AsPointer;
use ort::memory::{Allocator, MemoryInfo};
use ort::value::DynValue;
use tandem_core::sparse_memory::{SparseMemory, page_size};
use tandem_core::{BackendKind, Error, Result};

use crate::error::Doing;
use crate::graph::CachePort;

/// What the engine is told when it gets or allocates a cache.
pub(super) const DOING: &str = "to allocate the KV cache";

/// The slots of several sequences.
pub(super) struct Slab {
    memory: SparseMemory,
    parts: Vec<Part>,
    n_slots: usize,
    capacity: usize,
    /// Of each slot, whether a sequence has it.
    taken: Mutex<Vec<bool>>,
}

/// The slots' keys or values of one port, in bytes.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    /// Of one slot, of one of its heads, and of one token of that.
    slot: usize,
    head: usize,
    row: usize,
    n_heads: usize,
}

/// The part of a slab that one sequence has for itself.
pub(super) struct Slot {
    slab: Arc<Slab>,
    index: usize,
}

impl Slab {
    /// A slab of so many free slots for `capacity` tokens each.
    pub(super) fn new(ports: &[CachePort], n_slots: usize, capacity: usize) -> Result<Arc<Self>> {
        let mut n_bytes = 0_usize;
        let mut add = |port: &CachePort| {
            let row = port.dtype.byte_size(1)?.checked_mul(port.head_dim)?;
            let head = row.checked_mul(capacity)?;
            let slot = head.checked_mul(port.kv_heads)?;
            let start = n_bytes;
            n_bytes = slot.checked_mul(n_slots)?.checked_add(start)?.checked_next_multiple_of(page_size())?;
            Some(Part { start, slot, head, row, n_heads: port.kv_heads })
        };
        let parts: Option<Vec<Part>> = ports.iter().map(&mut add).collect();
        let parts = parts.ok_or_else(|| Error::invalid_option("context", capacity, "exceeds the address space"))?;
        let memory = SparseMemory::new(n_bytes).map_err(|error| Error::engine(BackendKind::Onnx, DOING, error))?;
        if n_slots > 1 {
            // A short sequence beside a long one does not bring the memory of a long one.
            memory.keep_small_pages();
        }
        Ok(Arc::new(Self { memory, parts, n_slots, capacity, taken: Mutex::new(vec![false; n_slots]) }))
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn n_slots(&self) -> usize {
        self.n_slots
    }

    /// Takes what is free of `n` consecutive slots, of which the others are among `own`, as many as can be. Returns the first of all, and those
    /// that were free; `None` where there are no such.
    pub(super) fn claim(self: &Arc<Self>, own: &[usize], n: usize) -> Option<(usize, Vec<Slot>)> {
        let mut taken = self.taken();
        let n_own = |first: usize| own.iter().filter(|slot| (first..first + n).contains(slot)).count();
        let starts = 0..=self.n_slots.checked_sub(n)?;
        let usable = starts.filter(|&first| (first..first + n).all(|slot| !taken[slot] || own.contains(&slot)));
        // The first of the best.
        let first = usable.min_by_key(|&first| n - n_own(first))?;
        let free: Vec<usize> = (first..first + n).filter(|&slot| !taken[slot]).collect();
        let slots = free.into_iter().map(|index| {
            taken[index] = true;
            Slot { slab: Arc::clone(self), index }
        });
        Some((first, slots.collect()))
    }

    /// A tensor for each of `ports`, `[slots, kv_heads, capacity, head_dim]`. They are dropped before the slab.
    pub(super) fn tensors(&self, ports: &[CachePort], slots: Range<usize>) -> Result<Vec<DynValue>> {
        debug_assert!(slots.end <= self.n_slots(), "slots of this slab");
        let tensors = ports.iter().zip(&self.parts).map(|(port, part)| {
            let first = self.memory.first().wrapping_add(part.start + slots.start * part.slot);
            let shape = [slots.len(), port.kv_heads, self.capacity, port.head_dim].map(|size| size as i64);
            tensor(port, first, shape, slots.len() * part.slot)
        });
        tensors.collect()
    }

    fn taken(&self) -> MutexGuard<'_, Vec<bool>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The only slot of a slab.
    pub(super) fn alone(ports: &[CachePort], capacity: usize) -> Result<Self> {
        let slab = Slab::new(ports, 1, capacity)?;
        slab.taken()[0] = true;
        Ok(Self { slab, index: 0 })
    }

    pub(super) fn slab(&self) -> &Arc<Slab> {
        &self.slab
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Its tensor for each of `ports`, `[1, kv_heads, capacity, head_dim]`. They are dropped before it.
    pub(super) fn tensors(&self, ports: &[CachePort]) -> Result<Vec<DynValue>> {
        self.slab.tensors(ports, self.index..self.index + 1)
    }

    /// Takes the first `n_tokens` of each head over from `other`, of the same ports, which loses them.
    pub(super) fn take_over(&mut self, other: &mut Self, n_tokens: usize) {
        assert!(n_tokens <= self.slab.capacity.min(other.slab.capacity), "both have room for the tokens");
        assert!(!Arc::ptr_eq(&self.slab, &other.slab) || self.index != other.index, "they are two slots");
        for place in 0..self.slab.parts.len() {
            let (to, from) = (self.slab.parts[place], other.slab.parts[place]);
            assert_eq!((to.row, to.n_heads), (from.row, from.n_heads), "the ports are the same");
            for head in 0..to.n_heads {
                let source = other.slab.memory.first().wrapping_add(other.bytes(place).start + head * from.head);
                let target = self.slab.memory.first().wrapping_add(self.bytes(place).start + head * to.head);
                // SAFETY: a head of a slot has room for the tokens, and both slots are held exclusively here.
                #[expect(unsafe_code, reason = "memory that tensors of the engine lie over")]
                unsafe {
                    ptr::copy_nonoverlapping(source, target, n_tokens * to.row);
                }
            }
            // One port at a time, so that no more than one is held twice.
            other.release(place);
        }
    }

    /// Where its keys or values of port number `place` lie in the slab.
    fn bytes(&self, place: usize) -> Range<usize> {
        let part = &self.slab.parts[place];
        let start = part.start + self.index * part.slot;
        start..start + part.slot
    }

    /// Gives its memory for port number `place` back.
    fn release(&mut self, place: usize) {
        // SAFETY: a slot is its owner's alone, and this is called where what is there is not used any more.
        #[expect(unsafe_code, reason = "memory that tensors of the engine lie over")]
        unsafe {
            self.slab.memory.release(self.bytes(place));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // While it counts as taken: once it is free, another may write there.
        (0..self.slab.parts.len()).for_each(|place| self.release(place));
        self.slab.taken()[self.index] = false;
    }
}

/// A tensor over `n_bytes` from `first` on.
fn tensor(port: &CachePort, first: *mut u8, shape: [i64; 4], n_bytes: usize) -> Result<DynValue> {
    let mut value = ptr::null_mut();
    // SAFETY: the engine keeps the address and the shape, and frees the value alone; what uses the value sees to it that the memory is there.
    #[expect(unsafe_code, reason = "a tensor over memory that the engine did not allocate, for as long as its owner likes")]
    let value = unsafe {
        let status = (ort::api().CreateTensorWithDataAsOrtValue)(
            MemoryInfo::default().ptr(),
            first.cast(),
            n_bytes,
            shape.as_ptr(),
            shape.len(),
            port.dtype.into(),
            &raw mut value,
        );
        ort::Error::result_from_status(status).doing(DOING)?;
        NonNull::new(value).map(|value| DynValue::from_ptr(value, Some(&Allocator::default())))
    };
    Ok(value.expect("the engine made the value"))
}

#[cfg(test)]
mod tests;
