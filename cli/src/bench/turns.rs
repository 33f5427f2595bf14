//! Interleaved timing: a machine that slows down in bursts then slows every contestant, and the best
//! of many short batches shows what each can reach.

use std::time::Instant;

use tilewise::error::Result;

/// Seconds of a timed batch of repetitions: long against the clock's resolution, short against
/// the bursts of a shared machine.
const BATCH: f64 = 4e-3;
/// A repetition of more seconds is a batch by itself, timed without a repetition ahead of it that
/// warms up caches and sleeping threads: that start is a small part of it.
const LONG: f64 = 30e-3;

/// Repetitions a second over all batches of one contestant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    /// The median batch's, see [`median`].
    pub(super) median: f64,
    /// The best batch's.
    pub(super) best: f64,
}

impl Rates {
    /// Of at least one rate.
    fn of(rates: Vec<f64>) -> Self {
        let best = rates.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Self { median: median(rates), best }
    }
}

/// The median of at least one number; of an even count, the mean of the two in the middle.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let half = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[half] } else { (numbers[half - 1] + numbers[half]) / 2.0 }
}

/// Repetitions a second of one timed batch.
///
/// # Errors
/// What `repeat` returns.
pub(super) fn batch(mut repeat: impl FnMut() -> Result<()>) -> Result<f64> {
    let begin = Instant::now();
    repeat()?;
    // A clock may not advance during a short repetition.
    let first = begin.elapsed().as_secs_f64().max(1e-9);
    if first > LONG {
        return Ok(1.0 / first);
    }
    let repetitions = (BATCH / first).ceil();
    let timed = Instant::now();
    for _ in 0..repetitions as u64 {
        repeat()?;
    }
    Ok(repetitions / timed.elapsed().as_secs_f64().max(1e-9))
}

/// One contestant's time and batches so far.
#[derive(Default)]
struct Record {
    /// Seconds in all, also those without a rate.
    used: f64,
    /// Repetitions a second of each batch.
    rates: Vec<f64>,
}

impl Record {
    /// After a repetition of `first` seconds. It counts as a batch if it took the whole `share`
    /// of its contestant, else not at all, being the first.
    fn new(first: f64, share: f64) -> Self {
        if first < share { Self::default() } else { Self { used: first, rates: vec![1.0 / first] } }
    }

    fn add_batch(&mut self, repeat: impl FnMut() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        self.rates.push(batch(repeat)?);
        self.used += begin.elapsed().as_secs_f64();
        Ok(())
    }
}

/// Rates of the contestants, in their order; each comes with the seconds of a repetition that it
/// has run already. In every round each one runs a batch with `repeat`, unless it has used up its
/// equal share of `seconds`.
///
/// # Errors
/// What `repeat` returns.
pub(super) fn take_turns<C>(
    contestants: &[(C, f64)],
    seconds: f64,
    mut repeat: impl FnMut(&C) -> Result<()>,
) -> Result<Vec<Rates>> {
    let share = seconds / contestants.len() as f64;
    let records = contestants.iter().map(|&(_, first)| Record::new(first, share));
    let mut records: Vec<Record> = records.collect();
    while records.iter().any(|record| record.used < share) {
        for ((contestant, _), record) in contestants.iter().zip(&mut records) {
            if record.used < share {
                record.add_batch(|| repeat(contestant))?;
            }
        }
    }
    Ok(records.into_iter().map(|record| Rates::of(record.rates)).collect())
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn rates_are_summed_up_whatever_their_order() {
        assert_eq!(Rates::of(vec![5.0, 1.0, 3.0]), Rates { median: 3.0, best: 5.0 });
        assert_eq!(Rates::of(vec![4.0, 1.0, 2.0, 9.0]), Rates { median: 3.0, best: 9.0 });
        assert_eq!(Rates::of(vec![7.0]), Rates { median: 7.0, best: 7.0 });
    }

    #[test]
    fn who_is_slow_stops_after_its_share_and_the_others_go_on() {
        let mut calls = [0u64; 3];
        let contestants = [(0, 0.3), (1, 0.0), (2, 0.0)];
        let rates = take_turns(&contestants, 0.9, |&contestant: &usize| {
            calls[contestant] += 1;
            if contestant == 1 {
                thread::sleep(Duration::from_millis(300));
            }
            Ok(())
        });
        let rates = rates.unwrap();
        assert!(calls[0] == 0 && calls[1] == 1 && calls[2] > 2, "{calls:?}");
        assert_eq!(rates[0], Rates { median: 1.0 / 0.3, best: 1.0 / 0.3 });
        assert!(rates[1].best <= 3.4 && rates[2].best > 3.4, "{rates:?}");
    }

    #[test]
    fn nobody_takes_no_time() {
        assert!(take_turns(&[], 1.0, |(): &()| Ok(())).unwrap().is_empty());
    }
}
