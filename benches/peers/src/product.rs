//! The operands and the result of one row, which all contestants share: the same memory, the same
//! strides.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    aligned::{ALIGNMENT, AlignedBuf},
    float::Float,
    gemm::PanelElement,
    matrix::{MatMut, MatRef},
};

use crate::{
    Result,
    peers::Scalar,
    rows::{Row, Storage},
};

/// A stored matrix, row-major.
pub struct Stored<T: PanelElement> {
    pub data: AlignedBuf<T>,
    /// As stored.
    pub rows: usize,
    /// As stored.
    pub cols: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether the product takes it transposed.
    pub transposed: bool,
}

impl<T: PanelElement> Stored<T> {
    /// Zeros: `rows` x `cols` as the product takes it.
    fn zeros((rows, cols): (usize, usize), transposed: bool, padded: bool) -> Result<Self> {
        let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
        let stride = if padded { padded_stride::<T>(cols) } else { cols };
        let data = AlignedBuf::zeroed(rows * stride)?;
        Ok(Self { data, rows, cols, stride, transposed })
    }

    /// Random elements between -1 and 1.
    fn random(mut self, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.data.fill_with(|| element(rng.random_range(-1.0..1.0)));
        self
    }

    /// Row and column stride as the product takes it.
    pub fn strides(&self) -> (isize, isize) {
        let stride = self.stride as isize;
        if self.transposed { (1, stride) } else { (stride, 1) }
    }

    /// As the product takes it.
    pub fn view(&self) -> Result<MatRef<'_, T>> {
        let strides = (self.stride as isize, 1);
        let view = MatRef::strided(&self.data, 0, (self.rows, self.cols), strides)?;
        Ok(if self.transposed { view.t() } else { view })
    }

    /// As stored.
    pub fn view_mut(&mut self) -> Result<MatMut<'_, T>> {
        let strides = (self.stride as isize, 1);
        Ok(MatMut::strided(&mut self.data, 0, (self.rows, self.cols), strides)?)
    }
}

/// The stride of `tilewise::matrix::Matrix`: whole cache lines, and never a multiple of 4096 bytes.
fn padded_stride<T>(cols: usize) -> usize {
    let line = ALIGNMENT / size_of::<T>();
    let stride = cols.next_multiple_of(line);
    if (stride * size_of::<T>()).is_multiple_of(4096) { stride + line } else { stride }
}

/// C (m, n) = A (m, k) B (k, n), and memory for tilewise, which allocates nothing in a product.
pub struct Product<T: Scalar> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Stored<T::Of>,
    pub b: Stored<T::Of>,
    pub c: Stored<T::Of>,
    /// C for a contestant that stores the sums of bf16 products as they are; else empty.
    pub sums: AlignedBuf<f32>,
    pub scratch: AlignedBuf<u8>,
}

impl<T: Scalar> Product<T> {
    /// With random A and B and this much scratch memory.
    pub fn new(row: Row, padded: bool, scratch: AlignedBuf<u8>) -> Result<Self> {
        let Row { storage, m, n, k, .. } = row;
        let a = Stored::zeros((m, k), storage == Storage::Tn, padded)?.random(1);
        let b = Stored::zeros((k, n), storage == Storage::Nt, padded)?.random(2);
        let c = Stored::zeros((m, n), false, padded)?;
        let sums = AlignedBuf::zeroed(if T::ROUNDING > 0.0 { c.data.len() } else { 0 })?;
        Ok(Self { m, n, k, a, b, c, sums, scratch })
    }

    /// Makes C something that no product may keep or read.
    pub fn spoil(&mut self) {
        self.c.data.fill(element(f64::NAN));
        self.sums.fill(f32::NAN);
    }

    /// Compares C, or the sums, with the result of tilewise, `(m, n)` by contiguous rows. Elements of A
    /// and B are between -1 and 1, so that a sum in another order differs by at most about an epsilon for
    /// each of its terms; then either is rounded to the type of C.
    ///
    /// # Errors
    /// If an element differs by more.
    pub fn compare(&self, expected: &[f64], in_sums: bool) -> Result<()> {
        let of_sums = 8.0 * T::EPSILON * self.k as f64;
        for (at, (found, expected)) in self.result(in_sums).iter().zip(expected).enumerate() {
            let difference = (found - expected).abs();
            // Not a number is no correct result either.
            if difference.is_nan() || difference > of_sums + T::ROUNDING * expected.abs() {
                let (i, j) = (at / self.n, at % self.n);
                let detail = format!("element ({i}, {j}) is {found} instead of {expected}");
                return Err(detail.into());
            }
        }
        Ok(())
    }

    /// A copy of C, or of the sums, `(m, n)` by contiguous rows.
    pub fn result(&self, in_sums: bool) -> Vec<f64> {
        let (stride, n) = (self.c.stride, self.n);
        if in_sums {
            let rows = self.sums.chunks_exact(stride);
            rows.flat_map(|row| &row[..n]).map(|&sum| sum.into()).collect()
        } else {
            let rows = self.c.data.chunks_exact(stride);
            rows.flat_map(|row| &row[..n]).map(|element| element.value().to_f64()).collect()
        }
    }
}

/// The element nearest to a number.
fn element<E: PanelElement>(number: f64) -> E {
    E::nearest(E::Value::from_f64(number))
}
