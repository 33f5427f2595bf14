//! The shapes of the operands of a product.

use crate::error::{Error, Result};

/// (m, n, k) if operands of these shapes fit.
pub(super) fn check_shapes(
    a: (usize, usize),
    b: (usize, usize),
    c: (usize, usize),
) -> Result<(usize, usize, usize)> {
    let ((m, k), n) = (a, b.1);
    for (what, expected, found) in
        [("B of a product with A", (k, n), b), ("C of a product", (m, n), c)]
    {
        if found != expected {
            return Err(Error::Shape { what, expected, found });
        }
    }
    Ok((m, n, k))
}
