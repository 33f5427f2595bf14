//! The set of kernels: one [`KernelSet`] for each instruction set and element type. `stamp` fills
//! them in, `checked` has their methods.
//!
//! A set can only be had through [`Kernels::kernel_set`], which checks that the CPU has its
//! instructions.

#[cfg(feature = "matrixmultiply")]
use crate::matrix::MatRef;
use crate::{
    error::Result,
    float::Float,
    kernels::{
        block::Tiles,
        dropout::DropoutMask,
        pack::{GatheredRows, Packing, Strided},
        product::Types,
        tile::FinishFn,
        update::{Parameters, Update},
    },
    matrix::MatMut,
    simd::{InstructionSet, Work, math::Constants},
};

/// `f32` or `f64`: the element types that kernels exist for.
pub trait Element:
    Float + Constants + Kernels + Types<Left = Self, Right = Self, Sum = Self, Output = Self>
{
    /// Does work with the instruction set of `kernels`.
    #[doc(hidden)]
    fn run<W: Work<Self>>(kernels: &KernelSet<Self>, work: W) -> W::Output;
}

/// Where the kernels of an element type are found.
pub trait Kernels: Types {
    /// The kernels of an instruction set.
    ///
    /// # Errors
    /// `Error::IsaUnavailable` if the CPU or the build lacks it.
    #[doc(hidden)]
    fn kernel_set(set: InstructionSet) -> Result<&'static KernelSet<Self>>;

    /// `C = alpha A B + beta C` by the crate `matrixmultiply`; the shapes must fit.
    #[cfg(feature = "matrixmultiply")]
    #[doc(hidden)]
    fn matrixmultiply(
        alpha: Self,
        a: MatRef<'_, Self>,
        b: MatRef<'_, Self>,
        beta: Self,
        c: MatMut<'_, Self>,
    );
}

/// The kernels of one instruction set for products of some element types.
pub struct KernelSet<P: Types> {
    pub(super) set: InstructionSet,
    /// For packed operands.
    pub(super) packed: Tiles<P>,
    /// For operands in place.
    pub(super) strided: Tiles<P>,
    /// For operands of either kind and very few rows: several panels of B wide.
    pub(super) wide: Tiles<P>,
    /// For the tiles of all three.
    pub(super) finish: FinishFn<P>,
    /// Steps of k whose elements are neighbours in a panel.
    pub(super) depth_step: usize,
    /// Multiply-adds of one step of `multiply_adds`.
    pub(super) multiply_adds_per_step: usize,
    pub(super) multiply_adds: unsafe fn(usize) -> P::Sum,
    pub(super) pack: PackFn<P::Sum, Strided<P::Sum>>,
    pub(super) pack_gathered: PackGatheredFn<P::Sum>,
    pub(super) update: unsafe fn(&Update<P::Sum>, &Parameters<P::Sum>),
    pub(super) dropout: unsafe fn(DropoutMask, usize, P::Sum, &mut MatMut<'_, P::Sum>),
}

/// Packs from a source of elements.
type PackFn<T, S> = unsafe fn(&Packing<T, S>);
/// Packs gathered rows.
type PackGatheredFn<T> = unsafe fn(&Packing<T, GatheredRows<'_, T>>);

/// A packed operand, or a block of it: panels of lines, as `kernels::pack` lays them out. The type
/// of the elements and the width are their format; the kernels refuse any other.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a, E> {
    data: &'a [E],
    width: usize,
    /// Elements from one panel to the next.
    stride: usize,
}

impl<'a, E> Panels<'a, E> {
    /// Panels of `width` lines each that begin every `stride` elements.
    pub(crate) fn new(data: &'a [E], width: usize, stride: usize) -> Self {
        Self { data, width, stride }
    }

    pub(crate) fn as_ptr(&self) -> *const E {
        self.data.as_ptr()
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The panels from panel `panel` and step `step` of the depth on; none where that lies behind
    /// the end.
    pub(crate) fn part(self, panel: usize, step: usize) -> Self {
        let start = panel * self.stride + step * self.width;
        Self { data: self.data.get(start..).unwrap_or_default(), ..self }
    }

    /// Whether there are panels of `width` for `lines` lines, one at least, of `depth` steps.
    pub(crate) fn hold(&self, width: usize, lines: usize, depth: usize) -> bool {
        let panels = lines.div_ceil(width);
        self.width == width && self.data.len() >= (panels - 1) * self.stride + depth * width
    }
}
