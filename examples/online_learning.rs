//! Learning while serving: a thread trains and puts a new predictor in place every so often, the
//! others answer all the time with the one that is there. Taking it is an atomic read, so no reader
//! ever waits; a predictor that was replaced goes when its last reader is done with it.
//!
//! `cargo run --release --example online_learning`

use std::{
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    infer::{Predictor, top_classes},
    matrix::{MatMut, MatRef},
    nn::{Network, Shape},
    train::{Trainer, TrainerConfig},
};

const FEATURES: usize = 32;
const CLASSES: usize = 8;
const BATCH: usize = 32;
const READERS: usize = 2;
const VERSIONS: usize = 8;
const STEPS_PER_VERSION: usize = 40;

/// A predictor and how many there were before it.
struct Version {
    number: usize,
    predictor: Predictor<f32>,
}

/// Examples without end: each class is noise around a point of its own.
struct Stream(ChaCha8Rng);

impl Stream {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn fill(&mut self, x: &mut [f32], labels: &mut [u32]) {
        for (row, label) in x.chunks_mut(FEATURES).zip(labels) {
            *label = self.0.random_range(0..CLASSES as u32);
            for (feature, value) in row.iter_mut().enumerate() {
                let center = if feature % CLASSES == *label as usize { 0.8 } else { 0.0 };
                *value = center + self.0.random_range(-1.0..1.0f32);
            }
        }
    }
}

/// Trains and publishes.
fn train(network: Network<f32>, current: &ArcSwap<Version>) -> tilewise::Result<()> {
    let config = TrainerConfig::default().with_batch_size(BATCH).with_learning_rate(0.1);
    let mut trainer = Trainer::new(network, config)?;
    let (mut stream, mut x, mut labels) = (Stream::new(1), [0.0; BATCH * FEATURES], [0; BATCH]);
    for number in 1..VERSIONS {
        for _ in 0..STEPS_PER_VERSION {
            stream.fill(&mut x, &mut labels);
            trainer.step(MatRef::new(&x, BATCH, FEATURES)?, &labels)?;
        }
        let predictor = Predictor::new(trainer.network())?;
        current.store(Version { number, predictor }.into());
        // Traffic for this version to show how good it is.
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Answers until `done`; returns right answers and answers by version.
fn serve(
    seed: u64,
    current: &ArcSwap<Version>,
    done: &AtomicBool,
) -> tilewise::Result<[(usize, usize); VERSIONS]> {
    let (mut stream, mut x, mut labels) = (Stream::new(seed), [0.0; BATCH * FEATURES], [0; BATCH]);
    let (mut logits, mut tally) = ([0.0; BATCH * CLASSES], [(0, 0); VERSIONS]);
    // Serves every version, because all have the same layers.
    let mut scratch = current.load().predictor.scratch(BATCH)?;
    while !done.load(Ordering::Relaxed) {
        stream.fill(&mut x, &mut labels);
        let version = current.load();
        let out = MatMut::new(&mut logits, BATCH, CLASSES)?;
        version.predictor.predict_into(MatRef::new(&x, BATCH, FEATURES)?, out, &mut scratch)?;
        let (right, all) = &mut tally[version.number];
        for (row, &label) in logits.chunks(CLASSES).zip(&labels) {
            let mut best = [0];
            top_classes(row, &mut best);
            *right += usize::from(best[0] == label as usize);
            *all += 1;
        }
    }
    Ok(tally)
}

fn main() -> Result<(), Box<dyn Error>> {
    let network = Network::builder(Shape::Features(FEATURES)).linear(64).relu().linear(CLASSES);
    let network = network.build()?;
    let first = Version { number: 0, predictor: Predictor::new(&network)? };
    let (current, done) = (ArcSwap::from_pointee(first), AtomicBool::new(false));

    let tallies = thread::scope(|scope| {
        let (current, done) = (&current, &done);
        let readers: Vec<_> = (0..READERS)
            .map(|reader| scope.spawn(move || serve(100 + reader as u64, current, done)))
            .collect();
        thread::sleep(Duration::from_millis(100));
        let trained = train(network, current);
        done.store(true, Ordering::Relaxed);
        let join = |reader: thread::ScopedJoinHandle<'_, _>| reader.join().expect("no panic");
        let tallies: tilewise::Result<Vec<_>> = readers.into_iter().map(join).collect();
        trained.and(tallies)
    })?;

    let mut accuracies = Vec::new();
    for version in 0..VERSIONS {
        let (right, all) = tallies
            .iter()
            .map(|tally| tally[version])
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if all == 0 {
            return Err(format!("version {version} answered nothing").into());
        }
        let accuracy = right as f64 / all as f64;
        println!("version {version}: {all} answers, accuracy {accuracy:.3}");
        accuracies.push(accuracy);
    }
    let (first, last) = (accuracies[0], accuracies[VERSIONS - 1]);
    if last < first + 0.3 {
        return Err(format!("accuracy went from {first:.3} to {last:.3}, expected 0.3 more").into());
    }
    Ok(())
}
