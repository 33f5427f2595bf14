//! The product as a person would write it: the oracle of the tests and the baseline of the
//! benchmarks.

use crate::{
    error::Result,
    float::Float,
    gemm::{
        Companion, Companions, Epilogue, Finish, Rule, Start, Update, epilogue::Average,
        shapes::check_shapes,
    },
    matrix::{MatMut, MatRef},
};

/// How a multiply-add rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Once, as the fused multiply-add of the hardware.
    Once,
    /// After the multiplication and after the addition.
    Twice,
}

/// `C = finish(start + (alpha A) B)`, every element one chain of multiply-adds in the order of k.
///
/// A is (m, k), B (k, n), C (m, n). With [`Rounding::Once`] this defines, to the bit, what every
/// instruction set with a fused multiply-add computes.
///
/// # Errors
/// `Error::Shape` or `Error::Length` if an operand does not fit.
pub fn gemm<T: Float>(
    rounding: Rounding,
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    c: MatMut<'_, T>,
    epilogue: Epilogue<'_, T>,
) -> Result<()> {
    match rounding {
        Rounding::Once => loops(T::mul_add, alpha, a, b, c, epilogue),
        Rounding::Twice => loops(twice, alpha, a, b, c, epilogue),
    }
}

/// The three loops, with a given way to compute `a * b + c`.
fn loops<T: Float>(
    multiply_add: impl Fn(T, T, T) -> T,
    alpha: T,
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    mut c: MatMut<'_, T>,
    mut epilogue: Epilogue<'_, T>,
) -> Result<()> {
    let (m, n, k) = check_shapes(a.shape(), b.shape(), c.shape())?;
    epilogue.check((m, n), c.col_stride())?;
    let depth = if alpha == T::ZERO { 0 } else { k };
    epilogue.start_sums(|factor, value| factor * value);
    if let Some(sums) = epilogue.column_sums {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = (0..depth).fold(*sum, |sum, p| sum + b.get(p, j));
        }
    }
    for i in 0..m {
        for j in 0..n {
            let start = match epilogue.start {
                Start::Scaled(beta) if beta == T::ZERO => T::ZERO,
                Start::Scaled(beta) => beta * c.get(i, j),
                Start::Bias(bias) => bias[j],
            };
            let mut sum = start;
            for p in 0..depth {
                sum = multiply_add(alpha * a.get(i, p), b.get(p, j), sum);
            }
            let companion = |companions: &Companions<'_, T>, index: usize| {
                companions.get(index).map_or(T::ZERO, |companion| companion.as_ref().get(i, j))
            };
            let value = match epilogue.finish {
                Finish::Store => sum,
                Finish::Relu => sum.relu(),
                Finish::ReluDropout { mask, scale } => {
                    if mask.keeps(i, j) {
                        sum.relu() * scale
                    } else {
                        T::ZERO
                    }
                }
                Finish::ReluGradient { scale } => {
                    if companion(&epilogue.companions, 0) > T::ZERO {
                        sum * scale
                    } else {
                        T::ZERO
                    }
                }
                Finish::Update(update) => {
                    let mut slots = [0, 1].map(|index| companion(&epilogue.companions, index));
                    let w = step(&multiply_add, &update, c.get(i, j), sum, &mut slots);
                    for (index, slot) in slots.into_iter().enumerate() {
                        if let Some(Companion::Exclusive(matrix)) =
                            epilogue.companions.get_mut(index)
                        {
                            matrix.set(i, j, slot);
                        }
                    }
                    w
                }
            };
            c.set(i, j, value);
        }
    }
    Ok(())
}

/// `a * b + c`, rounded twice.
fn twice<T: Float>(a: T, b: T, c: T) -> T {
    a * b + c
}

/// One step of an optimizer with the parameter `w`, whose gradient is `sum`: the parameter after
/// it. The slots, in the order in which the rule names them, change.
pub fn update<T: Float>(
    rounding: Rounding,
    update: &Update<T>,
    w: T,
    sum: T,
    slots: &mut [T; 2],
) -> T {
    match rounding {
        Rounding::Once => step(&T::mul_add, update, w, sum, slots),
        Rounding::Twice => step(&twice, update, w, sum, slots),
    }
}

/// A step with a given way to compute `a * b + c`.
fn step<T: Float>(
    multiply_add: &impl Fn(T, T, T) -> T,
    update: &Update<T>,
    w: T,
    sum: T,
    [first, second]: &mut [T; 2],
) -> T {
    let average = |Average { keep, take }: Average<T>, average: T, value: T| {
        multiply_add(keep, average, take * value)
    };
    let g = multiply_add(update.weight_decay, w, multiply_add(update.l2, w, sum));
    match update.rule {
        Rule::Descent(rule) => multiply_add(-rule.learning_rate, g, w),
        Rule::Momentum(rule) => {
            *first = multiply_add(-rule.learning_rate, g, rule.momentum * *first);
            let ahead = multiply_add(-rule.learning_rate, g, rule.momentum * *first);
            w + if rule.nesterov { ahead } else { *first }
        }
        Rule::AdaGrad(rule) => {
            *first = multiply_add(g, g, *first);
            multiply_add(-rule.learning_rate, g / (first.sqrt() + rule.epsilon), w)
        }
        Rule::RmsProp(rule) => {
            *first = average(rule.squares, *first, g * g);
            multiply_add(-rule.learning_rate, g / (first.sqrt() + rule.epsilon), w)
        }
        Rule::RmsPropMomentum(rule) => {
            let rms_prop = rule.rms_prop;
            *first = average(rms_prop.squares, *first, g * g);
            let direction = g / (first.sqrt() + rms_prop.epsilon);
            *second = multiply_add(-rms_prop.learning_rate, direction, rule.momentum * *second);
            w + *second
        }
        Rule::Adam(rule) => {
            *first = average(rule.gradients, *first, g);
            *second = average(rule.squares, *second, g * g);
            let direction = *first / multiply_add(rule.root_scale, second.sqrt(), rule.epsilon);
            multiply_add(-rule.learning_rate, direction, multiply_add(-rule.shrink, w, w))
        }
    }
}
