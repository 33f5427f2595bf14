//! Element-wise operations and reductions, divided among the threads of a context.

use std::any::TypeId;

use crate::{
    context::Context,
    error::{Error, Result},
    kernels::{AddScaled, Average, DropoutMask, Element, Map, PanelElement, ReluGradient},
    matrix::{MatMut, MatRef},
    threads::{Tasks, cut, divide},
};

/// Parts begin at multiples of this many elements: whole cache lines for any element type.
const LINE: usize = 16;

/// Number of elements in each partial sum of [`sum_of_squares`].
pub(crate) const SQUARES_BLOCK: usize = 1 << 15;

/// `y = factor * x + y`.
///
/// # Errors
/// Same as [`Threads::tasks`](crate::threads::Threads::tasks), here and below.
pub(crate) fn add_scaled<T: Element>(
    context: &Context<T>,
    factor: T,
    x: &[T],
    y: &mut [T],
) -> Result<()> {
    for_pairs(context, x, y, &|x, y| context.kernels().map_onto(AddScaled { factor }, x, y))
}

/// `average = decay * average + (1 - decay) * x`.
pub(crate) fn move_average<T: Element>(
    context: &Context<T>,
    decay: f64,
    x: &[T],
    average: &mut [T],
) -> Result<()> {
    let factors = Average { keep: T::from_f64(decay), take: T::from_f64(1.0 - decay) };
    for_pairs(context, x, average, &|x, average| context.kernels().map_onto(factors, x, average))
}

/// Runs `run` on parts of x and y, which have the same length.
fn for_pairs<T: Element>(
    context: &Context<T>,
    x: &[T],
    y: &mut [T],
    run: &(impl Fn(&[T], &mut [T]) + Sync),
) -> Result<()> {
    divide(
        (x, y),
        context.tasks_for(x.len())?,
        &|(x, y): (&[T], &mut [T]), left, parts| {
            let at = cut(x.len(), LINE, left, parts);
            let ((x1, x2), (y1, y2)) = (x.split_at(at), y.split_at_mut(at));
            ((x1, y1), (x2, y2))
        },
        &|(x, y)| run(x, y),
    );
    Ok(())
}

/// `x = factor * x`.
pub(crate) fn scale<T: Element>(context: &Context<T>, factor: T, x: &mut [T]) -> Result<()> {
    let tasks = context.tasks_for(x.len())?;
    divide(
        x,
        tasks,
        &|x: &mut [T], left, parts| x.split_at_mut(cut(x.len(), LINE, left, parts)),
        &|x: &mut [T]| x.iter_mut().for_each(|x| *x = factor * *x),
    );
    Ok(())
}

/// Sum of squares: blocks of a fixed size, added in order, so that the bits do not depend on the
/// threads. `partial` has one element for each block.
pub(crate) fn sum_of_squares<T: Element>(
    context: &Context<T>,
    x: &[T],
    partial: &mut [T],
) -> Result<f64> {
    let blocks = x.len().div_ceil(SQUARES_BLOCK);
    divide(
        (x, &mut partial[..blocks]),
        context.tasks_for(x.len())?,
        &|(x, partial): (&[T], &mut [T]), left, parts| {
            let at = cut(x.len(), SQUARES_BLOCK, left, parts);
            let (x1, x2) = x.split_at(at);
            let (p1, p2) = partial.split_at_mut(at.div_ceil(SQUARES_BLOCK));
            ((x1, p1), (x2, p2))
        },
        &|(x, partial)| {
            for (block, sum) in x.chunks(SQUARES_BLOCK).zip(partial) {
                *sum = context.kernels().sum_of_squares(block);
            }
        },
    );
    Ok(partial[..blocks].iter().map(|sum| sum.to_f64()).sum())
}

/// Runs `run` on each row of `from` and of `to`, which have the same shape and contiguous columns.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ, [`Error::Setting`] if columns are not contiguous.
pub(crate) fn map_rows<T: Element>(
    context: &Context<T>,
    from: MatRef<'_, T>,
    to: MatMut<'_, T>,
    run: &(impl Fn(&[T], &mut [T]) + Sync),
) -> Result<()> {
    zip_rows(context, [from], to, &|[from], to| run(from, to))
}

/// The same on matrices of any elements: `run` gets their values, and what it leaves in the second is
/// rounded once.
///
/// # Errors
/// As [`map_rows`].
pub(crate) fn map_values<T, A, B>(
    context: &Context<T>,
    from: MatRef<'_, A>,
    to: MatMut<'_, B>,
    run: &(impl Fn(&[T], &mut [T]) + Sync),
) -> Result<()>
where
    T: Element,
    A: PanelElement<Value = T>,
    B: PanelElement<Value = T>,
{
    zip_rows(context, [from], to, &|[from], to| on_values(from, to, run))
}

/// Values that are widened at a time: both slices of them fit the L1 cache.
const WIDENED: usize = 512;

/// Runs `run` on the values of two slices, and rounds those of the second once.
fn on_values<T, A, B>(from: &[A], to: &mut [B], run: &impl Fn(&[T], &mut [T]))
where
    T: Element,
    A: PanelElement<Value = T>,
    B: PanelElement<Value = T>,
{
    let is_value = [TypeId::of::<A>(), TypeId::of::<B>()].map(|id| id == TypeId::of::<T>());
    if is_value == [true; 2] {
        return run(bytemuck::cast_slice(from), bytemuck::cast_slice_mut(to));
    }
    let (mut x, mut y) = ([T::ZERO; WIDENED], [T::ZERO; WIDENED]);
    for (from, to) in from.chunks(WIDENED).zip(to.chunks_mut(WIDENED)) {
        let (x, y) = (&mut x[..from.len()], &mut y[..to.len()]);
        x.iter_mut().zip(from).for_each(|(x, from)| *x = from.value());
        y.iter_mut().zip(&*to).for_each(|(y, to)| *y = to.value());
        run(x, y);
        to.iter_mut().zip(y).for_each(|(to, y)| *to = B::nearest(*y));
    }
}

/// `to = from`, rounded once.
///
/// # Errors
/// As [`map_rows`].
pub(crate) fn copy<T, A, B>(
    context: &Context<T>,
    from: MatRef<'_, A>,
    to: MatMut<'_, B>,
) -> Result<()>
where
    T: Element,
    A: PanelElement<Value = T>,
    B: PanelElement<Value = T>,
{
    map_values(context, from, to, &|from: &[T], to: &mut [T]| to.copy_from_slice(from))
}

/// `to = from + to`, rounded once.
///
/// # Errors
/// As [`map_rows`].
pub(crate) fn add<T, A, B>(
    context: &Context<T>,
    from: MatRef<'_, A>,
    to: MatMut<'_, B>,
) -> Result<()>
where
    T: Element,
    A: PanelElement<Value = T>,
    B: PanelElement<Value = T>,
{
    map_values(context, from, to, &|from: &[T], to: &mut [T]| {
        context.kernels().map_onto(AddScaled { factor: T::ONE }, from, to);
    })
}

/// `out = map(x...)`, element by element.
///
/// # Errors
/// As [`map_rows`].
pub(crate) fn apply<T: Element, const N: usize>(
    context: &Context<T>,
    map: impl Map<T, N>,
    x: [MatRef<'_, T>; N],
    out: MatMut<'_, T>,
) -> Result<()> {
    zip_rows(context, x, out, &|x, out| context.kernels().map(map, x, out))
}

/// `gradient = scale * gradient` where the activation is above 0, else 0, in place: the gradient
/// of a ReLU. Both have the same shape and contiguous columns.
///
/// # Errors
/// Same as [`map_rows`].
pub(crate) fn relu_gradient<T, A, B>(
    context: &Context<T>,
    activation: MatRef<'_, A>,
    scale: T,
    gradient: MatMut<'_, B>,
) -> Result<()>
where
    T: Element,
    A: PanelElement<Value = T>,
    B: PanelElement<Value = T>,
{
    map_values(context, activation, gradient, &|activation: &[T], gradient: &mut [T]| {
        context.kernels().map_onto(ReluGradient { scale }, activation, gradient);
    })
}

/// Runs `run` on each row of all of `from` and of `to`, which have the same shape and contiguous
/// columns.
fn zip_rows<T: Element, A: PanelElement, B: PanelElement, const N: usize>(
    context: &Context<T>,
    from: [MatRef<'_, A>; N],
    to: MatMut<'_, B>,
    run: &(impl Fn([&[A]; N], &mut [B]) + Sync),
) -> Result<()> {
    let cols = to.cols();
    for from in from {
        to.expect_shape("output of a layer", from.shape())?;
        expect_contiguous(cols, from.col_stride())?;
    }
    fill_rows(context, to, &|row, to| run(from.map(|from| from.row(row).unwrap_or_default()), to))
}

/// Runs `run` on each row of `out`, whose columns are contiguous, with the index of the row.
///
/// # Errors
/// [`Error::Setting`] if columns are not contiguous.
pub(crate) fn fill_rows<T: Element, E: PanelElement>(
    context: &Context<T>,
    out: MatMut<'_, E>,
    run: &(impl Fn(usize, &mut [E]) + Sync),
) -> Result<()> {
    let (rows, cols) = out.shape();
    expect_contiguous(cols, out.col_stride())?;
    for_row_bands((0, out), context.tasks_for(rows * cols)?, &|(first, mut out)| {
        for i in 0..out.rows() {
            if let Some(row) = out.row_mut(i) {
                run(first + i, row);
            }
        }
    });
    Ok(())
}

/// `x * scale` for elements that the mask keeps, else 0, in place.
///
/// # Errors
/// [`Error::Setting`] if columns are not contiguous.
pub(crate) fn dropout<T: Element>(
    context: &Context<T>,
    mask: DropoutMask,
    scale: T,
    x: MatMut<'_, T>,
) -> Result<()> {
    expect_contiguous(x.cols(), x.col_stride())?;
    let tasks = context.tasks_for(x.rows() * x.cols())?;
    for_row_bands((0, x), tasks, &|(first_row, mut x): (usize, MatMut<'_, T>)| {
        context.kernels().dropout(mask, first_row, scale, &mut x);
    });
    Ok(())
}

fn expect_contiguous(cols: usize, col_stride: isize) -> Result<()> {
    if col_stride == 1 || cols <= 1 {
        return Ok(());
    }
    Err(Error::setting("column stride", col_stride, "1: contiguous columns"))
}

/// Runs `run` on bands of rows, with the index of each band's first row.
fn for_row_bands<'a, E: PanelElement>(
    band: (usize, MatMut<'a, E>),
    tasks: Tasks,
    run: &(impl Fn((usize, MatMut<'_, E>)) + Sync),
) {
    let tasks = tasks.at_most(band.1.rows());
    divide(
        band,
        tasks,
        &|(first_row, x): (usize, MatMut<'_, E>), left, parts| {
            let at = cut(x.rows(), 1, left, parts);
            let (upper, lower) = x.split_rows(at);
            ((first_row, upper), (first_row + at, lower))
        },
        run,
    );
}
