//! General matrix multiplication: `C = finish(start + alpha A B)`.
//!
//! Shapes are those of BLAS: A is (m, k), B is (k, n), C is (m, n), f32, f64 or bf16, with any strides.
//! Every element of C is one chain of multiply-adds over k, begun at its start value; so the
//! bits of a result depend on the operands alone: not on blocking, threads, vector width, memory
//! alignment, or the other rows of a batch. [`naive::gemm`] is that definition in scalar code, and
//! [`naive::gemm_bf16`] that of products of bf16.

pub mod backend;
pub(crate) mod blas;
mod driver;
#[cfg(feature = "matrixmultiply")]
mod matrixmultiply;
pub mod naive;
mod operand;
mod plan;
mod shapes;

pub use crate::kernels::{Bf16ToF32, GatheredRows, PanelElement, Product, Types, epilogue};
pub use backend::Backend;
pub use blas::{dgemm, dgemm_with, sgemm, sgemm_with};
pub use epilogue::{Companion, Companions, DropoutMask, Epilogue, Finish, Rule, Start, Update};
pub use operand::{Operand, Packed};
pub use plan::Blocking;

use std::{
    any::TypeId,
    time::{Duration, Instant},
};

use crate::{
    aligned::AlignedBuf,
    error::{Error, Result},
    float::Float,
    kernels::{Element, KernelSet},
    matrix::{MatMut, MatRef},
    simd::{Caches, Denormals, InstructionSet},
    threads::{Tasks, Threads},
};
use driver::Multiplication;
use operand::{Lines, Side};
use plan::{Choice, Plan, TileShape};
use shapes::check_shapes;

/// Multiply-adds that are worth a task of their own: below, waking a thread costs more than it
/// brings. About 25 microseconds of one core of a Sapphire Rapids server, chosen by 128 cubed on two
/// threads in `tilewise bench gemm`: 123 GFLOP/s as two tasks, 150 as one.
const MULTIPLY_ADDS_PER_TASK: usize = 1 << 21;

/// Elements of the operands that are worth a task of their own, however few multiply-adds there
/// are: for a row or two the time is that of reading B.
const OPERAND_ELEMENTS_PER_TASK: usize = 1 << 18;

/// Elements of one pass through memory that are worth a task of their own; as above.
const ELEMENTS_PER_TASK: usize = 1 << 15;

/// How to multiply: instruction set, blocking, threads and backend, chosen once. `P` says which
/// types: `Gemm<f32>`, `Gemm<f64>`, [`Gemm<Bf16>`](crate::Bf16) or [`Gemm<Bf16ToF32>`](Bf16ToF32).
///
/// ```
/// use tilewise::{gemm::{Epilogue, Gemm}, matrix::{MatMut, MatRef}};
///
/// let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
/// let mut c = [0.0f32; 4];
/// let gemm = Gemm::<f32>::new()?;
/// let mut scratch = gemm.scratch(2, 2, 3)?;
/// gemm.run(
///     1.0,
///     MatRef::new(&a, 2, 3)?,
///     MatRef::new(&b, 3, 2)?,
///     MatMut::new(&mut c, 2, 2)?,
///     Epilogue::bias_relu(&[0.0, -6.0]),
///     &mut scratch,
/// )?;
/// assert_eq!(c, [4.0, 0.0, 10.0, 5.0]);
/// # Ok::<(), tilewise::Error>(())
/// ```
pub struct Gemm<P: Product> {
    kernels: &'static KernelSet<P>,
    blocking: Choice,
    threads: Threads,
    denormals: Option<Denormals>,
    backend: Backend,
}

impl<P: Product> Clone for Gemm<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Product> Copy for Gemm<P> {}

impl<P: Product> std::fmt::Debug for Gemm<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gemm")
            .field("instruction_set", &self.instruction_set())
            .field("tile", &self.tile())
            .field("blocking", &self.blocking())
            .field("threads", &self.threads)
            .field("backend", &self.backend)
            .finish()
    }
}

impl<P: Product> Gemm<P> {
    /// The best instruction set of this CPU (or the one that `TILEWISE_ISA` names), blocking for
    /// its tiles, the calling thread alone.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if `TILEWISE_ISA` names an instruction set that is not available.
    pub fn new() -> Result<Self> {
        Self::with_instruction_set(InstructionSet::preferred()?)
    }

    /// As [`new`](Self::new), with a given instruction set.
    ///
    /// # Errors
    /// [`Error::IsaUnavailable`] if the CPU or the build lacks it.
    pub fn with_instruction_set(set: InstructionSet) -> Result<Self> {
        let kernels = P::kernel_set(set)?;
        Ok(Self {
            kernels,
            blocking: Choice::for_tile(
                Caches::detect(),
                TileShape::of(kernels),
                size_of::<P::Right>(),
            ),
            threads: Threads::Caller,
            denormals: None,
            backend: Backend::Tilewise,
        })
    }

    /// The same for products of other types, with a blocking for their tiles.
    ///
    /// # Errors
    /// As [`with_instruction_set`](Self::with_instruction_set).
    pub(crate) fn of_types<Q: Product>(&self) -> Result<Gemm<Q>> {
        let Self { kernels: _, blocking, threads, denormals, backend } = *self;
        let gemm = Gemm::<Q>::with_instruction_set(self.instruction_set())?;
        let blocking = match blocking {
            Choice::Given(blocking) => Choice::given(blocking, gemm.tile_shape()),
            Choice::Derived(_) => gemm.blocking,
        };
        Ok(Gemm { blocking, threads, denormals, backend, ..gemm })
    }

    /// The same with other threads. Products and plans outside of a rayon pool are errors where
    /// that asks for more than the calling thread; see [`Threads`].
    pub fn with_threads(self, threads: Threads) -> Self {
        Self { threads, ..self }
    }

    /// The same with a given blocking instead of one that follows from caches, threads and sizes.
    /// It is the one that every product uses: rounded up to whole tiles and cut to the sizes of the product. Only an update takes the whole depth at a time, because
    /// its sums have nowhere to wait.
    pub fn with_blocking(self, blocking: Blocking) -> Self {
        Self { blocking: Choice::given(blocking, self.tile_shape()), ..self }
    }

    /// The same with denormal numbers kept or flushed, whatever the setting of the calling thread,
    /// by which it goes otherwise. Products of bf16 always flush them.
    pub fn with_denormals(self, denormals: Denormals) -> Self {
        Self { denormals: Some(denormals), ..self }
    }

    /// The same by the calling thread's setting for denormal numbers.
    pub(crate) fn with_denormals_of_caller(self) -> Self {
        Self { denormals: None, ..self }
    }

    /// What becomes of denormal numbers; none: what the calling thread's setting says.
    pub(crate) fn denormals(&self) -> Option<Denormals> {
        self.denormals
    }

    /// The same with another backend.
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// How its work is divided.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The instruction set in use.
    pub fn instruction_set(&self) -> InstructionSet {
        self.kernels.instruction_set()
    }

    /// Rows and columns of the tile that is computed in registers.
    pub fn tile(&self) -> (usize, usize) {
        (self.kernels.tile_rows(), self.kernels.tile_cols())
    }

    fn tile_shape(&self) -> TileShape {
        TileShape::of(self.kernels)
    }

    /// The blocking in use: the given one, rounded up; else that from which the blocking of each
    /// product follows, see [`blocking_of`](Self::blocking_of).
    pub fn blocking(&self) -> Blocking {
        self.blocking.blocking()
    }

    /// The blocking of a product of these sizes that is no update, with operands that are packed.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if its scratch memory exceeds the address space; [`Error::OutsidePool`]
    /// if the threads are more than the calling one and it is in no rayon pool.
    pub fn blocking_of(&self, m: usize, n: usize, k: usize) -> Result<Blocking> {
        let tasks = self.tasks_of((m, n, k))?.get();
        let whole_depth = !Self::sums_wait_in_c();
        Ok(Plan::new::<P>(self.kernels, self.blocking, tasks, (m, n, k), whole_depth)?.blocking)
    }

    /// Whether sums can wait in C between two blocks of the depth: of another type they would be rounded.
    fn sums_wait_in_c() -> bool {
        TypeId::of::<P::Output>() == TypeId::of::<P::Sum>()
    }

    /// Tasks for a product.
    ///
    /// # Errors
    /// As [`Threads::tasks`].
    fn tasks_of(&self, (m, n, k): (usize, usize, usize)) -> Result<Tasks> {
        let work = m.saturating_mul(n).saturating_mul(k);
        let read = m.saturating_add(n).saturating_mul(k);
        let worthwhile = (work / MULTIPLY_ADDS_PER_TASK).max(read / OPERAND_ELEMENTS_PER_TASK);
        Ok(self.tasks()?.at_most(worthwhile))
    }

    /// The rate of multiply-adds on registers alone, in flop/s on the calling thread, measured
    /// for about `time`: what no product can exceed.
    pub fn measure_peak(&self, time: Duration) -> f64 {
        let (begin, mut best, mut steps) = (Instant::now(), 0.0f64, 1000);
        while begin.elapsed() < time {
            let start = Instant::now();
            let multiply_adds = self.kernels.multiply_adds(steps);
            let seconds = start.elapsed().as_secs_f64();
            if seconds < 1e-4 {
                steps *= 2;
            } else {
                best = best.max(2.0 * multiply_adds as f64 / seconds);
            }
        }
        best
    }

    /// The kernels in use.
    pub(crate) fn kernels(&self) -> &'static KernelSet<P> {
        self.kernels
    }

    /// Tasks of the calling thread.
    ///
    /// # Errors
    /// As [`Threads::tasks`].
    pub(crate) fn tasks(&self) -> Result<Tasks> {
        let denormals = if P::FLUSHES { Some(Denormals::Flush) } else { self.denormals };
        Ok(self.threads.tasks()?.with_denormals(denormals))
    }

    /// Tasks for `elements` of element-wise work.
    ///
    /// # Errors
    /// As [`Threads::tasks`].
    pub(crate) fn tasks_for(&self, elements: usize) -> Result<Tasks> {
        Ok(self.tasks()?.at_most(elements / ELEMENTS_PER_TASK))
    }

    /// The same with the size of the pool counted, for a plan.
    ///
    /// # Errors
    /// As [`Threads::tasks`].
    pub(crate) fn resolved(self) -> Result<Self> {
        Ok(Self { threads: self.threads.resolved()?, ..self })
    }

    /// Bytes of scratch memory that a product of these sizes needs; smaller products need no more.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if that exceeds the address space; [`Error::OutsidePool`] if the threads
    /// are more than the calling one and it is in no rayon pool.
    pub fn scratch_bytes(&self, m: usize, n: usize, k: usize) -> Result<usize> {
        let (kernels, blocking, tasks) = (self.kernels, self.blocking, self.tasks()?.get());
        // A C stored by columns is computed transposed.
        let bytes = Plan::scratch_bound::<P>(kernels, blocking, tasks, (m, n, k))?;
        Ok(bytes.max(Plan::scratch_bound::<P>(kernels, blocking, tasks, (n, m, k))?))
    }

    /// Scratch memory for products of up to these sizes.
    ///
    /// # Errors
    /// As [`scratch_bytes`](Self::scratch_bytes).
    pub fn scratch(&self, m: usize, n: usize, k: usize) -> Result<AlignedBuf<u8>> {
        AlignedBuf::zeroed(self.scratch_bytes(m, n, k)?)
    }

    /// A in panels, to be used in many products: `scale * a`. Its products have alpha 1. It is packed
    /// on the calling thread.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if the panels exceed the address space; [`Error::Setting`] if A was
    /// packed before, or if it is gathered and `scale` is not 1.
    pub fn pack_a<'a>(
        &self,
        scale: P::Sum,
        a: impl Into<Operand<'a, P::Left>>,
    ) -> Result<Packed<P::Left>> {
        let a = a.into();
        let mut panels = Packed::zeroed(self.kernels.left(), Side::A, a.shape())?;
        self.with_threads(Threads::Caller).repack_a(scale, a, &mut panels)?;
        Ok(panels)
    }

    /// B in panels, to be used in many products. It is packed on the calling thread.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] if the panels exceed the address space; [`Error::Setting`] if B was
    /// packed before.
    pub fn pack_b<'a>(&self, b: impl Into<Operand<'a, P::Right>>) -> Result<Packed<P::Right>> {
        let b = b.into();
        let mut panels = Packed::zeroed(self.kernels.right(), Side::B, b.shape())?;
        self.with_threads(Threads::Caller).repack_b(b, &mut panels)?;
        Ok(panels)
    }

    /// `scale * a` into the panels of an operand of the same shape, without allocating, on the
    /// threads of the products.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ; [`Error::Setting`] if the panels are of another side
    /// or for other kernels, if A was packed before, or if it is gathered and `scale` is not 1;
    /// [`Error::OutsidePool`] if the threads are more than the calling one and it is in no rayon
    /// pool. The panels are as they were then.
    pub fn repack_a<'a>(
        &self,
        scale: P::Sum,
        a: impl Into<Operand<'a, P::Left>>,
        panels: &mut Packed<P::Left>,
    ) -> Result<()> {
        let (a, scale) = (a.into(), P::scaled(P::Sum::ONE, scale));
        let tasks = self.tasks_for(a.shape().0.saturating_mul(a.shape().1))?;
        panels.fill(self.kernels.left(), Side::A, scale, a, tasks)
    }

    /// B into the panels of an operand of the same shape, without allocating: the weights of a
    /// step, for one.
    ///
    /// # Errors
    /// As [`repack_a`](Self::repack_a).
    pub fn repack_b<'a>(
        &self,
        b: impl Into<Operand<'a, P::Right>>,
        panels: &mut Packed<P::Right>,
    ) -> Result<()> {
        let b = b.into();
        let tasks = self.tasks_for(b.shape().0.saturating_mul(b.shape().1))?;
        panels.fill(self.kernels.right(), Side::B, P::Sum::ONE, b, tasks)
    }

    /// `C = finish(start + (alpha A) B)`, without allocating.
    ///
    /// A is (m, k), B (k, n), C (m, n); A and B are matrices, packed before, or gathered, see
    /// [`Operand`]. With `alpha == 0` neither A nor B is read. `scratch` holds at least
    /// [`scratch_bytes`](Self::scratch_bytes), at any alignment; what it holds means nothing
    /// between two products.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Length`] if an operand or the scratch memory does not fit;
    /// [`Error::Setting`] if the rows of C are not contiguous and the epilogue has more than a
    /// factor and ReLU, if an operand was packed for other kernels or the other side, if the backend
    /// cannot do what is asked for, or if the threads are more than the calling one and it is in no
    /// rayon pool. C is untouched then.
    pub fn run<'a>(
        &self,
        alpha: P::Sum,
        a: impl Into<Operand<'a, P::Left>>,
        b: impl Into<Operand<'a, P::Right>>,
        c: MatMut<'_, P::Output>,
        mut epilogue: Epilogue<'_, P::Sum, P::Output>,
        scratch: &mut [u8],
    ) -> Result<()> {
        let (a, b) = (a.into(), b.into());
        self.tasks()?;
        if self.backend != Backend::Tilewise {
            return self.backend.run::<P>(alpha, a.matrix()?, b.matrix()?, c, epilogue);
        }
        let (m, n, k) = check_shapes(a.shape(), b.shape(), c.shape())?;
        epilogue.check((m, n), c.col_stride())?;
        // A factor of 0 takes A and B out of the product, whatever they are; so does a denormal one
        // where those are flushed.
        let (zero, one) = (P::Sum::ZERO, P::Sum::ONE);
        let alpha = P::scaled(one, alpha);
        if let Start::Scaled(beta) = &mut epilogue.start {
            *beta = P::scaled(one, *beta);
        }
        let scale = if alpha == zero { one } else { alpha };
        let a = a.lines(self.kernels.left(), Side::A, scale)?;
        let b = b.lines(self.kernels.right(), Side::B, one)?;
        let depth = if alpha == zero { 0 } else { k };
        self.execute(depth, a, b, c.canonical(), epilogue, scratch)
    }

    /// A product whose operands fit: as it is, or transposed.
    fn execute(
        &self,
        depth: usize,
        a: Lines<'_, P::Left>,
        b: Lines<'_, P::Right>,
        c: MatMut<'_, P::Output>,
        epilogue: Epilogue<'_, P::Sum, P::Output>,
        scratch: &mut [u8],
    ) -> Result<()> {
        let Blocking { in_place_lines, .. } = self.blocking();
        // Tiles are written by rows; a C stored by columns is computed transposed. So is a thin C
        // of an A stored by columns, which then fills whole vectors; several tasks do better with
        // its many rows.
        let transposed = match (a.row_stride(), b.row_stride()) {
            (Some(stride), Some(_)) => {
                let by_columns = c.col_stride() != 1 && c.row_stride() == 1;
                let thin =
                    c.cols() <= in_place_lines && c.rows() > in_place_lines.saturating_mul(4);
                let alone = self.tasks()?.get() == 1;
                epilogue.is_symmetric() && (by_columns || alone && thin && stride == 1)
            }
            _ => false,
        };
        if !transposed {
            return self.multiply(depth, a, b, c, epilogue, scratch);
        }
        let kernels = P::Transposed::kernel_set(self.instruction_set())?;
        let Self { kernels: _, blocking, threads, denormals, backend } = *self;
        let gemm = Gemm::<P::Transposed> { kernels, blocking, threads, denormals, backend };
        gemm.multiply(depth, b, a, c.t(), epilogue, scratch)
    }

    /// Chooses the path and the tasks.
    fn multiply(
        &self,
        depth: usize,
        a: Lines<'_, P::Left>,
        b: Lines<'_, P::Right>,
        c: MatMut<'_, P::Output>,
        mut epilogue: Epilogue<'_, P::Sum, P::Output>,
        scratch: &mut [u8],
    ) -> Result<()> {
        let sizes = (c.rows(), c.cols(), depth);
        let whole_depth = epilogue.is_update() || !Self::sums_wait_in_c();
        let tasks = self.tasks_of(sizes)?;
        let plan = Plan::new::<P>(self.kernels, self.blocking, tasks.get(), sizes, whole_depth)?;
        if epilogue.column_sums.is_some() {
            if !b.can_be_summed() {
                let expected = "a B with contiguous rows, and not packed before";
                return Err(Error::setting("sums of the columns of B", "asked for", expected));
            }
            plan.check_scratch(scratch)?;
            epilogue.start_sums(P::scaled);
        }
        let kernels = self.kernels;
        let product = Multiplication { kernels, plan, tasks, depth, a, b, whole_depth };
        if epilogue.column_sums.is_none()
            && let Some(operands) = product.operands_in_place(&c)
        {
            product.run_in_place(operands, c, epilogue);
            return Ok(());
        }
        plan.check_scratch(scratch)?;
        product.run_packed(c, epilogue, scratch);
        Ok(())
    }
}

/// `C = alpha A B + beta C` on the calling thread, with the best instruction set.
///
/// A is (m, k), B (k, n), C (m, n). With `beta == 0` C is not read, with `alpha == 0` neither A
/// nor B. Scratch memory is allocated for the call; [`Gemm`] is the way to keep it, to use
/// several threads, and to fuse an epilogue.
///
/// # Errors
/// [`Error::Shape`] if the operands do not fit; [`Error::IsaUnavailable`] if `TILEWISE_ISA` names
/// an instruction set that is not available.
pub fn gemm<T: Element>(
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    beta: T,
    c: MatMut<'_, T>,
) -> Result<()> {
    let (m, n, k) = check_shapes(a.shape(), b.shape(), c.shape())?;
    let gemm = Gemm::<T>::new()?;
    let mut scratch = gemm.scratch(m, n, k)?;
    gemm.run(alpha, a, b, c, Epilogue::scaled(beta), &mut scratch)
}
