//! The products that `tilewise bench gemm` measures: sizes, storage, operands.

use std::fmt;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

use tilewise::{
    Bf16,
    aligned::AlignedBuf,
    error::{Error, Result},
    float::Float,
    gemm::{Epilogue, Gemm, PanelElement, Product},
    matrix::{MatRef, Matrix},
};

/// Sizes of a product: A is (m, k), B is (k, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// Which operands are stored transposed: A as (k, m), B as (n, k).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transpose {
    pub(super) a: bool,
    pub(super) b: bool,
}

impl fmt::Display for Transpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |transposed| if transposed { 't' } else { 'n' };
        f.pad(&format!("{}{}", letter(self.a), letter(self.b)))
    }
}

impl Shape {
    pub(super) fn multiply_adds(self) -> u128 {
        [self.m, self.n, self.k].iter().map(|&size| size as u128).product()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Padded as a whole, if the caller wants that.
        f.pad(&format!("{}x{}x{}", self.m, self.n, self.k))
    }
}

/// Reads a shape, as "512x200x3072".
pub(super) fn shape(text: &str) -> Result<Shape, String> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok()).collect();
    let Some(&[m, n, k]) = sizes.as_deref() else {
        return Err("expected m x n x k as three whole numbers, like 512x200x3072".into());
    };
    if m.min(n).min(k) == 0 {
        return Err("expected sizes above 0".into());
    }
    let product = m.checked_mul(n).and_then(|mn| mn.checked_mul(k)?.checked_mul(2));
    product.ok_or("expected sizes whose product fits 63 bits")?;
    Ok(Shape { m, n, k })
}

/// Reads one letter for A and one for B.
pub(super) fn transpose() -> impl TypedValueParser<Value = Transpose> {
    PossibleValuesParser::new(["nn", "tn", "nt", "tt"])
        .map(|letters| Transpose { a: letters.starts_with('t'), b: letters.ends_with('t') })
}

/// A product of matrices whose elements have one type.
pub(super) trait Measured:
    Product<Left = Self::Of, Right = Self::Of, Output = Self::Of>
{
    /// The type of the elements.
    type Of: PanelElement<Value = Self::Sum>;
    const NAME: &'static str;
    /// The distance from 1 to the next larger element, or to the next sum if that is larger.
    const EPSILON: f64;
    /// Whether other backends have it too.
    const HAS_RIVALS: bool;
}

impl Measured for f32 {
    type Of = f32;
    const NAME: &'static str = "f32";
    const EPSILON: f64 = f32::EPSILON as f64;
    const HAS_RIVALS: bool = true;
}

impl Measured for f64 {
    type Of = f64;
    const NAME: &'static str = "f64";
    const EPSILON: f64 = f64::EPSILON;
    const HAS_RIVALS: bool = true;
}

impl Measured for Bf16 {
    type Of = Bf16;
    const NAME: &'static str = "bf16";
    const EPSILON: f64 = 1.0 / 128.0;
    const HAS_RIVALS: bool = false;
}

/// One product's operands, result and scratch memory, which all that compute it share.
pub(super) struct Operands<P: Measured> {
    pub(super) shape: Shape,
    pub(super) transpose: Transpose,
    /// As stored: (m, k), or (k, m) if transposed.
    a: Matrix<P::Of>,
    /// As stored: (k, n), or (n, k) if transposed.
    b: Matrix<P::Of>,
    /// (m, n)
    pub(super) c: Matrix<P::Of>,
    scratch: AlignedBuf<u8>,
}

impl<P: Measured> Operands<P> {
    /// With scratch memory for each of `gemms`.
    ///
    /// # Errors
    /// [`Error::Settings`] if they do not fit the memory; those of [`Gemm::scratch_bytes`].
    pub(super) fn new(gemms: &[Gemm<P>], shape: Shape, transpose: Transpose) -> Result<Self> {
        Self::allocate(gemms, shape, transpose).map_err(|error| match error {
            Error::SizeOverflow { .. } => Error::Settings {
                detail: format!("--shapes {shape}: the matrices exceed the memory"),
            },
            other => other,
        })
    }

    fn allocate(gemms: &[Gemm<P>], shape: Shape, transpose: Transpose) -> Result<Self> {
        let Shape { m, n, k } = shape;
        let stored = |transposed, rows, cols| {
            if transposed { (cols, rows) } else { (rows, cols) }
        };
        let bytes: Vec<usize> =
            gemms.iter().map(|gemm| gemm.scratch_bytes(m, n, k)).collect::<Result<_>>()?;
        // First, so that they are refused before random numbers take their time.
        let scratch = AlignedBuf::zeroed(bytes.into_iter().max().unwrap_or(0))?;
        let c = Matrix::zeros(m, n)?;
        let a = random(stored(transpose.a, m, k), 1)?;
        let b = random(stored(transpose.b, k, n), 2)?;
        Ok(Self { shape, transpose, a, b, c, scratch })
    }

    /// C by one of the `gemms`, with any backend.
    pub(super) fn multiply(&mut self, gemm: Gemm<P>) -> Result<()> {
        let (a, b) = (self.a.view(), self.b.view());
        let a = if self.transpose.a { a.t() } else { a };
        let b = if self.transpose.b { b.t() } else { b };
        gemm.run(P::Sum::ONE, a, b, self.c.view_mut(), Epilogue::default(), &mut self.scratch)
    }

    /// Fails unless C is correct up to the order of summation.
    pub(super) fn expect_close(&self, expected: MatRef<'_, P::Of>, backend: &str) {
        self.expect(expected, 8.0 * P::EPSILON * self.shape.k as f64, backend);
    }

    /// Fails if an element of C differs by more than `tolerance`.
    pub(super) fn expect(&self, expected: MatRef<'_, P::Of>, tolerance: f64, who: &str) {
        let c = self.c.view();
        for i in 0..c.rows() {
            for j in 0..c.cols() {
                let (found, expected) = (c.get(i, j).value(), expected.get(i, j).value());
                assert!(
                    (found - expected).abs().to_f64() <= tolerance,
                    "{who}, {} {}, ({i}, {j}): {found} instead of {expected}",
                    self.shape,
                    self.transpose,
                );
            }
        }
    }
}

/// Random elements between -1 and 1.
fn random<E: PanelElement>((rows, cols): (usize, usize), seed: u64) -> Result<Matrix<E>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut number = || E::Value::from_f64(rng.random_range(-1.0..1.0));
    Matrix::from_fn(rows, cols, |_, _| E::nearest(number()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tilewise::gemm::Backend;

    #[test]
    fn shapes_are_three_sizes_above_zero() {
        assert_eq!(shape("512x200x3072"), Ok(Shape { m: 512, n: 200, k: 3072 }));
        for text in ["", "5", "5x5", "5x5x5x5", "5x5x", "5x-5x5", "5 x5x5", "0x5x5", "5x5x0"] {
            assert!(shape(text).is_err(), "{text:?}");
        }
        let half = 1usize << 21;
        assert!(shape(&format!("{half}x{half}x{half}")).is_err());
        assert!(shape("99999999999999999999x1x1").is_err());
    }

    #[test]
    #[should_panic(expected = "naive, 2x2x3 tn, (1, 0)")]
    fn wrong_results_are_not_timed() {
        let gemm = Gemm::<f64>::new().unwrap();
        let (shape, transpose) = (Shape { m: 2, n: 2, k: 3 }, Transpose { a: true, b: false });
        let mut operands = Operands::new(&[gemm], shape, transpose).unwrap();
        operands.multiply(gemm).unwrap();
        let expected = operands.c.try_clone().unwrap();
        operands.multiply(gemm.with_backend(Backend::Naive)).unwrap();
        operands.expect_close(expected.view(), "naive");
        operands.c.view_mut().set(1, 0, 9.0);
        operands.expect_close(expected.view(), "naive");
    }
}
