//! From stored bytes to batches: the order of an epoch, images as rows of numbers, and their
//! part of a training step, which packs them where they are used.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tilewise::{
    data::{EpochOrder, Normalization, gather, gather_labels, synthetic},
    gemm::GatheredRows,
    matrix::Matrix,
    nn::{MlpConfig, mlp},
    train::{Trainer, TrainerConfig},
};

const BATCH: usize = 512;

fn pipeline(criterion: &mut Criterion) {
    let images = synthetic(20 * BATCH, 1).expect("images");
    let features = images.features();
    let normalization = Normalization::new(vec![1.0 / 255.0; 3], vec![-0.47; 3]).expect("a map");
    let mut order = EpochOrder::new(0..images.len(), 1).expect("some images");
    order.shuffle(1);

    let mut group = criterion.benchmark_group("data_pipeline/epoch");
    group.throughput(Throughput::Elements(images.len() as u64));
    let mut epoch = 0;
    let mut shuffled = order.clone();
    group.bench_function("shuffle", |bencher| {
        bencher.iter(|| {
            epoch += 1;
            shuffled.shuffle(epoch);
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("data_pipeline/batch");
    group.throughput(Throughput::Elements(BATCH as u64));
    let indices = &order.indices()[..BATCH];
    let mut labels = vec![0; BATCH];
    group.bench_function("labels", |bencher| {
        bencher.iter(|| gather_labels(&images, indices, &mut labels).expect("indices in the set"));
    });
    let map = normalization.per_feature(features / 3);
    let mut rows = Matrix::<f32>::zeros(BATCH, features).expect("a small matrix");
    group.bench_function("rows of numbers", |bencher| {
        bencher.iter(|| gather(&images, indices, &map, &mut rows.view_mut()).expect("they fit"));
    });

    let network = mlp::<f32>(&MlpConfig::default()).expect("the two-layer network");
    let trainer = Trainer::new(network, TrainerConfig::default());
    let mut trainer = trainer.expect("sensible settings");
    group.bench_function("step from rows of numbers", |bencher| {
        bencher.iter(|| trainer.step(rows.view(), &labels).expect("a batch that fits"));
    });
    group.bench_function("step from bytes", |bencher| {
        bencher.iter(|| {
            let x = GatheredRows::new(images.pixels(), indices, &map.scale, &map.shift);
            trainer.step(x.expect("indices in the set"), &labels).expect("a batch that fits")
        });
    });
}

criterion_group! { name = benches; config = support::criterion(); targets = pipeline }
criterion_main!(benches);
