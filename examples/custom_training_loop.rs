//! A training loop with data, schedule and stopping of its own; the steps are those of
//! `train::Trainer`.
//!
//! `cargo run --release --example custom_training_loop`

use std::error::Error;

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    infer::{Predictor, top_classes},
    matrix::{MatMut, MatRef},
    nn::{Network, Shape},
    train::{Optimizer, Trainer, TrainerConfig},
};

const BATCH: usize = 64;
const CLASSES: usize = 3;

/// Points in the plane, on one of three arms of a spiral each.
struct Points {
    xy: Vec<f32>, // (points, 2)
    labels: Vec<u32>,
}

impl Points {
    fn new(count: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut xy, mut labels) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (label, radius) = (number % CLASSES, rng.random_range(0.1..1.0f32));
            let arm = label as f32 / CLASSES as f32 * std::f32::consts::TAU;
            let angle = arm + 4.0 * radius + rng.random_range(-0.2..0.2);
            xy.extend([radius * angle.cos(), radius * angle.sin()]);
            labels.push(label as u32);
        }
        Self { xy, labels }
    }

    /// The points in batches; they are in random places, so their order is as good as any.
    fn batches(&self) -> impl Iterator<Item = (&[f32], &[u32])> {
        self.xy.chunks(2 * BATCH).zip(self.labels.chunks(BATCH))
    }
}

/// The fraction of points that a network puts on the right arm.
fn accuracy(network: &Network<f32>, points: &Points) -> tilewise::Result<f64> {
    let predictor = Predictor::new(network)?;
    let count = points.labels.len();
    let mut logits = vec![0.0; count * CLASSES];
    let x = MatRef::new(&points.xy, count, 2)?;
    let out = MatMut::new(&mut logits, count, CLASSES)?;
    predictor.predict_into(x, out, &mut predictor.scratch(BATCH)?)?;
    let right = logits.chunks(CLASSES).zip(&points.labels).filter(|(row, label)| {
        let mut best = [0];
        top_classes(row, &mut best);
        best[0] == **label as usize
    });
    Ok(right.count() as f64 / count as f64)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (training, validation) = (Points::new(3000, 1), Points::new(999, 2));
    let network = Network::builder(Shape::Features(2)).linear(64).relu().linear(64).relu();
    let network = network.linear(CLASSES).build()?;
    let mut learning_rate = 0.05;
    let config = TrainerConfig::default()
        .with_batch_size(BATCH)
        .with_learning_rate(learning_rate)
        .with_optimizer(Optimizer::momentum(0.9));
    let mut trainer = Trainer::new(network, config)?;

    // Halves the learning rate when an epoch was no better than the best, and stops at the fourth time.
    let (mut best, mut strikes) = (accuracy(trainer.network(), &validation)?, 0);
    println!("untrained: accuracy {best:.3}");
    for epoch in 1..=200 {
        let mut loss = 0.0;
        for (xy, labels) in training.batches() {
            let stats = trainer.step(MatRef::new(xy, labels.len(), 2)?, labels)?;
            loss += stats.loss * stats.rows as f64 / training.labels.len() as f64;
        }
        let now = accuracy(trainer.network(), &validation)?;
        if now > best {
            println!("epoch {epoch}: loss {loss:.4}, accuracy {now:.3}");
            best = now;
            continue;
        }
        strikes += 1;
        if strikes == 4 {
            println!("epoch {epoch}: no better for the fourth time");
            break;
        }
        learning_rate /= 2.0;
        trainer.set_learning_rate(learning_rate)?;
    }
    println!("best accuracy {best:.3} after {} steps", trainer.steps());
    if best < 0.95 { Err(format!("accuracy {best}, expected 0.95").into()) } else { Ok(()) }
}
