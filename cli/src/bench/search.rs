//! `tilewise bench gemm --search`: the fastest blocking of a product, compared with the default one.
//!
//! The candidates follow from the sizes, the tile and the caches. Each measurement is a pair: a batch
//! of products with the default blocking and a batch with the candidate, one right after the other, so
//! that a machine that slows down slows both. After some rounds the slower two thirds are dropped, again
//! and again. What is reported comes from new pairs of the last candidate: of many candidates, the one
//! that won was also lucky.

use std::{fmt::Write as _, slice, time::Instant};

use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::bench::{
    contest::Peak,
    product::{Measured, Operands, Shape, Transpose},
    turns::{batch, median},
};
use tilewise::{
    error::Result,
    gemm::{Blocking, Gemm},
    simd::Caches,
};

/// Depths are multiples of it, unless they are the whole depth.
const DEPTH_UNIT: usize = 8;
/// Panels of A that are packed at a time.
const PANELS_OF_A: [usize; 4] = [1, 2, 8, 32];
/// Reading operands in place is tried up to this many times the default's limits.
const IN_PLACE_LIMITS: usize = 8;
/// Pairs of which the reported ratio is the median, at least.
const FEWEST_PAIRS: usize = 3;

/// What a search found for one product.
pub(super) struct Found {
    shape: Shape,
    transpose: Transpose,
    /// Blockings that were tried besides the default.
    tried: usize,
    pub(super) peak: f64,
    default: Contestant,
    /// The default again, if no other was faster.
    best: Contestant,
    /// Rate of the best blocking over that of the default: the median of `pairs` pairs.
    ratio: f64,
    pairs: usize,
}

/// A blocking, cut to the sizes of the product, and its best rate in GFLOP/s.
#[derive(Clone, Copy)]
struct Contestant {
    blocking: Blocking,
    gflops: f64,
}

/// A blocking that may be faster than the default.
struct Candidate<P: Measured> {
    gemm: Gemm<P>,
    blocking: Blocking,
    pairs: Vec<Pair>,
}

/// Products a second in two batches, one right after the other.
#[derive(Clone, Copy)]
struct Pair {
    default: f64,
    candidate: f64,
}

impl<P: Measured> Candidate<P> {
    fn ratio(&self) -> f64 {
        median(self.pairs.iter().map(|pair| pair.candidate / pair.default).collect())
    }
}

/// The tile, the caches and the default blocking that candidates follow from.
#[derive(Clone, Copy)]
struct Grounds {
    /// Rows and columns.
    tile: (usize, usize),
    caches: Caches,
    /// Bytes of an element.
    size: usize,
    /// Cut to the sizes of the product.
    default: Blocking,
}

impl Grounds {
    /// Blockings to try: panels of B of a half of L1 to a half of L2, blocks of B of a half of L2 and
    /// more, all of about equal size; several numbers of panels of A; packed and in place.
    fn candidates(self, Shape { m, n, k }: Shape) -> Vec<Blocking> {
        let Self { tile: (mr, nr), caches, size, default } = self;
        let panel = |bytes: usize| bytes / (nr * size);
        let depths =
            (0..).flat_map(|i| [2 << i, 3 << i]).map(|half| panel(caches.l1 / 4).max(1) * half);
        let depths = depths.take_while(|&depth| depth <= panel(caches.l2 / 2) && depth < k);
        let mut depths: Vec<usize> =
            depths.map(|depth| equal_parts(k, depth, DEPTH_UNIT)).collect();
        depths.push(k);
        let least = (caches.l2 / 2 / (default.kc * size).max(1)).max(nr);
        let cols = (0..).map(|i| least << (2 * i)).take_while(|&cols| cols < n);
        let mut cols: Vec<usize> = cols.map(|cols| equal_parts(n, cols, nr)).collect();
        cols.push(n);

        // Packed, whatever the default does: where that reads in place, the depth has no effect.
        let (lines, work) = (default.in_place_lines, default.in_place_work);
        let multiply_adds = m.saturating_mul(n).saturating_mul(k);
        let is_small =
            |times: usize| m.min(n) <= lines * times || multiply_adds <= work.saturating_mul(times);
        let packed = if is_small(1) {
            default.with_in_place_lines(0).with_in_place_work(0)
        } else {
            default
        };
        let of_sizes = depths.iter().flat_map(|&kc| cols.iter().map(move |&nc| (kc, nc)));
        let of_sizes = of_sizes.map(|(kc, nc)| packed.with_kc(kc).with_nc(nc));
        let of_panels = PANELS_OF_A.into_iter().map(|panels| packed.with_mc(panels * mr));
        let in_place = is_small(IN_PLACE_LIMITS).then(|| default.with_in_place_work(multiply_adds));
        of_sizes.chain(of_panels).chain(in_place).collect()
    }
}

/// The size of the parts, in multiples of `unit`, if `len` is cut into equal parts of at most about
/// `largest`.
fn equal_parts(len: usize, largest: usize, unit: usize) -> usize {
    len.div_ceil(len.div_ceil(largest.max(1))).next_multiple_of(unit)
}

/// Searches for about `seconds`, longer where the product is large.
///
/// # Errors
/// As [`Operands::new`].
///
/// # Panics
/// If two blockings give different bits, which would be a bug.
pub(super) fn search<P: Measured>(
    gemm: Gemm<P>,
    (shape, transpose): (Shape, Transpose),
    threads: usize,
    seconds: f64,
    bar: &ProgressBar,
) -> Result<Found> {
    let Shape { m, n, k } = shape;
    let default = gemm.blocking_of(m, n, k)?;
    let grounds =
        Grounds { tile: gemm.tile(), caches: Caches::detect(), size: size_of::<P::Of>(), default };
    let mut candidates: Vec<Candidate<P>> = Vec::new();
    for blocking in grounds.candidates(shape) {
        let gemm = gemm.with_blocking(blocking);
        let blocking = gemm.blocking_of(m, n, k)?;
        let known = candidates.iter().any(|candidate| candidate.blocking == blocking);
        if blocking != default && !known {
            candidates.push(Candidate { gemm, blocking, pairs: Vec::new() });
        }
    }
    let tried = candidates.len();
    let all: Vec<Gemm<P>> =
        candidates.iter().map(|candidate| candidate.gemm).chain([gemm]).collect();
    let mut contest = Contest { operands: Operands::new(&all, shape, transpose)?, gemm, bar };
    let before = Peak::measure(&gemm).of(threads);
    contest.compare(&candidates)?;

    let mut stages = 1;
    let mut left = tried;
    while left > 1 {
        left = left.div_ceil(3);
        stages += 1;
    }
    let share = seconds / f64::from(stages);
    while candidates.len() > 1 {
        contest.rounds(&mut candidates, 1, share)?;
        candidates.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
        candidates.truncate(candidates.len().div_ceil(3));
    }
    let gflops = |rate: f64| 2e-9 * shape.multiply_adds() as f64 * rate;
    let found = |best: Option<&Candidate<P>>, of_default: f64, peak| {
        let default = Contestant { blocking: default, gflops: gflops(of_default) };
        let of = |candidate: &Candidate<P>| {
            let rate = candidate.pairs.iter().map(|pair| pair.candidate).fold(0.0, f64::max);
            Contestant { blocking: candidate.blocking, gflops: gflops(rate) }
        };
        let ratio = best.map_or(1.0, Candidate::ratio);
        let pairs = best.map_or(0, |candidate| candidate.pairs.len());
        // A candidate that fails to win again is none.
        let (best, ratio) = match best {
            Some(candidate) if ratio > 1.0 => (of(candidate), ratio),
            _ => (default, 1.0),
        };
        Found { shape, transpose, tried, peak, default, best, ratio, pairs }
    };
    let Some(mut last) = candidates.pop() else {
        let of_default = contest.batch(gemm)?;
        return Ok(found(None, of_default, before.max(Peak::measure(&gemm).of(threads))));
    };
    last.pairs.clear();
    contest.rounds(slice::from_mut(&mut last), FEWEST_PAIRS, share)?;
    let of_default = last.pairs.iter().map(|pair| pair.default).fold(0.0, f64::max);
    Ok(found(Some(&last), of_default, before.max(Peak::measure(&gemm).of(threads))))
}

/// One product, the default way to compute it, and where progress is shown.
struct Contest<'a, P: Measured> {
    operands: Operands<P>,
    gemm: Gemm<P>,
    bar: &'a ProgressBar,
}

impl<P: Measured> Contest<'_, P> {
    /// Fails unless all candidates compute the bits of the default.
    fn compare(&mut self, candidates: &[Candidate<P>]) -> Result<()> {
        self.operands.multiply(self.gemm)?;
        let expected = self.operands.c.try_clone()?;
        for candidate in candidates {
            self.operands.multiply(candidate.gemm)?;
            self.operands.expect(expected.view(), 0.0, &text_of(&candidate.blocking));
        }
        Ok(())
    }

    /// Rounds of a pair for each candidate, at least `fewest`, until `seconds` have passed. The
    /// default is first in every other round.
    fn rounds(
        &mut self,
        candidates: &mut [Candidate<P>],
        fewest: usize,
        seconds: f64,
    ) -> Result<()> {
        let (begin, count) = (Instant::now(), candidates.len());
        let mut round = 0;
        while round < fewest || begin.elapsed().as_secs_f64() < seconds {
            for (at, candidate) in candidates.iter_mut().enumerate() {
                let Operands { shape, transpose, .. } = &self.operands;
                self.bar.set_message(format!(
                    "{shape} {transpose}: {count} blockings left, round {}, {} of {count}",
                    round + 1,
                    at + 1,
                ));
                let pair = if round % 2 == 0 {
                    let default = self.batch(self.gemm)?;
                    Pair { default, candidate: self.batch(candidate.gemm)? }
                } else {
                    let of_candidate = self.batch(candidate.gemm)?;
                    Pair { default: self.batch(self.gemm)?, candidate: of_candidate }
                };
                candidate.pairs.push(pair);
            }
            round += 1;
        }
        Ok(())
    }

    /// Products a second in one batch.
    fn batch(&mut self, gemm: Gemm<P>) -> Result<f64> {
        batch(|| self.operands.multiply(gemm))
    }
}

fn text_of(blocking: &Blocking) -> String {
    let Blocking { kc, nc, mc, in_place_lines, in_place_work, .. } = blocking;
    format!("kc {kc} nc {nc} mc {mc} in place {in_place_lines}, {in_place_work}")
}

fn json_of(blocking: &Blocking) -> Value {
    let Blocking { kc, nc, mc, in_place_lines, in_place_work, .. } = blocking;
    json!({
        "kc": kc,
        "nc": nc,
        "mc": mc,
        "in_place_lines": in_place_lines,
        "in_place_work": in_place_work,
    })
}

/// One object a line, for each product.
pub(super) fn as_json<P: Measured>(gemm: &Gemm<P>, threads: usize, found: &[Found]) -> String {
    let peak = best_peak(found);
    let (tile_rows, tile_cols) = gemm.tile();
    let Caches { l1, l2 } = Caches::detect();
    let mut text = String::new();
    for product in found {
        let Found { shape, transpose, tried, default, best, ratio, pairs, .. } = product;
        let object = json!({
            "cpu": cpu(),
            "l1_bytes": l1,
            "l2_bytes": l2,
            "isa": gemm.instruction_set().to_string(),
            "tile": [tile_rows, tile_cols],
            "threads": threads,
            "precision": P::NAME,
            "m": shape.m,
            "n": shape.n,
            "k": shape.k,
            "transpose": transpose.to_string(),
            "tried": tried,
            "pairs": pairs,
            "peak_gflops": peak,
            "default": json_of(&default.blocking),
            "default_gflops": default.gflops,
            "default_fraction": default.gflops / peak,
            "best": json_of(&best.blocking),
            "best_gflops": best.gflops,
            "best_fraction": best.gflops / peak,
            "ratio": ratio,
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{object}");
    }
    text
}

pub(super) fn as_text<P: Measured>(gemm: &Gemm<P>, threads: usize, found: &[Found]) -> String {
    let (peak, (rows, cols)) = (best_peak(found), gemm.tile());
    let Caches { l1, l2 } = Caches::detect();
    let mut text = format!(
        "tilewise {}: {}, {}, tile {rows} x {cols}, threads {threads}, peak {peak:.1} GFLOP/s\n\
         {}, L1d {} KiB, L2 {} KiB\n\
         Fraction is the best rate over the best peak of this run; ratio is the rate of the best\n\
         blocking over that of the default, the median of pairs of batches.\n\n\
         {:18} {:7} {:8} {:>6} {:>6} {:>6} {:>8} {:>14} {:>8} {:>6}\n",
        env!("CARGO_PKG_VERSION"),
        P::NAME,
        gemm.instruction_set(),
        cpu().unwrap_or_else(|| "unknown CPU".into()),
        l1 / 1024,
        l2 / 1024,
        "m x n x k",
        "storage",
        "blocking",
        "kc",
        "nc",
        "mc",
        "in place",
        "multiply-adds",
        "fraction",
        "ratio",
    );
    for Found { shape, transpose, default, best, ratio, .. } in found {
        let is_default = default.blocking == best.blocking;
        let lines = [("default", default, 1.0), ("best", best, *ratio)];
        for (name, Contestant { blocking, gflops }, ratio) in lines {
            let Blocking { kc, nc, mc, in_place_lines, in_place_work, .. } = blocking;
            let name = if is_default && name == "best" { "the same" } else { name };
            let fraction = gflops / peak;
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{shape:18} {transpose:7} {name:8} {kc:>6} {nc:>6} {mc:>6} {in_place_lines:>8} \
                 {in_place_work:>14} {fraction:>8.3} {ratio:>6.3}",
            );
        }
    }
    text + "\nIn place: products with so few rows or columns, or so few multiply-adds, read their \
            operands in place.\nTo report this CPU, run the same with --json on an idle machine and \
            put the lines into an issue.\n"
}

/// The best peak of the run.
fn best_peak(found: &[Found]) -> f64 {
    found.iter().map(|product| product.peak).fold(0.0, f64::max)
}

/// The CPU's own name: leaves 0x8000_0002 to 0x8000_0004 of CPUID ("Processor Brand String" in Intel's
/// Software Developer's Manual, volume 2, CPUID).
#[cfg(target_arch = "x86_64")]
fn cpu() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    const LEAVES: std::ops::RangeInclusive<u32> = 0x8000_0002..=0x8000_0004;
    if __cpuid(0x8000_0000).eax < *LEAVES.end() {
        return None;
    }
    let registers = LEAVES.map(__cpuid).flat_map(|leaf| [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]);
    let bytes: Vec<u8> = registers.flat_map(u32::to_le_bytes).collect();
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_matches(['\0', ' ']).to_owned())
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grounds(shape: Shape) -> Grounds {
        let gemm = Gemm::<f32>::new().unwrap();
        let default = gemm.blocking_of(shape.m, shape.n, shape.k).unwrap();
        let caches = Caches { l1: 32 << 10, l2: 1 << 20 };
        Grounds { tile: (14, 32), caches, size: 4, default }
    }

    #[test]
    fn candidates_are_equal_parts_between_the_caches() {
        let shape = Shape { m: 1024, n: 1000, k: 1024 };
        let default = grounds(shape).default;
        let candidates = grounds(shape).candidates(shape);
        let mut depths: Vec<usize> = candidates.iter().map(|blocking| blocking.kc).collect();
        depths.sort_unstable();
        depths.dedup();
        assert_eq!(depths, [128, 176, 256, 344, 512, 1024]);
        assert!(candidates.iter().any(|blocking| blocking.nc == 1000 && blocking.kc == 512));
        assert!(candidates.iter().any(|blocking| blocking.mc == 14));
        // It is far from being read in place.
        let same = |blocking: &Blocking| blocking.in_place_work == default.in_place_work;
        assert!(candidates.iter().all(same));
    }

    #[test]
    fn small_products_are_tried_packed_and_in_place() {
        let shape = Shape { m: 100, n: 100, k: 100 };
        let candidates = grounds(shape).candidates(shape);
        assert!(candidates.iter().any(|blocking| blocking.in_place_work == 0));
        assert!(candidates.iter().any(|blocking| blocking.in_place_work == 1_000_000));
    }

    #[test]
    fn a_depth_beyond_the_caches_is_no_obstacle() {
        let shape = Shape { m: 1, n: 1000, k: 10_000_000 };
        let mut grounds = grounds(shape);
        grounds.default = grounds.default.with_kc(shape.k);
        assert!(grounds.candidates(shape).iter().any(|blocking| blocking.nc == 1000));
    }

    #[test]
    fn parts_are_equal_up_to_their_unit() {
        assert_eq!(equal_parts(1024, 192, 8), 176);
        assert_eq!(equal_parts(5, 192, 8), 8);
        assert_eq!(equal_parts(1000, 512, 32), 512);
    }
}
