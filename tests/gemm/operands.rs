//! Operands for the tests: matrices of any strides in memory whose other elements are NaN.

use std::ops::DerefMut;

use bytemuck::Pod;
use rand::{RngExt, rngs::ChaCha8Rng};
use tilewise::{
    Element,
    float::Float,
    gemm::{Epilogue, Gemm, Operand},
    matrix::{MatMut, MatRef},
};

/// Where the memory of operands comes from.
pub trait Memory {
    /// A slice and whatever keeps it alive.
    type Buffer<E: Pod + Send + Sync>: DerefMut<Target = [E]> + Send + Sync;

    /// `len` elements whose bits are all set: floats are NaN.
    fn buffer<E: Pod + Send + Sync>(rng: &mut ChaCha8Rng, len: usize) -> Self::Buffer<E>;

    /// Elements to leave before and behind a matrix.
    fn margin(rng: &mut ChaCha8Rng) -> usize;
}

/// Memory of the ordinary allocator, with margins.
pub struct Heap;

impl Memory for Heap {
    type Buffer<E: Pod + Send + Sync> = Vec<E>;

    fn buffer<E: Pod + Send + Sync>(_: &mut ChaCha8Rng, len: usize) -> Vec<E> {
        let mut buffer = vec![E::zeroed(); len];
        bytemuck::cast_slice_mut::<E, u8>(&mut buffer).fill(0xff);
        buffer
    }

    fn margin(rng: &mut ChaCha8Rng) -> usize {
        rng.random_range(0..17)
    }
}

/// Which layouts a random matrix may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layouts {
    /// Any strides; elements may be shared.
    Shared,
    /// Any strides, every element its own.
    Distinct,
    /// Contiguous rows; any row stride that keeps elements distinct.
    Contiguous,
}

/// Where the elements of a matrix stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub offset: usize,
    pub shape: (usize, usize),
    pub strides: (isize, isize),
}

impl Place {
    /// A random place, and the length of the slice that holds it.
    fn random(
        rng: &mut ChaCha8Rng,
        (rows, cols): (usize, usize),
        layouts: Layouts,
        margin: usize,
    ) -> (Self, usize) {
        let (gap, step) = (rng.random_range(0..4), rng.random_range(2..4));
        let kind = match layouts {
            Layouts::Shared => rng.random_range(0..20),
            Layouts::Distinct => rng.random_range(0..17),
            Layouts::Contiguous => 0,
        };
        let (mut row_stride, mut col_stride) = match kind {
            0..8 => ((cols + gap) as isize, 1),
            8..13 => (1, (rows + gap) as isize),
            13..15 => ((cols * step + gap) as isize, step as isize),
            15..17 => (step as isize, (rows * step + gap) as isize),
            17 => (0, 1),
            18 => (1, 0),
            _ => (0, 0),
        };
        let span = |len: usize, stride: isize| len.saturating_sub(1) * stride.unsigned_abs();
        let (down, across) = (span(rows, row_stride), span(cols, col_stride));
        let len = if rows == 0 || cols == 0 { 0 } else { down + across + 1 };
        let mut offset = margin;
        if len > 0 && rng.random_bool(0.2) {
            offset += down;
            row_stride = -row_stride;
        }
        if len > 0 && layouts != Layouts::Contiguous && rng.random_bool(0.2) {
            offset += across;
            col_stride = -col_stride;
        }
        let (shape, strides) = ((rows, cols), (row_stride, col_stride));
        (Self { offset, shape, strides }, len + 2 * margin)
    }

    pub fn view<'a, T: Copy>(&self, data: &'a [T]) -> MatRef<'a, T> {
        MatRef::strided(data, self.offset, self.shape, self.strides).unwrap()
    }

    pub fn view_mut<'a, T: Copy>(&self, data: &'a mut [T]) -> MatMut<'a, T> {
        MatMut::strided(data, self.offset, self.shape, self.strides).unwrap()
    }
}

/// A matrix in a larger slice.
pub struct Strided<T: Pod + Send + Sync, M: Memory> {
    pub data: M::Buffer<T>,
    pub place: Place,
}

impl<T: Float, M: Memory> Strided<T, M> {
    /// Random elements in a random place.
    pub fn random(rng: &mut ChaCha8Rng, shape: (usize, usize), layouts: Layouts) -> Self {
        Self::with(rng, shape, layouts, value)
    }
}

impl<T: Pod + Send + Sync, M: Memory> Strided<T, M> {
    /// Elements of a random place by `f`.
    pub fn with(
        rng: &mut ChaCha8Rng,
        shape: (usize, usize),
        layouts: Layouts,
        f: impl Fn(&mut ChaCha8Rng) -> T,
    ) -> Self {
        let margin = M::margin(rng);
        let (place, len) = Place::random(rng, shape, layouts, margin);
        let mut data = M::buffer(rng, len);
        for i in 0..shape.0 {
            for j in 0..shape.1 {
                let step = i as isize * place.strides.0 + j as isize * place.strides.1;
                data[place.offset.wrapping_add_signed(step)] = f(rng);
            }
        }
        Self { data, place }
    }

    pub fn view(&self) -> MatRef<'_, T> {
        self.place.view(&self.data)
    }
}

/// A number between -1 and 1.
pub fn value<T: Float>(rng: &mut ChaCha8Rng) -> T {
    T::from_f64(rng.random_range(-1.0..1.0))
}

/// Numbers between -1 and 1.
pub fn values<T: Float>(rng: &mut ChaCha8Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| value(rng)).collect()
}

/// The bits of a slice, by which NaN equals itself and 0 differs from -0.
pub fn bits<E: Pod>(slice: &[E]) -> &[u8] {
    bytemuck::cast_slice(slice)
}

/// `C = finish(start + A B)`, dense, from a C of zeros.
pub fn product<'a, T: Element>(
    gemm: Gemm<T>,
    a: impl Into<Operand<'a, T>>,
    b: impl Into<Operand<'a, T>>,
    epilogue: Epilogue<'_, T>,
) -> Vec<T> {
    let (a, b) = (a.into(), b.into());
    let ((m, k), n) = (a.shape(), b.shape().1);
    let mut c = vec![T::ZERO; m * n];
    let mut scratch = gemm.scratch(m, n, k).unwrap();
    gemm.run(T::ONE, a, b, MatMut::new(&mut c, m, n).unwrap(), epilogue, &mut scratch).unwrap();
    c
}
