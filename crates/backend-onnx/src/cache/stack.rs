//! The in-place caches of several sequences as one, for a run that takes a token of each.

use std::sync::Arc;

use ort::AsPointer;
use ort::value::DynValue;
use tandem_core::{Error, Result};

use super::slab::{Slab, Slot};
use super::{FIRST_CAPACITY, InPlace, KvCache, room_for};
use crate::graph::CachePort;
use crate::run::RawValue;

/// For each port one tensor of several sequences, `[sequences, kv_heads, capacity, head_dim]`: consecutive slots of a slab.
pub(crate) struct Stack {
    ports: Vec<CachePort>,
    /// Over memory of the slab, which is given back after them.
    buffers: Vec<DynValue>,
    _slab: Arc<Slab>,
}

/// A cache with the tokens that it holds.
type Held<'c> = (&'c mut InPlace, usize);

impl Stack {
    /// The stack of `caches`, each with the tokens that it holds, and with room for one more; `max_context` is the most that any may get. Returns the
    /// place of each in it too.
    ///
    /// Those that are consecutive slots already stay where they are. Otherwise as many as can be stay, and the others are copied to free slots
    /// beside them or all to a new slab, one after the other, so that one alone is held twice for a moment.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for caches of another kind, or on a device; those of memory. Each cache holds then what it held.
    pub(crate) fn gather(caches: &mut [(&mut KvCache, usize)], max_context: usize) -> Result<(Self, Vec<usize>)> {
        let mut rows = caches.iter_mut().map(|(cache, held)| in_place(cache, *held)).collect::<Result<Vec<Held<'_>>>>()?;
        let ports = rows.first().map(|(row, _)| row.ports.clone()).unwrap_or_default();
        let needed = rows.iter().map(|(_, held)| held + 1).max().unwrap_or(1);
        let (slab, first, free) = match slots_beside_most(&rows, needed) {
            Some(found) => found,
            None => new_slots(&ports, rows.len(), room_for(needed).max(FIRST_CAPACITY).min(max_context))?,
        };
        let slots = first..first + rows.len();
        let mut free = free.into_iter();
        for (row, held) in &mut rows {
            let stays = own_index(row, &slab).is_some_and(|index| slots.contains(&index));
            if let Some(slot) = if stays { None } else { free.next() } {
                row.move_to(slot, *held)?;
            }
            row.reserve(*held, *held + 1)?;
        }
        let places = rows.iter().filter_map(|(row, _)| own_index(row, &slab)).map(|index| index - first).collect();
        Ok((Self { buffers: slab.tensors(&ports, slots)?, ports, _slab: slab }, places))
    }

    /// As [`KvCache::bind`].
    pub(crate) fn bind(&mut self, inputs: &mut [RawValue], outputs: &mut [RawValue]) {
        for (port, buffer) in self.ports.iter().zip(&mut self.buffers) {
            let value = buffer.ptr_mut();
            inputs[port.input] = value;
            outputs[port.output] = value;
        }
    }
}

fn in_place<'c>(cache: &'c mut KvCache, held: usize) -> Result<Held<'c>> {
    match cache {
        KvCache::InPlace(cache) if cache.slot.is_some() => Ok((cache, held)),
        _ => Err(Error::Unsupported {
            what: "a run with a token of several sequences".into(),
            reason: "a cache is not appended to in the host's memory".into(),
            hint: None,
        }),
    }
}

/// The slot of `row` in `slab`, if it has one there.
fn own_index(row: &InPlace, slab: &Arc<Slab>) -> Option<usize> {
    row.slot.as_ref().filter(|slot| Arc::ptr_eq(slot.slab(), slab)).map(Slot::index)
}

/// As many consecutive slots as there are `rows` in the slab that has most of these, with room for `needed` tokens: the first, and the free ones
/// of them, which are the caller's now. Of those that are not free the rows stay.
fn slots_beside_most(rows: &[Held<'_>], needed: usize) -> Option<(Arc<Slab>, usize, Vec<Slot>)> {
    let own = |slab: &Arc<Slab>| rows.iter().filter_map(|(row, _)| own_index(row, slab)).collect::<Vec<_>>();
    let slabs = rows.iter().filter_map(|(row, _)| row.slot.as_ref().map(Slot::slab));
    let has_room = |slab: &&Arc<Slab>| slab.capacity() >= needed && slab.n_slots() >= rows.len();
    let slab = slabs.filter(has_room).max_by_key(|slab| own(slab).len())?;
    let (first, free) = slab.claim(&own(slab), rows.len())?;
    Some((Arc::clone(slab), first, free))
}

/// The first `n` slots of a new slab, with as many again and more for sequences that come and go, where the system gives address space for these.
fn new_slots(ports: &[CachePort], n: usize, capacity: usize) -> Result<(Arc<Slab>, usize, Vec<Slot>)> {
    let slab = Slab::new(ports, 2 * n.next_power_of_two(), capacity).or_else(|_| Slab::new(ports, n, capacity))?;
    let (first, free) = slab.claim(&[], n).unwrap_or_default();
    Ok((slab, first, free))
}

#[cfg(test)]
mod tests;
