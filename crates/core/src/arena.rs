//! Memory for the weights of a model, one matrix directly after the other.
//!
//! Huge pages begin at multiples of their size, so both ends of a separately allocated matrix lie in small pages: in 4 bits, that is half
//! of a model of half a billion weights. In an arena the next matrix continues in the same huge page.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, RangeInclusive};
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;
use bytes::{Bytes, BytesMut};

use crate::huge_pages;

/// Bytes of the first piece that is allocated, and of the largest; each is twice as large as the one before. Untouched parts of a large
/// piece take no memory.
const PIECES: RangeInclusive<usize> = 1 << 20..=64 << 20;

/// The alignment of a piece: the size of huge pages on most machines.
const PIECE_ALIGNMENT: usize = 2 << 20;

/// The alignment of values: the width of the widest vectors.
const ALIGNMENT: usize = 64;

/// Allocates contiguous memory. A piece is freed when every [`Slab`] of it is dropped.
#[derive(Debug, Default)]
pub struct Arena {
    current: Mutex<Option<Piece>>,
}

/// Values in an [`Arena`], or in a file that is mapped.
pub struct Slab<V> {
    /// Empty while they are mapped.
    own: BytesMut,
    mapped: Option<Bytes>,
    values: PhantomData<V>,
}

#[derive(Debug)]
struct Piece {
    /// The address of its first byte.
    address: usize,
    size: usize,
    /// The bytes that are not allocated yet.
    rest: BytesMut,
}

impl Arena {
    /// `n` zeros. As with a [`Vec`], the process aborts when there is no more memory.
    ///
    /// # Panics
    /// When they exceed the address space.
    pub fn zeros<V: Pod>(&self, n: usize) -> Slab<V> {
        const { assert!(align_of::<V>() <= ALIGNMENT, "values are aligned") };
        let size = size_of::<V>().checked_mul(n).expect("values fit the address space");
        let mut bytes = self.take(size.next_multiple_of(ALIGNMENT));
        bytes.truncate(size);
        Slab { own: bytes, mapped: None, values: PhantomData }
    }

    fn take(&self, n: usize) -> BytesMut {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = current.as_mut().filter(|piece| piece.rest.len() >= n) {
            return piece.take(n);
        }
        let next = current.as_ref().map_or(*PIECES.start(), |piece| (2 * piece.size).clamp(*PIECES.start(), *PIECES.end()));
        let mut piece = Piece::new(n.max(next));
        let bytes = piece.take(n);
        if current.as_ref().is_none_or(|other| other.rest.len() < piece.rest.len()) {
            *current = Some(piece);
        }
        bytes
    }
}

impl Piece {
    fn new(size: usize) -> Self {
        let alignment = if size < PIECE_ALIGNMENT { ALIGNMENT } else { PIECE_ALIGNMENT };
        // Aligned by hand: allocators clear, and so touch, memory of larger alignment before huge pages can be requested for it.
        let mut rest = BytesMut::zeroed(size + alignment);
        drop(rest.split_to(rest.as_ptr().align_offset(alignment)));
        rest.truncate(size);
        Self { address: rest.as_ptr().expose_provenance(), size, rest }
    }

    fn take(&mut self, n: usize) -> BytesMut {
        let bytes = self.rest.split_to(n);
        // From the start of the piece, since a huge page cannot span two separately advised ranges; and to the end of one, which would otherwise
        // become small pages when these bytes are written before the next are taken.
        let end = (bytes.as_ptr().addr() + n).next_multiple_of(PIECE_ALIGNMENT);
        huge_pages::advise(self.address..end.min(self.address + self.size));
        bytes
    }
}

impl<V: Pod> Slab<V> {
    /// The values in `bytes`, whose owner keeps them where they are; `None` where they are not aligned, or not a whole number of values.
    pub fn mapped(bytes: Bytes) -> Option<Self> {
        let is_usable = bytemuck::try_cast_slice::<u8, V>(&bytes).is_ok();
        is_usable.then(|| Self { own: BytesMut::new(), mapped: Some(bytes), values: PhantomData })
    }

    /// Their bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if let Some(mapped) = self.mapped.take() {
            let mut copy = Arena::default().zeros::<u8>(mapped.len());
            copy.copy_from_slice(&mapped);
            self.own = copy.own;
        }
        &mut self.own
    }
}

impl<V> Slab<V> {
    /// Their bytes.
    pub fn bytes(&self) -> &[u8] {
        self.mapped.as_ref().map_or(&*self.own, |mapped| mapped)
    }
}

impl<V: Pod> Deref for Slab<V> {
    type Target = [V];

    fn deref(&self) -> &[V] {
        bytemuck::cast_slice(self.bytes())
    }
}

/// What is mapped is first copied.
impl<V: Pod> DerefMut for Slab<V> {
    fn deref_mut(&mut self) -> &mut [V] {
        bytemuck::cast_slice_mut(self.bytes_mut())
    }
}

impl<V> fmt::Debug for Slab<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Slab").field("bytes", &self.bytes().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_are_adjacent_and_outlive_the_arena() {
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

    #[test]
    fn slab_larger_than_a_piece_does_not_replace_the_current_piece() {
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

    /// Where huge pages are requested, as lines of `/proc/self/smaps` say (proc_pid_smaps(5)).
    #[cfg(target_os = "linux")]
    fn advised() -> Vec<std::ops::Range<usize>> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut all, mut current) = (Vec::new(), 0..0);
        for line in maps.lines() {
            let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
            if let Some((start, end)) = first.split_once('-') {
                let address = |text| usize::from_str_radix(text, 16).unwrap();
                current = address(start)..address(end);
            } else if first == "VmFlags:" && rest.split_ascii_whitespace().any(|flag| flag == "hg") {
                all.push(current.clone());
            }
        }
        all
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn slabs_that_are_filled_one_after_the_other_lie_in_huge_pages() {
        if !huge_pages::are_available() {
            return eprintln!("skipped: this system makes no huge page on request");
        }
        let arena = Arena::default();
        let _piece_is_large = arena.zeros::<u8>(40 << 20);
        let mut slabs = Vec::new();
        for _ in 0..20 {
            let mut slab = arena.zeros::<u8>(700 << 10);
            let last = slab.as_ptr_range().end.addr() - 1;
            let page = last / PIECE_ALIGNMENT * PIECE_ALIGNMENT;
            let advised = advised();
            let is_whole = advised.iter().any(|range| range.start <= page && page + PIECE_ALIGNMENT <= range.end);
            let end = arena.current.lock().unwrap().as_ref().map(|piece| piece.address + piece.size);
            assert!(is_whole || end.is_some_and(|end| end < page + PIECE_ALIGNMENT), "{page:x} of {advised:x?}");
            slab.fill(1);
            slabs.push(slab);
        }
    }

    #[test]
    fn mapped_values_are_shared_until_they_are_written() {
        // Aligned like values of its own.
        let mut all = Arena::default().zeros::<f32>(8);
        all.iter_mut().zip(1_u8..).for_each(|(value, i)| *value = i.into());
        let file = Bytes::from_owner(SlabOwner(all));
        let mapped = |range| Slab::<f32>::mapped(file.slice(range));
        assert!(mapped(0..7).is_none() && mapped(1..9).is_none(), "not a whole number, and not aligned");
        let (mut one, two) = (mapped(4..16).unwrap(), mapped(0..32).unwrap());
        assert_eq!((&*one, two.len(), one.as_ptr()), (&[2.0, 3.0, 4.0][..], 8, two[1..].as_ptr()));
        one[1] = 9.0;
        assert_eq!((&*one, two[2]), (&[2.0, 9.0, 4.0][..], 3.0));
    }

    struct SlabOwner(Slab<f32>);

    impl AsRef<[u8]> for SlabOwner {
        fn as_ref(&self) -> &[u8] {
            self.0.bytes()
        }
    }

    #[test]
    fn pieces_double_up_to_the_largest() {
        let arena = Arena::default();
        let mut sizes = Vec::new();
        let slabs: Vec<Slab<u8>> = (0..200)
            .map(|_| {
                let slab = arena.zeros(700 << 10);
                sizes.extend(arena.current.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|piece| piece.size >> 20));
                slab
            })
            .collect();
        sizes.dedup();
        assert_eq!(sizes, [1, 2, 4, 8, 16, 32, 64]);
        assert!(slabs.iter().all(|slab| slab.iter().all(|byte| *byte == 0)));
    }
}
