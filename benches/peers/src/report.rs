//! The outcome as a table, one line for each row, and as JSON with all numbers.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tilewise::simd::Caches;

use crate::{
    machine,
    measure::{Fractions, Outcome, Settings, peak_isa},
    peers::Contestant,
};

/// Width of a contestant's column.
const COLUMN: usize = 14;
/// The version of a peer that was not named.
const MISSING: &str = "missing (see README.md: --openblas, --mkl)";

/// What was measured and how, and the heading of the table.
pub fn header(settings: &Settings) -> String {
    let Settings { isa, rounds, seconds, padded, load, .. } = settings;
    let Caches { l1, l2 } = Caches::detect();
    let cpu = machine::cpu().unwrap_or_else(|| "unknown".into());
    let storage = if *padded { "padded" } else { "contiguous" };
    let load = load.map_or("unknown".into(), |load| load.to_string());
    let mut text = format!(
        "CPU: {cpu}, L1d {} KiB, L2 {} KiB; load average before: {load}\n\
         tilewise on {isa}, peak on {}; rows {storage}; {rounds} rounds, {seconds} s each\n",
        l1 / 1024,
        l2 / 1024,
        peak_isa(),
    );
    for (name, version) in versions(settings) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {}", version.as_deref().unwrap_or(MISSING));
    }
    let environment = machine::environment();
    if !environment.is_empty() {
        let _ = writeln!(text, "environment: {}", environment.join(" "));
    }
    text += "\nFractions of the peak of the same round: best / median of the rounds. The peak is in \
             GFLOP/s, the best.\nLead: tilewise against the best peer, by best / by median.\n\n";
    let _ = write!(text, "{:24} {:>6}", "dtype threads m x n x k", "peak");
    for contestant in Contestant::ALL {
        let _ = write!(text, " {:>COLUMN$}", contestant.name());
    }
    let _ = write!(text, "  {:14} {:>16}", "leader", "lead");
    text
}

/// One row.
pub fn line(outcome: &Outcome) -> String {
    let mut text = format!("{:24} {:>6.1}", outcome.row, best_peak(outcome));
    for (_, rates) in &outcome.rates {
        let cell = match rates {
            Ok(rates) => {
                let Fractions { best, median } = outcome.fractions(rates);
                format!("{best:.3} / {median:.3}")
            }
            Err(absence) => absence.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, " {cell:>COLUMN$}");
    }
    let leader = outcome.fastest(|f| f.best, None).map_or("", |(contestant, _)| contestant.name());
    let percent = |lead: Option<f64>| format!("{:+.1} %", 100.0 * lead.unwrap_or(f64::NAN));
    let lead =
        format!("{} / {}", percent(outcome.lead(|f| f.best)), percent(outcome.lead(|f| f.median)));
    let _ = write!(text, "  {leader:14} {lead:>16}");
    text
}

/// Everything.
pub fn json(settings: &Settings, outcomes: &[Outcome]) -> Value {
    let Caches { l1, l2 } = Caches::detect();
    let versions: serde_json::Map<String, Value> = versions(settings)
        .into_iter()
        .map(|(name, version)| (name.to_owned(), json!(version)))
        .collect();
    json!({
        "cpu": machine::cpu(),
        "l1d_bytes": l1,
        "l2_bytes": l2,
        "load_before": settings.load,
        "load_after": machine::load(),
        "isa": settings.isa.to_string(),
        "peak_isa": peak_isa().to_string(),
        // Null: missing.
        "versions": versions,
        "environment": machine::environment(),
        "rounds": settings.rounds,
        "seconds": settings.seconds,
        "padded": settings.padded,
        "rows": outcomes.iter().map(row_json).collect::<Vec<_>>(),
    })
}

fn row_json(outcome: &Outcome) -> Value {
    let row = outcome.row;
    let contestants: serde_json::Map<String, Value> = outcome
        .rates
        .iter()
        .map(|(contestant, rates)| {
            let value = match rates {
                Ok(rates) => {
                    let Fractions { best, median } = outcome.fractions(rates);
                    json!({ "gflops": rates, "best": best, "median": median })
                }
                Err(absence) => json!({ "absent": absence.to_string() }),
            };
            (contestant.name().to_owned(), value)
        })
        .collect();
    json!({
        "name": row.to_string(),
        "dtype": row.dtype.to_string(),
        "threads": row.threads,
        "storage": row.storage.to_string(),
        "m": row.m,
        "n": row.n,
        "k": row.k,
        "peak_gflops": outcome.peaks,
        "contestants": contestants,
        "leader": outcome.fastest(|f| f.best, None).map(|(contestant, _)| contestant.name()),
        "lead_best": outcome.lead(|f| f.best),
        "lead_median": outcome.lead(|f| f.median),
    })
}

fn best_peak(outcome: &Outcome) -> f64 {
    outcome.peaks.iter().copied().fold(0.0, f64::max)
}

/// Versions of the contestants; none of those that are missing.
fn versions(settings: &Settings) -> Vec<(&'static str, Option<String>)> {
    let libraries = &settings.libraries;
    let version = |contestant: Contestant| match contestant {
        Contestant::OpenBlas => libraries.openblas.as_ref().map(|blas| blas.version.clone()),
        Contestant::Mkl => libraries.mkl.as_ref().map(|blas| blas.version.clone()),
        _ => Some(machine::version(contestant.name()).to_owned()),
    };
    Contestant::ALL.map(|contestant| (contestant.name(), version(contestant))).to_vec()
}
