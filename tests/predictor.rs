//! Predictors give the bits of the network that they were made from, however a batch is cut and
//! divided, from numbers and from bytes, and refuse what does not fit.

use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Context, Element, Error, Precision,
    data::Normalization,
    gemm::{GatheredRows, Gemm, Operand},
    infer::{Predictor, ScratchPool},
    matrix::{MatMut, MatRef},
    nn::{Init, MlpConfig, Mode, Network, Passes, Plan, Shape, mlp},
    simd::InstructionSet,
    threads::Threads,
};

const FEATURES: usize = 147; // 3 channels of 7 x 7
const CLASSES: usize = 11;

fn net<T: Element>(hidden: &[usize]) -> Network<T> {
    let config = MlpConfig::default()
        .with_input(FEATURES)
        .with_hidden(hidden.to_vec())
        .with_classes(CLASSES)
        .with_init(Init::He)
        .with_dropout(0.5);
    with_biases(mlp(&config).unwrap())
}

/// A network that begins with a residual block, so that images of bytes become a matrix first, with
/// values that are read twice.
fn residual<T: Element>() -> Network<T> {
    let builder = Network::builder(Shape::Features(FEATURES)).seed(2);
    let builder = builder.residual(|block| block.linear(33).relu().linear(FEATURES)).relu();
    with_biases(builder.scale(0.5).linear(CLASSES).build().unwrap())
}

/// The same network with biases that are not zero.
fn with_biases<T: Element>(mut network: Network<T>) -> Network<T> {
    for number in 0..network.parameters().layout().tensors().len() {
        if network.parameters().layout().tensors()[number].name().ends_with("bias") {
            let bias = network.parameters_mut().tensor_mut(number);
            for (index, value) in bias.iter_mut().enumerate() {
                *value = T::from_f64(0.01 * index as f64 - 0.1);
            }
        }
    }
    network
}

fn random<T: Element>(len: usize, seed: u64) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| T::from_f64(rng.random_range(-1.0..1.0))).collect()
}

fn normalization() -> Normalization {
    Normalization::new(vec![1.0 / 255.0, 0.01, 0.003], vec![-0.47, -0.5, 0.25]).unwrap()
}

/// The logits of rows, each alone, by the network itself, which packs no weights before.
fn expected<'a, T: Element>(
    network: &Network<T>,
    context: Context<T>,
    rows: impl IntoIterator<Item: Into<Operand<'a, T>>>,
) -> Vec<T> {
    let mut plan = Plan::new(network, 1, Passes::Gradient, context).unwrap();
    let mut logits = Vec::new();
    for row in rows {
        plan.forward(network, row, Mode::Evaluation).unwrap();
        logits.extend(plan.logits(1).unwrap().row(0).unwrap());
    }
    logits
}

/// Numbers, one example after another, as matrices of one row.
fn single_rows<T: Element>(x: &[T]) -> impl Iterator<Item = MatRef<'_, T>> {
    x.chunks(FEATURES).map(|row| MatRef::new(row, 1, FEATURES).unwrap())
}

fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|value| value.to_f64().to_bits()).collect()
}

fn check_bits<T: Element>(precision: Precision) {
    const ROWS: usize = 45;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    for net in [net::<T>(&[]), net(&[64]), net(&[200, 33]), residual()] {
        for set in InstructionSet::available() {
            let context = Context::of(Gemm::with_instruction_set(set).unwrap()).unwrap();
            let context = context.with_precision(precision).unwrap();
            let predictor = Predictor::with_context(&net, context)
                .unwrap()
                .with_normalization(&normalization())
                .unwrap();
            let x = random::<T>(ROWS * FEATURES, 3);
            let wanted = bits(&expected(&net, context, single_rows(&x)));
            let mut rng = ChaCha8Rng::seed_from_u64(4);
            let images: Vec<u8> = (0..ROWS * FEATURES).map(|_| rng.random()).collect();
            let map = normalization().per_feature::<T>(FEATURES / 3);
            let indices: Vec<u32> = (0..ROWS as u32).collect();
            let single = indices
                .chunks(1)
                .map(|index| GatheredRows::new(&images, index, &map.scale, &map.shift).unwrap());
            let wanted_of_images = bits(&expected(&net, context, single));
            pool.install(|| {
                for threads in [Threads::Caller, Threads::Pool, Threads::Count(2)] {
                    for (rows, capacity) in [(ROWS, 64), (ROWS, 8), (ROWS, 1), (3, 64), (1, 1)] {
                        let case =
                            format!("{net:?} {precision} {set} {threads:?} {rows} by {capacity}");
                        let mut scratch = predictor.scratch_on(threads, capacity).unwrap();
                        let mut out = vec![T::from_f64(f64::NAN); rows * CLASSES];
                        let view = MatRef::new(&x[..rows * FEATURES], rows, FEATURES).unwrap();
                        let to = MatMut::new(&mut out, rows, CLASSES).unwrap();
                        predictor.predict_into(view, to, &mut scratch).unwrap();
                        assert_eq!(bits(&out), wanted[..rows * CLASSES], "{case}");

                        out.fill(T::from_f64(f64::NAN));
                        let to = MatMut::new(&mut out, rows, CLASSES).unwrap();
                        let bytes = &images[..rows * FEATURES];
                        predictor.predict_into(bytes, to, &mut scratch).unwrap();
                        assert_eq!(bits(&out), wanted_of_images[..rows * CLASSES], "{case}");
                    }
                }
            });
        }
    }
}

#[test]
fn single_precision_has_the_bits_of_the_network() {
    check_bits::<f32>(Precision::F32);
}

#[test]
fn bf16_has_the_bits_of_the_network() {
    check_bits::<f32>(Precision::Bf16);
}

#[test]
fn weights_in_bf16_take_half_the_memory() {
    let builder = Network::<f32>::builder(Shape::Features(3072)).linear(512).relu().linear(100);
    let network = builder.relu().linear(10).build().unwrap();
    for set in InstructionSet::available() {
        let context = Context::of(Gemm::with_instruction_set(set).unwrap()).unwrap();
        let whole = Predictor::with_context(&network, context).unwrap();
        let rounded = context.with_precision(Precision::Bf16).unwrap();
        let rounded = Predictor::with_context(&network, rounded).unwrap();
        assert_eq!(2 * rounded.bytes(), whole.bytes(), "{set}");
        let precisions = (rounded.precision(), whole.precision());
        assert_eq!(precisions, (Precision::Bf16, Precision::F32));
    }
}

#[test]
fn a_scratch_of_another_precision_is_refused() {
    let net = net::<f32>(&[8]);
    let context = Context::new().unwrap();
    let whole = Predictor::with_context(&net, context).unwrap();
    let rounded = context.with_precision(Precision::Bf16).unwrap();
    let rounded = Predictor::with_context(&net, rounded).unwrap();
    let x = random::<f32>(FEATURES, 3);
    let mut out = [7.0; CLASSES];
    for (predictor, other) in [(&whole, &rounded), (&rounded, &whole)] {
        let x = MatRef::new(&x, 1, FEATURES).unwrap();
        let to = MatMut::new(&mut out, 1, CLASSES).unwrap();
        let error = predictor.predict_into(x, to, &mut other.scratch(1).unwrap()).unwrap_err();
        let [expected, found] = [predictor, other].map(|p| format!("in {}", p.precision()));
        let error = error.to_string();
        assert!(error.contains(&expected) && error.contains(&found), "{error}");
    }
    assert_eq!(out, [7.0; CLASSES]);
}

#[cfg(feature = "model-files")]
#[test]
fn a_file_brings_the_precision_and_weights_in_bf16_lose_no_bits_in_it() {
    use tilewise::io::model::{ModelInfo, save, save_in};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let net = net::<f32>(&[64, 33]);
    let x = random::<f32>(FEATURES, 8);
    let context = Context::new().unwrap();
    let bf16 = context.with_precision(Precision::Bf16).unwrap();
    let [wanted, wanted_of_f32] =
        [bf16, context].map(|context| bits(&expected(&net, context, single_rows(&x))));
    assert_ne!(wanted, wanted_of_f32);
    let logits = |predictor: &Predictor<f32>| {
        let mut out = [0.0; CLASSES];
        let to = MatMut::new(&mut out, 1, CLASSES).unwrap();
        let mut scratch = predictor.scratch(1).unwrap();
        let x = MatRef::new(&x, 1, FEATURES).unwrap();
        predictor.predict_into(x, to, &mut scratch).unwrap();
        bits(&out)
    };
    let trained = ModelInfo::default().with_precision(Some(Precision::Bf16));
    let unknown = ModelInfo::default();
    save_in(&path, &net, &unknown, Precision::Bf16).unwrap();
    let (predictor, info) = Predictor::<f32>::load_with_info(&path).unwrap();
    assert_eq!((predictor.precision(), info.precision), (Precision::Bf16, None));
    assert_eq!(logits(&predictor), wanted);

    for weights in [Precision::F32, Precision::Bf16] {
        save_in(&path, &net, &trained, weights).unwrap();
        let (predictor, info) = Predictor::<f32>::load_with_info(&path).unwrap();
        assert_eq!((predictor.precision(), &info), (Precision::Bf16, &trained));
        assert_eq!(logits(&predictor), wanted, "{weights}");
        // Parameters in f64 know no bf16.
        assert_eq!(Predictor::<f64>::load(&path).unwrap().precision(), Precision::F64);
    }
    save(&path, &net, &trained).unwrap();
    let (predictor, info) = Predictor::load_with_context(&path, context).unwrap();
    assert_eq!((predictor.precision(), info), (Precision::F32, trained));
    assert_eq!(logits(&predictor), wanted_of_f32);
}

#[test]
fn double_precision_has_the_bits_of_the_network() {
    check_bits::<f64>(Precision::F64);
}

#[test]
fn rows_of_any_strides_are_taken() {
    let net = net::<f32>(&[20]);
    let predictor = Predictor::new(&net).unwrap();
    let mut scratch = predictor.scratch(4).unwrap();
    let x = random::<f32>(5 * FEATURES, 5);
    let wanted = expected(&net, Context::new().unwrap(), single_rows(&x));
    // The same rows from the last to the first, and column by column.
    let backwards = (-(FEATURES as isize), 1);
    let backwards = MatRef::strided(&x, 4 * FEATURES, (5, FEATURES), backwards).unwrap();
    let mut columns = vec![0.0; x.len()];
    for (index, &value) in x.iter().enumerate() {
        columns[index % FEATURES * 5 + index / FEATURES] = value;
    }
    let columns = MatRef::new(&columns, FEATURES, 5).unwrap().t();
    // Logits with room between the rows, which stays as it is.
    let mut out = vec![7.0f32; 5 * (CLASSES + 2)];
    for (view, backwards) in [(backwards, true), (columns, false)] {
        let strides = (CLASSES as isize + 2, 1);
        let to = MatMut::strided(&mut out, 0, (5, CLASSES), strides).unwrap();
        predictor.predict_into(view, to, &mut scratch).unwrap();
        for (i, row) in out.chunks(CLASSES + 2).enumerate() {
            let i = if backwards { 4 - i } else { i };
            assert_eq!(row[..CLASSES], wanted[i * CLASSES..][..CLASSES]);
            assert_eq!(row[CLASSES..], [7.0, 7.0]);
        }
    }
}

#[test]
fn eight_threads_share_a_predictor_with_scratches_of_their_own_and_five_for_all() {
    let net = net::<f32>(&[64, 32]);
    let predictor = Predictor::new(&net).unwrap();
    let pool = ScratchPool::new(&predictor.scratch(4).unwrap(), 5).unwrap();
    assert_eq!(pool.count(), 5);
    let x = random::<f32>(32 * FEATURES, 6);
    let wanted = bits(&expected(&net, Context::new().unwrap(), single_rows(&x)));
    let (served, turned_away) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (predictor, pool, x, wanted) = (&predictor, &pool, &x, &wanted);
            let (served, turned_away) = (&served, &turned_away);
            scope.spawn(move || {
                let mut own = predictor.scratch(3).unwrap();
                for round in 0..400 {
                    let (first, rows) = ((thread * 7 + round) % 24, 1 + round % 8);
                    let view = &x[first * FEATURES..(first + rows) * FEATURES];
                    let view = MatRef::new(view, rows, FEATURES).unwrap();
                    let mut out = vec![0.0; rows * CLASSES];
                    let wanted = &wanted[first * CLASSES..(first + rows) * CLASSES];
                    let to = MatMut::new(&mut out, rows, CLASSES).unwrap();
                    predictor.predict_into(view, to, &mut own).unwrap();
                    assert_eq!(bits(&out), wanted);
                    out.fill(f32::NAN);
                    let to = MatMut::new(&mut out, rows, CLASSES).unwrap();
                    let Some(mut scratch) = pool.take() else {
                        turned_away.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                        continue;
                    };
                    predictor.predict_into(view, to, &mut scratch).unwrap();
                    drop(scratch);
                    assert_eq!(bits(&out), wanted);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(served.into_inner() + turned_away.into_inner(), 8 * 400);
}

#[test]
fn a_pool_gives_each_scratch_once_and_takes_it_back() {
    let predictor = Predictor::new(&net::<f32>(&[8])).unwrap();
    for count in [1, 2, 63, 64, 65, 130] {
        let pool = ScratchPool::new(&predictor.scratch(1).unwrap(), count).unwrap();
        for _ in 0..2 {
            let mut taken: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
            assert_eq!(taken.len(), count);
            taken.truncate(count / 2);
            let again: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
            assert_eq!(again.len(), count - count / 2);
        }
    }
    // A panic while a scratch is taken gives it back.
    let pool = ScratchPool::new(&predictor.scratch(1).unwrap(), 1).unwrap();
    let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _scratch = pool.take().unwrap();
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(held.is_err() && pool.take().is_some());
    assert!(ScratchPool::new(&predictor.scratch(1).unwrap(), 0).is_err());
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_the_logits_alone() {
    let predictor = Predictor::new(&net::<f32>(&[8])).unwrap();
    let mut scratch = predictor.scratch(2).unwrap();
    let other = Predictor::new(&net::<f32>(&[9])).unwrap();
    let mut others = other.scratch(2).unwrap();
    let x = vec![0.5f32; 3 * FEATURES];
    let rows = MatRef::new(&x, 3, FEATURES).unwrap();
    let mut out = vec![7.0f32; 3 * CLASSES];

    let narrow = rows.part(0..3, 0..FEATURES - 1).unwrap();
    let to = MatMut::new(&mut out, 3, CLASSES).unwrap();
    let error = predictor.predict_into(narrow, to, &mut scratch).unwrap_err();
    assert!(error.to_string().contains("146") && error.to_string().contains("147"), "{error}");

    let to = MatMut::new(&mut out, 3, CLASSES).unwrap().part(0..2, 0..CLASSES).unwrap();
    let error = predictor.predict_into(rows, to, &mut scratch).unwrap_err();
    assert!(matches!(error, Error::Shape { expected: (3, 11), found: (2, 11), .. }), "{error}");

    let to = MatMut::new(&mut out, CLASSES, 3).unwrap().t();
    let error = predictor.predict_into(rows, to, &mut scratch).unwrap_err();
    assert!(error.to_string().contains("contiguous columns"), "{error}");

    let to = MatMut::new(&mut out, 3, CLASSES).unwrap();
    let error = predictor.predict_into(rows, to, &mut others).unwrap_err();
    assert!(error.to_string().contains("linear(in_features = 147, out_features = 9)"), "{error}");

    let bytes = vec![0u8; 3 * FEATURES];
    let to = MatMut::new(&mut out, 3, CLASSES).unwrap();
    let error = predictor.predict_into(&bytes[..], to, &mut scratch).unwrap_err();
    assert!(error.to_string().contains("normalization"), "{error}");

    let predictor = predictor.with_normalization(&normalization()).unwrap();
    let to = MatMut::new(&mut out, 3, CLASSES).unwrap();
    let error = predictor.predict_into(&bytes[1..], to, &mut scratch).unwrap_err();
    assert!(matches!(error, Error::Length { expected: 294, found: 440, .. }), "{error}");
    assert!(out.iter().all(|&value| value == 7.0));

    // No rows are no error.
    let to = MatMut::new(&mut [], 0, CLASSES).unwrap();
    predictor.predict_into(&bytes[..0], to, &mut scratch).unwrap();
}

#[test]
fn settings_without_sense_are_refused() {
    let new = || Predictor::new(&net::<f32>(&[8])).unwrap();
    let predictor = new();
    assert!(predictor.scratch(0).is_err());
    assert!(matches!(predictor.scratch(usize::MAX / 8), Err(Error::SizeOverflow { .. })));
    let two = Normalization::new(vec![1.0; 2], vec![0.0; 2]).unwrap();
    assert!(matches!(
        new().with_normalization(&two),
        Err(Error::Length { expected: 146, found: 147, .. })
    ));
    let huge = Normalization::new(vec![1e300; 3], vec![0.0; 3]).unwrap();
    assert!(new().with_normalization(&huge).is_err());
    assert!(predictor.with_byte_map(vec![1.0; FEATURES], vec![0.0; 3]).is_err());

    for poison in [f32::NAN, f32::INFINITY] {
        let mut net = net::<f32>(&[8]);
        net.parameters_mut().get_mut("3.bias").unwrap()[3] = poison;
        let error = Predictor::new(&net).unwrap_err().to_string();
        assert!(error.contains("at 3 of 3.bias"), "{error}");
        let mut net = net.try_clone().unwrap();
        net.parameters_mut().get_mut("0.weight").unwrap()[2] = poison;
        let error = Predictor::new(&net).unwrap_err().to_string();
        assert!(error.contains("at 2 of 0.weight"), "{error}");
    }
}

#[cfg(feature = "model-files")]
#[test]
fn files_bring_network_and_normalization() {
    use tilewise::io::model::{ModelInfo, save};

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let net = net::<f32>(&[8]);
    save(&path, &net, &ModelInfo::default()).unwrap();
    let (predictor, info) = Predictor::<f32>::load_with_info(&path).unwrap();
    assert!(!predictor.takes_images() && info == ModelInfo::default());
    assert_eq!((predictor.in_features(), predictor.classes()), (FEATURES, CLASSES));
    let shapes = (Shape::Features(FEATURES), Shape::Features(CLASSES));
    assert_eq!((predictor.input_shape(), predictor.output_shape()), shapes);

    let normalization = Some(normalization());
    save(&path, &net, &ModelInfo::default().with_normalization(normalization)).unwrap();
    let predictor = Predictor::<f32>::load(&path).unwrap();
    let image = [9u8; FEATURES];
    let mut out = [0.0; CLASSES];
    let to = MatMut::new(&mut out, 1, CLASSES).unwrap();
    predictor.predict_into(&image[..], to, &mut predictor.scratch(1).unwrap()).unwrap();
    let map = self::normalization().per_feature::<f32>(FEATURES / 3);
    let x = GatheredRows::new(&image, &[0], &map.scale, &map.shift).unwrap();
    assert_eq!(bits(&out), bits(&expected(&net, Context::new().unwrap(), [x])));

    // A normalization that does not fit the network is the file's fault.
    let normalization = Some(Normalization::new(vec![1.0; 2], vec![0.0; 2]).unwrap());
    save(&path, &net, &ModelInfo::default().with_normalization(normalization)).unwrap();
    let error = Predictor::<f32>::load(&path).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    assert!(Predictor::<f32>::load(&dir.path().join("none")).is_err());
}
