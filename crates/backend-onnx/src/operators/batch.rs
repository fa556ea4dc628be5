//! The sequences whose tokens share a run.
//!
//! Products and all that treats each row alone need to know nothing of sequences, but for the choice of kernels. Attention finds here which rows
//! are whose, at which positions they stand, and where their keys and values lie. The engine computes all nodes on the thread that calls
//! it, so what a run is for is known to that thread.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use tandem_kernels::matrix::{Kernels, RowRun};

use super::node_error;
use crate::block_addresses::PartOfBlocks;

thread_local! {
    /// What the graph is run for on this thread; `None` for one sequence, or texts of one length.
    static CURRENT: RefCell<Option<Arc<Batch>>> = const { RefCell::new(None) };
}

/// Several sequences.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(super) sequences: Vec<Sequence>,
    n_rows: usize,
    n_kept: usize,
    runs: Vec<RowRun>,
    /// Those of the rows that have logits.
    kept_runs: Vec<RowRun>,
}

/// What a run appends to one sequence.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// The tokens that it holds before.
    pub(crate) n_past: usize,
    /// How many are appended.
    pub(crate) n_tokens: usize,
    /// How many of the last of these have logits.
    pub(crate) n_kept: usize,
    /// The keys and values of each layer, in the order of the graph's caches, with room for all its tokens.
    pub(crate) caches: Vec<CacheMemory>,
    /// The tokens that kernels are chosen for: those appended, or more for a part of a prompt.
    chosen_for: usize,
    /// Its rows: those of the tokens without logits, and those of the others.
    pub(super) rows: [Range<usize>; 2],
}

/// The memory of one cache of a sequence, which its session has: while a run is for it, only the node of that cache uses it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheMemory {
    pub(crate) start: NonNull<c_void>,
    pub(crate) part: PartOfBlocks,
}

// SAFETY: an address and sizes; who reads or writes what is there says why that is allowed.
#[expect(unsafe_code, reason = "the memory of values that are bound to no thread")]
unsafe impl Send for CacheMemory {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "the memory of values that are bound to no thread")]
unsafe impl Sync for CacheMemory {}

impl Sequence {
    pub(crate) fn new(n_past: usize, n_tokens: usize, n_kept: usize, caches: Vec<CacheMemory>) -> Self {
        Self { n_past, n_tokens, n_kept, caches, chosen_for: n_tokens, rows: [0..0, 0..0] }
    }

    /// The same, for which kernels are chosen as for at least so many tokens.
    pub(crate) fn chosen_for(self, least: usize) -> Self {
        Self { chosen_for: self.n_tokens.max(least), ..self }
    }

    /// How its attention is computed, and the products of all its rows.
    pub(super) fn kernels(&self) -> Kernels {
        Kernels::of_sequence(self.chosen_for)
    }

    /// Its rows among those that have logits, where `first` is the first of these.
    fn kept_rows(&self, first: usize) -> Range<usize> {
        self.rows[1].start - first..self.rows[1].end - first
    }
}

impl Batch {
    /// `sequences` together. Rows with logits come after all others, so that a graph that keeps the last rows keeps them; within both, those
    /// whose products have the same kernels alone are side by side.
    pub(crate) fn new(mut sequences: Vec<Sequence>) -> Self {
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&i| (sequences[i].kernels(), Kernels::of_sequence(sequences[i].n_kept)));
        let (mut next, mut parts, mut kept_parts) = (0, Vec::new(), Vec::new());
        for (kind, i) in order.iter().rev().map(|&i| (0, i)).chain(order.iter().map(|&i| (1, i))) {
            let sequence = &mut sequences[i];
            let n = if kind == 1 { sequence.n_kept } else { sequence.n_tokens - sequence.n_kept };
            sequence.rows[kind] = next..next + n;
            parts.push((n, sequence.chosen_for));
            next += n;
            if kind == 1 {
                kept_parts.push((n, n));
            }
        }
        let n_kept = kept_parts.iter().map(|(n, _)| n).sum();
        // A graph keeps at least one row.
        if n_kept == 0 {
            kept_parts.push((1, 1));
        }
        let [runs, kept_runs] = [parts, kept_parts].map(RowRun::of_parts);
        Self { sequences, n_rows: next, n_kept: usize::max(n_kept, 1), runs, kept_runs }
    }

    /// All rows.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Those that are kept after the last attention, which are the last: at least one.
    pub(crate) fn n_kept(&self) -> usize {
        self.n_kept
    }

    /// The rows of logits of each sequence.
    pub(crate) fn kept_rows(&self) -> impl Iterator<Item = Range<usize>> {
        let first = self.n_rows - self.n_kept;
        self.sequences.iter().map(move |sequence| if sequence.n_kept == 0 { 0..0 } else { sequence.kept_rows(first) })
    }

    /// In the order of the rows: of which sequence each token is, and its number among those that are appended.
    pub(crate) fn tokens(&self) -> Vec<(usize, usize)> {
        let mut tokens = vec![(0, 0); self.n_rows];
        for (i, sequence) in self.sequences.iter().enumerate() {
            let rows = sequence.rows.iter().flat_map(Range::clone);
            rows.enumerate().for_each(|(token, row)| tokens[row] = (i, token));
        }
        tokens
    }

    /// The number of the cache that begins at `start` in the first sequence, whose caches are those that the graph is given.
    pub(super) fn cache_at(&self, start: *const c_void) -> ort::Result<usize> {
        let place = self
            .sequences
            .first()
            .and_then(|first| first.caches.iter().position(|cache| cache.start.as_ptr().cast_const() == start));
        place.ok_or_else(|| node_error("a past is not that of the first sequence of the batch"))
    }
}

/// Calls `run`, which runs a graph on this thread for `batch`.
pub(crate) fn with_batch<T>(batch: Option<&Arc<Batch>>, run: impl FnOnce() -> T) -> T {
    // While a node waits for its loops, this thread may begin another run.
    struct Before(Option<Arc<Batch>>);
    impl Drop for Before {
        fn drop(&mut self) {
            CURRENT.set(self.0.take());
        }
    }
    let _before = Before(CURRENT.replace(batch.map(Arc::clone)));
    run()
}

/// What the node that is computed on this thread is run for.
pub(super) fn current() -> Option<Arc<Batch>> {
    CURRENT.with_borrow(Clone::clone)
}

/// How the products of `n` rows of a node are computed where `kernels` are chosen for one sequence.
pub(super) fn runs(kernels: Kernels, n: usize) -> ort::Result<Vec<RowRun>> {
    match current() {
        Some(batch) if n == batch.n_rows => Ok(batch.runs.clone()),
        Some(batch) if n == batch.n_kept => Ok(batch.kept_runs.clone()),
        Some(batch) => {
            Err(node_error(format!("{n} rows are not the {} of a batch, or the {} that it keeps", batch.n_rows, batch.n_kept)))
        }
        None => Ok(vec![RowRun { n_rows: n, kernels }]),
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use tandem_core::conformance::{describe, with_fixture};

    use super::*;
    use crate::library;

    #[test]
    fn rows_with_logits_are_the_last_and_those_of_like_kernels_side_by_side() {
        let sequence = |n_tokens, n_kept| Sequence::new(0, n_tokens, n_kept, Vec::new());
        let batch =
            Batch::new(vec![sequence(1, 1), sequence(40, 1), sequence(1, 1), sequence(20, 0), sequence(7, 7), sequence(10, 2)]);
        assert_eq!((batch.n_rows(), batch.n_kept()), (79, 12));
        let mut seen = vec![0; 6];
        for (row, (sequence, token)) in batch.tokens().into_iter().enumerate() {
            assert_eq!(token, seen[sequence], "tokens are in order");
            seen[sequence] += 1;
            let Sequence { n_tokens, n_kept, .. } = batch.sequences[sequence];
            assert_eq!(row >= 67, token >= n_tokens - n_kept, "row {row}");
        }
        assert_eq!(seen, [1, 40, 1, 20, 7, 10]);
        let run = |n_rows, kernels| RowRun { n_rows, kernels };
        assert_eq!(batch.runs, [run(70, Kernels::ByShape), run(9, Kernels::OfRows(8))]);
        assert_eq!(batch.kept_runs, [run(12, Kernels::OfRows(8))]);
        let kept: Vec<_> = batch.kept_rows().collect();
        assert_eq!((kept[1].clone(), kept[3].clone(), kept[5].clone()), (0..1, 0..0, 1..3));
    }

    #[test]
    fn a_batch_without_logits_keeps_one_row() {
        let batch = Batch::new(vec![Sequence::new(3, 5, 0, Vec::new()), Sequence::new(0, 30, 0, Vec::new())]);
        assert_eq!((batch.n_rows(), batch.n_kept()), (35, 1));
        assert!(batch.kept_rows().all(|rows| rows.is_empty()));
        assert_eq!(batch.kept_runs, [RowRun { n_rows: 1, kernels: Kernels::OfRows(8) }]);
    }

    #[test]
    fn runs_within_a_run_have_their_own_batch() {
        let [outer, inner] = [5, 9].map(|n| Arc::new(Batch::new(vec![Sequence::new(0, n, 1, Vec::new())])));
        let n_rows = || current().map(|batch| batch.n_rows());
        with_batch(Some(&outer), || {
            assert_eq!(n_rows(), Some(5));
            with_batch(Some(&inner), || assert_eq!(n_rows(), Some(9)));
            with_batch(None, || assert_eq!(n_rows(), None));
            assert_eq!(n_rows(), Some(5));
            assert_eq!(runs(Kernels::Fastest, 1).unwrap(), outer.kept_runs);
        });
        assert_eq!(n_rows(), None);
        assert_eq!(runs(Kernels::ByShape, 4).unwrap(), [RowRun { n_rows: 4, kernels: Kernels::ByShape }]);
    }

    #[test]
    fn rows_that_are_not_those_of_the_batch_are_refused() {
        with_fixture(
            || library::environment(None).map_err(|error| describe(&error)),
            |_| {
                let batch = Arc::new(Batch::new(vec![Sequence::new(0, 5, 1, Vec::new()), Sequence::new(0, 2, 1, Vec::new())]));
                let error = with_batch(Some(&batch), || runs(Kernels::Fastest, 4)).unwrap_err().to_string();
                assert!(error.contains("4 rows") && error.contains('7') && error.contains('2'), "{error}");
                assert!(batch.cache_at(ptr::null()).is_err());
            },
        );
    }
}
