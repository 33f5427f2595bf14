//! `Numbers`: the types that the passes of a plan compute with, in each precision.

use std::any::TypeId;

use crate::{
    gemm::Packed,
    kernels::{Element, PanelElement, Product, Types},
};

/// The types of one precision, for parameters, sums and logits of type `T`.
pub(super) trait Numbers<T: Element>: 'static {
    /// Of the values between steps, of their gradients, and of the operands of products.
    type Stored: PanelElement<Value = T>;
    /// Products whose results are stored.
    type Inner: Product
        + Types<Left = Self::Stored, Right = Self::Stored, Sum = T, Output = Self::Stored>;
    /// Products whose results stay as they are: logits, and gradients of weights.
    type Outer: Product + Types<Left = Self::Stored, Right = Self::Stored, Sum = T, Output = T>;

    /// Whether what is stored is rounded before.
    fn rounds() -> bool {
        TypeId::of::<Self::Stored>() != TypeId::of::<T>()
    }

    /// Panels that this precision uses.
    fn panels(packed: ByStep<Packed<Self::Stored>>) -> PackedWeights<T>;

    /// The panels of step `at`.
    fn of_step(packed: &PackedWeights<T>, at: usize) -> Option<&Packed<Self::Stored>>;
}

/// The precision of the parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whole;

impl<T: Element> Numbers<T> for Whole {
    type Stored = T;
    type Inner = T;
    type Outer = T;

    fn panels(packed: ByStep<Packed<T>>) -> PackedWeights<T> {
        PackedWeights::Whole(packed)
    }

    fn of_step(packed: &PackedWeights<T>, at: usize) -> Option<&Packed<T>> {
        if let PackedWeights::Whole(packed) = packed { packed.get(at)?.as_ref() } else { None }
    }
}

/// The precision that is lower than that of the parameters.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounded;

impl<T: Element> Numbers<T> for Rounded {
    type Stored = T::Rounded;
    type Inner = T::RoundedProduct;
    type Outer = T::RoundedOperands;

    fn panels(packed: ByStep<Packed<T::Rounded>>) -> PackedWeights<T> {
        PackedWeights::Rounded(packed)
    }

    fn of_step(packed: &PackedWeights<T>, at: usize) -> Option<&Packed<T::Rounded>> {
        if let PackedWeights::Rounded(packed) = packed { packed.get(at)?.as_ref() } else { None }
    }
}

/// Something for each linear step, by step.
type ByStep<P> = Vec<Option<P>>;

/// The weights of linear steps in panels, by step, in the precision of the plan that packed them.
#[derive(Debug)]
pub(crate) enum PackedWeights<T: Element> {
    Whole(ByStep<Packed<T>>),
    Rounded(ByStep<Packed<T::Rounded>>),
}

impl<T: Element> PackedWeights<T> {
    /// Size of the panels.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Whole(packed) => packed.iter().flatten().map(Packed::bytes).sum(),
            Self::Rounded(packed) => packed.iter().flatten().map(Packed::bytes).sum(),
        }
    }
}
