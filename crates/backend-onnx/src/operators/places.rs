//! Where the values of a block lie: in inputs, in outputs, or in buffers that later values use again.

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The input of this number.
    Input(usize),
    /// The buffer of this number, see [`Places::slots`].
    Buffer(usize),
}

/// The places of all values.
#[derive(Debug)]
pub(super) struct Places {
    of: Vec<Place>,
    /// The widths of the buffers between steps. Those of the outputs are numbered behind them.
    pub(super) slots: Vec<usize>,
}

impl Places {
    /// Of values of `widths`, of which the first are inputs; each of `steps` reads some and makes so many that follow. Steps read what earlier
    /// ones have made. `None` where a value is returned twice.
    pub(super) fn new<'s>(
        n_inputs: usize,
        widths: &[usize],
        outputs: &[usize],
        steps: impl Iterator<Item = (&'s [usize], usize)> + Clone,
    ) -> Option<Self> {
        let mut last_reads: Vec<Option<usize>> = vec![None; widths.len()];
        for (step, (read, _)) in steps.clone().enumerate() {
            read.iter().for_each(|&value| last_reads[value] = Some(step));
        }
        let mut of: Vec<Place> = (0..n_inputs).map(Place::Input).collect();
        let (mut slots, mut free) = (Vec::<usize>::new(), Vec::<usize>::new());
        for (step, (read, made)) in steps.enumerate() {
            let first = of.len();
            for (value, &width) in widths.iter().enumerate().skip(first).take(made) {
                // Those of outputs are known when all others are.
                let slot = match outputs.contains(&value) {
                    true => usize::MAX,
                    false => free.pop().unwrap_or(slots.len()),
                };
                if slot == slots.len() {
                    slots.push(0);
                }
                if let Some(widest) = slots.get_mut(slot) {
                    *widest = (*widest).max(width);
                }
                of.push(Place::Buffer(slot));
            }
            let unread = (first..first + made).filter(|&value| last_reads[value].is_none());
            let mut over: Vec<usize> =
                read.iter().copied().filter(|&value| last_reads[value] == Some(step)).chain(unread).collect();
            over.sort_unstable();
            over.dedup();
            free.extend(over.iter().filter_map(|&value| match of[value] {
                Place::Buffer(slot) if slot != usize::MAX => Some(slot),
                _ => None,
            }));
        }
        for (index, &value) in outputs.iter().enumerate() {
            if of[value] != Place::Buffer(usize::MAX) {
                return None;
            }
            of[value] = Place::Buffer(slots.len() + index);
        }
        Some(Self { of, slots })
    }

    pub(super) fn of(&self, value: usize) -> Place {
        self.of[value]
    }

    /// The buffer of a value that a step makes.
    pub(super) fn buffer(&self, value: usize) -> usize {
        match self.of[value] {
            Place::Buffer(index) => index,
            Place::Input(_) => unreachable!("a step does not make inputs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_needed_at_the_same_time_lie_apart() {
        // 0 is given; 1 and 2 of it, 3 of both, 4 of 3 and 0, 5 of 3 and 4; 4 is returned, and nothing reads 5.
        let steps: [(&[usize], usize); 4] = [(&[0], 2), (&[1, 2], 1), (&[3, 0], 1), (&[3, 4], 1)];
        let places = Places::new(1, &[8, 5, 6, 7, 4, 9], &[4], steps.into_iter()).unwrap();
        assert_eq!(places.of(0), Place::Input(0));
        let slots: Vec<usize> = [1, 2, 3, 5].map(|value| places.buffer(value)).into();
        assert!(slots[0] != slots[1] && slots[2] != slots[0] && slots[2] != slots[1], "{slots:?}");
        assert!(slots[3] < 2, "that of an earlier value is used again");
        assert_eq!(places.buffer(4), places.slots.len());
        assert_eq!(places.slots.len(), 3);
        assert!(places.slots[slots[3]] >= 9);
        assert!(Places::new(1, &[8, 5, 6, 7, 4, 9], &[4, 4], steps.into_iter()).is_none());
    }
}
