//! `tilewise info`: cores, instruction sets, and the kernels and blocking that come with them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{console::print, cores};
use tilewise::{
    Element,
    error::Result,
    gemm::{Blocking, Gemm},
    simd::{Caches, InstructionSet},
};

/// Arguments of `tilewise info`.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A kernel that multiplies matrices on this machine.
struct Kernel {
    set: InstructionSet,
    dtype: &'static str,
    /// Rows and columns.
    tile: (usize, usize),
    blocking: Blocking,
}

impl Kernel {
    fn new<T: Element>(set: InstructionSet) -> Result<Self> {
        let gemm = Gemm::<T>::with_instruction_set(set)?;
        Ok(Self { set, dtype: T::NAME, tile: gemm.tile(), blocking: gemm.blocking() })
    }

    /// Name made of operation, element type, instruction set and tile.
    fn name(&self) -> String {
        format!("gemm_{}_{}_{}x{}", self.dtype, self.set, self.tile.0, self.tile.1)
    }
}

/// Runs `tilewise info`.
///
/// # Errors
/// [`Error::IsaUnavailable`](tilewise::Error::IsaUnavailable) if `TILEWISE_ISA` names an instruction
/// set that is not available, [`Error::Io`](tilewise::Error::Io) if nothing can be printed.
pub fn run(args: &InfoArgs) -> Result<()> {
    let in_use = InstructionSet::preferred()?;
    let mut kernels = Vec::new();
    for set in InstructionSet::available() {
        kernels.push(Kernel::new::<f32>(set)?);
        kernels.push(Kernel::new::<f64>(set)?);
    }
    print(&if args.json { as_json(in_use, &kernels) } else { as_text(in_use, &kernels) })
}

fn available() -> Vec<String> {
    InstructionSet::available().map(|set| set.to_string()).collect()
}

fn as_json(in_use: InstructionSet, kernels: &[Kernel]) -> String {
    let kernel = |kernel: &Kernel| -> Value {
        let Blocking { mc, kc, nc, kb, .. } = kernel.blocking;
        json!({
            "name": kernel.name(),
            "instruction_set": kernel.set.to_string(),
            "dtype": kernel.dtype,
            "in_use": kernel.set == in_use,
            "tile": { "rows": kernel.tile.0, "cols": kernel.tile.1 },
            "blocking": { "mc": mc, "kc": kc, "nc": nc, "kb": kb },
        })
    };
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cores": cores(),
        "caches": { "l1": Caches::detect().l1, "l2": Caches::detect().l2 },
        "instruction_set": in_use.to_string(),
        "available": available(),
        "fused_multiply_add": in_use.is_fused(),
        "kernels": kernels.iter().map(kernel).collect::<Vec<_>>(),
    });
    format!("{object}\n")
}

fn as_text(in_use: InstructionSet, kernels: &[Kernel]) -> String {
    let fused = if in_use.is_fused() { "fused" } else { "not fused" };
    let mut text = format!(
        "tilewise         {}\n\
         cores            {}\n\
         caches of a core {} KiB L1 data, {} KiB L2\n\
         instruction set  {in_use}, multiply-add {fused} (available: {})\n\n\
         kernel                     tile  {:>6} {:>6} {:>6} {:>6}\n",
        env!("CARGO_PKG_VERSION"),
        cores(),
        Caches::detect().l1 / 1024,
        Caches::detect().l2 / 1024,
        available().join(", "),
        "mc",
        "kc",
        "nc",
        "kb",
    );
    for kernel in kernels {
        let Blocking { mc, kc, nc, kb, .. } = kernel.blocking;
        let (rows, cols) = kernel.tile;
        let mark = if kernel.set == in_use { "  in use" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:24} {:>2} x {cols:<2} {mc:>6} {kc:>6} {nc:>6} {kb:>6}{mark}",
            kernel.name(),
            rows
        );
    }
    text
}
