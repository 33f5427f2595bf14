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
