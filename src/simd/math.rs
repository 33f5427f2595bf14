//! The exponential function, the normal distribution and the logistic function, in terms of an
//! instruction set: the same bits on every one with fused multiply-add.
//!
//! Every function is one path without branches, so a lane's bits depend on its input alone. NaN
//! gives NaN. The tests compare with `libm` and bound the errors in units in the last place (ulp):
//!
//! | function | f32 | f64 |
//! |---|---|---|
//! | [`exp`] | 1.5 ulp (1.0 found) | 1.5 ulp (1.0) |
//! | [`normal`]: Φ | 6 ulp (4.8 found) | 6 ulp (5.0) |
//! | [`normal`]: φ | 3 ulp (2.0) | 3 ulp (2.0) |
//! | [`logistic`] | 3.5 ulp (2.5) | 3.5 ulp (2.0) |
//!
//! An ulp of a denormal result is that of the smallest normal number here. Where a multiply-add
//! rounds twice, in a portable build without a fused one, Φ and φ lose up to x^2 / 4 ulp more.

use crate::{float::Float, simd::Isa};

/// What the functions here know of an element type.
pub trait Constants: Float {
    /// 1.5 times the smallest power of two above which all numbers are whole: a sum with it is
    /// rounded to a whole number, which stands in its lowest bits.
    const ROUND: Self;
    /// What an exponent of 0 is stored as.
    const EXPONENT_BIAS: Self;
    /// Inputs outside of these have the exponentials of these: 0 and infinity.
    const EXP_RANGE: [Self; 2];
    /// log2(e).
    const LOG2_E: Self;
    /// ln(2) in two parts, of which the first has few digits.
    const LN_2: [Self; 2];
    /// `(e^r - 1 - r) / r^2` for |r| <= ln(2) / 2 by powers of r: interpolated in Chebyshev nodes,
    /// as [`TAIL`](Self::TAIL).
    const EXP: &'static [Self];
    /// 1 / sqrt(2 pi).
    const DENSITY_AT_0: Self;
    /// From here on Φ(-t) is 0.
    const TAIL_END: Self;
    /// `(t + 4) Φ(-t) e^(t^2 / 2)` for t from 0 to [`TAIL_END`](Self::TAIL_END) by powers of
    /// `(t - 4) / (t + 4)`.
    const TAIL: &'static [Self];
}

impl Constants for f32 {
    const ROUND: Self = 12_582_912.0;
    const EXPONENT_BIAS: Self = 127.0;
    const EXP_RANGE: [Self; 2] = [-104.0, 89.0];
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const LN_2: [Self; 2] = [0.693_145_75, 1.428_606_8e-6];
    const EXP: &'static [Self] =
        &[0.5, 0.166_666_67, 0.041_666_463, 8.333_310_5e-3, 1.393_373_1e-3, 1.989_108e-4];
    const DENSITY_AT_0: Self = 0.398_942_3;
    const TAIL_END: Self = 16.0;
    const TAIL: &'static [Self] = &[
        0.755_285_14,
        -0.607_896_7,
        0.387_137_32,
        -0.186_521_25,
        0.060_398_016,
        -7.545_113e-3,
        -3.491_623_8e-3,
        1.642_831e-3,
        1.738_618_3e-4,
        -2.265_562_4e-4,
        -4.946_936_7e-5,
    ];
}

impl Constants for f64 {
    const ROUND: Self = 6_755_399_441_055_744.0;
    const EXPONENT_BIAS: Self = 1023.0;
    const EXP_RANGE: [Self; 2] = [-746.0, 710.0];
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const LN_2: [Self; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    const EXP: &'static [Self] = &[
        0.5,
        0.166_666_666_666_666_69,
        0.041_666_666_666_623_824,
        0.008_333_333_333_330_039,
        0.001_388_888_891_736_708_1,
        0.000_198_412_698_631_715_57,
        2.480_152_105_786_820_4e-05,
        2.755_726_827_690_569_6e-06,
        2.762_020_159_103_154_7e-07,
        2.510_047_250_569_499_6e-08,
    ];
    const DENSITY_AT_0: Self = 0.398_942_280_401_432_7;
    const TAIL_END: Self = 40.0;
    const TAIL: &'static [Self] = &[
        0.755_285_130_415_751_5,
        -0.607_896_641_971_892_1,
        0.387_137_400_742_214_53,
        -0.186_521_857_959_657_45,
        0.060_396_574_890_937_69,
        -0.007_540_188_966_719_381,
        -0.003_479_692_367_412_914,
        0.001_630_818_457_469_746_6,
        0.000_133_344_312_559_213_9,
        -0.000_231_094_934_130_640_64,
        -1.908_258_972_790_957_5e-06,
        3.514_468_067_075_562e-05,
        7.166_661_392_310_459e-07,
        -5.920_156_161_474_508e-06,
        -6.296_896_838_092_998e-07,
        1.021_520_501_290_907_1e-06,
        2.717_809_948_345e-07,
        -1.549_271_323_887_327e-07,
        -8.536_991_353_342_608e-08,
        1.326_109_233_001_99e-08,
        1.958_772_744_446_616_7e-8,
        1.917_695_265_350_152e-09,
        -2.511_372_928_694_166e-09,
        -7.227_674_920_350_449e-10,
    ];
}

/// `-a`.
#[inline(always)]
fn minus<S: Isa<T>, T: Float>(isa: S, a: S::Vector) -> S::Vector {
    isa.mul(a, isa.splat(-T::ONE))
}

/// `|a|`.
#[inline(always)]
fn abs<S: Isa<T>, T: Float>(isa: S, a: S::Vector) -> S::Vector {
    isa.max(a, minus(isa, a))
}

/// `coefficients[0] + coefficients[1] x + ...` by Horner's rule.
#[inline(always)]
fn polynomial<S: Isa<T>, T: Float>(isa: S, coefficients: &[T], x: S::Vector) -> S::Vector {
    let Some((&last, others)) = coefficients.split_last() else { return isa.splat(T::ZERO) };
    let mut sum = isa.splat(last);
    for &next in others.iter().rev() {
        sum = isa.mul_add(sum, x, isa.splat(next));
    }
    sum
}

/// `e^x`.
#[inline(always)]
pub(crate) fn exp<S: Isa<T>, T: Constants>(isa: S, x: S::Vector) -> S::Vector {
    exp_of_sum(isa, x, isa.splat(T::ZERO))
}

/// `e^(x + rest)`, where the rest is a rounding error of x.
///
/// With n the whole number next to x / ln(2) and `r = x - n ln(2)` it is `2^n e^r`. The power has
/// two factors, because n itself may be more than an exponent can say.
#[inline(always)]
fn exp_of_sum<S: Isa<T>, T: Constants>(isa: S, x: S::Vector, rest: S::Vector) -> S::Vector {
    let splat = |value: T| isa.splat(value);
    let [least, most] = T::EXP_RANGE;
    let x = isa.min(splat(most), isa.max(splat(least), x));
    let rounded = isa.mul_add(x, splat(T::LOG2_E), splat(T::ROUND));
    let n = isa.add(rounded, splat(-T::ROUND));
    let [high, low] = T::LN_2;
    let r = isa.mul_add(n, splat(-high), x);
    let r = isa.add(isa.mul_add(n, splat(-low), r), rest);
    let above = isa.mul_add(isa.mul(r, r), polynomial(isa, T::EXP, r), r);
    let e = isa.add(splat(T::ONE), above);

    let round = T::ROUND + T::EXPONENT_BIAS;
    let half = T::ONE / (T::ONE + T::ONE);
    let first = isa.mul_add(n, splat(half), splat(round));
    let second = isa.add(n, minus(isa, isa.add(first, splat(-round))));
    let second = isa.add(second, splat(round));
    isa.mul(isa.mul(e, isa.low_bits_as_exponent(first)), isa.low_bits_as_exponent(second))
}

/// Distribution function and density of the standard normal distribution: Φ(x) and φ(x).
///
/// Φ(-t), for t = |x|, is a smooth and slowly varying function times `e^(-t^2 / 2)`, so that it
/// keeps its digits however small it is; Φ(t) is 1 minus that. For the smooth function, Mills'
/// ratio, t from 0 to infinity is mapped to -1 to 1 as by Shepherd and Laframboise, "Chebyshev
/// approximation of (1 + 2 x) exp(x^2) erfc x in 0 <= x < infinity", Mathematics of Computation 36
/// (1981).
#[inline(always)]
pub(crate) fn normal<S: Isa<T>, T: Constants>(isa: S, x: S::Vector) -> (S::Vector, S::Vector) {
    let splat = |value: T| isa.splat(value);
    let t = isa.min(splat(T::TAIL_END), abs(isa, x));
    let (one, two) = (T::ONE, T::ONE + T::ONE);
    let (half, four) = (one / two, two + two);
    let square = isa.mul(t, t);
    let rest = isa.mul_add(t, t, minus(isa, square));
    let minus_half = |a| isa.mul(a, splat(-half));
    let e = exp_of_sum(isa, minus_half(square), minus_half(rest));

    let inverse = isa.div(splat(one), isa.add(t, splat(four)));
    let place = isa.mul(isa.add(t, splat(-four)), inverse);
    let tail = isa.mul(isa.mul(polynomial(isa, T::TAIL, place), inverse), e);
    let body = isa.add(splat(one), minus(isa, tail));
    (isa.select(x, body, tail), isa.mul(e, splat(T::DENSITY_AT_0)))
}

/// The logistic function `1 / (1 + e^-x)` at x and at -x, which together are 1.
#[inline(always)]
pub(crate) fn logistic<S: Isa<T>, T: Constants>(isa: S, x: S::Vector) -> (S::Vector, S::Vector) {
    let e = exp(isa, minus(isa, abs(isa, x)));
    let large = isa.div(isa.splat(T::ONE), isa.add(isa.splat(T::ONE), e));
    let small = isa.mul(e, large);
    (isa.select(x, large, small), isa.select(x, small, large))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::scalar::Scalar;

    const ISA: Scalar = Scalar { fused: true };

    /// Inputs from `-most` to `most`, close to each other, and closer to 0.
    fn places(most: f64) -> impl Iterator<Item = f64> {
        const STEPS: i32 = 200_000;
        let grid = (-STEPS..=STEPS).map(move |i| f64::from(i) / f64::from(STEPS) * most);
        let small = (-1080..=0).flat_map(|e| [1.0, -1.37].map(|m| m * libm::exp2(f64::from(e))));
        grid.chain(small)
    }

    /// Distance of a value from the expected one in units in the last place, of which there are
    /// `2^(digits - 1)` from a power of two to the next; `least` is the smallest normal number.
    fn ulps(found: f64, expected: f64, digits: u32, least: f64) -> f64 {
        if found == expected {
            return 0.0;
        }
        let power = libm::exp2(libm::floor(libm::log2(expected.abs().max(least))));
        (found - expected).abs() / (power * libm::exp2(1.0 - f64::from(digits)))
    }

    /// Φ(x) by `libm`, in f64: with what x / sqrt(2) loses by rounding made good.
    fn distribution(x: f64) -> f64 {
        use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
        let z = -x * FRAC_1_SQRT_2;
        let rest = (-x).mul_add(FRAC_1_SQRT_2, -z) + -x * -4.833_646_656_726_457e-17;
        0.5 * (libm::erfc(z) - FRAC_2_SQRT_PI * libm::exp(-z * z) * rest)
    }

    /// φ(x) in the same way.
    fn density(x: f64) -> f64 {
        let square = x * x;
        let rest = x.mul_add(x, -square);
        let e = libm::exp(-square / 2.0);
        f64::DENSITY_AT_0 * (e - e * rest / 2.0)
    }

    /// The logistic function by `libm`, whose exponential must not overflow.
    fn sigmoid(x: f64) -> f64 {
        let e = libm::exp(-x.abs());
        if x > 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
    }

    /// The largest errors in ulp: of `exp`, Φ, φ and the logistic function.
    fn errors<T: Constants>(digits: u32, least: f64) -> [f64; 4]
    where
        Scalar: Isa<T, Vector = T>,
    {
        let mut most = [0.0f64; 4];
        let mut note = |index: usize, found: T, expected: f64| {
            let rounded = T::from_f64(expected).to_f64();
            let error = ulps(
                found.to_f64(),
                if rounded.is_infinite() { rounded } else { expected },
                digits,
                least,
            );
            assert!(!error.is_nan(), "{found} instead of {expected}");
            most[index] = most[index].max(error);
        };
        let [lowest, _] = T::EXP_RANGE.map(T::to_f64);
        for x in places(1.01 * lowest.abs()) {
            let x = T::from_f64(x);
            note(0, exp(ISA, x), libm::exp(x.to_f64()));
            let (right, left) = logistic(ISA, x);
            note(3, right, sigmoid(x.to_f64()));
            note(3, left, sigmoid(-x.to_f64()));
        }
        for x in places(T::TAIL_END.to_f64()) {
            let x = T::from_f64(x);
            let (found, slope) = normal(ISA, x);
            note(1, found, distribution(x.to_f64()));
            note(2, slope, density(x.to_f64()));
        }
        most
    }

    #[test]
    fn errors_are_a_few_units_in_the_last_place() {
        let of_f32 = errors::<f32>(f32::MANTISSA_DIGITS, f32::MIN_POSITIVE.into());
        let of_f64 = errors::<f64>(f64::MANTISSA_DIGITS, f64::MIN_POSITIVE);
        // The oracle in f64 has errors of an ulp or two itself, but for `exp`.
        for (name, found, bounds) in
            [("f32", of_f32, [1.5, 6.0, 3.0, 3.5]), ("f64", of_f64, [1.5, 6.0, 3.0, 3.5])]
        {
            let fits = found.iter().zip(bounds).all(|(&found, bound)| found <= bound);
            assert!(fits, "{name}: {found:.2?}");
        }
    }

    /// The special values, in both types.
    fn check_special<T: Constants>(infinity: T, huge: T)
    where
        Scalar: Isa<T, Vector = T>,
    {
        let (zero, one, nan) = (T::ZERO, T::ONE, T::ZERO * infinity);
        for (x, expected) in [(zero, one), (-zero, one), (infinity, infinity), (-infinity, zero)] {
            assert_eq!(exp(ISA, x), expected, "exp({x})");
        }
        for x in [infinity, huge] {
            assert_eq!((exp(ISA, x), exp(ISA, -x)), (infinity, zero));
            assert_eq!((normal(ISA, x), normal(ISA, -x)), ((one, zero), (zero, zero)));
            assert_eq!((logistic(ISA, x), logistic(ISA, -x)), ((one, zero), (zero, one)));
        }
        let is_nan = |x: T| x.partial_cmp(&x).is_none();
        let (pair, other) = (normal(ISA, nan), logistic(ISA, nan));
        for value in [exp(ISA, nan), pair.0, pair.1, other.0, other.1] {
            assert!(is_nan(value), "{value}");
        }
    }

    #[test]
    fn infinite_huge_and_missing_numbers_have_the_limits() {
        check_special(f32::INFINITY, f32::MAX);
        check_special(f64::INFINITY, f64::MAX);
    }
}
