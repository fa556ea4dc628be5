//! Memory for the weights of a model, one after the other.
//!
//! Huge pages begin at multiples of their size, so of a matrix with memory of its own the ends lie in small ones: in a model of half a
//! billion weights in 4 bits that is half of it. Here the next matrix goes on in the same page.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::Zeroable;

use crate::huge_pages;

/// Bytes of the first piece that is asked of the system, and at the most: each is twice as large as the one before. Of a large one, what
/// nobody writes to takes no memory.
const PIECES: std::ops::RangeInclusive<usize> = 1 << 20..=64 << 20;

/// Where a piece begins: a multiple of the size of huge pages on most machines.
const PIECE_ALIGNMENT: usize = 2 << 20;

/// Where values begin: a multiple of what a processor loads at once.
const ALIGNMENT: usize = 64;

/// Gives memory that lies together. It is the system's again when all that was given of a piece is dropped.
#[derive(Debug, Default)]
pub struct Arena {
    /// The piece that is given of, and how many bytes of it are.
    current: Mutex<Option<(Arc<Piece>, usize)>>,
}

/// Some values in an [`Arena`].
pub struct Slab<V> {
    first: NonNull<V>,
    n: usize,
    /// Holds the memory.
    _piece: Arc<Piece>,
}

#[derive(Debug)]
struct Piece {
    /// `layout.size()` bytes.
    memory: NonNull<u8>,
    layout: Layout,
    /// Bytes before the first that is given.
    offset: usize,
    size: usize,
}

impl Arena {
    /// `n` values of zero bytes. As with a [`Vec`], a program that can have no more memory ends.
    ///
    /// # Panics
    /// When they take more bytes than there are addresses.
    pub fn zeros<V: Zeroable>(&self, n: usize) -> Slab<V> {
        const { assert!(align_of::<V>() <= ALIGNMENT, "values are aligned") };
        let bytes = Layout::array::<V>(n).expect("no more bytes than addresses").size().next_multiple_of(ALIGNMENT);
        let (piece, start) = self.take(bytes);
        // From the first on: of memory that is advised in parts, a huge page could not lie across two.
        huge_pages::advise(piece.address()..piece.address() + start + bytes);
        let first = piece.at(start).cast();
        Slab { first, n, _piece: piece }
    }

    /// `bytes` of a piece, from the place that is told.
    fn take(&self, bytes: usize) -> (Arc<Piece>, usize) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((piece, used)) = &mut *current
            && piece.size - *used >= bytes
        {
            *used += bytes;
            return (Arc::clone(piece), *used - bytes);
        }
        let next = current.as_ref().map_or(*PIECES.start(), |(piece, _)| (2 * piece.size).clamp(*PIECES.start(), *PIECES.end()));
        let piece = Arc::new(Piece::new(bytes.max(next)));
        if current.as_ref().is_none_or(|(other, used)| other.size - used < piece.size - bytes) {
            *current = Some((Arc::clone(&piece), bytes));
        }
        (piece, 0)
    }
}

impl Piece {
    /// `size` is not 0.
    #[expect(unsafe_code, reason = "memory is asked for")]
    fn new(size: usize) -> Self {
        let alignment = if size < PIECE_ALIGNMENT { ALIGNMENT } else { PIECE_ALIGNMENT };
        // Not the layout's: where more than the usual alignment is asked for, memory is zeroed, and so written to, before it is advised.
        let layout = Layout::array::<u8>(size + alignment).expect("no more bytes than addresses");
        // SAFETY: the layout has a size.
        let Some(memory) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        let offset = memory.as_ptr().addr().next_multiple_of(alignment) - memory.as_ptr().addr();
        Self { memory, layout, offset, size }
    }

    fn address(&self) -> usize {
        self.at(0).as_ptr().expose_provenance()
    }

    /// The byte number `start`.
    #[expect(unsafe_code, reason = "a place within memory that is held")]
    fn at(&self, start: usize) -> NonNull<u8> {
        assert!(start <= self.size, "within the piece");
        // SAFETY: there are `size` bytes more than the largest offset.
        unsafe { self.memory.add(self.offset + start) }
    }
}

impl Drop for Piece {
    #[expect(unsafe_code, reason = "memory is given back")]
    fn drop(&mut self) {
        // SAFETY: it was had with this layout, and every slab holds its piece.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

// SAFETY: it only holds memory; who has a part of it has it alone.
#[expect(unsafe_code, reason = "see the type")]
unsafe impl Send for Piece {}

// SAFETY: as above.
#[expect(unsafe_code, reason = "see the type")]
unsafe impl Sync for Piece {}

impl<V> Deref for Slab<V> {
    type Target = [V];

    #[expect(unsafe_code, reason = "see the type")]
    fn deref(&self) -> &[V] {
        // SAFETY: the piece is held, is aligned, was zeros, which are values, and these bytes were given once.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.n) }
    }
}

impl<V> DerefMut for Slab<V> {
    #[expect(unsafe_code, reason = "see the type")]
    fn deref_mut(&mut self) -> &mut [V] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.n) }
    }
}

// SAFETY: it has its values to itself, as a vector has.
#[expect(unsafe_code, reason = "see the type")]
unsafe impl<V: Send> Send for Slab<V> {}

// SAFETY: as above.
#[expect(unsafe_code, reason = "see the type")]
unsafe impl<V: Sync> Sync for Slab<V> {}

impl<V> fmt::Debug for Slab<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slab").field("n", &self.n).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_together_and_apart() {
        let arena = Arena::default();
        let (mut one, mut two, mut three) = (arena.zeros::<u8>(100), arena.zeros::<f32>(1000), arena.zeros::<u16>(0));
        assert!(three.is_empty() && two.iter().all(|value| *value == 0.0));
        assert_eq!((two.as_ptr().addr() - one.as_ptr().addr(), one.as_ptr().addr() % ALIGNMENT), (128, 0));
        one.fill(7);
        two.fill(1.5);
        three.fill(3);
        drop(arena);
        assert!(one.iter().all(|value| *value == 7) && two.iter().all(|value| *value == 1.5));
        let whole = std::thread::spawn(move || one.len() + two.len());
        assert_eq!(whole.join().ok(), Some(1100));
    }

    /// One that is larger than a piece has one of its own, and those after it go on in the other.
    #[test]
    fn a_large_one_ends_no_piece() {
        let n = 3 * PIECES.end();
        let arena = Arena::default();
        let first = arena.zeros::<u64>(8);
        let mut large = arena.zeros::<u8>(n);
        let second = arena.zeros::<u64>(8);
        assert_eq!(second.as_ptr().addr() - first.as_ptr().addr(), 64);
        assert_eq!((large[n - 1], large.len(), large.as_ptr().addr() % PIECE_ALIGNMENT), (0, n, 0));
        large[n - 1] = 9;
        assert!(first.iter().chain(&*second).all(|value| *value == 0));
    }

    #[test]
    fn pieces_grow() {
        let arena = Arena::default();
        let pieces: Vec<Slab<u8>> = (0..200).map(|_| arena.zeros(700 << 10)).collect();
        let n_jumps = pieces.windows(2).filter(|two| two[1].as_ptr().addr().wrapping_sub(two[0].as_ptr().addr()) != 700 << 10);
        assert!((5..12).contains(&n_jumps.count()));
        assert!(pieces.iter().all(|piece| piece.iter().all(|byte| *byte == 0)));
    }
}
