//! Trains the two-layer network of the CIFAR-10 study through the library.
//!
//! `cargo run --release --example train_cifar10 -- DIR`, where DIR holds CIFAR-10 in any of its
//! usual forms; without DIR it trains on the built-in synthetic images.

use std::{error::Error, ops::ControlFlow, path::Path};

use tilewise::{
    data::{Normalization, NormalizeMode, Split, load, synthetic},
    nn::{MlpConfig, mlp},
    threads::Threads,
    train::{Curve, Progress, Solver, SolverConfig, TrainerConfig, TrainingData},
};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // The library starts no threads: these are the program's, one for each core.
    rayon::ThreadPoolBuilder::new().build()?.install(train)
}

fn train() -> Result<(), Box<dyn Error + Send + Sync>> {
    let images = match std::env::args().nth(1) {
        Some(dir) => load(Path::new(&dir))?.train,
        None => synthetic(12_000, 0)?,
    };
    let split = Split::new(images.len(), None, None)?;
    let statistics = images.channel_statistics(split.train.clone())?;
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean)?;

    // 3072-200-10, weight scale 0.01.
    let network = mlp::<f32>(&MlpConfig::default())?;
    let trainer = TrainerConfig::default().with_learning_rate(0.4).with_threads(Threads::Pool);
    let config = SolverConfig::default()
        .with_trainer(trainer)
        .with_epochs(15)
        .with_schedule(Curve::EpochDecay { factor: 0.96 }.into());
    let data = TrainingData { images: &images, split, normalization };
    let mut solver = Solver::new(network, data, config)?;
    solver.train_with(&mut |progress| {
        if let Progress::Epoch(record) = progress {
            println!("{record:?}");
        }
        ControlFlow::Continue(())
    })?;
    if let Some(best) = solver.best() {
        println!("best validation accuracy {:.4} in epoch {}", best.val_accuracy, best.epoch);
    }
    Ok(())
}
