//! A product with bias and ReLU in one pass, on weights that were packed once, and the same in
//! several passes: equal bits, and the time of each.
//!
//! `cargo run --release --example gemm_epilogue`

use std::{error::Error, time::Instant};

use tilewise::{
    gemm::{Epilogue, Gemm},
    matrix::Matrix,
};

const BATCH: usize = 256;
const INPUTS: usize = 512;
const OUTPUTS: usize = 512;
const TURNS: u32 = 50;

fn main() -> Result<(), Box<dyn Error>> {
    // Anything that is not exact in few bits.
    let value = |i: usize, j: usize| ((i * 31 + j * 17) % 101) as f32 / 101.0 - 0.5;
    let x = Matrix::from_fn(BATCH, INPUTS, value)?;
    let weight = Matrix::from_fn(INPUTS, OUTPUTS, value)?;
    let bias: Vec<f32> = (0..OUTPUTS).map(|j| value(j, 3)).collect();
    let (mut fused, mut passes) = (Matrix::zeros(BATCH, OUTPUTS)?, Matrix::zeros(BATCH, OUTPUTS)?);

    // Made once: which kernels, the panels of the weights, the memory that products work in.
    let gemm = Gemm::<f32>::new()?;
    let packed = gemm.pack_b(weight.view())?;
    let mut scratch = gemm.scratch(BATCH, OUTPUTS, INPUTS)?;

    let start = Instant::now();
    for _ in 0..TURNS {
        let epilogue = Epilogue::bias_relu(&bias);
        gemm.run(1.0, x.view(), &packed, fused.view_mut(), epilogue, &mut scratch)?;
    }
    let fused_time = start.elapsed() / TURNS;

    let start = Instant::now();
    for _ in 0..TURNS {
        // The bias is where the sums start, so here it is written first.
        let mut out = passes.view_mut();
        for i in 0..BATCH {
            out.row_mut(i).into_iter().for_each(|row| row.copy_from_slice(&bias));
        }
        let epilogue = Epilogue::scaled(1.0);
        gemm.run(1.0, x.view(), weight.view(), out.reborrow(), epilogue, &mut scratch)?;
        for i in 0..BATCH {
            out.row_mut(i).into_iter().flatten().for_each(|x| *x = x.max(0.0));
        }
    }
    let passes_time = start.elapsed() / TURNS;

    println!("one pass, packed weights: {fused_time:?}; three passes: {passes_time:?}");
    for i in 0..BATCH {
        if fused.view().row(i) != passes.view().row(i) {
            return Err(format!("row {i} differs").into());
        }
    }
    println!("all {} results have the same bits", BATCH * OUTPUTS);
    Ok(())
}
