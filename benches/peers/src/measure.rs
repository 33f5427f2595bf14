//! One row: contestants are compared first, then measured in turns, round after round, between two
//! measurements of the peak.

use std::time::{Duration, Instant};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tilewise::{gemm::Gemm, simd::InstructionSet, threads::Threads};

use crate::{
    Result, machine,
    peers::{Absence, Contestant, Libraries, Scalar, multiply},
    product::Product,
    rows::Row,
};

/// How long the peak is measured, each time: hundreds of its probes.
const PEAK_TIME: Duration = Duration::from_millis(50);
/// Seconds of calls that are timed together: long against the clock's resolution.
const BATCH: f64 = 0.2e-3;
/// Threads of OpenMP and of OpenBLAS spin after a product, for up to 0.2 s by default.
const LONGEST_SPIN: Duration = Duration::from_secs(3);

/// What is the same for all rows.
pub struct Settings {
    /// Of tilewise.
    pub isa: InstructionSet,
    pub rounds: usize,
    /// Of one measurement.
    pub seconds: f64,
    /// Whether rows have gaps between them.
    pub padded: bool,
    pub pool: Pool,
    pub libraries: Libraries,
    /// Load average of the machine before the run: other work makes all results worse.
    pub load: Option<f64>,
}

/// The pool of tilewise, faer and gemm.
pub struct Pool(ThreadPool);

impl Pool {
    /// # Errors
    /// If threads cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        Ok(Self(ThreadPoolBuilder::new().num_threads(threads).build()?))
    }
}

/// One contestant's rates in GFLOP/s, round by round, or why it has none.
pub type Rates = Result<Vec<f64>, Absence>;

/// What one row found.
pub struct Outcome {
    pub row: Row,
    /// Of all threads in GFLOP/s, round by round: the better of before and after.
    pub peaks: Vec<f64>,
    /// In the order of [`Contestant::ALL`].
    pub rates: Vec<(Contestant, Rates)>,
}

/// The instruction set of the peak: the best one, which peers use whatever tilewise is told.
pub fn peak_isa() -> InstructionSet {
    InstructionSet::available().last().unwrap_or(InstructionSet::Portable)
}

/// Measures one row.
///
/// # Errors
/// If contestants disagree, or one refuses the product.
pub fn row<T: Scalar>(row: Row, settings: &Settings) -> Result<Outcome> {
    let mut contest = Contest::<T>::new(row, settings)?;
    let absence =
        |contestant: Contestant| contestant.absence::<T>(row.threads, &settings.libraries);
    let present = |contestant: &Contestant| absence(*contestant).is_none();
    let present: Vec<Contestant> = Contestant::ALL.into_iter().filter(present).collect();
    contest.check(&present)?;

    let (mut peaks, mut rates) = (Vec::new(), vec![Vec::new(); present.len()]);
    for round in 0..settings.rounds {
        let before = contest.peak()?;
        for turn in 0..present.len() {
            let at = (round + turn) % present.len();
            rates[at].push(contest.rate(present[at])?);
        }
        peaks.push(before.max(contest.peak()?));
    }
    let mut rates = rates.into_iter();
    let of = |contestant| match absence(contestant) {
        Some(absence) => (contestant, Err(absence)),
        None => (contestant, Ok(rates.next().unwrap_or_default())),
    };
    Ok(Outcome { row, peaks, rates: Contestant::ALL.into_iter().map(of).collect() })
}

/// One row's product and what computes it.
struct Contest<'s, T: Scalar> {
    row: Row,
    settings: &'s Settings,
    /// Where rayon's threads are wanted.
    pool: Option<&'s ThreadPool>,
    tilewise: Gemm<T>,
    /// Of the instruction set whose peak is measured.
    peak: Gemm<T>,
    product: Product<T>,
}

impl<'s, T: Scalar> Contest<'s, T> {
    fn new(row: Row, settings: &'s Settings) -> Result<Self> {
        let Row { threads, m, n, k, .. } = row;
        settings.libraries.set_threads(threads)?;
        let pool = (threads > 1).then_some(&settings.pool.0);
        let tasks = if threads == 1 { Threads::Caller } else { Threads::Pool };
        let tilewise = Gemm::with_instruction_set(settings.isa)?.with_threads(tasks);
        let scratch = run_in(pool, || tilewise.scratch(m, n, k))?;
        let peak = Gemm::with_instruction_set(peak_isa())?;
        let product = Product::new(row, settings.padded, scratch)?;
        Ok(Self { row, settings, pool, tilewise, peak, product })
    }

    /// Compares the results of all with that of the first, tilewise.
    fn check(&mut self, contestants: &[Contestant]) -> Result<()> {
        let mut expected: Option<Vec<f64>> = None;
        for &contestant in contestants {
            self.product.spoil();
            let run = self.run(contestant, |multiply| multiply());
            run.and_then(|()| match &expected {
                Some(expected) => self.product.compare(expected, T::stores_sums(contestant)),
                None => {
                    expected = Some(self.product.result(false));
                    Ok(())
                }
            })
            .map_err(|error| format!("{}: {error}", contestant.name()))?;
        }
        Ok(())
    }

    /// GFLOP/s of a contestant.
    fn rate(&mut self, contestant: Contestant) -> Result<f64> {
        machine::wait_until_idle(LONGEST_SPIN)?;
        let seconds = self.settings.seconds;
        let call = self.run(contestant, |multiply| fastest_call(seconds, multiply))?;
        Ok(self.row.flops() / call / 1e9)
    }

    /// The peak of all threads together, in GFLOP/s.
    fn peak(&self) -> Result<f64> {
        machine::wait_until_idle(LONGEST_SPIN)?;
        let flops: f64 = match self.pool {
            Some(pool) => pool.broadcast(|_| self.peak.measure_peak(PEAK_TIME)).iter().sum(),
            None => self.peak.measure_peak(PEAK_TIME),
        };
        Ok(flops / 1e9)
    }

    /// Hands the product by a contestant to `work`, which runs in the pool if that contestant uses
    /// it, else on the main thread.
    fn run<R: Send>(
        &mut self,
        contestant: Contestant,
        work: impl FnOnce(&mut (dyn FnMut() -> Result<()> + Send)) -> R + Send,
    ) -> R {
        let Self { row, settings, pool, tilewise, product, .. } = self;
        let (threads, libraries) = (row.threads, &settings.libraries);
        let mut call = || multiply(contestant, threads, tilewise, libraries, product);
        run_in(pool.filter(|_| contestant.uses_rayon()), || work(&mut call))
    }
}

fn run_in<R: Send>(pool: Option<&ThreadPool>, run: impl FnOnce() -> R + Send) -> R {
    if let Some(pool) = pool { pool.install(run) } else { run() }
}

/// Seconds of the fastest call, of those that fit into `seconds` after one that warms up: at least
/// one. Short calls are timed in batches.
fn fastest_call(seconds: f64, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let begin = Instant::now();
    call()?;
    // A clock may not advance during a short call.
    let mut fastest = begin.elapsed().as_secs_f64().max(1e-9);
    let calls = (BATCH / fastest).ceil();
    while begin.elapsed().as_secs_f64() < seconds {
        let batch = Instant::now();
        for _ in 0..calls as u64 {
            call()?;
        }
        fastest = fastest.min(batch.elapsed().as_secs_f64() / calls);
    }
    Ok(fastest)
}

impl Outcome {
    /// Rates as fractions of the peak of the same round: the best and the median.
    pub fn fractions(&self, rates: &[f64]) -> Fractions {
        let mut fractions: Vec<f64> = rates.iter().zip(&self.peaks).map(|(r, p)| r / p).collect();
        fractions.sort_by(f64::total_cmp);
        let half = fractions.len() / 2;
        let median = match fractions.len() % 2 {
            1 => fractions[half],
            _ => (fractions[half - 1] + fractions[half]) / 2.0,
        };
        Fractions { best: fractions[fractions.len() - 1], median }
    }

    /// The contestants that took part.
    pub fn present(&self) -> impl Iterator<Item = (Contestant, Fractions)> {
        let of = |(contestant, rates): &(Contestant, Rates)| {
            Some((*contestant, self.fractions(rates.as_ref().ok()?)))
        };
        self.rates.iter().filter_map(of)
    }

    /// The fastest contestant by a measure, other than `but`.
    pub fn fastest(
        &self,
        measure: impl Fn(Fractions) -> f64,
        but: Option<Contestant>,
    ) -> Option<(Contestant, f64)> {
        let others = self.present().filter(|&(contestant, _)| Some(contestant) != but);
        let rated = others.map(|(contestant, fractions)| (contestant, measure(fractions)));
        rated.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// How far tilewise is ahead of the best peer by a measure, as a fraction of that peer's.
    pub fn lead(&self, measure: impl Fn(Fractions) -> f64) -> Option<f64> {
        let (_, peer) = self.fastest(&measure, Some(Contestant::Tilewise))?;
        let (_, own) =
            self.present().find(|&(contestant, _)| contestant == Contestant::Tilewise)?;
        Some(measure(own) / peer - 1.0)
    }
}

/// Fractions of the peak, over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fractions {
    pub best: f64,
    pub median: f64,
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tilewise::Bf16;

    use super::*;
    use crate::rows::{self, Dtype};

    fn settings() -> Settings {
        Settings {
            isa: peak_isa(),
            rounds: 2,
            seconds: 0.0,
            padded: true,
            pool: Pool::new(2).unwrap(),
            libraries: Libraries::open(None, None).unwrap(),
            load: None,
        }
    }

    #[test]
    fn contestants_agree_and_the_absent_are_named() {
        for threads in [1, 2] {
            let row256 = |row: &Row| row.m == 256 && row.threads == threads;
            let found = row::<f32>(rows::all(2).find(row256).unwrap(), &settings()).unwrap();
            assert_eq!(found.rates.len(), Contestant::ALL.len());
            for (contestant, rates) in &found.rates {
                match contestant {
                    Contestant::OpenBlas | Contestant::Mkl => {
                        assert_eq!(*rates, Err(Absence::Missing));
                    }
                    Contestant::MatrixMultiply if threads == 2 => {
                        assert_eq!(*rates, Err(Absence::OneThread));
                    }
                    _ => assert_eq!(rates.as_ref().unwrap().len(), 2),
                }
            }
        }
    }

    #[test]
    fn only_some_have_bf16() {
        let row64 = |row: &Row| row.dtype == Dtype::Bf16 && row.m == 128;
        let found = row::<Bf16>(rows::all(2).find(row64).unwrap(), &settings()).unwrap();
        for (contestant, rates) in &found.rates {
            match contestant {
                Contestant::Tilewise | Contestant::GemmKit => {
                    assert_eq!(rates.as_ref().unwrap().len(), 2);
                }
                Contestant::Mkl => assert_eq!(*rates, Err(Absence::Missing)),
                _ => assert_eq!(*rates, Err(Absence::OtherType)),
            }
        }
    }

    #[test]
    fn fractions_are_of_the_same_round() {
        let outcome = Outcome {
            row: rows::all(2).next().unwrap(),
            peaks: vec![100.0, 200.0, 100.0],
            rates: vec![
                (Contestant::Tilewise, Ok(vec![90.0, 120.0, 50.0])),
                (Contestant::Faer, Ok(vec![60.0, 150.0, 50.0])),
                (Contestant::Mkl, Err(Absence::Missing)),
            ],
        };
        let expected = [
            (Contestant::Tilewise, Fractions { best: 0.9, median: 0.6 }),
            (Contestant::Faer, Fractions { best: 0.75, median: 0.6 }),
        ];
        assert_eq!(outcome.present().collect::<Vec<_>>(), expected);
        assert_eq!(outcome.fastest(|f| f.best, None), Some((Contestant::Tilewise, 0.9)));
        assert!((outcome.lead(|f| f.best).unwrap() - 0.2).abs() < 1e-12);
        assert_eq!(outcome.lead(|f| f.median), Some(0.0));
    }

    #[test]
    fn a_call_is_timed_at_least_once_after_the_first() {
        let mut calls = 0;
        let mut call = || {
            calls += 1;
            thread::sleep(Duration::from_millis(if calls == 1 { 60 } else { 20 }));
            Ok(())
        };
        let seconds = fastest_call(0.0, &mut call).unwrap();
        assert!((0.02..0.06).contains(&seconds), "{seconds}");
        assert_eq!(calls, 2);
    }
}
