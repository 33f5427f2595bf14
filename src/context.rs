//! `Context`: the kernels, the precision and the number of threads of a computation, resolved once.

use crate::{
    error::{Error, Result},
    gemm::{Backend, Gemm},
    kernels::{Element, KernelSet},
    precision::Precision,
    simd::{Denormals, InstructionSet},
    threads::{Tasks, Threads},
};

/// The kernels of one instruction set for networks with parameters of type `T`, the precision, and
/// the number of threads that work is divided among. It is cheap to copy.
///
/// ```
/// use tilewise::{Context, threads::Threads};
///
/// let context = Context::<f32>::new()?; // the best instruction set, on the calling thread
/// assert_eq!(context.threads(), 1);
/// let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
/// let context = pool.install(|| Context::<f32>::on(Threads::Pool))?;
/// assert_eq!(context.threads(), 2);
/// # Ok::<(), tilewise::Error>(())
/// ```
#[derive(Debug)]
pub struct Context<T: Element> {
    gemm: Gemm<T>,
    precision: Precision,
    /// Its threads, counted when the context was made.
    threads: usize,
}

impl<T: Element> Clone for Context<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Element> Copy for Context<T> {}

impl<T: Element> Context<T> {
    /// The best instruction set of this CPU, or the one that `TILEWISE_ISA` names, on the calling
    /// thread alone.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if `TILEWISE_ISA` names an
    /// instruction set that is not available.
    pub fn new() -> Result<Self> {
        Self::of(Gemm::new()?)
    }

    /// Products as `gemm` computes them, on its threads.
    ///
    /// # Errors
    /// [`Error::OutsidePool`] if the threads are more than the calling
    /// one and it is in no rayon pool.
    pub fn of(gemm: Gemm<T>) -> Result<Self> {
        let threads = gemm.tasks()?.get();
        let precision = T::NAME.parse()?;
        Ok(Self { gemm: gemm.resolved()?, precision, threads })
    }

    /// Same as [`new`](Self::new), with work divided among `threads`. Call it inside of the rayon pool
    /// that will run the work: the size of the pool is read here.
    ///
    /// # Errors
    /// Same as [`new`](Self::new) and [`of`](Self::of).
    pub fn on(threads: Threads) -> Result<Self> {
        Self::new()?.with_threads(threads)
    }

    /// Sets the threads that work is divided among; see [`on`](Self::on).
    ///
    /// # Errors
    /// Same as [`of`](Self::of).
    pub fn with_threads(self, threads: Threads) -> Result<Self> {
        Ok(Self { precision: self.precision, ..Self::of(self.gemm.with_threads(threads))? })
    }

    /// Sets the precision. Without it, it is that of the parameters.
    ///
    /// ```
    /// use tilewise::{Context, Precision};
    ///
    /// let context = Context::<f32>::new()?.with_precision(Precision::Bf16)?;
    /// assert_eq!(context.precision(), Precision::Bf16);
    /// assert!(Context::<f64>::new()?.with_precision(Precision::Bf16).is_err());
    /// # Ok::<(), tilewise::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Setting`] if the parameters have another type, f64 for bf16 for one, or the precision
    /// is bf16 and the backend is not this crate's kernels.
    pub fn with_precision(self, precision: Precision) -> Result<Self> {
        precision.expect_parameters::<T>("precision")?;
        if precision == Precision::Bf16 && self.backend() != Backend::Tilewise {
            let expected = "tilewise, for bf16";
            return Err(Error::setting("backend", self.backend().name(), expected));
        }
        let gemm = match (self.precision, precision) {
            (_, Precision::Bf16) => self.gemm.with_denormals(Denormals::Flush),
            (Precision::Bf16, _) => self.gemm.with_denormals_of_caller(),
            _ => self.gemm,
        };
        Ok(Self { gemm, precision, ..self })
    }

    /// Sets whether training keeps or flushes denormal numbers; evaluation uses the calling thread's
    /// setting. In bf16 both always flush them.
    pub fn with_denormals(self, denormals: Denormals) -> Self {
        if self.precision == Precision::Bf16 {
            return self;
        }
        Self { gemm: self.gemm.with_denormals(denormals), ..self }
    }

    /// A context for evaluation: the calling thread's setting for denormal numbers, except in bf16.
    pub(crate) fn for_evaluation(self) -> Self {
        if self.precision == Precision::Bf16 {
            return self;
        }
        Self { gemm: self.gemm.with_denormals_of_caller(), ..self }
    }

    /// What is computed with.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How products are computed.
    pub fn gemm(&self) -> &Gemm<T> {
        &self.gemm
    }

    /// Number of threads that work is divided among.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set in use.
    pub fn instruction_set(&self) -> InstructionSet {
        self.gemm.instruction_set()
    }

    /// The backend of products.
    pub fn backend(&self) -> Backend {
        self.gemm.backend()
    }

    pub(crate) fn kernels(&self) -> &'static KernelSet<T> {
        self.gemm.kernels()
    }

    /// Tasks of the calling thread.
    ///
    /// # Errors
    /// Same as [`Threads::tasks`].
    pub(crate) fn tasks(&self) -> Result<Tasks> {
        self.gemm.tasks()
    }

    /// Tasks for a pass over this many elements.
    ///
    /// # Errors
    /// Same as [`Threads::tasks`].
    pub(crate) fn tasks_for(&self, elements: usize) -> Result<Tasks> {
        self.gemm.tasks_for(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precision_needs_parameters_of_its_type() {
        for &precision in Precision::ALL {
            let name = precision.name();
            assert_eq!(name.parse::<Precision>().unwrap(), precision);
            let f32 = Context::<f32>::new().unwrap().with_precision(precision);
            let f64 = Context::<f64>::new().unwrap().with_precision(precision);
            assert_eq!(f32.is_ok(), precision != Precision::F64);
            assert_eq!(f64.is_ok(), precision == Precision::F64);
            for context in f32.into_iter().map(|context| context.with_threads(Threads::Caller)) {
                assert_eq!(context.unwrap().precision(), precision);
            }
        }
        let error = Context::<f64>::new().unwrap().with_precision(Precision::Bf16).unwrap_err();
        assert!(error.to_string().contains("f64 for parameters in f64"), "{error}");
        assert!("BF16".parse::<Precision>().is_err());
    }

    #[test]
    fn other_backends_compute_no_bf16() {
        let gemm = Gemm::<f32>::new().unwrap().with_backend(Backend::Naive);
        let context = Context::of(gemm).unwrap();
        assert!(context.with_precision(Precision::F32).is_ok());
        assert!(context.with_precision(Precision::Bf16).is_err());
    }
}
