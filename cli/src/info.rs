//! `tilewise info`: cores, instruction sets, and the kernels and blocking that come with them; or
//! the plan of a network.

use std::{fmt::Write as _, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    console::print,
    cores, in_pool,
    network::{HIDDEN, describe, perceptron},
    options,
};
use tilewise::{
    Bf16, Element, Precision,
    error::Result,
    gemm::{Blocking, Gemm, Product},
    io::model,
    simd::{Amx, Caches, InstructionSet},
    threads::Threads,
    train::{Optimizer, Trainer, TrainerConfig},
};

/// Why AMX is reported and not used.
const AMX_NOTE: &str = "no kernel uses AMX: it adds the products of even and of odd k apart, which \
                        gives other bits than one chain over k";

/// Inputs and classes of networks for CIFAR-10.
const CIFAR10: (usize, usize) = (3072, 10);

/// Arguments of `tilewise info`.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Print one JSON object.
    #[arg(long, conflicts_with = "plan")]
    json: bool,
    #[command(flatten, next_help_heading = "Plan")]
    plan: PlanArgs,
}

/// Flags for the network whose plan is printed.
#[derive(Debug, clap::Args)]
struct PlanArgs {
    /// Print the plan of a training step instead: its steps, what is fused into each, and where its
    /// values are in memory.
    #[arg(long)]
    plan: bool,
    /// Widths of the hidden layers of a network for CIFAR-10, separated by commas.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = HIDDEN,
          value_parser = options::count, requires = "plan")]
    hidden: Vec<usize>,
    /// Probability of dropping an activation of a hidden layer in training.
    #[arg(long, value_name = "P", default_value = "0", value_parser = options::fraction,
          requires = "plan")]
    dropout: f64,
    /// Plan for the network in this safetensors file instead.
    #[arg(long, value_name = "FILE", requires = "plan", conflicts_with_all = ["hidden", "dropout"])]
    model: Option<PathBuf>,
    /// Batch size, in images.
    #[arg(long, value_name = "N", default_value = "128", value_parser = options::count,
          requires = "plan")]
    batch: usize,
    /// Optimizer; the updates of some are part of the product that computes the gradient.
    #[arg(long, value_name = "NAME", default_value = "sgd", value_parser = options::optimizer(),
          requires = "plan")]
    optimizer: Optimizer,
    /// Precision of the computations: bf16 has parameters and sums in f32.
    #[arg(long, value_name = "NAME", alias = "dtype", default_value = "f32",
          value_parser = options::precision(), requires = "plan")]
    precision: Precision,
    /// Number of threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = options::threads, requires = "plan")]
    threads: Option<usize>,
}

impl PlanArgs {
    /// The plan of a training step as `train` makes it, after a line about the network.
    fn text<T: Element>(&self) -> Result<String> {
        let network = match &self.model {
            Some(path) => model::load::<T>(path)?.0,
            None => perceptron(CIFAR10, &self.hidden, self.dropout, None, 0)?,
        };
        let about =
            format!("{} ({}, {})", describe(&network), self.precision, self.optimizer.name());
        let config = TrainerConfig::default()
            .with_batch_size(self.batch)
            .with_optimizer(self.optimizer)
            .with_precision(Some(self.precision))
            .with_threads(Threads::Pool);
        let trainer = Trainer::new(network, config)?;
        let plan = trainer.plan();
        let set = plan.context().instruction_set();
        Ok(format!("{about}, {set}, threads {}\n{plan}", plan.context().threads()))
    }
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
    fn new<P: Product>(set: InstructionSet, dtype: &'static str) -> Result<Self> {
        let gemm = Gemm::<P>::with_instruction_set(set)?;
        Ok(Self { set, dtype, tile: gemm.tile(), blocking: gemm.blocking() })
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
/// set that is not available, [`Error::Io`](tilewise::Error::Io) if nothing can be printed; for a
/// plan, those of the model file or of the network.
pub fn run(args: &InfoArgs) -> Result<()> {
    if args.plan.plan {
        return print(&in_pool(args.plan.threads, || match args.plan.precision {
            Precision::F32 | Precision::Bf16 => args.plan.text::<f32>(),
            Precision::F64 => args.plan.text::<f64>(),
        })?);
    }
    let in_use = InstructionSet::preferred()?;
    let mut kernels = Vec::new();
    for set in InstructionSet::available() {
        kernels.push(Kernel::new::<f32>(set, "f32")?);
        kernels.push(Kernel::new::<f64>(set, "f64")?);
        kernels.push(Kernel::new::<Bf16>(set, "bf16")?);
    }
    let text = if args.json { as_json } else { as_text };
    print(&text(in_use, Amx::detect(), &kernels))
}

fn available() -> Vec<String> {
    InstructionSet::available().map(|set| set.to_string()).collect()
}

fn as_json(in_use: InstructionSet, amx: Amx, kernels: &[Kernel]) -> String {
    let kernel = |kernel: &Kernel| -> Value {
        let Blocking { mc, kc, nc, .. } = kernel.blocking;
        json!({
            "name": kernel.name(),
            "instruction_set": kernel.set.to_string(),
            "dtype": kernel.dtype,
            "in_use": kernel.set == in_use,
            "tile": { "rows": kernel.tile.0, "cols": kernel.tile.1 },
            "blocking": { "mc": mc, "kc": kc, "nc": nc },
        })
    };
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cores": cores(),
        "caches": { "l1": Caches::detect().l1, "l2": Caches::detect().l2 },
        "instruction_set": in_use.to_string(),
        "available": available(),
        "amx": {
            "tile": amx.tile,
            "bf16": amx.bf16,
            "int8": amx.int8,
            "used": false,
            "note": AMX_NOTE,
        },
        "fused_multiply_add": in_use.is_fused(),
        "kernels": kernels.iter().map(kernel).collect::<Vec<_>>(),
    });
    format!("{object}\n")
}

/// The parts of AMX and what becomes of them.
fn amx_text(amx: Amx) -> String {
    let features: Vec<_> = amx.features().collect();
    if features.is_empty() {
        "none".into()
    } else {
        format!("{} ({AMX_NOTE})", features.join(", "))
    }
}

fn as_text(in_use: InstructionSet, amx: Amx, kernels: &[Kernel]) -> String {
    let fused = if in_use.is_fused() { "fused" } else { "not fused" };
    let mut text = format!(
        "tilewise         {}\n\
         cores            {}\n\
         caches of a core {} KiB L1 data, {} KiB L2\n\
         instruction set  {in_use}, multiply-add {fused} (available: {})\n\
         AMX              {}\n\n\
         kernel                     tile  {:>6} {:>6} {:>6}\n",
        env!("CARGO_PKG_VERSION"),
        cores(),
        Caches::detect().l1 / 1024,
        Caches::detect().l2 / 1024,
        available().join(", "),
        amx_text(amx),
        "mc",
        "kc",
        "nc",
    );
    for kernel in kernels {
        let Blocking { mc, kc, nc, .. } = kernel.blocking;
        let (rows, cols) = kernel.tile;
        let mark = if kernel.set == in_use { "  in use" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:24} {:>2} x {cols:<2} {mc:>6} {kc:>6} {nc:>6}{mark}",
            kernel.name(),
            rows
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amx_is_reported_with_the_reason_why_it_is_not_used() {
        let mut amx = Amx::default();
        assert_eq!(amx_text(amx), "none");
        (amx.tile, amx.bf16) = (true, true);
        assert_eq!(amx_text(amx), format!("amx-tile, amx-bf16 ({AMX_NOTE})"));
        let json: Value =
            serde_json::from_str(&as_json(InstructionSet::Portable, amx, &[])).unwrap();
        let expected =
            json!({ "tile": true, "bf16": true, "int8": false, "used": false, "note": AMX_NOTE });
        assert_eq!(json["amx"], expected);
        let text = as_text(InstructionSet::Portable, amx, &[]);
        assert!(text.contains(&amx_text(amx)), "{text}");
    }
}
