//! The set of kernels: one [`KernelSet`] for each instruction set and element type. `stamp` fills
//! them in, `checked` has their methods.
//!
//! A set can only be had through [`Product::kernel_set`], which checks that the CPU has its
//! instructions.

#[cfg(feature = "matrixmultiply")]
use crate::matrix::MatRef;
use crate::{
    error::Result,
    float::Float,
    kernels::{
        block::{TileFn, Tiles},
        dropout::DropoutMask,
        pack::Packing,
        product::{PanelElement, Types},
        tile::FinishFn,
        update::{Parameters, Update},
    },
    matrix::MatMut,
    simd::{InstructionSet, Work, math::Constants},
};

/// `f32` or `f64`: the types that everything can be computed in, a network's parameters, values and
/// gradients included.
pub trait Element:
    Float
    + Constants
    + PanelElement<Value = Self>
    + Types<Left = Self, Right = Self, Sum = Self, Output = Self>
    + Product<Transposed = Self>
{
    /// The elements of the precision below: bf16 for f32. f64 has none, and stands for itself.
    #[doc(hidden)]
    type Rounded: PanelElement<Value = Self>;

    /// Products of such elements, with a C of them.
    #[doc(hidden)]
    type RoundedProduct: Product
        + Types<Left = Self::Rounded, Right = Self::Rounded, Sum = Self, Output = Self::Rounded>;

    /// Products of such elements, with a C of their sums.
    #[doc(hidden)]
    type RoundedOperands: Product
        + Types<Left = Self::Rounded, Right = Self::Rounded, Sum = Self, Output = Self>;

    /// Does work with the instruction set of `kernels`.
    #[doc(hidden)]
    fn run<W: Work<Self>>(kernels: &KernelSet<Self>, work: W) -> W::Output;
}

/// A product for whose element types kernels exist: `f32` and `f64`.
pub trait Product: Types {
    /// The product `Cᵀ = Bᵀ Aᵀ`.
    type Transposed: Product<Transposed = Self>
        + Types<Left = Self::Right, Right = Self::Left, Sum = Self::Sum, Output = Self::Output>;

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
        alpha: Self::Sum,
        a: MatRef<'_, Self::Sum>,
        b: MatRef<'_, Self::Sum>,
        beta: Self::Sum,
        c: MatMut<'_, Self::Sum>,
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
    /// For packed operands, while a panel of A is packed: full tiles, by vectors.
    pub(super) packing_left: &'static [TileFn<P>],
    /// The same while a panel of B is packed.
    pub(super) packing_right: &'static [TileFn<P>],
    /// For all tiles.
    pub(super) finish: FinishFn<P>,
    /// Makes panels of A.
    pub(super) left: Packer<P::Left>,
    /// Makes panels of B.
    pub(super) right: Packer<P::Right>,
    /// Multiply-adds of one step of `multiply_adds`.
    pub(super) multiply_adds_per_step: usize,
    pub(super) multiply_adds: unsafe fn(usize) -> P::Sum,
    pub(super) update: unsafe fn(&Update<P::Sum>, &Parameters<P::Sum>),
    pub(super) dropout: unsafe fn(DropoutMask, usize, P::Sum, &mut MatMut<'_, P::Sum>),
}

impl<P: Types> KernelSet<P> {
    /// The same kernels for another instruction set, which comes with that of these.
    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
    pub(super) const fn also_for(&self, set: InstructionSet) -> Self {
        let (left, right) = (Packer { set, ..self.left }, Packer { set, ..self.right });
        Self { set, left, right, ..*self }
    }
}

/// Makes the panels of one side of a product.
#[derive(Clone, Copy)]
pub(crate) struct Packer<E: PanelElement> {
    pub(super) set: InstructionSet,
    /// Lines in a panel.
    pub(super) width: usize,
    /// Steps of k whose elements are contiguous in a panel, which is filled up to whole ones.
    pub(super) depth_step: usize,
    /// Lanes of the vectors in which a panel is packed beside tiles; 0 where it is not.
    pub(super) lanes_beside: usize,
    pub(super) pack: unsafe fn(&Packing<'_, E>),
}

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

    /// The panels from panel `panel` and step `step` of the depth on; none where that lies after
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
