//! Which sequences of a batch are run together: those of one length.

use tandem_core::TokenId;
use tandem_core::backend::TokenBatch;

/// Tokens of a run: more are no faster on a processor, and take memory.
pub(crate) const TOKENS_OF_RUN: usize = 2048;

/// One sequence of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'b> {
    /// Its place among the sequences.
    pub(super) index: usize,
    /// The place of its first token among all tokens.
    pub(super) first_token: usize,
    pub(super) ids: &'b [TokenId],
    pub(super) types: Option<&'b [u32]>,
}

/// The sequences of `batch` in groups of one length, each of as many as a run takes, and of one at least.
pub(super) fn groups(batch: &TokenBatch) -> Vec<Vec<Row<'_>>> {
    let mut first_token = 0;
    let mut rows = Vec::with_capacity(batch.lengths().len());
    for (index, ids) in batch.sequences().enumerate() {
        let types = batch.types().map(|types| &types[first_token..first_token + ids.len()]);
        rows.push(Row { index, first_token, ids, types });
        first_token += ids.len();
    }
    rows.sort_by_key(|row| row.ids.len());
    let of_one_length = rows.chunk_by(|one, other| one.ids.len() == other.ids.len());
    of_one_length.flat_map(|rows| rows.chunks((TOKENS_OF_RUN / rows[0].ids.len()).max(1))).map(<[Row<'_>]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(lengths: &[usize]) -> Vec<Vec<usize>> {
        let sequences: Vec<Vec<TokenId>> = lengths.iter().map(|&length| vec![1; length]).collect();
        let batch = TokenBatch::new(&sequences).unwrap();
        groups(&batch).iter().map(|group| group.iter().map(|row| row.index).collect()).collect()
    }

    #[test]
    fn groups_are_of_one_length_and_within_a_run() {
        assert_eq!(indices(&[5, 3, 5, 3, 4]), [vec![1, 3], vec![4], vec![0, 2]]);
        assert_eq!(indices(&[3000, 3000]), [[0], [1]]);
        assert_eq!(indices(&[1000; 5]), [vec![0, 1], vec![2, 3], vec![4]]);
    }

    #[test]
    fn rows_are_where_their_sequences_are() {
        let batch = TokenBatch::new(&[vec![1, 2], vec![3], vec![4, 5]]).unwrap().with_types(vec![0, 1, 0, 1, 1]);
        let rows: Vec<Row<'_>> = groups(&batch).concat();
        assert_eq!(rows.iter().map(|row| (row.index, row.first_token)).collect::<Vec<_>>(), [(1, 2), (0, 0), (2, 3)]);
        assert_eq!(rows.iter().map(|row| row.ids).collect::<Vec<_>>(), [&[3][..], &[1, 2], &[4, 5]]);
        assert_eq!(rows.iter().filter_map(|row| row.types).collect::<Vec<_>>(), [&[0][..], &[0, 1], &[1, 1]]);
    }
}
