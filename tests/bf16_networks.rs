//! Training and evaluation in bf16: whole steps against a scalar reference that is made of
//! `naive::gemm_bf16`, by bits; and the promises that hold in every precision.

use tilewise::{
    Bf16, Context, Error, Precision,
    data::{Normalization, NormalizeMode, Split, synthetic},
    gemm::{
        Backend, DropoutMask, Epilogue, Finish, Gemm, PanelElement, Rule, Start, Update,
        epilogue::Momentum,
        naive::{self, Rounding},
    },
    matrix::{MatMut, MatRef},
    nn::{CrossEntropy, Init, MlpConfig, Mode, Network, Passes, Plan, Shape, mlp},
    simd::{Denormals, InstructionSet},
    threads::Threads,
    train::{Optimizer, Trainer, TrainerConfig, evaluate},
};

const LEARNING_RATE: f64 = 0.05;
const MOMENTUM: f64 = 0.9;
const L2: f64 = 1e-3;

/// A matrix that owns its elements.
#[derive(Clone)]
struct Owned<E> {
    rows: usize,
    cols: usize,
    data: Vec<E>,
}

impl<E: PanelElement<Value = f32>> Owned<E> {
    fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![E::nearest(0.0); rows * cols] }
    }

    fn view(&self) -> MatRef<'_, E> {
        MatRef::new(&self.data, self.rows, self.cols).unwrap()
    }

    fn view_mut(&mut self) -> MatMut<'_, E> {
        MatMut::new(&mut self.data, self.rows, self.cols).unwrap()
    }

    /// The same matrix, its values changed and rounded once.
    fn map(&self, function: impl Fn(usize, f32) -> f32) -> Owned<Bf16> {
        let values = self.data.iter().enumerate();
        let data = values.map(|(at, x)| Bf16::from_f32(function(at, x.value()))).collect();
        Owned { rows: self.rows, cols: self.cols, data }
    }
}

/// A linear layer of the reference, with the velocities of its parameters.
struct Reference {
    weight: Owned<f32>,
    bias: Vec<f32>,
    weight_velocity: Owned<f32>,
    bias_velocity: Vec<f32>,
}

impl Reference {
    fn of(network: &Network<f32>, layer: &str) -> Self {
        let get =
            |name: &str| network.parameters().get(&format!("{layer}.{name}")).unwrap().to_vec();
        let (data, bias) = (get("weight"), get("bias"));
        let (rows, cols) = (data.len() / bias.len(), bias.len());
        Self {
            weight: Owned { rows, cols, data },
            bias_velocity: vec![0.0; cols],
            bias,
            weight_velocity: Owned::zeros(rows, cols),
        }
    }

    /// `out = finish(x W + b)`.
    fn forward<E, C>(&self, x: &Owned<E>, finish: Finish<f32>) -> Owned<C>
    where
        E: PanelElement<Value = f32>,
        C: PanelElement<Value = f32>,
    {
        let mut out = Owned::zeros(x.rows, self.bias.len());
        let epilogue = Epilogue { finish, ..Epilogue::bias(&self.bias) };
        naive::gemm_bf16(1.0, x.view(), self.weight.view(), out.view_mut(), epilogue).unwrap();
        out
    }

    /// `d_x = gate(start d_x + d_out W^T)`, with the activation x and the factor of its ReLU.
    fn input(
        &self,
        d_out: &Owned<Bf16>,
        d_x: Option<Owned<Bf16>>,
        gate: Option<(&Owned<Bf16>, f32)>,
    ) -> Owned<Bf16> {
        let start = Start::Scaled(if d_x.is_some() { 1.0 } else { 0.0 });
        let mut d_x = d_x.unwrap_or_else(|| Owned::zeros(d_out.rows, self.weight.rows));
        let epilogue = match gate {
            Some((x, scale)) => Epilogue {
                start,
                finish: Finish::ReluGradient { scale },
                ..Epilogue::relu_gradient(x.view())
            },
            None => Epilogue { start, ..Epilogue::default() },
        };
        let weight = self.weight.view().t();
        naive::gemm_bf16(1.0, d_out.view(), weight, d_x.view_mut(), epilogue).unwrap();
        d_x
    }

    /// A step with momentum of W by `x^T d_out`, and of b by the sums of the columns of `d_out`.
    fn update<E: PanelElement<Value = f32>>(&mut self, x: &Owned<E>, d_out: &Owned<Bf16>) {
        let learning_rate = LEARNING_RATE as f32;
        let rule = Momentum { learning_rate, momentum: MOMENTUM as f32, nesterov: false };
        let of = |l2: f64| Update { rule: Rule::Momentum(rule), l2: l2 as f32, weight_decay: 0.0 };
        let mut sums = vec![0.0; self.bias.len()];
        let epilogue = Epilogue {
            column_sums: Some(&mut sums),
            ..Epilogue::update(of(2.0 * L2), self.weight_velocity.view_mut())
        };
        let weight = self.weight.view_mut();
        naive::gemm_bf16(1.0, x.view().t(), d_out.view(), weight, epilogue).unwrap();
        for ((b, v), sum) in self.bias.iter_mut().zip(&mut self.bias_velocity).zip(sums) {
            let mut slots = [*v, 0.0];
            *b = naive::update(Rounding::Once, &of(0.0), *b, sum, &mut slots);
            *v = slots[0];
        }
    }
}

/// The gradient of the logits, rounded once.
fn d_logits(logits: &Owned<f32>, labels: &[u32]) -> Owned<Bf16> {
    let mut gradient = Owned::<f32>::zeros(logits.rows, logits.cols);
    let mut losses = vec![0.0; labels.len()];
    CrossEntropy::default()
        .forward_backward(logits.view(), labels, gradient.view_mut(), &mut losses)
        .unwrap();
    gradient.map(|_, value| value)
}

/// Batches of numbers that bf16 cannot hold, and labels.
fn batch(step: usize, (rows, cols): (usize, usize), classes: usize) -> (Owned<f32>, Vec<u32>) {
    let value = |at: usize| ((at * 7919 + step * 104_729) % 2003) as f32 / 997.0 - 1.0;
    let labels = (0..rows).map(|row| ((row * 5 + step) % classes) as u32).collect();
    (Owned { rows, cols, data: (0..rows * cols).map(value).collect() }, labels)
}

fn context(set: InstructionSet) -> Context<f32> {
    let context = Context::of(Gemm::with_instruction_set(set).unwrap()).unwrap();
    context.with_precision(Precision::Bf16).unwrap()
}

fn config(batch: usize) -> TrainerConfig {
    TrainerConfig::default()
        .with_batch_size(batch)
        .with_learning_rate(LEARNING_RATE)
        .with_optimizer(Optimizer::momentum(MOMENTUM))
        .with_l2(L2)
}

fn sets() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::available().filter(|set| set.is_fused())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Compares parameters by bits, and names the first that differs.
fn expect(network: &Network<f32>, layer: &str, reference: &Reference, of: &str) {
    for (name, expected) in [("weight", &reference.weight.data), ("bias", &reference.bias)] {
        let name = format!("{layer}.{name}");
        let found = network.parameters().get(&name).unwrap();
        assert!(bits(found) == bits(expected), "{of}: {name}");
    }
}

/// Linear, ReLU and dropout, linear: everything is part of a product.
#[test]
fn steps_of_a_perceptron_are_those_of_the_definition() {
    let (p, seed) = (0.25, 9);
    let kept = (1.0 / (1.0 - p)) as f32;
    for (rows, inputs, hidden, classes) in [(1, 1, 1, 2), (7, 31, 33, 5), (64, 150, 70, 10)] {
        let network = || {
            let builder = Network::builder(Shape::Features(inputs)).seed(seed);
            let hidden = builder.linear_with(hidden, Init::He).relu().dropout(p);
            hidden.linear(classes).build().unwrap()
        };
        let mut layers = ["0", "3"].map(|layer| Reference::of(&network(), layer));
        let mut trainers: Vec<_> = sets()
            .map(|set| Trainer::with_context(network(), config(rows), context(set)).unwrap())
            .collect();
        for step in 0..4 {
            let (x, labels) = batch(step, (rows, inputs), classes);
            let mask = DropoutMask::new(p, seed, step as u64 + 1, 0);
            let hidden: Owned<Bf16> =
                layers[0].forward(&x, Finish::ReluDropout { mask, scale: kept });
            let logits: Owned<f32> = layers[1].forward(&hidden, Finish::Store);
            let d_logits = d_logits(&logits, &labels);
            let d_hidden = layers[1].input(&d_logits, None, Some((&hidden, kept)));
            layers[1].update(&hidden, &d_logits);
            layers[0].update(&x, &d_hidden);
            for trainer in &mut trainers {
                trainer.step(x.view(), &labels).unwrap();
                let set = trainer.plan().context().instruction_set();
                let of = format!(
                    "{rows} {inputs} {hidden_cols} {set}, step {step}",
                    hidden_cols = hidden.cols
                );
                expect(trainer.network(), "0", &layers[0], &of);
                expect(trainer.network(), "3", &layers[1], &of);
                let found = trainer.plan().logits(rows).unwrap();
                let found: Vec<f32> =
                    (0..rows).flat_map(|i| found.row(i).unwrap()).copied().collect();
                assert!(bits(&found) == bits(&logits.data), "{of}: logits");
            }
        }
    }
}

/// A residual block, and layers whose passes are their own: ReLU after a sum, and a factor.
#[test]
fn steps_of_a_residual_network_are_those_of_the_definition() {
    let factor = 0.7f32;
    for (rows, inputs, wide, narrow, classes) in
        [(1, 2, 3, 1, 2), (9, 20, 37, 12, 5), (33, 64, 600, 30, 4)]
    {
        let network = || {
            let builder = Network::builder(Shape::Features(inputs)).seed(4).linear(wide).relu();
            let builder = builder.residual(|block| block.linear(narrow).relu().linear(wide));
            builder.relu().scale(0.7).linear(classes).build().unwrap()
        };
        let mut layers = ["0", "2.0", "2.2", "5"].map(|layer| Reference::of(&network(), layer));
        let mut trainers: Vec<_> = sets()
            .map(|set| Trainer::with_context(network(), config(rows), context(set)).unwrap())
            .collect();
        for step in 0..4 {
            let (x, labels) = batch(step, (rows, inputs), classes);
            let first: Owned<Bf16> = layers[0].forward(&x, Finish::Relu);
            let inner: Owned<Bf16> = layers[1].forward(&first, Finish::Relu);
            let branch: Owned<Bf16> = layers[2].forward(&inner, Finish::Store);
            let sum = branch.map(|at, value| value + first.data[at].value());
            let rectified = sum.map(|_, value| value.max(0.0));
            let scaled = rectified.map(|_, value| factor * value);
            let logits: Owned<f32> = layers[3].forward(&scaled, Finish::Store);

            let d_logits = d_logits(&logits, &labels);
            let d_scaled = layers[3].input(&d_logits, None, None);
            let d_rectified = d_scaled.map(|_, value| factor * value);
            let passes = |at: usize| sum.data[at].value() > 0.0;
            let d_sum = d_rectified.map(|at, value| if passes(at) { value } else { 0.0 });
            let d_inner = layers[2].input(&d_sum, None, Some((&inner, 1.0)));
            let d_first = layers[1].input(&d_inner, Some(d_sum.clone()), Some((&first, 1.0)));
            layers[3].update(&scaled, &d_logits);
            layers[2].update(&inner, &d_sum);
            layers[1].update(&first, &d_inner);
            layers[0].update(&x, &d_first);
            for trainer in &mut trainers {
                trainer.step(x.view(), &labels).unwrap();
                let set = trainer.plan().context().instruction_set();
                let of = format!("{rows} {inputs} {wide} {set}, step {step}");
                for (name, layer) in ["0", "2.0", "2.2", "5"].iter().zip(&layers) {
                    expect(trainer.network(), name, layer, &of);
                }
            }
        }
    }
}

/// A network of all kinds of steps, with a batch that has to become a matrix first.
fn network_of_everything() -> Network<f32> {
    let builder = Network::builder(Shape::Features(50)).seed(2).scale(1.5).linear(40).relu();
    let builder =
        builder.dropout(0.2).residual(|block| block.linear(24).gelu().linear(40).dropout(0.1));
    let builder = builder.residual(|block| block.scale(0.5)).silu().linear(30).relu();
    builder.residual(|block| block.linear(30)).linear(6).build().unwrap()
}

fn parameters(network: &Network<f32>) -> Vec<u32> {
    network.parameters().iter().flat_map(|(_, values)| bits(values)).collect()
}

fn trained(config: TrainerConfig, set: InstructionSet, parts: usize) -> Vec<u32> {
    let mut trainer = Trainer::with_context(network_of_everything(), config, context(set)).unwrap();
    for step in 0..6 {
        let (x, labels) = batch(step, (60, 50), 6);
        if parts == 1 {
            trainer.step(x.view(), &labels).unwrap();
            continue;
        }
        for part in 0..parts {
            let rows = 60 * part / parts..60 * (part + 1) / parts;
            let x = x.view().part(rows.clone(), 0..50).unwrap();
            trainer.accumulate(x, &labels[rows], 60).unwrap();
        }
        trainer.apply().unwrap();
    }
    assert!(trainer.network().is_finite());
    parameters(trainer.network())
}

#[test]
fn fused_and_stored_gradients_parts_threads_and_denormals_give_the_same_bits() {
    let best = sets().last().unwrap();
    let expected = trained(config(60), best, 1);
    let f32 = {
        let mut trainer = Trainer::new(network_of_everything(), config(60)).unwrap();
        let (x, labels) = batch(0, (60, 50), 6);
        trainer.step(x.view(), &labels).unwrap();
        parameters(trainer.network())
    };
    assert!(expected != f32, "bf16 computes something else");
    for set in sets() {
        assert!(trained(config(60), set, 1) == expected, "{set}");
    }
    let stored = config(60).with_store_gradients(true);
    for parts in [1, 2, 4] {
        assert!(trained(stored.clone(), best, parts) == expected, "{parts} parts");
    }
    assert!(trained(config(60).with_denormals(Denormals::Keep), best, 1) == expected, "denormals");
    for threads in 2..=4 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let config = config(60).with_threads(Threads::Pool);
        assert!(pool.install(|| trained(config, best, 1)) == expected, "{threads} threads");
    }
}

/// Updates that are denormal numbers are flushed in bf16, whatever the configuration says.
#[test]
fn denormal_updates_are_flushed() {
    let biases = |precision| {
        let network = Network::builder(Shape::Features(8)).linear(4).build().unwrap();
        let config = TrainerConfig::default()
            .with_batch_size(3)
            .with_learning_rate(2e-38)
            .with_denormals(Denormals::Keep)
            .with_precision(Some(precision));
        let mut trainer = Trainer::new(network, config).unwrap();
        let (x, labels) = batch(0, (3, 8), 4);
        trainer.step(x.view(), &labels).unwrap();
        trainer.network().parameters().get("0.bias").unwrap().to_vec()
    };
    assert!(biases(Precision::F32).iter().any(|bias| bias.is_subnormal()));
    assert_eq!(biases(Precision::Bf16), [0.0; 4]);
}

/// The bits of an example's logits do not depend on its batch, nor the instruction set.
#[test]
fn logits_do_not_depend_on_the_batch() {
    let network = network_of_everything();
    let (x, _) = batch(1, (60, 50), 6);
    let mut expected = Vec::new();
    for set in sets() {
        let mut plan = Plan::new(&network, 60, Passes::Forward, context(set)).unwrap();
        plan.forward(&network, x.view(), Mode::Evaluation).unwrap();
        let logits = plan.logits(60).unwrap();
        let all: Vec<u32> = (0..60).flat_map(|row| bits(logits.row(row).unwrap())).collect();
        if expected.is_empty() {
            expected.clone_from(&all);
        }
        assert!(all == expected, "{set}");
        for row in [0, 17, 59] {
            let one = x.view().part(row..row + 1, 0..50).unwrap();
            plan.forward(&network, one, Mode::Evaluation).unwrap();
            let found = bits(plan.logits(1).unwrap().row(0).unwrap());
            assert!(found == expected[row * 6..(row + 1) * 6], "{set}, row {row}");
        }
    }
}

/// Evaluation takes the precision from its context, and images of bytes.
#[test]
fn an_evaluation_in_bf16_is_close_to_one_in_f32() {
    let images = synthetic(300, 3).unwrap();
    let split = Split::new(300, None, None).unwrap();
    let statistics = images.channel_statistics(split.train).unwrap();
    let normalization = Normalization::from_statistics(&statistics, NormalizeMode::Mean).unwrap();
    let config = MlpConfig::default().with_input(images.features()).with_hidden(vec![64]);
    let network: Network<f32> =
        mlp(&config.with_classes(images.classes()).with_init(Init::He)).unwrap();
    let in_precision = |precision, batch| {
        let context = Context::new().unwrap().with_precision(precision).unwrap();
        evaluate(&network, context, &images, &normalization, batch).unwrap()
    };
    let (whole, rounded) = (in_precision(Precision::F32, 100), in_precision(Precision::Bf16, 100));
    assert!(whole.loss != rounded.loss);
    assert!((whole.loss - rounded.loss).abs() < 0.01 * whole.loss, "{whole:?} {rounded:?}");
    let again = in_precision(Precision::Bf16, 7);
    assert_eq!((rounded.loss, rounded.correct), (again.loss, again.correct));
}

/// Values take half the memory.
#[test]
fn a_plan_in_bf16_needs_less_memory() {
    let builder = Network::builder(Shape::Features(64)).linear(1024).relu().linear(1024).relu();
    let network = builder.linear(10).build().unwrap();
    let bytes = |precision| {
        let context = Context::<f32>::new().unwrap().with_precision(precision).unwrap();
        Plan::planned_bytes(&network, 512, Passes::FusedUpdate, &context).unwrap()
    };
    let (whole, rounded) = (bytes(Precision::F32), bytes(Precision::Bf16));
    assert!((rounded as f64) < 0.7 * whole as f64, "{rounded} of {whole}");
}

#[test]
fn a_trainer_refuses_what_has_no_bf16() {
    let network = || Network::<f32>::builder(Shape::Features(4)).linear(2).build().unwrap();
    let config = TrainerConfig::default().with_precision(Some(Precision::Bf16));
    let trainer = Trainer::new(network(), config.clone()).unwrap();
    assert_eq!(trainer.plan().context().precision(), Precision::Bf16);
    assert!(trainer.plan().to_string().contains("in bf16"));
    let f64 = Network::<f64>::builder(Shape::Features(4)).linear(2).build().unwrap();
    let backend = Context::of(Gemm::new().unwrap().with_backend(Backend::Naive)).unwrap();
    let errors = [
        Trainer::new(f64, config.clone()).map(drop).unwrap_err(),
        Trainer::with_context(network(), config.clone(), backend).map(drop).unwrap_err(),
        Trainer::new(network(), config.with_precision(Some(Precision::F64))).map(drop).unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Setting { name: "precision" | "backend", .. }), "{error}");
    }
}
