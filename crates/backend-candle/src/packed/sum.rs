//! A sum of bytes that shows damage: made at the speed of memory, not against forgery.

/// Bytes that are summed together, in the order in which threads take them.
pub(super) const PIECE: usize = 1 << 20;

/// Sums side by side, which become vectors.
const LANES: usize = 8;

/// The sum of one piece. Besides the sums of words it has the sums of these, so that words that changed places change it too (Fletcher).
pub(super) fn of_piece(bytes: &[u8]) -> u64 {
    let (mut sums, mut sums_of_sums) = ([0_u64; LANES], [0_u64; LANES]);
    let mut add = |words: &[[u8; 8]; LANES]| {
        for lane in 0..LANES {
            sums[lane] = sums[lane].wrapping_add(u64::from_le_bytes(words[lane]));
            sums_of_sums[lane] = sums_of_sums[lane].wrapping_add(sums[lane]);
        }
    };
    let (groups, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    for group in groups {
        let words = group.as_chunks::<8>().0;
        if let Ok(words) = words.try_into() {
            add(words);
        }
    }
    let mut last = [0; 8 * LANES];
    last[..rest.len()].copy_from_slice(rest);
    let words = last.as_chunks::<8>().0;
    if let Ok(words) = words.try_into() {
        add(words);
    }
    of_sums(sums.into_iter().chain(sums_of_sums).chain([bytes.len() as u64]))
}

/// The sum of several in their order.
pub(super) fn of_sums(sums: impl IntoIterator<Item = u64>) -> u64 {
    /// An odd number without a pattern: the golden ratio's fraction.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    sums.into_iter().fold(0, |all, sum| (all.rotate_left(23) ^ sum).wrapping_mul(FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_every_place_counts() {
        let bytes: Vec<u8> = (0..1000_u32).map(|i| (i * i % 251) as u8).collect();
        let sum = of_piece(&bytes);
        for i in 0..bytes.len() {
            for bit in [1, 0x80] {
                let mut damaged = bytes.clone();
                damaged[i] ^= bit;
                assert_ne!(of_piece(&damaged), sum, "byte {i}");
            }
        }
        let mut swapped = bytes.clone();
        swapped.swap(64, 128);
        assert_ne!(of_piece(&swapped), sum);
        assert_ne!(of_piece(&bytes[..999]), sum);
        assert_ne!(of_piece(&[bytes.as_slice(), &[0]].concat()), sum, "zeros at the end count");
        assert_eq!((of_piece(&bytes), of_sums([1, 2]) == of_sums([2, 1])), (sum, false));
    }
}
