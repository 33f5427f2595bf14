//! Common parts of the benchmarks: arguments, backends, and the FMA peak.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::{
    cores, in_pool,
    network::{joined, perceptron},
    options,
};
use tilewise::{
    Bf16, Context, Element, Precision,
    error::{Error, Result},
    gemm::{Backend, Gemm, Product},
    nn::Network,
    simd::InstructionSet,
};

/// Arguments of every benchmark.
#[derive(Debug, clap::Args)]
pub(super) struct Common {
    /// Precision of products; also --dtype.
    #[arg(long, value_name = "NAME", alias = "dtype", default_value = "f32",
          value_parser = options::precision())]
    pub(super) precision: Precision,
    /// Number of threads of tilewise; the other backends run on one. `infer` also measures one.
    #[arg(long, value_name = "N", default_value = "1", value_parser = options::threads)]
    pub(super) threads: usize,
    /// Instruction set of tilewise and of the peak [default: TILEWISE_ISA, else the best available]
    #[arg(long, value_name = "NAME")]
    isa: Option<InstructionSet>,
    /// Print one JSON object per line.
    #[arg(long)]
    pub(super) json: bool,
}

impl Common {
    /// Runs a benchmark in a pool with the requested threads, in the requested precision.
    pub(super) fn run(
        &self,
        f32: impl FnOnce() -> Result<()> + Send,
        f64: impl FnOnce() -> Result<()> + Send,
        bf16: impl FnOnce() -> Result<()> + Send,
    ) -> Result<()> {
        in_pool(Some(self.threads), || match self.precision {
            Precision::F32 => f32(),
            Precision::F64 => f64(),
            Precision::Bf16 => bf16(),
        })
    }

    /// Products on the requested instruction set, on the calling thread.
    pub(super) fn gemm<P: Product>(&self) -> Result<Gemm<P>> {
        Gemm::with_instruction_set(self.isa.map_or_else(InstructionSet::preferred, Ok)?)
    }
}

/// The network of a benchmark.
#[derive(Debug, clap::Args)]
pub(super) struct Perceptron {
    /// Input features, widths of the hidden layers, and classes, separated by commas.
    #[arg(long, value_name = "SIZES", value_delimiter = ',', value_parser = options::count,
          default_value = "3072,512,1024,10")]
    pub(super) dims: Vec<usize>,
}

impl Perceptron {
    /// With initial weights.
    pub(super) fn build<T: Element>(&self, dropout: f64) -> Result<Network<T>> {
        let &[input, ref hidden @ .., classes] = self.dims.as_slice() else {
            let detail = "--dims: a single size; expected at least two, inputs and classes".into();
            return Err(Error::Settings { detail });
        };
        perceptron((input, classes), hidden, dropout, None, 0)
    }

    /// The sizes, as "3072-512-1024-10".
    pub(super) fn name(&self) -> String {
        joined(&self.dims)
    }
}

/// The backends, in the order of the report.
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
    /// Of all threads of the pool at once, if each has a core.
    pub(super) all: f64,
}

impl Peak {
    /// The peak in the precision of a context.
    ///
    /// # Errors
    /// Those of [`Gemm::with_instruction_set`].
    pub(super) fn of_context<T: Element>(context: &Context<T>) -> Result<Self> {
        Ok(match context.precision() {
            Precision::Bf16 => {
                Self::measure(&Gemm::<Bf16>::with_instruction_set(context.instruction_set())?)
            }
            _ => Self::measure(context.gemm()),
        })
    }

    pub(super) fn measure<P: Product>(gemm: &Gemm<P>) -> Self {
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
