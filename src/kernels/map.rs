//! Element-wise functions: each is written once, for any instruction set, and applied to slices.

use std::marker::PhantomData;

use crate::{
    float::Float,
    simd::{Isa, Work},
};

/// A function of N vectors, which works on every lane alone.
pub trait Map<T: Float, const N: usize>: Copy + Sync {
    /// Its value. Mark it `#[inline(always)]`; see [`Work::run`].
    fn apply<S: Isa<T>>(self, isa: S, x: [S::Vector; N]) -> S::Vector;
}

/// `out = map(x...)`, element by element.
pub(crate) struct Mapping<'a, F, T, const N: usize> {
    map: F,
    /// `len` elements each, for as long as `'a`.
    x: [*const T; N],
    /// `len` elements, exclusive but for one of `x`, which may be the same.
    out: *mut T,
    len: usize,
    slices: PhantomData<&'a mut [T]>,
}

impl<'a, F, T, const N: usize> Mapping<'a, F, T, N> {
    /// `out = map(x...)`; all slices are equally long.
    pub(crate) fn new(map: F, x: [&'a [T]; N], out: &'a mut [T]) -> Self {
        assert!(x.iter().all(|x| x.len() == out.len()), "equal lengths");
        let (len, slices) = (out.len(), PhantomData);
        Self { map, x: x.map(<[T]>::as_ptr), out: out.as_mut_ptr(), len, slices }
    }
}

impl<'a, F, T> Mapping<'a, F, T, 2> {
    /// `y = map(x, y)`; both are equally long.
    pub(crate) fn onto(map: F, x: &'a [T], y: &'a mut [T]) -> Self {
        assert_eq!(x.len(), y.len());
        let (len, out, slices) = (y.len(), y.as_mut_ptr(), PhantomData);
        Self { map, x: [x.as_ptr(), out.cast_const()], out, len, slices }
    }
}

impl<F: Map<T, N>, T: Float, const N: usize> Work<T> for Mapping<'_, F, T, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa<T>>(self, isa: S) {
        let mut at = 0;
        while at < self.len {
            let count = S::LANES.min(self.len - at);
            let mut x = [isa.splat(T::ZERO); N];
            // SAFETY: `count` elements are left in all slices.
            unsafe {
                for (x, from) in x.iter_mut().zip(self.x) {
                    *x = isa.load_up_to(from.add(at), count);
                }
                isa.store_up_to(self.out.add(at), self.map.apply(isa, x), count);
            }
            at += S::LANES;
        }
    }
}

/// `max(x, 0)`; NaN stays NaN.
#[derive(Clone, Copy)]
pub(crate) struct Relu;

impl<T: Float> Map<T, 1> for Relu {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [x]: [S::Vector; 1]) -> S::Vector {
        isa.relu(x)
    }
}

/// `scale * x` where an activation is above 0, else 0: of the activation and x.
#[derive(Clone, Copy)]
pub(crate) struct ReluGradient<T> {
    pub(crate) scale: T,
}

impl<T: Float> Map<T, 2> for ReluGradient<T> {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [activation, x]: [S::Vector; 2]) -> S::Vector {
        isa.gate(isa.mul(x, isa.splat(self.scale)), activation)
    }
}

/// `factor * x + y`, one multiply-add: of x and y.
#[derive(Clone, Copy)]
pub(crate) struct AddScaled<T> {
    pub(crate) factor: T,
}

impl<T: Float> Map<T, 2> for AddScaled<T> {
    #[inline(always)]
    fn apply<S: Isa<T>>(self, isa: S, [x, y]: [S::Vector; 2]) -> S::Vector {
        isa.mul_add(isa.splat(self.factor), x, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernels::{Element, KernelSet, set::Kernels},
        simd::{
            InstructionSet,
            math::{exp, logistic, normal},
            scalar::Scalar,
        },
    };

    /// One of the functions of `simd::math`.
    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Distribution,
        Density,
        Logistic,
        OfMinus,
    }

    impl<T: Element> Map<T, 1> for Function {
        #[inline(always)]
        fn apply<S: Isa<T>>(self, isa: S, [x]: [S::Vector; 1]) -> S::Vector {
            match self {
                Self::Exp => exp(isa, x),
                Self::Distribution => normal(isa, x).0,
                Self::Density => normal(isa, x).1,
                Self::Logistic => logistic(isa, x).0,
                Self::OfMinus => logistic(isa, x).1,
            }
        }
    }

    fn check<T: Element + Kernels>(special: &[T])
    where
        Scalar: Isa<T, Vector = T>,
    {
        use Function::{Density, Distribution, Exp, Logistic, OfMinus};
        let grid = (0..4001).map(|i| T::from_f64(f64::from(i - 2000) * 0.0611));
        let x: Vec<T> = grid.chain(special.iter().copied()).collect();
        for set in InstructionSet::available() {
            let kernels: &KernelSet<T> = T::kernel_set(set).unwrap();
            let scalar = Scalar { fused: set.is_fused() };
            for function in [Exp, Distribution, Density, Logistic, OfMinus] {
                // Every length on both sides of a vector's.
                for len in (0..40).chain([x.len()]) {
                    let x = &x[x.len() - len..];
                    let mut out = vec![T::ZERO; len];
                    kernels.map(function, [x], &mut out);
                    for (&x, found) in x.iter().zip(out) {
                        let expected = function.apply(scalar, [x]);
                        // Bits, but for NaN.
                        let same = bytemuck::bytes_of(&found) == bytemuck::bytes_of(&expected);
                        let nan = found.partial_cmp(&found).or(expected.partial_cmp(&expected));
                        assert!(
                            same || nan.is_none(),
                            "{set}, {function:?}({x}): {found}, {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn functions_have_the_bits_of_one_lane_on_every_instruction_set() {
        let (most, least) = (f32::MAX, f32::from_bits(1));
        let special = [0.0, -0.0, least, -least, most, -most, f32::INFINITY, -f32::INFINITY];
        check(&special);
        check(&[f32::NAN, -88.1, -95.3, -103.9, 88.8, 13.4, -13.9]);
        let (most, least) = (f64::MAX, f64::from_bits(1));
        let special = [0.0, -0.0, least, -least, most, -most, f64::INFINITY, -f64::INFINITY];
        check(&special);
        check(&[f64::NAN, -708.5, -735.3, -745.2, 709.9, 37.9, -38.3]);
    }
}
