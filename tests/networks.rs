//! Networks of any structure: residual blocks against a scalar evaluation and central differences,
//! custom layers, plans, names, and the settings of single parameters.

use std::sync::Arc;

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Context, Element, Error, Result,
    gemm::{Backend, GatheredRows, Gemm},
    matrix::{MatMut, MatRef, Matrix},
    nn::{
        Backward, CrossEntropy, Fill, Forward, Init, L2, Layer, LayerConfig, LayerMemory, Mode,
        Needs, Network, NodeConfig, ParameterKind, ParameterSettings, Passes, Plan, Setting, Shape,
        TensorSpec, gradcheck::check, layers,
    },
    simd::InstructionSet,
    threads::Threads,
    train::{Optimizer, Trainer, TrainerConfig},
};

/// What the analytic gradients may differ from the numeric ones.
const TOLERANCE: f64 = 1e-7;

/// `x` where it is above 0, else `slope x`, with a slope for each feature that is trained. It keeps
/// its input in memory of its own, in order to use that.
#[derive(Clone, Copy, Debug)]
struct LearnedSlope {
    features: usize,
}

impl LearnedSlope {
    fn from_config(config: &LayerConfig) -> Result<Self> {
        Ok(Self { features: config.count("features")? })
    }
}

impl<T: Element> Layer<T> for LearnedSlope {
    fn config(&self) -> LayerConfig {
        LayerConfig::new("learned_slope").with_count("features", self.features)
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        if input.values() == Some(self.features) {
            return Ok(input);
        }
        let expected = format!("{} features", self.features);
        Err(Error::setting("input of a learned slope", input, expected))
    }

    fn parameters(&self) -> Vec<TensorSpec> {
        let fill = Fill::Constant(0.25);
        vec![TensorSpec::new("slope", &[self.features], ParameterKind::Scale, fill)]
    }

    fn needs(&self) -> Needs {
        Needs { input: false, output: false }
    }

    fn memory(&self, _: &Context<T>, _: Shape, batch: usize) -> Result<LayerMemory> {
        Ok(LayerMemory { saved: batch * self.features, scratch: self.features * size_of::<T>() })
    }

    fn forward(&self, _: &Context<T>, mut pass: Forward<'_, T>) -> Result<()> {
        let slope = pass.parameters.get(0);
        for i in 0..pass.x.rows() {
            for (j, &slope) in slope.iter().enumerate() {
                let x = pass.x.get(i, j);
                pass.out.set(i, j, if x > T::ZERO { x } else { slope * x });
                if let Some(saved) = pass.saved.get_mut(i * self.features + j) {
                    *saved = x;
                }
            }
        }
        Ok(())
    }

    fn backward(&self, _: &Context<T>, mut pass: Backward<'_, T>) -> Result<()> {
        let slope = pass.parameters.get(0);
        let sums = bytemuck::cast_slice_mut::<u8, T>(pass.scratch);
        let sums = &mut sums[..self.features];
        // One chain over the parts of a batch; the gradient is empty if it is frozen.
        let start = pass.gradients.get_mut(0);
        match pass.accumulate && !start.is_empty() {
            true => sums.copy_from_slice(start),
            false => sums.fill(T::ZERO),
        }
        for i in 0..pass.d_out.rows() {
            for (j, &slope) in slope.iter().enumerate() {
                let (x, d_out) = (pass.saved[i * self.features + j], pass.d_out.get(i, j));
                let above = x > T::ZERO;
                sums[j] += if above { T::ZERO } else { x * d_out };
                if let Some(d_x) = &mut pass.d_x {
                    d_x.set(i, j, if above { d_out } else { slope * d_out });
                }
            }
        }
        if let gradient @ [_, ..] = pass.gradients.get_mut(0) {
            gradient.copy_from_slice(sums);
        }
        Ok(())
    }
}

fn make<T: Element>(config: &LayerConfig) -> Result<Arc<dyn Layer<T>>> {
    match config.kind.as_str() {
        "learned_slope" => Ok(Arc::new(LearnedSlope::from_config(config)?)),
        _ => layers::from_config(config),
    }
}

fn features<T: Element>(features: usize) -> tilewise::nn::NetworkBuilder<T> {
    Network::builder(Shape::Features(features)).seed(7)
}

fn frozen<T: Element>(mut network: Network<T>, names: &[&str]) -> Network<T> {
    for name in names {
        let index = network.parameters().layout().index(name).unwrap();
        let settings = network.parameter_settings()[index].with_frozen(true);
        network.set_parameter_settings(name, settings).unwrap();
    }
    network
}

/// Networks of 12 values and 5 classes, with a name each.
fn structures<T: Element>() -> Vec<(&'static str, Network<T>)> {
    let own = LearnedSlope { features: 9 };
    let image = Shape::Image { height: 2, width: 2, channels: 3 };
    let builders = vec![
        ("a block", features(12).linear(9).relu().residual(|b| b.linear(9).relu()).linear(5)),
        (
            "a block in a block",
            features(12).linear(9).residual(|b| {
                b.linear(9).relu().residual(|b| b.linear(6).relu().linear(9)).relu().linear(9)
            }),
        ),
        (
            "two blocks in a block",
            features(12)
                .linear(9)
                .relu()
                .residual(|b| b.residual(|b| b.linear(9)).residual(|b| b.relu()).scale(0.5)),
        ),
        (
            "a block at the input",
            features(12).residual(|b| b.linear(8).relu().linear(12)).relu().linear(9),
        ),
        ("two blocks at the input", features(12).residual(|b| b.residual(|b| b.linear(12)))),
        ("ReLU after the sum", features(12).linear(9).residual(|b| b.linear(9)).relu().linear(9)),
        (
            "ReLU and dropout after the sum",
            features(12).linear(9).residual(|b| b.linear(9)).relu().dropout(0.2).linear(9),
        ),
        ("a block that ends in a linear layer", features(12).residual(|b| b.relu().linear(12))),
        (
            "dropout in a block",
            features(12)
                .linear(9)
                .relu()
                .dropout(0.3)
                .residual(|b| b.linear(9).relu().dropout(0.3).linear(9).dropout(0.2)),
        ),
        ("scale", features(12).scale(1.5).linear(9).scale(-0.5).relu().scale(2.0).linear(9)),
        ("a block of a scale", features(12).linear(9).relu().residual(|b| b.scale(0.5))),
        ("an image", Network::builder(image).seed(7).flatten().linear(9).relu()),
        (
            "an image in a block",
            Network::builder(image).seed(7).residual(|b| b.scale(0.5).relu()).flatten().linear(9),
        ),
        ("a layer of one's own", features(12).linear(9).layer(own).linear(9)),
        (
            "a layer of one's own in a block",
            features(12).linear(9).residual(|b| b.layer(own).linear(9).layer(own)),
        ),
        (
            "a layer of one's own behind a block",
            features(12).linear(9).residual(|b| b.linear(9)).layer(own),
        ),
    ];
    let build = |(name, builder): (_, tilewise::nn::NetworkBuilder<T>)| {
        (name, with_biases(builder.linear(5).build().unwrap()))
    };
    let mut networks: Vec<_> = builders.into_iter().map(build).collect();
    let block = |names| {
        let builder = features(12).linear(9).layer(own).residual(|b| b.linear(9).relu().linear(9));
        frozen(with_biases(builder.linear(5).build().unwrap()), names)
    };
    networks.extend([
        ("a frozen first layer", block(&["0.weight", "0.bias"])),
        ("a frozen weight in a block", block(&["2.2.weight"])),
        ("a frozen bias in a block", block(&["2.0.bias"])),
        ("a frozen layer of one's own", block(&["1.slope"])),
        ("a frozen start", block(&["0.weight", "0.bias", "1.slope"])),
        (
            "only a block is trained",
            block(&["0.weight", "0.bias", "1.slope", "3.weight", "3.bias"]),
        ),
    ]);
    networks
}

/// The same network with biases that are not zero.
fn with_biases<T: Element>(mut network: Network<T>) -> Network<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for number in 0..network.parameters().layout().tensors().len() {
        if network.parameters().layout().tensors()[number].kind() == ParameterKind::Bias {
            let bias = network.parameters_mut().tensor_mut(number);
            bias.iter_mut().for_each(|b| *b = T::from_f64(rng.random_range(-0.3..0.3)));
        }
    }
    network
}

/// Bytes of 7 examples of 12 values, and how they become numbers, exactly.
struct Store {
    bytes: Vec<u8>,
    scale: [f64; 12],
    shift: [f64; 12],
}

const INDICES: [u32; 7] = [3, 0, 6, 6, 1, 5, 2];
const LABELS: [u32; 7] = [0, 4, 1, 1, 3, 2, 0];

impl Store {
    fn new() -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let bytes = (0..7 * 12).map(|_| rng.random()).collect();
        Self { bytes, scale: [1.0 / 64.0; 12], shift: [-2.0; 12] }
    }

    fn rows(&self) -> GatheredRows<'_, f64> {
        GatheredRows::new(&self.bytes, &INDICES, &self.scale, &self.shift).unwrap()
    }

    fn matrix(&self) -> Matrix<f64> {
        Matrix::from_fn(7, 12, |i, j| self.rows().get(i, j)).unwrap()
    }
}

fn plan<T: Element>(network: &Network<T>, capacity: usize, passes: Passes) -> Plan<T> {
    Plan::new(network, capacity, passes, Context::new().unwrap()).unwrap()
}

fn logits<T: Element>(plan: &Plan<T>, rows: usize) -> Vec<T> {
    let logits = plan.logits(rows).unwrap();
    (0..rows).flat_map(|i| logits.row(i).unwrap()).copied().collect()
}

/// One example through the layers, as a person would write it.
fn evaluate(network: &Network<f64>, nodes: &[NodeConfig], prefix: &str, x: &[f64]) -> Vec<f64> {
    let fused = Context::<f64>::new().unwrap().instruction_set().is_fused();
    let multiply_add = |a: f64, b: f64, c: f64| if fused { a.mul_add(b, c) } else { a * b + c };
    let mut x = x.to_vec();
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("{prefix}{number}");
        let parameter = |of: &str| network.parameters().get(&format!("{name}.{of}")).unwrap();
        x = match node {
            NodeConfig::Residual(block) => {
                let branch = evaluate(network, block, &format!("{name}."), &x);
                x.iter().zip(branch).map(|(x, branch)| branch + x).collect()
            }
            NodeConfig::Layer(layer) => match layer.kind.as_str() {
                "linear" => {
                    let (weight, mut out) = (parameter("weight"), parameter("bias").to_vec());
                    for (k, &x) in x.iter().enumerate() {
                        let row = &weight[k * out.len()..];
                        out.iter_mut().zip(row).for_each(|(o, &w)| *o = multiply_add(x, w, *o));
                    }
                    out
                }
                "relu" => x.iter().map(|x| x.max(0.0)).collect(),
                "scale" => x.iter().map(|x| layer.number("factor").unwrap() * x).collect(),
                "learned_slope" => {
                    let slope = |(&x, &slope)| if x > 0.0 { x } else { slope * x };
                    x.iter().zip(parameter("slope")).map(slope).collect()
                }
                "flatten" | "dropout" => x,
                other => panic!("{other}"),
            },
        };
    }
    x
}

#[test]
fn forward_passes_are_those_of_a_scalar_evaluation() {
    let store = Store::new();
    let x = store.matrix();
    for (name, network) in structures::<f64>() {
        let rows = (0..7).map(|i| x.view().row(i).unwrap());
        let config = network.config();
        let expected: Vec<f64> =
            rows.flat_map(|row| evaluate(&network, &config, "", row)).collect();
        assert!(expected.iter().any(|x| *x != expected[0]), "{name}");
        for passes in [Passes::Forward, Passes::FusedUpdate, Passes::LayerUpdate, Passes::Gradient]
        {
            let mut plan = plan(&network, 7, passes);
            plan.forward(&network, x.view(), Mode::Evaluation).unwrap();
            assert_eq!(logits(&plan, 7), expected, "{name}, {passes:?}");
            plan.forward(&network, store.rows(), Mode::Evaluation).unwrap();
            assert_eq!(logits(&plan, 7), expected, "{name}, {passes:?}, from bytes");
            // By columns: not contiguous.
            let columns = Matrix::from_fn(12, 7, |i, j| x.view().get(j, i)).unwrap();
            plan.forward(&network, columns.view().t(), Mode::Evaluation).unwrap();
            assert_eq!(logits(&plan, 7), expected, "{name}, {passes:?}, by columns");
        }
        // In a plan of one row, an example after the other.
        let mut one = plan(&network, 1, Passes::Forward);
        let mut found = Vec::new();
        for i in 0..7 {
            let row = x.view().part(i..i + 1, 0..12).unwrap();
            one.forward(&network, row, Mode::Evaluation).unwrap();
            found.extend(logits(&one, 1));
        }
        assert_eq!(found, expected, "{name}, row by row");
    }
}

#[test]
fn gradients_are_central_differences() {
    let x = Store::new().matrix();
    for (name, network) in structures::<f64>() {
        for (mode, l2) in [(Mode::Evaluation, 0.0), (Mode::Training { step: 3 }, 0.1)] {
            let criterion = (CrossEntropy::new(0.1).unwrap(), L2::new(l2).unwrap());
            let checks = check(&network, (x.view(), &LABELS), criterion, mode, 1e-6).unwrap();
            let trained = network.parameter_settings().iter().filter(|s| !s.frozen).count();
            assert_eq!(checks.len(), trained, "{name}");
            for check in checks {
                let error = check.relative_error;
                assert!(error < TOLERANCE, "{name}, {mode:?}: {} is off by {error:e}", check.name);
            }
        }
    }
}

#[test]
fn gathered_bytes_have_the_gradients_of_the_same_numbers() {
    let store = Store::new();
    for (name, mut network) in structures::<f64>() {
        let mut plan = plan(&network, 7, Passes::Gradient);
        let (criterion, mode) = (CrossEntropy::default(), Mode::Training { step: 3 });
        let x = store.matrix();
        let loss =
            plan.loss_and_gradient(&mut network, x.view(), &LABELS, criterion, mode).unwrap();
        let gradients = plan.gradients().unwrap().try_clone().unwrap();
        let other =
            plan.loss_and_gradient(&mut network, store.rows(), &LABELS, criterion, mode).unwrap();
        assert_eq!(loss, other, "{name}");
        let pairs = gradients.iter().zip(plan.gradients().unwrap().iter());
        for ((tensor, a), (_, b)) in pairs {
            assert_eq!(a, b, "{name}: {}", tensor.name());
        }
    }
}

fn bits<T: Element>(network: &Network<T>) -> Vec<u64> {
    let values = network.parameters().iter().flat_map(|(_, values)| values);
    values.map(|value| value.to_f64().to_bits()).collect()
}

fn trained<T: Element>(
    network: Network<T>,
    config: TrainerConfig,
    parts: &[std::ops::Range<usize>],
) -> Vec<u64> {
    let x = Store::new().matrix();
    let x = Matrix::from_fn(7, 12, |i, j| T::from_f64(x.view().get(i, j))).unwrap();
    let mut trainer = Trainer::new(network, config.with_batch_size(7)).unwrap();
    for _ in 0..5 {
        if parts.is_empty() {
            trainer.step(x.view(), &LABELS).unwrap();
            continue;
        }
        for part in parts {
            let rows = x.view().part(part.clone(), 0..12).unwrap();
            trainer.accumulate(rows, &LABELS[part.clone()], 7).unwrap();
        }
        trainer.apply().unwrap();
    }
    bits(trainer.network())
}

/// In the product, layer by layer, stored, and accumulated over parts of a batch.
#[test]
fn updates_have_the_same_bits_wherever_they_are_made() {
    fn agree<T: Element>() {
        for (name, network) in structures::<T>() {
            for rule in Optimizer::NAMES {
                let optimizer: Optimizer = rule.parse().unwrap();
                let optimizer = optimizer.with_weight_decay(0.02);
                let config = TrainerConfig::default().with_learning_rate(0.01);
                let config = config.with_optimizer(optimizer);
                let stored = config.clone().with_store_gradients(true);
                let expected = trained(network.try_clone().unwrap(), config.clone(), &[]);
                assert!(expected != bits(&network), "{name}, {rule}");
                let found = trained(network.try_clone().unwrap(), stored.clone(), &[]);
                assert!(found == expected, "{name}, {rule}: stored");
                let found = trained(network.try_clone().unwrap(), stored, &[0..1, 1..5, 5..7]);
                assert!(found == expected, "{name}, {rule}: accumulated");
                let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
                let config = config.with_threads(Threads::Pool);
                let found = pool.install(|| trained(network.try_clone().unwrap(), config, &[]));
                assert!(found == expected, "{name}, {rule}: 3 threads");
            }
        }
    }
    agree::<f32>();
    agree::<f64>();
}

/// Parameters after some steps that make their updates as `passes` says.
fn trained_by<T: Element>(
    network: &Network<T>,
    config: TrainerConfig,
    context: Context<T>,
    passes: Passes,
) -> Vec<u64> {
    let x = Store::new().matrix();
    let x = Matrix::from_fn(7, 12, |i, j| T::from_f64(x.view().get(i, j))).unwrap();
    let mut trainer = Trainer::with_context(network.try_clone().unwrap(), config, context).unwrap();
    assert_eq!(trainer.plan().passes(), passes);
    for _ in 0..4 {
        trainer.step(x.view(), &LABELS).unwrap();
    }
    bits(trainer.network())
}

/// On kernels that round twice, naive products have the bits of the kernels, but no fused updates.
#[test]
fn l2_and_weight_decay_are_combined_in_one_order() {
    fn agree<T: Element>() {
        let Some(set) = InstructionSet::available().find(|set| !set.is_fused()) else { return };
        let gemm = Gemm::<T>::with_instruction_set(set).unwrap();
        let [fused, naive] = [gemm, gemm.with_backend(Backend::Naive)].map(Context::of);
        let (fused, naive) = (fused.unwrap(), naive.unwrap());
        for (name, network) in structures::<T>() {
            for rule in [Optimizer::sgd(), Optimizer::momentum(0.9), Optimizer::nesterov(0.9)] {
                for (l2, weight_decay) in [(0.0, 0.0), (0.01, 0.0), (0.0, 0.03), (0.01, 0.03)] {
                    let config = TrainerConfig::default()
                        .with_batch_size(7)
                        .with_learning_rate(0.05)
                        .with_l2(l2)
                        .with_optimizer(rule.with_weight_decay(weight_decay));
                    let case = format!("{name}, {rule}, l2 {l2}, weight decay {weight_decay}");
                    let run = |config: &TrainerConfig, context, passes| {
                        trained_by(&network, config.clone(), context, passes)
                    };
                    let expected = run(&config, fused, Passes::FusedUpdate);
                    assert!(run(&config, naive, Passes::LayerUpdate) == expected, "{case}: naive");
                    let config = config.with_store_gradients(true);
                    let found = run(&config, fused, Passes::Gradient);
                    assert!(found == expected, "{case}: stored");
                }
            }
        }
    }
    agree::<f32>();
    agree::<f64>();
}

#[test]
fn frozen_parameters_stay_and_the_others_do_not() {
    for (name, network) in structures::<f32>() {
        let config = TrainerConfig::default().with_l2(0.01).with_batch_size(7);
        let config = config.with_optimizer(Optimizer::adam_w(0.1)).with_ema_decay(Some(0.5));
        let x = Store::new().matrix();
        let x = Matrix::from_fn(7, 12, |i, j| x.view().get(i, j) as f32).unwrap();
        let mut trainer = Trainer::new(network.try_clone().unwrap(), config).unwrap();
        for _ in 0..3 {
            trainer.step(x.view(), &LABELS).unwrap();
        }
        let after = [trainer.network(), trainer.average().unwrap()];
        for (number, settings) in network.parameter_settings().iter().enumerate() {
            let tensor = &network.parameters().layout().tensors()[number];
            for after in after {
                let same = after.parameters().tensor(number) == network.parameters().tensor(number);
                assert_eq!(same, settings.frozen, "{name}: {}", tensor.name());
            }
        }
        // What is frozen later is an error: the plan computes its gradient.
        let settings = trainer.network().parameter_settings()[0].with_frozen(true);
        let first = network.parameters().layout().tensors()[0].name();
        if !network.parameter_settings()[0].frozen {
            trainer.network_mut().set_parameter_settings(first, settings).unwrap();
            let error = trainer.step(x.view(), &LABELS).unwrap_err();
            assert!(matches!(error, Error::Frozen { .. }), "{error}");
        }
    }
}

#[test]
fn settings_of_a_parameter_change_its_step_by_the_formula() {
    let (l2, weight_decay, rate) = (0.03, 0.05, 0.1);
    let mut network = with_biases(features::<f64>(12).linear(9).relu().linear(5).build().unwrap());
    let settings = |learning_rate_factor, weight_decay_factor| {
        ParameterSettings::default()
            .with_learning_rate_factor(learning_rate_factor)
            .with_weight_decay_factor(weight_decay_factor)
    };
    network.set_parameter_settings("0.weight", settings(0.5, 3.0)).unwrap();
    network.set_parameter_settings("0.bias", settings(2.0, 1.0)).unwrap();
    network.set_parameter_settings("2.weight", settings(0.0, 1.0)).unwrap();
    let x = Store::new().matrix();
    let mut plan = plan(&network, 7, Passes::Gradient);
    let (criterion, mode) = (CrossEntropy::default(), Mode::Training { step: 1 });
    plan.loss_and_gradient(&mut network, x.view(), &LABELS, criterion, mode).unwrap();
    // The first step of momentum is that of gradient descent.
    for rule in [Optimizer::sgd(), Optimizer::momentum(0.9)] {
        for store_gradients in [false, true] {
            let config = TrainerConfig::default()
                .with_learning_rate(rate)
                .with_l2(l2)
                .with_batch_size(7)
                .with_store_gradients(store_gradients)
                .with_optimizer(rule.with_weight_decay(weight_decay));
            let mut trainer = Trainer::new(network.try_clone().unwrap(), config).unwrap();
            trainer.step(x.view(), &LABELS).unwrap();
            for (number, (tensor, before)) in network.parameters().iter().enumerate() {
                let of_kind = if tensor.kind() == ParameterKind::Weight { l2 } else { 0.0 };
                let ParameterSettings { learning_rate_factor, weight_decay_factor, .. } =
                    network.parameter_settings()[number];
                let gradient = plan.gradients().unwrap().tensor(number);
                let after = trainer.network().parameters().tensor(number);
                for ((w, g), after) in before.iter().zip(gradient).zip(after) {
                    let decayed = g + (2.0 * of_kind + weight_decay * weight_decay_factor) * w;
                    let expected = w - rate * learning_rate_factor * decayed;
                    let error = (after - expected).abs();
                    assert!(error < 1e-15, "{}: {after}, not {expected}", tensor.name());
                }
            }
        }
    }
}

#[test]
fn factors_of_all_parameters_are_those_of_the_run() {
    for rule in Optimizer::NAMES {
        let optimizer = rule.parse::<Optimizer>().unwrap().with_weight_decay(0.02);
        let base = TrainerConfig::default().with_optimizer(optimizer).with_learning_rate(0.02);
        let network = structures::<f32>().swap_remove(0).1;
        let with = |change: &dyn Fn(&mut ParameterSettings)| {
            let mut network = network.try_clone().unwrap();
            for number in 0..network.parameter_settings().len() {
                let name = network.parameters().layout().tensors()[number].name().to_owned();
                let mut settings = network.parameter_settings()[number];
                change(&mut settings);
                network.set_parameter_settings(&name, settings).unwrap();
            }
            network
        };
        let halved = trained(with(&|s| s.learning_rate_factor = 0.5), base.clone(), &[]);
        let expected =
            trained(network.try_clone().unwrap(), base.clone().with_learning_rate(0.01), &[]);
        assert!(halved == expected, "{rule}: learning rate");
        let doubled = trained(with(&|s| s.weight_decay_factor *= 2.0), base.clone(), &[]);
        let decay = optimizer.with_weight_decay(0.04);
        let expected =
            trained(network.try_clone().unwrap(), base.clone().with_optimizer(decay), &[]);
        assert!(doubled == expected, "{rule}: weight decay");
        let without = trained(with(&|s| s.weight_decay_factor = 0.0), base.clone(), &[]);
        let decay = optimizer.with_weight_decay(0.0);
        let expected =
            trained(network.try_clone().unwrap(), base.clone().with_optimizer(decay), &[]);
        assert!(without == expected, "{rule}: no weight decay");
    }
}

#[test]
fn only_weights_are_regularized() {
    let x = Store::new().matrix();
    for rule in Optimizer::NAMES {
        let one_step = |l2, weight_decay| {
            let network = structures::<f64>().swap_remove(13).1;
            let optimizer = rule.parse::<Optimizer>().unwrap().with_weight_decay(weight_decay);
            let config = TrainerConfig::default().with_batch_size(7).with_l2(l2);
            let mut trainer = Trainer::new(network, config.with_optimizer(optimizer)).unwrap();
            trainer.step(x.view(), &LABELS).unwrap();
            trainer.into_network()
        };
        let plain = one_step(0.0, 0.0);
        for (l2, weight_decay) in [(0.5, 0.0), (0.0, 0.5), (0.3, 0.2)] {
            let other = one_step(l2, weight_decay);
            for ((tensor, a), (_, b)) in plain.parameters().iter().zip(other.parameters().iter()) {
                let weight = tensor.kind() == ParameterKind::Weight;
                assert_eq!(a != b, weight, "{rule}, {l2}, {weight_decay}: {}", tensor.name());
            }
        }
    }
}

#[test]
fn settings_of_parameters_are_checked() {
    let mut network = features::<f32>(12).linear(5).build().unwrap();
    let good = network.parameter_settings()[0];
    let usual = ParameterSettings::default();
    assert_eq!(network.parameter_settings(), [usual, usual.with_weight_decay_factor(0.0)]);
    for (name, bad) in [
        ("learning_rate_factor", good.with_learning_rate_factor(-1.0)),
        ("learning_rate_factor", good.with_learning_rate_factor(f64::NAN)),
        ("weight_decay_factor", good.with_weight_decay_factor(f64::INFINITY)),
    ] {
        let error = network.set_parameter_settings("0.weight", bad).unwrap_err();
        assert!(matches!(error, Error::Setting { name: found, .. } if found == name), "{error}");
    }
    let error = network.set_parameter_settings("1.weight", good).unwrap_err();
    assert!(error.to_string().contains("0.weight, 0.bias"), "{error}");
    assert_eq!(network.parameter_settings()[0], usual);
    assert_eq!(network.try_clone().unwrap().parameter_settings(), network.parameter_settings());
}

#[test]
fn names_follow_the_structure_and_seeds_decide_the_weights() {
    let build = |seed| {
        let own = LearnedSlope { features: 9 };
        let builder = features::<f32>(12).linear(9).layer(own).seed(seed);
        let builder = builder.residual(|b| b.relu().residual(|b| b.linear(9)).linear(9));
        builder.linear_with(5, Init::Normal { std: 0.1 }).build().unwrap()
    };
    let network = build(1);
    let names: Vec<_> = network.parameters().iter().map(|(tensor, _)| tensor.name()).collect();
    let expected = [
        "0.weight",
        "0.bias",
        "1.slope",
        "2.1.0.weight",
        "2.1.0.bias",
        "2.2.weight",
        "2.2.bias",
        "3.weight",
        "3.bias",
    ];
    assert_eq!(names, expected);
    assert_eq!(network.parameter_count(), 13 * 9 + 9 + 2 * 10 * 9 + 10 * 5);
    let mut shapes = network.parameters().layout().tensors().iter().map(|tensor| tensor.shape());
    assert_eq!(shapes.next_back(), Some(&[5][..]));
    assert!(bits(&build(1)) == bits(&network) && bits(&build(2)) != bits(&network));
    for (tensor, values) in network.parameters().iter() {
        assert_eq!(values.as_ptr().addr() % 64, 0, "{}", tensor.name());
        let constant = match tensor.kind() {
            ParameterKind::Bias => Some(0.0),
            ParameterKind::Scale => Some(0.25),
            _ => None,
        };
        let all = |constant: f32| values.iter().all(|&value| value == constant);
        assert!(constant.map_or(!all(values[0]), all), "{}", tensor.name());
    }
    // No two weights alike.
    let [a, b] = ["2.1.0.weight", "2.2.weight"].map(|name| network.parameters().get(name).unwrap());
    assert_ne!(a, b);
    assert!(network.parameters().get("2.0.weight").is_none());
}

#[test]
fn a_network_is_made_again_from_its_configuration() {
    for (name, network) in structures::<f64>() {
        let config = network.config();
        let mut again = Network::<f64>::from_config(network.input_shape(), &config, &make).unwrap();
        assert_eq!(again.config(), config, "{name}");
        assert!(again.parameters().iter().all(|(_, values)| values.iter().all(|&x| x == 0.0)));
        again.copy_parameters(&network).unwrap();
        assert!(bits(&again) == bits(&network), "{name}");
        let x = Store::new().matrix();
        // A plan of one serves the other.
        let mut plan = plan(&network, 7, Passes::Forward);
        plan.forward(&network, x.view(), Mode::Evaluation).unwrap();
        let expected = logits(&plan, 7);
        plan.forward(&again, x.view(), Mode::Evaluation).unwrap();
        assert_eq!(logits(&plan, 7), expected, "{name}");
    }
    let unknown = [NodeConfig::Layer(LayerConfig::new("attention"))];
    let error = Network::<f32>::from_config(Shape::Features(3), &unknown, &make).unwrap_err();
    assert!(error.to_string().contains("linear") && error.to_string().contains("attention"));
    let linear = LayerConfig::new("linear").with_count("in_features", 3);
    let wrong = linear.clone().with("out_features", Setting::Text("many".into()));
    for config in [linear, wrong] {
        let config = [NodeConfig::Layer(config)];
        let error = Network::<f32>::from_config(Shape::Features(3), &config, &make).unwrap_err();
        assert!(error.to_string().contains("out_features"), "{error}");
    }
}

#[test]
fn what_does_not_fit_is_an_error_of_build() {
    let image = Shape::Image { height: 4, width: 4, channels: 3 };
    let error = |builder: tilewise::nn::NetworkBuilder<f32>| {
        let error = builder.build().map(drop).unwrap_err();
        assert!(matches!(error, Error::Setting { .. } | Error::SizeOverflow { .. }), "{error:?}");
        error.to_string()
    };
    assert!(error(features(8).residual(|b| b.linear(9))).contains("8 features"));
    assert!(error(features(8).residual(|b| b)).contains("layers"));
    assert!(error(features(8)).contains("layers"));
    assert!(error(features(0).linear(3)).contains("input of a network"));
    assert!(error(Network::builder(image).linear(3)).contains("flatten"));
    let of_three = layers::Linear::new(3, 2).unwrap();
    assert!(error(features(8).layer(of_three)).contains("expected 3 features; a flatten layer"));
    assert!(error(features(8).linear(0)).contains("out_features"));
    assert!(error(features(8).linear(3).dropout(1.0).linear(0)).contains("dropout"));
    assert!(error(features(8).layer(LearnedSlope { features: 9 })).contains("learned slope"));
    error(features(8).linear(usize::MAX / 2));
    error(Network::builder(Shape::Image { height: usize::MAX, width: 2, channels: 1 }).flatten());
    // Nothing to compute, and nothing to train.
    let flat = Network::<f32>::builder(image).flatten().build().unwrap();
    let context = Context::new().unwrap();
    assert!(Plan::new(&flat, 1, Passes::Forward, context).is_err());
    let nothing = features::<f32>(8).relu().build().unwrap();
    Plan::new(&nothing, 1, Passes::Forward, context).unwrap();
    let mut trainer = Trainer::new(nothing, TrainerConfig::default()).unwrap();
    let x = Matrix::zeros(2, 8).unwrap();
    assert!(trainer.step(x.view(), &[0, 1]).is_err());
}

#[test]
fn memory_is_shared_by_what_is_not_needed_at_the_same_time() {
    let deep = |layers: usize| {
        let mut builder = features::<f32>(64);
        for _ in 0..layers {
            builder = builder.linear(64).relu();
        }
        builder.linear(64).build().unwrap()
    };
    let context = Context::new().unwrap();
    let bytes = |layers, passes| Plan::planned_bytes(&deep(layers), 512, passes, &context).unwrap();
    assert_eq!(bytes(3, Passes::Forward), bytes(30, Passes::Forward), "two values take turns");
    // One activation more for each layer; gradients take turns.
    let values = 512 * 64 * 4;
    let grows = bytes(30, Passes::FusedUpdate) - bytes(29, Passes::FusedUpdate);
    assert_eq!(grows, values);
    for [less, more] in [
        [Passes::Forward, Passes::FusedUpdate],
        [Passes::FusedUpdate, Passes::LayerUpdate],
        [Passes::LayerUpdate, Passes::Gradient],
    ] {
        assert!(bytes(30, less) < bytes(30, more), "{less:?}, {more:?}");
    }
}

#[test]
fn a_plan_shows_its_steps() {
    let builder = features::<f32>(12).linear(9).relu().dropout(0.5).scale(2.0);
    let network = builder.residual(|b| b.linear(9).relu()).linear(5).build().unwrap();
    let shown = plan(&network, 7, Passes::FusedUpdate).to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("FusedUpdate in f32: batches of up to 7, "), "{shown}");
    let expected = [
        ("0", "linear + relu + dropout", "input -> v0 (9 columns"),
        ("3", "scale(factor = 2)", "v0 -> v1 (9 columns"),
        ("4.0", "linear + relu", "v1 -> v2 (9 columns"),
        ("", "add", "v2 + v1 -> v3 (9 columns"),
        ("5", "linear", "v3 -> v4 (5 columns"),
    ];
    assert_eq!(lines.len(), 1 + expected.len(), "{shown}");
    for (line, (name, kind, values)) in lines[1..].iter().zip(expected) {
        for part in [name, kind, values] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    assert!(lines[1].ends_with("; no input gradient"), "{shown}");
    let shown = plan(&network, 7, Passes::Forward).to_string();
    assert!(!shown.contains("gradient"), "{shown}");
    assert_eq!(format!("{:?}", network).matches("residual(").count(), 1, "{network:?}");
}

/// Passes of a layer of one's own with nobody else around.
#[test]
fn a_layer_of_ones_own_runs_alone() {
    let layer = LearnedSlope { features: 3 };
    let network = features::<f64>(3).layer(layer).build().unwrap();
    let (x, d_out) = ([-1.0, 2.0, -3.0], [1.0, 10.0, 100.0]);
    let (mut out, mut d_x, mut saved) = ([0.0; 3], [0.0; 3], [0.0; 3]);
    let (mut first, mut second) = ([0.0f64; 3], [0.0f64; 3]);
    let random = tilewise::nn::RandomPlace { seed: 0, step: Some(1), layer: 0, first_row: 0 };
    let context = Context::new().unwrap();
    let forward = Forward {
        parameters: network.parameters().slices(0..1),
        buffers: network.buffers().slices(0..0),
        x: MatRef::new(&x, 1, 3).unwrap(),
        out: MatMut::new(&mut out, 1, 3).unwrap(),
        saved: &mut saved,
        scratch: bytemuck::cast_slice_mut(&mut first),
        random,
    };
    layer.forward(&context, forward).unwrap();
    assert_eq!(out, [-0.25, 2.0, -0.75]);
    let mut gradients = network.parameters().try_clone().unwrap();
    let backward = Backward {
        parameters: network.parameters().slices(0..1),
        x: None,
        out: None,
        d_out: MatRef::new(&d_out, 1, 3).unwrap(),
        d_x: Some(MatMut::new(&mut d_x, 1, 3).unwrap()),
        gradients: gradients.slices_mut(0..1),
        accumulate: true,
        saved: &mut saved,
        scratch: bytemuck::cast_slice_mut(&mut second),
        random,
    };
    layer.backward(&context, backward).unwrap();
    assert_eq!(d_x, [0.25, 10.0, 25.0]);
    assert_eq!(gradients.tensor(0), [0.25 - 1.0, 0.25, 0.25 - 300.0]);
}
