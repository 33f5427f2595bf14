//! The library starts no threads: not where nothing is said about them, and not where several are
//! asked for outside of a rayon pool, which is an error. A process of its own, because rayon's
//! global pool can be started once.

use tilewise::{
    Context, Element, Error, Result,
    data::{Augmentation, ImageSet, Normalization, NormalizeMode, Split, synthetic},
    gemm::{Backend, Epilogue, Gemm, dgemm, gemm, sgemm},
    infer::Predictor,
    matrix::{MatMut, MatRef, Matrix},
    nn::{
        Backward, CrossEntropy, Forward, Init, L2, Layer, LayerMemory, MlpConfig, Mode, Network,
        Passes, Plan, RandomPlace, Shape, gradcheck,
        layers::{Dropout, Flatten, Linear, Relu, Scale},
        mlp,
    },
    threads::Threads,
    train::{
        Evaluator, Optimizer, OptimizerState, Solver, SolverConfig, Trainer, TrainerConfig,
        TrainingData, evaluate, optim::StepSettings,
    },
};

/// Batches so large that several tasks would share every pass.
const BATCH: usize = 256;
const SEVERAL: [Threads; 3] = [Threads::Pool, Threads::Count(2), Threads::Count(9)];

fn net<T: Element>() -> Network<T> {
    let config = MlpConfig::default().with_hidden(vec![200]).with_init(Init::He).with_dropout(0.1);
    mlp(&config).unwrap()
}

fn data(images: &ImageSet) -> TrainingData<'_> {
    let split = Split::new(images.len(), None, None).unwrap();
    let statistics = images.channel_statistics(split.train.clone()).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    TrainingData { images, split, normalization }
}

fn trainer_config(threads: Threads) -> TrainerConfig {
    TrainerConfig::default().with_batch_size(BATCH).with_l2(1e-4).with_threads(threads)
}

fn solver_config(threads: Threads) -> SolverConfig {
    let trainer = trainer_config(threads).with_optimizer(Optimizer::adam());
    let trainer = trainer.with_clip_norm(Some(1.0)).with_ema_decay(Some(0.9));
    let augmentation = Augmentation::default().with_flip(true).with_shift(2).with_cutout(4);
    SolverConfig::default().with_trainer(trainer).with_epochs(1).with_augmentation(augmentation)
}

#[track_caller]
fn refused<R>(threads: Threads, result: Result<R>) {
    let error = result.map(|_| ()).expect_err("several tasks outside of a pool");
    assert!(matches!(error, Error::OutsidePool { .. }), "{threads:?}: {error}");
    assert!(error.to_string().contains("pool.install(|| ...)"), "{threads:?}: {error}");
}

/// Everything with its default threads.
fn defaults(images: &ImageSet, x: &Matrix<f32>, labels: &[u32]) {
    assert_eq!(TrainerConfig::default().threads, Threads::Caller);
    assert_eq!(SolverConfig::default().trainer.threads, Threads::Caller);
    assert_eq!(Context::<f32>::new().unwrap().threads(), 1);
    assert_eq!(Threads::default(), Threads::Caller);
    let mut solver = Solver::new(net::<f32>(), data(images), solver_config(Threads::default()));
    solver.as_mut().unwrap().train().unwrap();
    let normalization = data(images).normalization;
    evaluate(&net::<f32>(), Context::new().unwrap(), images, &normalization, BATCH).unwrap();

    for optimizer in Optimizer::NAMES.map(|name| name.parse().unwrap()) {
        for store_gradients in [false, true] {
            let config = TrainerConfig::default().with_batch_size(BATCH);
            let config = config.with_optimizer(optimizer).with_store_gradients(store_gradients);
            let mut trainer = Trainer::new(net(), config).unwrap();
            trainer.step(x.view(), labels).unwrap();
        }
    }
    let (mut network, context) = (net(), Context::new().unwrap());
    let mut plan = Plan::new(&network, BATCH, Passes::Gradient, context).unwrap();
    let (criterion, mode) = (CrossEntropy::default(), Mode::Training { step: 1 });
    plan.loss_and_gradient(&mut network, x.view(), labels, criterion, mode).unwrap();
    let predictor = Predictor::new(&net::<f32>()).unwrap();
    let mut logits = vec![0.0; BATCH * 10];
    let out = MatMut::new(&mut logits, BATCH, 10).unwrap();
    predictor.predict_into(x.view(), out, &mut predictor.scratch(BATCH).unwrap()).unwrap();
    let tiny = Network::<f64>::builder(Shape::Features(3)).linear(3).relu();
    let tiny = tiny.residual(|block| block.linear(3)).linear(2).build().unwrap();
    let ones = Matrix::from_fn(2, 3, |_, _| 1.0).unwrap();
    let criterion = (CrossEntropy::default(), L2::default());
    gradcheck::check(&tiny, (ones.view(), &[0, 1]), criterion, mode, 1e-6).unwrap();

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

/// The layer's passes alone over (2, 2) are refused, however small; `out` is untouched.
fn refused_layer(threads: Threads, context: &Context<f32>, layer: impl Layer<f32> + Copy) {
    let network = Network::<f32>::builder(Shape::Features(2)).layer(layer).build().unwrap();
    let ones = Matrix::from_fn(2, 2, |_, _| 1.0f32).unwrap();
    let mut out = Matrix::from_fn(2, 2, |_, _| 5.0f32).unwrap();
    let parameters = network.parameters();
    let count = parameters.layout().tensors().len();
    let mut gradients = parameters.try_clone().unwrap();
    (0..count).for_each(|number| gradients.tensor_mut(number).fill(7.0));
    let memory = layer.memory(&Context::new().unwrap(), Shape::Features(2), 2).unwrap();
    let LayerMemory { saved, scratch } = memory;
    let (mut saved, mut scratch) = (vec![0.0; saved], vec![0u8; scratch + 40_000]);
    let random = RandomPlace { seed: 1, step: Some(1), layer: 0, first_row: 0 };
    let forward = Forward {
        parameters: parameters.slices(0..count),
        buffers: parameters.slices(0..0),
        x: ones.view(),
        out: out.view_mut(),
        saved: &mut saved,
        scratch: &mut scratch,
        random,
    };
    refused(threads, layer.forward(context, forward));
    let backward = Backward {
        parameters: parameters.slices(0..count),
        x: Some(ones.view()),
        out: Some(ones.view()),
        d_out: ones.view(),
        d_x: Some(out.view_mut()),
        gradients: gradients.slices_mut(0..count),
        accumulate: false,
        saved: &mut saved,
        scratch: &mut scratch,
        random,
    };
    refused(threads, layer.backward(context, backward));
    let untouched = (0..4).all(|i| out.view().get(i / 2, i % 2) == 5.0);
    assert!(untouched, "{threads:?}, {layer:?}: an output was written");
    for (tensor, values) in gradients.iter() {
        let untouched = values.iter().all(|&value| value == 7.0);
        assert!(untouched, "{threads:?}: the gradient of {} was written", tensor.name());
    }
}

/// What is made for several tasks is refused, and so is a single product or layer, however small.
fn several(images: &ImageSet, threads: Threads) {
    refused(threads, Solver::new(net::<f32>(), data(images), solver_config(threads)));
    refused(threads, Trainer::new(net::<f32>(), trainer_config(threads)));
    let gemm = Gemm::<f32>::new().unwrap().with_threads(threads);
    refused(threads, Context::of(gemm));
    refused(threads, Context::<f32>::on(threads));
    refused(threads, Context::<f32>::new().unwrap().with_threads(threads));
    refused(threads, Predictor::new(&net::<f32>()).unwrap().scratch_on(threads, 4));
    refused(threads, gemm.scratch_bytes(2, 2, 2));
    refused(threads, gemm.scratch(2, 2, 2));

    let ones = Matrix::from_fn(2, 2, |_, _| 1.0f32).unwrap();
    let mut scratch = vec![0u8; 40_000];
    let mut out = Matrix::from_fn(2, 2, |_, _| 5.0f32).unwrap();
    for &backend in Backend::ALL {
        let gemm = gemm.with_backend(backend);
        let (a, c, epilogue) = (ones.view(), out.view_mut(), Epilogue::default());
        refused(threads, gemm.run(1.0, a, a, c, epilogue, &mut scratch));
    }
    let untouched = (0..4).all(|i| out.view().get(i / 2, i % 2) == 5.0);
    assert!(untouched, "{threads:?}: an output was written");

    // A context of a pool, outside of it.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let context = pool.install(|| Context::<f32>::on(threads)).unwrap();
    let normalization = data(images).normalization;
    refused(threads, Plan::new(&net(), 4, Passes::Forward, context));
    refused(threads, Plan::planned_bytes(&net(), 4, Passes::Gradient, &context));
    refused(threads, Evaluator::new(&net(), context, images, &normalization, 4));
    refused(threads, evaluate(&net(), context, images, &normalization, 4));
    refused(threads, Predictor::with_context(&net(), context).and_then(|p| p.scratch(4)));
    let linear = Linear::new(2, 2).unwrap();
    refused(threads, Layer::<f32>::memory(&linear, &context, Shape::Features(2), 2));
    refused_layer(threads, &context, linear);
    refused_layer(threads, &context, Relu);
    refused_layer(threads, &context, Dropout::new(0.5).unwrap());
    refused_layer(threads, &context, Scale::new(0.5).unwrap());
    refused_layer(threads, &context, Flatten);
    let network = Network::<f32>::builder(Shape::Features(2)).layer(linear).build().unwrap();
    let layout = network.parameters().layout();
    let mut state = OptimizerState::<f32>::new(&Optimizer::adam(), layout).unwrap();
    state.begin_step();
    let (mut bias, settings) =
        ([0.0; 2], StepSettings { learning_rate: 0.1, ..Default::default() });
    refused(threads, state.update(&context, 1, &mut bias, &[1.0; 2], settings));
    assert_eq!(bias, [0.0; 2]);
}

/// What was planned inside of a pool is refused outside of one, and nothing changes.
fn planned_inside(images: &ImageSet, x: &Matrix<f32>, labels: &[u32]) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    for threads in SEVERAL {
        let plan = || Solver::new(net::<f32>(), data(images), solver_config(threads));
        let mut solver = pool.install(plan).unwrap();
        refused(threads, solver.train());
        assert_eq!((solver.iteration(), solver.history().loss_history.len()), (0, 0));
        let losses = pool.install(|| solver.train().map(|()| solver.history().clone()));
        assert!(!losses.unwrap().loss_history.is_empty());

        let parameters =
            |trainer: &Trainer<f32>| trainer.network().parameters().get("0.bias").unwrap().to_vec();
        for (store_gradients, optimizer) in [(false, Optimizer::sgd()), (true, Optimizer::adam())] {
            let config = trainer_config(threads).with_optimizer(optimizer);
            let config = config.with_store_gradients(store_gradients);
            let plan = || Trainer::new(net::<f32>(), config);
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

        let context = pool.install(|| Context::<f32>::on(threads)).unwrap();
        let (mut network, criterion, mode) = (net(), CrossEntropy::default(), Mode::Evaluation);
        let plan = || Plan::new(&network, BATCH, Passes::Gradient, context);
        let mut plan = pool.install(plan).unwrap();
        refused(threads, plan.forward(&network, x.view(), mode));
        pool.install(|| plan.forward(&network, x.view(), mode)).unwrap();
        refused(threads, plan.loss(criterion, labels));
        refused(threads, plan.row_losses(criterion, labels).map(|_| ()));
        refused(threads, L2::new(0.1).unwrap().loss(&network, &mut plan));
        refused(threads, L2::new(0.1).unwrap().add_gradient(&network, &mut plan));
        refused(threads, plan.loss_and_gradient(&mut network, x.view(), labels, criterion, mode));

        let predictor = Predictor::new(&net::<f32>()).unwrap();
        let mut scratch = pool.install(|| predictor.scratch_on(threads, 4)).unwrap();
        let mut logits = [5.0; 10];
        let (row, out) = (x.view().part(0..1, 0..3072).unwrap(), MatMut::new(&mut logits, 1, 10));
        refused(threads, predictor.predict_into(row, out.unwrap(), &mut scratch));
        assert_eq!(logits, [5.0; 10]);
        let out = MatMut::new(&mut logits, 1, 10).unwrap();
        pool.install(|| predictor.predict_into(row, out, &mut scratch)).unwrap();

        let TrainingData { normalization, .. } = data(images);
        let evaluator = || Evaluator::new(&net(), context, images, &normalization, BATCH);
        let mut evaluator = pool.install(evaluator).unwrap();
        refused(threads, evaluator.run(&net(), &[0, 1]).cloned());
        pool.install(|| evaluator.run(&net(), &[0, 1]).cloned()).unwrap();
    }
}

#[test]
fn no_path_starts_the_global_pool() {
    let images = synthetic(400, 1).unwrap();
    let x = Matrix::from_fn(BATCH, 3072, |i, j| ((i * 7 + j) % 11) as f32 / 11.0 - 0.5).unwrap();
    let labels: Vec<u32> = (0..BATCH as u32).map(|i| i % 10).collect();
    defaults(&images, &x, &labels);
    SEVERAL.into_iter().for_each(|threads| several(&images, threads));
    planned_inside(&images, &x, &labels);
    let global = rayon::ThreadPoolBuilder::new().num_threads(3).build_global();
    global.expect("nobody has started the global pool");
    // It is there now, and still no pool of a caller outside of it.
    refused(Threads::Pool, Threads::Pool.tasks());
}
