//! `Context`: the kernels and the number of threads of a computation, resolved once.

use crate::{
    error::Result,
    gemm::{Backend, Gemm},
    kernels::{Element, KernelSet},
    simd::{Denormals, InstructionSet},
    threads::{Tasks, Threads},
};

/// The kernels of one instruction set for networks with parameters of type `T`, and the number of
/// threads that work is divided among. It is cheap to copy.
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
    /// [`Error::IsaUnavailable`](crate::Error::IsaUnavailable) if `TILEWISE_ISA` names an
    /// instruction set that is not available.
    pub fn new() -> Result<Self> {
        Self::of(Gemm::new()?)
    }

    /// Products as `gemm` computes them, on its threads.
    ///
    /// # Errors
    /// [`Error::OutsidePool`](crate::Error::OutsidePool) if the threads are more than the calling
    /// one and it is in no rayon pool.
    pub fn of(gemm: Gemm<T>) -> Result<Self> {
        let threads = gemm.tasks()?.get();
        Ok(Self { gemm: gemm.resolved()?, threads })
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
        Self::of(self.gemm.with_threads(threads))
    }

    /// Sets whether training keeps or flushes denormal numbers; evaluation uses the calling thread's
    /// setting.
    pub fn with_denormals(self, denormals: Denormals) -> Self {
        Self { gemm: self.gemm.with_denormals(denormals), ..self }
    }

    /// A context for evaluation: the calling thread's setting for denormal numbers.
    pub(crate) fn for_evaluation(self) -> Self {
        Self { gemm: self.gemm.with_denormals_of_caller(), ..self }
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
