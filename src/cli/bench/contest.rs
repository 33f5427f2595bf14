//! What the benchmarks share: who competes, and the peak that nobody can exceed.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::{
    cli::cores,
    gemm::{Backend, Gemm},
    kernels::Element,
};

/// Who can compete, in the order of the report.
pub(super) const BACKENDS: [(&str, Backend); 3] = [
    ("tilewise", Backend::Tilewise),
    ("matrixmultiply", Backend::MatrixMultiply),
    ("naive", Backend::Naive),
];

/// Multiply-adds above which naive, at 0.3 to 3 GFLOP/s, is left out.
pub(super) const NAIVE_LIMIT: u128 = 2_000_000_000;

/// How long a peak is measured, each time: hundreds of its probes.
const PEAK_TIME: Duration = Duration::from_millis(50);

/// Reads the name of a backend.
pub(super) fn backend() -> impl TypedValueParser<Value = Backend> {
    PossibleValuesParser::new(BACKENDS.map(|(name, _)| name)).try_map(|name| {
        let found = BACKENDS.into_iter().find(|&(known, _)| known == name);
        found.map(|(_, backend)| backend).ok_or("expected a backend")
    })
}

/// Multiply-adds on registers alone, in GFLOP/s.
#[derive(Clone, Copy)]
pub(super) struct Peak {
    /// Of one thread.
    pub(super) one: f64,
    /// Of all threads of the pool at once, as far as each has a core.
    pub(super) all: f64,
}

impl Peak {
    pub(super) fn measure<T: Element>(gemm: &Gemm<T>) -> Self {
        let one = gemm.measure_peak(PEAK_TIME) / 1e9;
        if rayon::current_num_threads() == 1 {
            return Self { one, all: one };
        }
        // Two threads on one core would each find a moment at which they have it for themselves.
        let cores = cores();
        let peaks = rayon::broadcast(|thread| {
            if thread.index() < cores { gemm.measure_peak(PEAK_TIME) } else { 0.0 }
        });
        Self { one, all: peaks.iter().sum::<f64>() / 1e9 }
    }

    pub(super) fn of(self, threads: usize) -> f64 {
        if threads == 1 { self.one } else { self.all }
    }
}
