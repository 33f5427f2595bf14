//! What a precision costs on this CPU.

use std::time::{Duration, Instant};

use tilewise::{
    Bf16, Precision,
    error::Result,
    gemm::{Epilogue, Gemm, Operand, Product},
    matrix::Matrix,
    simd::InstructionSet,
};

/// Rows and columns of the product that is measured: 5 ms in software, the slowest.
const SIZE: usize = 128;
/// Time for each of two measurements.
const TIME: Duration = Duration::from_millis(20);

/// A line for those who use bf16 on an instruction set that does not multiply it: how much slower than
/// f32 it is here.
///
/// # Errors
/// Those of [`InstructionSet::preferred`].
pub(super) fn note(precision: Precision) -> Result<Option<String>> {
    let set = InstructionSet::preferred()?;
    if precision != Precision::Bf16 || set == InstructionSet::Avx512Bf16 {
        return Ok(None);
    }
    let ratio = seconds::<Bf16>(set)? / seconds::<f32>(set)?;
    Ok(Some(format!(
        "bf16: {set} has no instruction for it; products take {ratio:.1} times as long as in f32"
    )))
}

/// The shortest time of a product with operands that are packed.
fn seconds<P: Product<Sum = f32>>(set: InstructionSet) -> Result<f64> {
    let gemm = Gemm::<P>::with_instruction_set(set)?;
    let ones = Matrix::from_fn(SIZE, SIZE, |_, _| 1.0)?;
    let a = gemm.pack_a(1.0, Operand::Rounded(ones.view()))?;
    let b = gemm.pack_b(Operand::Rounded(ones.view()))?;
    let mut c = Matrix::zeros(SIZE, SIZE)?;
    let mut scratch = gemm.scratch(SIZE, SIZE, SIZE)?;
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while best.is_infinite() || begin.elapsed() < TIME {
        let start = Instant::now();
        gemm.run(1.0, &a, &b, c.view_mut(), Epilogue::default(), &mut scratch)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
