//! Hashes of the parameters after 50 steps, equal on every instruction set with a fused
//! multiply-add and on 1 to 4 threads.
//!
//! A change of these numbers is a decision, never an accident: it means that runs which were
//! recorded before cannot be repeated.

use tilewise::{
    Context, Element, Precision,
    gemm::Gemm,
    matrix::Matrix,
    nn::{Init, MlpConfig, Network, Shape, mlp},
    simd::InstructionSet,
    threads::Threads,
    train::{Optimizer, Trainer, TrainerConfig},
};

const FEATURES: usize = 150;
const CLASSES: usize = 7;
/// Enough for products that are divided among several tasks.
const BATCH: usize = 96;
const HIDDEN: usize = 260;

/// A perceptron of two hidden layers with dropout.
fn perceptron<T: Element>() -> Network<T> {
    let config = MlpConfig::default()
        .with_input(FEATURES)
        .with_hidden(vec![HIDDEN, 70])
        .with_classes(CLASSES)
        .with_init(Init::He)
        .with_dropout(0.2)
        .with_seed(3);
    mlp(&config).unwrap()
}

/// A network with a residual block.
fn residual<T: Element>() -> Network<T> {
    let builder = Network::builder(Shape::Features(FEATURES)).seed(4).linear(HIDDEN).relu();
    let builder = builder.residual(|block| block.linear(64).relu().dropout(0.1).linear(HIDDEN));
    builder.relu().scale(0.7).linear(CLASSES).build().unwrap()
}

/// FNV-1a of the parameters after 50 steps with momentum and L2 regularization.
fn hash<T: Element>(
    network: Network<T>,
    precision: Precision,
    set: InstructionSet,
    threads: Threads,
) -> u64 {
    let context = Context::of(Gemm::with_instruction_set(set).unwrap()).unwrap();
    let config = TrainerConfig::default()
        .with_batch_size(BATCH)
        .with_learning_rate(0.02)
        .with_optimizer(Optimizer::momentum(0.9))
        .with_l2(1e-3)
        .with_precision(Some(precision))
        .with_threads(threads);
    let mut trainer = Trainer::with_context(network, config, context).unwrap();
    for step in 0..50 {
        // Sixteenths: exact in any precision.
        let value = |i, j| ((i * 37 + j * 101 + step * 13) % 61) as f64 / 16.0 - 1.9375;
        let x = Matrix::from_fn(BATCH, FEATURES, |i, j| T::from_f64(value(i, j))).unwrap();
        let labels: Vec<u32> = (0..BATCH).map(|i| ((i * 5 + step) % CLASSES) as u32).collect();
        trainer.step(x.view(), &labels).unwrap();
    }
    assert!(trainer.network().is_finite());
    let values = trainer.network().parameters().iter().flat_map(|(_, values)| values);
    let bytes = values.flat_map(|value| value.to_f64().to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn check<T: Element>(
    name: &str,
    precision: Precision,
    network: impl Fn() -> Network<T> + Sync,
    expected: u64,
) {
    let mut wrong = Vec::new();
    for set in InstructionSet::available().filter(|set| set.is_fused()) {
        for threads in 1..=4 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let found = pool.install(|| hash(network(), precision, set, Threads::Pool));
            if found != expected {
                wrong.push(format!("{set}, {threads} threads: {found:#018x}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{name}, expected {expected:#018x}:\n{}", wrong.join("\n"));
}

#[test]
fn a_perceptron_in_f32() {
    check("perceptron in f32", Precision::F32, perceptron::<f32>, 0x79bc_1da2_5911_e2c7);
}

#[test]
fn a_perceptron_in_f64() {
    check("perceptron in f64", Precision::F64, perceptron::<f64>, 0x2a80_23e4_f2ae_4225);
}

#[test]
fn a_residual_block_in_f32() {
    check("residual block in f32", Precision::F32, residual::<f32>, 0x7c79_0a5d_5cbd_5ba7);
}

#[test]
fn a_residual_block_in_f64() {
    check("residual block in f64", Precision::F64, residual::<f64>, 0x52f3_d357_7439_d96c);
}

#[test]
fn a_perceptron_in_bf16() {
    check("perceptron in bf16", Precision::Bf16, perceptron::<f32>, 0x6cfb_d998_3985_0094);
}

#[test]
fn a_residual_block_in_bf16() {
    check("residual block in bf16", Precision::Bf16, residual::<f32>, 0x5e81_e64c_4c2f_0c95);
}
