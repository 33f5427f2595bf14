//! The product as a person would write it: the oracle of the tests and the baseline of the
//! benchmarks.

use crate::{
    bf16::Bf16,
    error::Result,
    float::Float,
    gemm::{
        Companion, Companions, Epilogue, Finish, Rule, Start, Update, epilogue::Average,
        shapes::check_shapes,
    },
    kernels::PanelElement,
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
    let (a_shape, b_shape) = (a.shape(), b.shape());
    let operands = Operands {
        shapes: (a_shape, b_shape),
        a: |i, p| alpha * a.get(i, p),
        b: |p, j| b.get(p, j),
        depth: if alpha == T::ZERO { 0 } else { a_shape.1 },
        padding: 0,
    };
    loops(rounding, operands, c, epilogue)
}

/// `C = finish(start + (alpha A) B)` with A and B rounded to bf16, after alpha, and sums in f32: the
/// definition of [`Gemm<Bf16>`](crate::Bf16) and [`Gemm<Bf16ToF32>`](crate::gemm::Bf16ToF32), to the
/// bit.
///
/// A is (m, k), B (k, n), C (m, n), each of bf16 or f32. Every element is one chain of multiply-adds
/// in the order of k, each rounded once; an odd k has a last step with +0 in both operands. All
/// arithmetic, that of the epilogue too, takes denormal operands for zeros of their sign and flushes
/// results that are below the smallest normal number once they are rounded to 24 bits. C is rounded
/// when it is stored. The sums of the columns of B are those of the rounded elements.
///
/// # Errors
/// `Error::Shape` or `Error::Length` if an operand does not fit.
pub fn gemm_bf16<A, B, C>(
    alpha: f32,
    a: MatRef<'_, A>,
    b: MatRef<'_, B>,
    c: MatMut<'_, C>,
    epilogue: Epilogue<'_, f32, C>,
) -> Result<()>
where
    A: PanelElement<Value = f32>,
    B: PanelElement<Value = f32>,
    C: PanelElement<Value = f32>,
{
    let (a_shape, b_shape, k) = (a.shape(), b.shape(), a.cols());
    let alpha = flush(alpha);
    let rounded = |value| Bf16::from_f32(value).to_f32();
    let operands = Operands {
        shapes: (a_shape, b_shape),
        a: |i, p| if p < k { rounded(Flushing.multiply(alpha, a.get(i, p).value())) } else { 0.0 },
        b: |p, j| if p < k { rounded(b.get(p, j).value()) } else { 0.0 },
        depth: if alpha == 0.0 { 0 } else { k },
        padding: if alpha == 0.0 { 0 } else { k % 2 },
    };
    loops(Flushing, operands, c, epilogue)
}

/// The operations that the definitions are made of.
trait Arithmetic<T>: Copy {
    /// `a * b + c`.
    fn multiply_add(self, a: T, b: T, c: T) -> T;
    /// `a * b`.
    fn multiply(self, a: T, b: T) -> T;
    /// `a + b`.
    fn add(self, a: T, b: T) -> T;
    /// `a / b`.
    fn divide(self, a: T, b: T) -> T;
    /// The square root.
    fn root(self, a: T) -> T;
    /// What an operand counts as.
    fn operand(self, a: T) -> T;
}

/// That of IEEE 754.
impl<T: Float> Arithmetic<T> for Rounding {
    fn multiply_add(self, a: T, b: T, c: T) -> T {
        match self {
            Self::Once => a.mul_add(b, c),
            Self::Twice => a * b + c,
        }
    }
    fn multiply(self, a: T, b: T) -> T {
        a * b
    }
    fn add(self, a: T, b: T) -> T {
        a + b
    }
    fn divide(self, a: T, b: T) -> T {
        a / b
    }
    fn root(self, a: T) -> T {
        a.sqrt()
    }
    fn operand(self, a: T) -> T {
        a
    }
}

/// The same of f32, with denormal numbers flushed.
#[derive(Clone, Copy)]
struct Flushing;

/// The number, or a zero of its sign if it is denormal.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Results below it, which is between two numbers of 24 bits, are flushed. With an exponent of its
/// own each of them would be rounded to less than the smallest normal number.
const TINY: f64 = f32::MIN_POSITIVE as f64 * (1.0 - 1.0 / (1u64 << 25) as f64);

/// A result as IEEE 754 has it, flushed. `exact` is the unrounded one, as a number and what is left of
/// it: IEEE 754 rounds some of the tiny ones up to the smallest normal number.
fn flushed(result: f32, exact: impl Fn() -> (f64, f64)) -> f32 {
    let result = flush(result);
    if result.abs() != f32::MIN_POSITIVE {
        return result;
    }
    let (sum, rest) = exact();
    let (size, rest) = (sum.abs(), rest * sum.signum());
    let tiny = size < TINY || size == TINY && rest < 0.0;
    if tiny { 0f32.copysign(result) } else { result }
}

impl Arithmetic<f32> for Flushing {
    fn multiply_add(self, a: f32, b: f32, c: f32) -> f32 {
        let (a, b, c) = (flush(a), flush(b), flush(c));
        flushed(f32::mul_add(a, b, c), || {
            // The product is exact; the sum has an error that is a number too.
            let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
            let sum = product + c;
            let (large, small) = if product.abs() > c.abs() { (product, c) } else { (c, product) };
            (sum, small - (sum - large))
        })
    }
    fn multiply(self, a: f32, b: f32) -> f32 {
        // -0 changes nothing.
        self.multiply_add(a, b, -0.0)
    }
    fn add(self, a: f32, b: f32) -> f32 {
        self.multiply_add(1.0, a, b)
    }
    fn divide(self, a: f32, b: f32) -> f32 {
        let (a, b) = (flush(a), flush(b));
        // No quotient is so close to `TINY` that its rounding to 53 bits matters.
        flushed(a / b, || (f64::from(a) / f64::from(b), 0.0))
    }
    fn root(self, a: f32) -> f32 {
        flush(a).sqrt()
    }
    fn operand(self, a: f32) -> f32 {
        flush(a)
    }
}

/// A, with its factor, and B, as the chains take them.
struct Operands<A, B> {
    /// Of A and of B.
    shapes: ((usize, usize), (usize, usize)),
    a: A,
    b: B,
    /// Steps of k, and steps after them.
    depth: usize,
    padding: usize,
}

/// The three loops.
fn loops<T, C, R, A, B>(
    arithmetic: R,
    Operands { shapes, a, b, depth, padding }: Operands<A, B>,
    mut c: MatMut<'_, C>,
    mut epilogue: Epilogue<'_, T, C>,
) -> Result<()>
where
    T: Float,
    C: PanelElement<Value = T>,
    R: Arithmetic<T>,
    A: Fn(usize, usize) -> T,
    B: Fn(usize, usize) -> T,
{
    let (m, n, _) = check_shapes(shapes.0, shapes.1, c.shape())?;
    epilogue.check((m, n), c.col_stride())?;
    if let Start::Scaled(beta) = &mut epilogue.start {
        *beta = arithmetic.operand(*beta);
    }
    epilogue.start_sums(|factor, value| arithmetic.multiply(factor, value));
    if let Some(sums) = epilogue.column_sums {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = (0..depth).fold(*sum, |sum, p| arithmetic.add(sum, b(p, j)));
        }
    }
    for i in 0..m {
        for j in 0..n {
            let start = match epilogue.start {
                Start::Scaled(beta) if beta == T::ZERO => T::ZERO,
                Start::Scaled(beta) => arithmetic.multiply(beta, c.get(i, j).value()),
                Start::Bias(bias) => arithmetic.operand(bias[j]),
            };
            let mut sum = start;
            for p in 0..depth + padding {
                sum = arithmetic.multiply_add(a(i, p), b(p, j), sum);
            }
            let companion = |companions: &Companions<'_, C>, index: usize| {
                let companion = companions.get(index);
                companion.map_or(T::ZERO, |companion| companion.as_ref().get(i, j).value())
            };
            let value = match epilogue.finish {
                Finish::Store => sum,
                Finish::Relu => sum.relu(),
                Finish::ReluDropout { mask, scale } => {
                    if mask.keeps(i, j) {
                        arithmetic.multiply(sum.relu(), scale)
                    } else {
                        T::ZERO
                    }
                }
                Finish::ReluGradient { scale } => {
                    if arithmetic.operand(companion(&epilogue.companions, 0)) > T::ZERO {
                        arithmetic.multiply(sum, scale)
                    } else {
                        T::ZERO
                    }
                }
                Finish::Update(update) => {
                    let mut slots = [0, 1].map(|index| companion(&epilogue.companions, index));
                    let w = step(arithmetic, &update, c.get(i, j).value(), sum, &mut slots);
                    for (index, slot) in slots.into_iter().enumerate() {
                        if let Some(Companion::Exclusive(matrix)) =
                            epilogue.companions.get_mut(index)
                        {
                            matrix.set(i, j, C::nearest(slot));
                        }
                    }
                    w
                }
            };
            c.set(i, j, C::nearest(value));
        }
    }
    Ok(())
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
    step(rounding, update, w, sum, slots)
}

/// A step with a given arithmetic.
fn step<T: Float, R: Arithmetic<T>>(
    arithmetic: R,
    update: &Update<T>,
    w: T,
    sum: T,
    [first, second]: &mut [T; 2],
) -> T {
    let multiply_add = |a, b, c| arithmetic.multiply_add(a, b, c);
    let (multiply, add) = (|a, b| arithmetic.multiply(a, b), |a, b| arithmetic.add(a, b));
    let (divide, root) = (|a, b| arithmetic.divide(a, b), |a| arithmetic.root(a));
    let average = |Average { keep, take }: Average<T>, average: T, value: T| {
        multiply_add(keep, average, multiply(take, value))
    };
    let g = multiply_add(update.weight_decay, w, multiply_add(update.l2, w, sum));
    match update.rule {
        Rule::Descent(rule) => multiply_add(-rule.learning_rate, g, w),
        Rule::Momentum(rule) => {
            *first = multiply_add(-rule.learning_rate, g, multiply(rule.momentum, *first));
            let ahead = multiply_add(-rule.learning_rate, g, multiply(rule.momentum, *first));
            add(w, if rule.nesterov { ahead } else { *first })
        }
        Rule::AdaGrad(rule) => {
            *first = multiply_add(g, g, *first);
            multiply_add(-rule.learning_rate, divide(g, add(root(*first), rule.epsilon)), w)
        }
        Rule::RmsProp(rule) => {
            *first = average(rule.squares, *first, multiply(g, g));
            multiply_add(-rule.learning_rate, divide(g, add(root(*first), rule.epsilon)), w)
        }
        Rule::RmsPropMomentum(rule) => {
            let rms_prop = rule.rms_prop;
            *first = average(rms_prop.squares, *first, multiply(g, g));
            let direction = divide(g, add(root(*first), rms_prop.epsilon));
            let kept = multiply(rule.momentum, *second);
            *second = multiply_add(-rms_prop.learning_rate, direction, kept);
            add(w, *second)
        }
        Rule::Adam(rule) => {
            *first = average(rule.gradients, *first, g);
            *second = average(rule.squares, *second, multiply(g, g));
            let scale = multiply_add(rule.root_scale, root(*second), rule.epsilon);
            let w = multiply_add(-rule.shrink, w, w);
            multiply_add(-rule.learning_rate, divide(*first, scale), w)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

    use super::*;
    use crate::simd::{
        Isa,
        flushed::{Flushed, Lanes},
    };

    /// Random numbers whose exponents have these bits.
    fn number(rng: &mut ChaCha8Rng, exponents: Range<u32>) -> f32 {
        let mantissa = match rng.random_range(0..4) {
            0 => 0,
            1 => 0x007f_ffff,
            _ => rng.random::<u32>() & 0x007f_ffff,
        };
        let sign = rng.random::<u32>() & 1 << 31;
        f32::from_bits(sign | rng.random_range(exponents) << 23 | mantissa)
    }

    /// Three numbers whose product and sum are somewhere about the smallest normal number, or any.
    fn numbers(rng: &mut ChaCha8Rng, case: usize) -> [f32; 3] {
        match case % 3 {
            0 => [(); 3].map(|()| number(rng, 0..256)),
            1 => [number(rng, 55..75), number(rng, 55..75), number(rng, 0..3)],
            _ => [number(rng, 40..60), number(rng, 40..60), number(rng, 1..2)],
        }
    }

    fn same(x: f32, y: f32) -> bool {
        x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
    }

    /// Every operation of two ways to compute, on the same numbers.
    fn agree(what: &str, other: impl Fn([f32; 3]) -> [f32; 5]) {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for case in 0..600_000 {
            let [a, b, c] = numbers(&mut rng, case);
            let own = [
                Flushing.multiply_add(a, b, c),
                Flushing.multiply(a, b),
                Flushing.add(a, c),
                Flushing.divide(a, b),
                Flushing.root(a),
            ];
            let found = other([a, b, c]);
            for (operation, (x, y)) in own.into_iter().zip(found).enumerate() {
                assert!(
                    same(x, y),
                    "{what}, operation {operation} of {a:e} {b:e} {c:e}: {x:e} {y:e}"
                );
            }
        }
    }

    #[test]
    fn flushing_by_definition_is_flushing_in_software() {
        let isa = Flushed::new();
        agree("in software", |numbers| {
            let [a, b, c] = numbers.map(|x| isa.splat(x));
            let vectors =
                [isa.mul_add(a, b, c), isa.mul(a, b), isa.add(a, c), isa.div(a, b), isa.sqrt(a)];
            vectors.map(Lanes::last)
        });
    }

    #[cfg(all(target_arch = "x86_64", not(tilewise_portable)))]
    mod by_the_cpu {
        use super::*;
        use crate::{
            kernels::{Map, Product},
            simd::{Denormals, InstructionSet},
        };

        /// One of the operations, of vectors.
        #[derive(Clone, Copy)]
        struct Operation(usize);

        impl Map<f32, 3> for Operation {
            #[inline(always)]
            fn apply<S: Isa<f32>>(self, isa: S, [a, b, c]: [S::Vector; 3]) -> S::Vector {
                match self.0 {
                    0 => isa.mul_add(a, b, c),
                    1 => isa.mul(a, b),
                    2 => isa.add(a, c),
                    3 => isa.div(a, b),
                    _ => isa.sqrt(a),
                }
            }
        }

        #[test]
        fn flushing_by_definition_is_flushing_by_the_cpu() {
            for set in InstructionSet::available().filter(|&set| set != InstructionSet::Portable) {
                let kernels = f32::kernel_set(set).unwrap();
                agree(&set.to_string(), |numbers| {
                    let _flush = Denormals::Flush.scope();
                    let x = numbers.map(|x| [x]);
                    std::array::from_fn(|operation| {
                        let mut out = [0.0];
                        kernels.map(Operation(operation), x.each_ref().map(|x| &x[..]), &mut out);
                        out[0]
                    })
                });
            }
        }
    }
}
