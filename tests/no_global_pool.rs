//! The library starts no threads: not where nothing is said about them, and not where several are
//! asked for outside of a rayon pool, which is an error. A process of its own, because rayon's
//! global pool can be started once.

use tilewise::{
    Error, Result,
    data::{Augmentation, ImageSet, Normalization, NormalizeMode, Split, synthetic},
    gemm::{Backend, Epilogue, Gemm, dgemm, gemm, sgemm},
    matrix::{MatMut, MatRef, Matrix},
    nn::{
        Dropout, DropoutPosition, FullyConnectedNet, Init, Linear, LinearGradient, LinearRelu,
        Mode, NetConfig, Predictor, Relu, gradcheck,
    },
    threads::Threads,
    train::{
        Evaluator, Optimizer, OptimizerState, Solver, SolverConfig, Trainer, TrainerConfig,
        TrainingData, evaluate, optim::ParameterKind,
    },
};

/// Batches so large that several tasks would share every pass.
const BATCH: usize = 256;
const SEVERAL: [Threads; 3] = [Threads::Pool, Threads::Count(2), Threads::Count(9)];

fn net<T: tilewise::Element>() -> FullyConnectedNet<T> {
    let config = NetConfig {
        hidden: vec![200],
        init: Init::He,
        l2: 1e-4,
        dropout: 0.1,
        ..NetConfig::default()
    };
    FullyConnectedNet::new(&config).unwrap()
}

fn data(images: &ImageSet) -> TrainingData<'_> {
    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train.clone()).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    TrainingData { images, split, normalization }
}

fn solver_config(threads: Threads) -> SolverConfig {
    SolverConfig {
        epochs: 1,
        batch_size: BATCH,
        optimizer: Optimizer::adam(),
        augmentation: Augmentation { flip: true, shift: 2, cutout: 4, ..Augmentation::default() },
        clip_norm: Some(1.0),
        ema_decay: Some(0.9),
        threads,
        ..SolverConfig::default()
    }
}

#[track_caller]
fn refused<R>(threads: Threads, result: Result<R>) {
    let error = result.map(|_| ()).expect_err("several tasks outside of a pool");
    assert!(matches!(error, Error::Setting { name: "threads", .. }), "{threads:?}: {error}");
    assert!(error.to_string().contains("pool.install(|| ...)"), "{threads:?}: {error}");
}

/// Everything with its default threads.
fn defaults(images: &ImageSet, x: &Matrix<f32>, labels: &[u8]) {
    assert_eq!(TrainerConfig::default().threads, Threads::Caller);
    assert_eq!(SolverConfig::default().threads, Threads::Caller);
    assert_eq!(Threads::default(), Threads::Caller);
    let mut solver = Solver::new(net::<f32>(), data(images), solver_config(Threads::default()));
    solver.as_mut().unwrap().train().unwrap();
    let normalization = data(images).normalization;
    evaluate(&net::<f32>(), Gemm::new().unwrap(), images, &normalization, BATCH).unwrap();

    for optimizer in Optimizer::NAMES.map(|name| name.parse().unwrap()) {
        for store_gradients in [false, true] {
            let config =
                TrainerConfig { batch_size: BATCH, store_gradients, ..TrainerConfig::default() };
            let mut trainer = Trainer::new(net(), optimizer, config).unwrap();
            trainer.step(x.view(), labels).unwrap();
        }
    }
    let mut workspace = net().workspace(Gemm::new().unwrap(), BATCH).unwrap();
    let mode = Mode::Training { step: 1 };
    net().loss_and_gradient(x.view(), &mut workspace, labels, mode).unwrap();
    let predictor = Predictor::new(&net::<f32>()).unwrap();
    let mut logits = vec![0.0; BATCH * 10];
    let out = MatMut::new(&mut logits, BATCH, 10).unwrap();
    predictor.predict_into(x.view(), out, &mut predictor.scratch(BATCH).unwrap()).unwrap();
    let tiny = NetConfig { input: 3, hidden: vec![2], classes: 2, ..NetConfig::default() };
    let tiny = FullyConnectedNet::<f64>::new(&tiny).unwrap();
    let ones = Matrix::from_fn(2, 3, |_, _| 1.0).unwrap();
    gradcheck::check_net(&tiny, ones.view(), &[0, 1], Mode::Evaluation, 1e-6).unwrap();

    let side = 300;
    let (a, mut c) = (vec![1.0f32; side * side], vec![0.0f32; side * side]);
    let view = MatRef::new(&a, side, side).unwrap();
    gemm(1.0, view, view, 0.0, MatMut::new(&mut c, side, side).unwrap()).unwrap();
    let (s, single) = (side as isize, a.as_ptr());
    let (d, mut e) = (vec![1.0f64; side * side], vec![0.0f64; side * side]);
    let double = d.as_ptr();
    // SAFETY: all operands are dense squares of that side, and C is apart from A and B.
    unsafe {
        let c = c.as_mut_ptr();
        sgemm(side, side, side, 1.0, single, s, 1, single, s, 1, 0.0, c, s, 1);
        let e = e.as_mut_ptr();
        dgemm(side, side, side, 1.0, double, s, 1, double, s, 1, 0.0, e, s, 1);
    }
    assert_eq!((c[0], e[0]), (side as f32, side as f64));
}

/// What is made for several tasks is refused, and so is a single product or layer, however small.
fn several(images: &ImageSet, threads: Threads) {
    refused(threads, Solver::new(net::<f32>(), data(images), solver_config(threads)));
    let config = TrainerConfig { threads, ..TrainerConfig::default() };
    refused(threads, Trainer::new(net::<f32>(), Optimizer::sgd(), config));
    let gemm = Gemm::<f32>::new().unwrap().threads(threads);
    refused(threads, net().workspace(gemm, 4));
    refused(threads, net().workspace_bytes(&gemm, 4));
    let normalization = data(images).normalization;
    refused(threads, Evaluator::new(&net(), gemm, images, &normalization, 4));
    refused(threads, evaluate(&net(), gemm, images, &normalization, 4));
    refused(threads, Predictor::new(&net::<f32>()).unwrap().scratch_on(threads, 4));
    refused(threads, Predictor::with_gemm(&net(), gemm).unwrap().scratch(4));
    refused(threads, gemm.scratch_len(2, 2, 2));
    refused(threads, gemm.scratch(2, 2, 2));

    let ones = Matrix::from_fn(2, 2, |_, _| 1.0f32).unwrap();
    let mut scratch = vec![0.0; 10_000];
    let mut out = Matrix::from_fn(2, 2, |_, _| 5.0f32).unwrap();
    for &backend in Backend::ALL {
        let gemm = gemm.with_backend(backend);
        let (a, c, epilogue) = (ones.view(), out.view_mut(), Epilogue::default());
        refused(threads, gemm.run(1.0, a, a, c, epilogue, &mut scratch));
    }
    let mut linear = LinearRelu(Linear::<f32>::zeros(2, 2).unwrap());
    refused(threads, linear.0.scratch_len(&gemm, 2));
    refused(threads, linear.0.forward(&gemm, ones.view(), out.view_mut(), &mut scratch));
    refused(threads, linear.forward(&gemm, ones.view(), out.view_mut(), &mut scratch));
    let (mut weight, mut bias) = (Matrix::zeros(2, 2).unwrap(), [7.0; 2]);
    let x = ones.view();
    let gradient = LinearGradient { weight: weight.view_mut(), bias: &mut bias };
    refused(threads, linear.0.backward(&gemm, x, x, gradient, None, &mut scratch));
    let d_out = out.view_mut();
    let zeros = Matrix::zeros(2, 2).unwrap();
    let operands = (x, zeros.view());
    let gradient = LinearGradient { weight: weight.view_mut(), bias: &mut bias };
    refused(threads, linear.backward(&gemm, operands, d_out, gradient, None, &mut scratch));
    assert_eq!(bias, [7.0; 2]);
    refused(threads, Relu.forward(&gemm, zeros.view(), out.view_mut()));
    refused(threads, Relu.backward(&gemm, zeros.view(), out.view_mut()));
    let position = DropoutPosition { step: 1, layer: 0 };
    let dropout = Dropout::new(0.5, 1).unwrap();
    refused(threads, dropout.forward(&gemm, position, out.view_mut()));
    let mut state = OptimizerState::<f32>::new(&Optimizer::adam(), &[2]).unwrap();
    state.begin_step();
    let bias = linear.0.bias_mut();
    refused(threads, state.update(&gemm, 0, bias, &[1.0; 2], 0.1, ParameterKind::Biases));
    assert_eq!(linear.0.bias(), [0.0; 2]);
    let untouched = (0..4).all(|i| out.view().get(i / 2, i % 2) == 5.0);
    assert!(untouched, "{threads:?}: an output was written");
}

/// What was planned inside of a pool is refused outside of one, and nothing changes.
fn planned_inside(images: &ImageSet, x: &Matrix<f32>, labels: &[u8]) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for threads in SEVERAL {
        let plan = || Solver::new(net::<f32>(), data(images), solver_config(threads));
        let mut solver = pool.install(plan).unwrap();
        refused(threads, solver.train());
        assert_eq!((solver.iteration(), solver.history().loss_history.len()), (0, 0));
        let losses = pool.install(|| solver.train().map(|()| solver.history().clone()));
        assert!(!losses.unwrap().loss_history.is_empty());

        let parameters = |trainer: &Trainer<f32>| trainer.net().layers()[0].bias().to_vec();
        for (store_gradients, optimizer) in [(false, Optimizer::sgd()), (true, Optimizer::adam())] {
            let config = TrainerConfig {
                batch_size: BATCH,
                store_gradients,
                threads,
                ..TrainerConfig::default()
            };
            let plan = || Trainer::new(net::<f32>(), optimizer, config);
            let mut trainer = pool.install(plan).unwrap();
            let before = parameters(&trainer);
            refused(threads, trainer.step(x.view(), labels));
            refused(threads, trainer.accumulate(x.view(), labels, BATCH));
            refused(threads, trainer.apply());
            assert!(parameters(&trainer) == before && trainer.steps() == 0, "{threads:?}");
            if store_gradients {
                pool.install(|| trainer.accumulate(x.view(), labels, BATCH)).unwrap();
                refused(threads, trainer.apply());
                let steps = (trainer.steps(), trainer.optimizer().steps());
                assert!(parameters(&trainer) == before && steps == (0, 0), "{threads:?}");
                pool.install(|| trainer.apply()).unwrap();
            }
            pool.install(|| trainer.step(x.view(), labels)).unwrap();
        }

        let gemm = Gemm::<f32>::new().unwrap().threads(threads);
        let mut workspace = pool.install(|| net().workspace(gemm, BATCH)).unwrap();
        refused(threads, net().forward(x.view(), &mut workspace, Mode::Evaluation));
        let forward = || net().forward(x.view(), &mut workspace, Mode::Evaluation);
        pool.install(forward).unwrap();
        refused(threads, net().loss(&mut workspace, labels));
        refused(threads, net().row_losses(&mut workspace, labels));
        let mode = Mode::Evaluation;
        refused(threads, net().loss_and_gradient(x.view(), &mut workspace, labels, mode));

        let predictor = Predictor::new(&net::<f32>()).unwrap();
        let mut scratch = pool.install(|| predictor.scratch_on(threads, 4)).unwrap();
        let mut logits = [5.0; 10];
        let (row, out) = (x.view().part(0..1, 0..3072).unwrap(), MatMut::new(&mut logits, 1, 10));
        refused(threads, predictor.predict_into(row, out.unwrap(), &mut scratch));
        assert_eq!(logits, [5.0; 10]);
        let out = MatMut::new(&mut logits, 1, 10).unwrap();
        pool.install(|| predictor.predict_into(row, out, &mut scratch)).unwrap();

        let TrainingData { normalization, .. } = data(images);
        let evaluator = || Evaluator::new(&net(), gemm, images, &normalization, BATCH);
        let mut evaluator = pool.install(evaluator).unwrap();
        refused(threads, evaluator.run(&net(), &[0, 1]).cloned());
        pool.install(|| evaluator.run(&net(), &[0, 1]).cloned()).unwrap();
    }
}

#[test]
fn no_path_starts_the_global_pool() {
    let images = synthetic(400, 1).unwrap();
    let x = Matrix::from_fn(BATCH, 3072, |i, j| ((i * 7 + j) % 11) as f32 / 11.0 - 0.5).unwrap();
    let labels: Vec<u8> = (0..BATCH).map(|i| (i % 10) as u8).collect();
    defaults(&images, &x, &labels);
    SEVERAL.into_iter().for_each(|threads| several(&images, threads));
    planned_inside(&images, &x, &labels);
    let global = rayon::ThreadPoolBuilder::new().num_threads(3).build_global();
    global.expect("nobody has started the global pool");
    // It is there now, and still no pool of a caller outside of it.
    refused(Threads::Pool, Threads::Pool.tasks());
}
