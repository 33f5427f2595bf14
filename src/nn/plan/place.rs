//! Placement: requests for memory share one block if they are not needed at the same time.

use std::ops::Range;

use crate::error::{Error, Result};

/// Requests for memory, each with the first and the last time at which it is needed.
#[derive(Debug)]
pub(super) struct Places {
    /// Elements in a cache line; every part starts on one.
    line: usize,
    wanted: Vec<Wanted>,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    len: usize,
    from: usize,
    to: usize,
}

impl Places {
    pub(super) fn new(line: usize) -> Self {
        Self { line, wanted: Vec::new() }
    }

    /// Requests `rows * cols` elements from time `from` to time `to`, both included; returns the
    /// number of the request.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if they exceed the address space.
    pub(super) fn want(
        &mut self,
        (rows, cols): (usize, usize),
        (from, to): (usize, usize),
    ) -> Result<usize> {
        let overflow = || Error::SizeOverflow { what: "memory of a plan", rows, cols };
        let len = rows.checked_mul(cols).ok_or_else(overflow)?;
        let len = len.checked_next_multiple_of(self.line).ok_or_else(overflow)?;
        self.wanted.push(Wanted { len, from, to });
        Ok(self.wanted.len() - 1)
    }

    /// A place for each request, and the length of the block: the largest come first, each at the
    /// lowest place that is free while it is needed.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if the block exceeds the address space.
    pub(super) fn place(&self) -> Result<(Vec<Range<usize>>, usize)> {
        let mut order: Vec<usize> = (0..self.wanted.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(self.wanted[index].len));
        let mut places: Vec<Range<usize>> = vec![0..0; self.wanted.len()];
        let mut placed: Vec<usize> = Vec::new();
        let mut end = 0;
        for index in order {
            let Wanted { len, from, to } = self.wanted[index];
            if len == 0 {
                continue;
            }
            let at_once = placed.iter().copied().filter(|&other| {
                let other = self.wanted[other];
                other.from <= to && from <= other.to
            });
            let mut taken: Vec<Range<usize>> = at_once.map(|other| places[other].clone()).collect();
            taken.sort_by_key(|range| range.start);
            let mut start = 0usize;
            for range in taken {
                if start.checked_add(len).is_some_and(|stop| stop <= range.start) {
                    break;
                }
                start = start.max(range.end);
            }
            let overflow = Error::SizeOverflow { what: "memory of a plan", rows: 1, cols: len };
            let stop = start.checked_add(len).ok_or(overflow)?;
            places[index] = start..stop;
            end = end.max(stop);
            placed.push(index);
        }
        Ok((places, end))
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

    use super::*;

    #[test]
    fn what_is_needed_at_once_does_not_overlap() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for case in 0..300 {
            let mut places = Places::new(16);
            let count = rng.random_range(1..30);
            for _ in 0..count {
                let from = rng.random_range(0..20);
                let to = from + rng.random_range(0..10);
                let size = (rng.random_range(0..9), rng.random_range(0..50));
                places.want(size, (from, to)).unwrap();
            }
            let (found, end) = places.place().unwrap();
            for a in 0..count {
                let range = &found[a];
                assert!(range.end <= end && range.start.is_multiple_of(16), "case {case}");
                for (b, other) in found[..a].iter().enumerate() {
                    let (first, second) = (places.wanted[a], places.wanted[b]);
                    let at_once = first.from <= second.to && second.from <= first.to;
                    let apart = range.end <= other.start || other.end <= range.start;
                    let empty = first.len == 0 || second.len == 0;
                    assert!(!at_once || apart || empty, "case {case}: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn memory_is_used_again() {
        let mut places = Places::new(16);
        for time in 0..10 {
            places.want((100, 16), (time, time + 1)).unwrap();
        }
        assert_eq!(places.place().unwrap().1, 2 * 1600);
        assert!(places.want((usize::MAX, 2), (0, 0)).is_err());
    }
}
