//! Element-wise work and reductions on whole operands, divided among the tasks of a `Gemm`.

use crate::{
    gemm::Gemm,
    kernels::{Average, DropoutMask, Element},
    matrix::MatMut,
    threads::{cut, divide},
};

/// Parts begin at multiples of this many elements: whole cache lines for any element type.
const LINE: usize = 16;

/// Elements of one partial sum of [`sum_of_squares`].
pub(super) const SQUARES_BLOCK: usize = 1 << 15;

/// `y = factor * x + y`.
pub(super) fn add_scaled<T: Element>(gemm: &Gemm<T>, factor: T, x: &[T], y: &mut [T]) {
    for_pairs(gemm, x, y, &|x, y| gemm.kernels().add_scaled(factor, x, y));
}

/// `average = decay * average + (1 - decay) * x`.
pub(crate) fn move_average<T: Element>(gemm: &Gemm<T>, decay: f64, x: &[T], average: &mut [T]) {
    let factors = Average { keep: T::from_f64(decay), take: T::from_f64(1.0 - decay) };
    for_pairs(gemm, x, average, &|x, average| gemm.kernels().move_average(factors, x, average));
}

/// Runs `run` on parts of x and y, which are equally long.
fn for_pairs<T: Element>(
    gemm: &Gemm<T>,
    x: &[T],
    y: &mut [T],
    run: &(impl Fn(&[T], &mut [T]) + Sync),
) {
    divide(
        (x, y),
        gemm.tasks_for(x.len()),
        &|(x, y): (&[T], &mut [T]), left, parts| {
            let at = cut(x.len(), LINE, left, parts);
            let ((x1, x2), (y1, y2)) = (x.split_at(at), y.split_at_mut(at));
            ((x1, y1), (x2, y2))
        },
        &|(x, y)| run(x, y),
    );
}

/// `x = factor * x`.
pub(crate) fn scale<T: Element>(gemm: &Gemm<T>, factor: T, x: &mut [T]) {
    let tasks = gemm.tasks_for(x.len());
    divide(
        x,
        tasks,
        &|x: &mut [T], left, parts| x.split_at_mut(cut(x.len(), LINE, left, parts)),
        &|x: &mut [T]| x.iter_mut().for_each(|x| *x = factor * *x),
    );
}

/// Sum of squares: blocks of a fixed size, added up in their order, so that the bits do not
/// depend on the threads. `partial` holds one element for each block.
pub(crate) fn sum_of_squares<T: Element>(gemm: &Gemm<T>, x: &[T], partial: &mut [T]) -> f64 {
    let blocks = x.len().div_ceil(SQUARES_BLOCK);
    divide(
        (x, &mut partial[..blocks]),
        gemm.tasks_for(x.len()),
        &|(x, partial): (&[T], &mut [T]), left, parts| {
            let at = cut(x.len(), SQUARES_BLOCK, left, parts);
            let (x1, x2) = x.split_at(at);
            let (p1, p2) = partial.split_at_mut(at.div_ceil(SQUARES_BLOCK));
            ((x1, p1), (x2, p2))
        },
        &|(x, partial)| {
            for (block, sum) in x.chunks(SQUARES_BLOCK).zip(partial) {
                *sum = gemm.kernels().sum_of_squares(block);
            }
        },
    );
    partial[..blocks].iter().map(|sum| sum.to_f64()).sum()
}

/// `x * scale` where the mask keeps an element, else 0, in place; the rows of x are contiguous.
pub(super) fn dropout<T: Element>(gemm: &Gemm<T>, mask: DropoutMask, scale: T, x: MatMut<'_, T>) {
    let tasks = gemm.tasks_for(x.rows() * x.cols());
    divide(
        (0, x),
        tasks,
        &|(first_row, x): (usize, MatMut<'_, T>), left, parts| {
            let at = cut(x.rows(), 1, left, parts);
            let (upper, lower) = x.split_rows(at);
            ((first_row, upper), (first_row + at, lower))
        },
        &|(first_row, mut x)| gemm.kernels().dropout(mask, first_row, scale, &mut x),
    );
}
