//! Layers alone against their definitions and against central differences, in f64, and in plans;
//! the loss; perceptrons as whole networks; what plans refuse.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Context, Element, Error, Result,
    matrix::{MatRef, Matrix},
    nn::{
        Arena, Backward, CrossEntropy, Forward, Init, L2, Layer, MlpConfig, Mode, Network, Passes,
        Plan, RandomPlace, Shape,
        gradcheck::{central_differences, check, relative_error},
        layers::{Dropout, Flatten, Gelu, Linear, Relu, Scale, Silu},
        mlp,
    },
    simd::InstructionSet,
};

/// What the analytic gradients may differ from the numeric ones.
const TOLERANCE: f64 = 1e-7;

fn random(rows: usize, cols: usize, seed: u64) -> Matrix<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Matrix::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0)).unwrap()
}

fn elements<T: Element>(matrix: MatRef<'_, T>) -> Vec<T> {
    (0..matrix.rows()).flat_map(|i| matrix.row(i).unwrap()).copied().collect()
}

/// The sum of `weights * out`: its gradient with respect to `out` is `weights`.
fn probe(out: MatRef<'_, f64>, weights: MatRef<'_, f64>) -> f64 {
    elements(out).iter().zip(elements(weights)).map(|(a, b)| a * b).sum()
}

/// A place in the training of a network.
fn place(seed: u64, step: u64, layer: u64) -> RandomPlace {
    RandomPlace { seed, step: Some(step), layer, first_row: 0 }
}

/// The layer's forward pass alone.
fn forward<T: Element>(
    layer: &dyn Layer<T>,
    parameters: &Arena<T>,
    x: MatRef<'_, T>,
    random: RandomPlace,
) -> Result<Matrix<T>> {
    let (context, input) = (Context::new()?, Shape::Features(x.cols()));
    let columns = layer.output_shape(input)?.values().unwrap();
    let mut out = Matrix::zeros(x.rows(), columns)?;
    let memory = layer.memory(&context, input, x.rows())?;
    let (mut saved, mut scratch) = (vec![T::ZERO; memory.saved], vec![0u8; memory.scratch]);
    let pass = Forward {
        parameters: parameters.slices(0..parameters.layout().tensors().len()),
        buffers: parameters.slices(0..0),
        x,
        out: out.view_mut(),
        saved: &mut saved,
        scratch: &mut scratch,
        random,
    };
    layer.forward(&context, pass)?;
    Ok(out)
}

/// The layer's backward pass alone, with what it says it needs and no more: the gradients of the
/// input and of the parameters.
fn backward<T: Element>(
    layer: &dyn Layer<T>,
    parameters: &Arena<T>,
    (x, out, d_out): (MatRef<'_, T>, MatRef<'_, T>, MatRef<'_, T>),
    random: RandomPlace,
) -> Result<(Matrix<T>, Arena<T>)> {
    let (context, input) = (Context::new()?, Shape::Features(x.cols()));
    let (mut d_x, mut gradients) = (Matrix::zeros(x.rows(), x.cols())?, parameters.try_clone()?);
    let count = parameters.layout().tensors().len();
    for number in 0..count {
        // Not to be read.
        gradients.tensor_mut(number).fill(T::from_f64(f64::NAN));
    }
    let memory = layer.memory(&context, input, x.rows())?;
    let (mut saved, mut scratch) = (vec![T::ZERO; memory.saved], vec![0u8; memory.scratch]);
    let pass = Backward {
        parameters: parameters.slices(0..count),
        x: layer.needs().input.then_some(x),
        out: layer.needs().output.then_some(out),
        d_out,
        d_x: Some(d_x.view_mut()),
        gradients: gradients.slices_mut(0..count),
        accumulate: false,
        saved: &mut saved,
        scratch: &mut scratch,
        random,
    };
    layer.backward(&context, pass)?;
    Ok((d_x, gradients))
}

/// Parameters of a layer for 7 features, biases that are not zero.
fn parameters<T: Element>(layer: impl Layer<T>) -> Arena<T> {
    let network = Network::builder(Shape::Features(7)).layer(layer).seed(1).build().unwrap();
    let mut parameters = network.parameters().try_clone().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for bias in parameters.get_mut("0.bias").into_iter().flatten() {
        *bias = T::from_f64(rng.random_range(-0.5..0.5));
    }
    parameters
}

/// Checks the backward passes of layers, one behind the other, with the gradient of `probe`; the
/// parameters are those of the first.
fn check_gradients(layers: &[&dyn Layer<f64>], parameters: &Arena<f64>, random_place: RandomPlace) {
    let (x, h) = (random(6, 7, 3), 1e-6);
    let run = |parameters: &Arena<f64>, x: MatRef<'_, f64>| -> Result<Vec<Matrix<f64>>> {
        let mut values = vec![Matrix::from_fn(x.rows(), x.cols(), |i, j| x.get(i, j))?];
        for layer in layers {
            let x = values.last().unwrap().view();
            values.push(forward(*layer, parameters, x, random_place)?);
        }
        Ok(values)
    };
    let values = run(parameters, x.view()).unwrap();
    let out = values.last().unwrap();
    let weights = random(out.rows(), out.cols(), 4);
    let loss = |parameters: &Arena<f64>, x: MatRef<'_, f64>| {
        run(parameters, x).map(|values| probe(values.last().unwrap().view(), weights.view()))
    };
    let mut d = Matrix::from_fn(out.rows(), out.cols(), |i, j| weights.view().get(i, j)).unwrap();
    let mut of_first = None;
    for (number, layer) in layers.iter().enumerate().rev() {
        let operands = (values[number].view(), values[number + 1].view(), d.view());
        let (d_x, gradients) = backward(*layer, parameters, operands, random_place).unwrap();
        (d, of_first) = (d_x, Some(gradients));
    }
    let numeric = central_differences(&mut elements(x.view()), h, |x| {
        loss(parameters, MatRef::new(x, 6, 7)?)
    });
    let error = relative_error(&elements(d.view()), &numeric.unwrap());
    assert!(error < TOLERANCE, "{layers:?}: the input's gradient is off by {error:e}");
    let gradients = of_first.unwrap();
    for (number, (tensor, gradient)) in gradients.iter().enumerate() {
        let mut moved = parameters.try_clone().unwrap();
        let numeric = central_differences(&mut parameters.tensor(number).to_vec(), h, |values| {
            moved.tensor_mut(number).copy_from_slice(values);
            loss(&moved, x.view())
        });
        let error = relative_error(gradient, &numeric.unwrap());
        assert!(error < TOLERANCE, "{layers:?}: {} is off by {error:e}", tensor.name());
    }
}

#[test]
fn layers_alone_have_the_right_gradients() {
    let linear = Linear::new(7, 5).unwrap().with_init(Init::Normal { std: 0.5 });
    let of_linear = parameters::<f64>(linear);
    let none = parameters::<f64>(Relu);
    assert_eq!(none.layout().tensors().len(), 0);
    let training = place(3, 2, 1);
    check_gradients(&[&linear], &of_linear, training);
    check_gradients(&[&Relu], &none, training);
    check_gradients(&[&Flatten], &none, training);
    check_gradients(&[&Scale::new(-0.3).unwrap()], &none, training);
    check_gradients(&[&Dropout::new(0.3).unwrap()], &none, training);
    check_gradients(&[&Dropout::new(0.3).unwrap()], &none, RandomPlace { step: None, ..training });
    check_gradients(&[&linear, &Relu], &of_linear, training);
    for activation in [&Gelu as &dyn Layer<f64>, &Silu] {
        check_gradients(&[activation], &none, training);
        check_gradients(&[&linear, activation], &of_linear, training);
        check_gradients(&[&linear, activation, &Dropout::new(0.3).unwrap()], &of_linear, training);
    }
    check_gradients(&[&linear, &Relu, &Dropout::new(0.3).unwrap()], &of_linear, training);
}

#[test]
fn gradients_of_a_layer_alone_are_added_where_it_is_asked_for() {
    let linear = Linear::new(7, 5).unwrap();
    let parameters = parameters::<f64>(linear);
    let context = Context::new().unwrap();
    let (x, d_out) = (random(6, 7, 5), random(6, 5, 6));
    let (operands, none) = ((x.view(), d_out.view(), d_out.view()), place(0, 1, 0));
    let (_, expected) = backward(&linear, &parameters, operands, none).unwrap();
    let mut sums = expected.try_clone().unwrap();
    let memory = Layer::<f64>::memory(&linear, &context, Shape::Features(7), 6).unwrap();
    let pass = Backward {
        parameters: parameters.slices(0..2),
        x: Some(x.view()),
        out: None,
        d_out: d_out.view(),
        d_x: None,
        gradients: sums.slices_mut(0..2),
        accumulate: true,
        saved: &mut [],
        scratch: &mut vec![0; memory.scratch],
        random: none,
    };
    linear.backward(&context, pass).unwrap();
    for ((tensor, sum), (_, once)) in sums.iter().zip(expected.iter()) {
        for (sum, once) in sum.iter().zip(once) {
            assert!((sum - 2.0 * once).abs() < 1e-13, "{}: {sum}, {once}", tensor.name());
        }
    }
}

#[test]
fn the_fused_pair_equals_its_parts_to_the_bit() {
    let (batch, inputs, outputs) = (33, 100, 47);
    let network = Network::<f32>::builder(Shape::Features(inputs)).linear(outputs).relu().seed(3);
    let network = network.build().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let x = Matrix::from_fn(batch, inputs, |_, _| rng.random_range(-1.0f32..1.0)).unwrap();
    let linear = Linear::new(inputs, outputs).unwrap();
    let none = place(0, 1, 0);
    let sum = forward(&linear, network.parameters(), x.view(), none).unwrap();
    let parts = forward(&Relu, network.parameters(), sum.view(), none).unwrap();
    let mut plan = Plan::new(&network, batch, Passes::Forward, Context::new().unwrap()).unwrap();
    plan.forward(&network, x.view(), Mode::Evaluation).unwrap();
    assert!(plan.to_string().contains("linear + relu"), "{plan}");
    assert_eq!(elements(parts.view()), elements(plan.logits(batch).unwrap()));
}

#[test]
fn dropout_in_a_network_equals_the_layer_to_the_bit() {
    let network = Network::<f32>::builder(Shape::Features(90));
    let network = network.linear(40).relu().dropout(0.3).linear(5).seed(9).build().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let x = Matrix::from_fn(70, 90, |_, _| rng.random_range(-1.0f32..1.0)).unwrap();
    let mut plan = Plan::new(&network, 70, Passes::Forward, Context::new().unwrap()).unwrap();
    plan.forward(&network, x.view(), Mode::Training { step: 4 }).unwrap();
    assert!(plan.to_string().contains("linear + relu + dropout"), "{plan}");

    let position = place(9, 4, 0);
    let first = Network::<f32>::builder(Shape::Features(90)).linear(40).build().unwrap();
    let last = Network::<f32>::builder(Shape::Features(40)).linear(5).build().unwrap();
    let [mut first, mut last] = [first, last].map(|net| net.parameters().try_clone().unwrap());
    for (to, number) in [(&mut first, "0"), (&mut last, "3")] {
        for name in ["weight", "bias"] {
            let from = network.parameters().get(&format!("{number}.{name}")).unwrap();
            to.get_mut(&format!("0.{name}")).unwrap().copy_from_slice(from);
        }
    }
    let hidden = forward(&Linear::new(90, 40).unwrap(), &first, x.view(), position).unwrap();
    let hidden = forward(&Relu, &first, hidden.view(), position).unwrap();
    let dropout = Dropout::new(0.3).unwrap();
    let hidden = forward(&dropout, &first, hidden.view(), position).unwrap();
    let logits = forward(&Linear::new(40, 5).unwrap(), &last, hidden.view(), position).unwrap();
    assert_eq!(elements(logits.view()), elements(plan.logits(70).unwrap()));
}

#[test]
fn relu_has_gradient_zero_at_zero_and_keeps_nan() {
    let none = parameters::<f64>(Relu);
    let x = [-1.0, 0.0, 2.0, f64::NAN];
    let x = MatRef::new(&x, 1, 4).unwrap();
    let out = forward(&Relu, &none, x, place(0, 1, 0)).unwrap();
    assert_eq!(&out.view().row(0).unwrap()[..3], &[0.0, 0.0, 2.0]);
    assert!(out.view().get(0, 3).is_nan());
    let ones = Matrix::from_fn(1, 4, |_, _| 1.0).unwrap();
    let operands = (x, out.view(), ones.view());
    let (gradient, _) = backward(&Relu, &none, operands, place(0, 1, 0)).unwrap();
    assert_eq!(gradient.view().row(0).unwrap(), &[0.0, 0.0, 1.0, 0.0]);
}

/// x, and output and gradient of PyTorch 2.15 in double precision.
type Reference = [(f64, f64, f64); 10];

const GELU: Reference = [
    (-3.0, -0.00404969409489031, -0.01194564720418392),
    (-1.5, -0.10021080190328704, -0.1274691922299796),
    (-0.75, -0.16997051428265111, 0.0007742782607648296),
    (-0.1, -0.0460172162722971, 0.4204769079752698),
    (0.0, 0.0, 0.5),
    (0.001, 0.000500398942213911, 0.5007978842948414),
    (0.75, 0.5800294857173489, 0.9992257217392352),
    (1.5, 1.399789198096713, 1.1274691922299795),
    (6.0, 5.999999994080474, 1.0000000354687093),
    (40.0, 40.0, 1.0),
];

const SILU: Reference = [
    (-3.0, -0.14227761953270035, -0.08810410601516962),
    (-1.5, -0.2736382857095345, -0.041294154299142946),
    (-0.75, -0.24061597561845527, 0.1574000555032465),
    (-0.1, -0.047502081252106004, 0.4500832085017708),
    (0.0, 0.0, 0.5),
    (0.001, 0.0005002499999791667, 0.5004999999166666),
    (0.75, 0.5093840243815447, 0.8425999444967536),
    (1.5, 1.2263617142904655, 1.041294154299143),
    (6.0, 5.985164261060192, 1.0123264325915249),
    (40.0, 40.0, 1.0),
];

/// Output and gradient at -12, by mpmath.
const GELU_OF_MINUS_12: (f64, f64) = (-2.1317785344932147e-32, -2.5578956616748956e-31);

/// Output and gradient of an activation at x.
fn activate<T: Element>(layer: &dyn Layer<T>, x: T) -> (T, T) {
    let (none, x) = (parameters::<T>(Relu), [x]);
    let (x, one) = (MatRef::new(&x, 1, 1).unwrap(), Matrix::from_fn(1, 1, |_, _| T::ONE).unwrap());
    let out = forward(layer, &none, x, place(0, 1, 0)).unwrap();
    let (d_x, _) = backward(layer, &none, (x, out.view(), one.view()), place(0, 1, 0)).unwrap();
    (out.view().get(0, 0), d_x.view().get(0, 0))
}

#[test]
fn gelu_and_silu_are_those_of_pytorch() {
    for (layers, reference) in
        [((&Gelu as &dyn Layer<f64>, &Gelu as &dyn Layer<f32>), GELU), ((&Silu, &Silu), SILU)]
    {
        for (x, out, gradient) in reference {
            let (name, found) = (layers.0.config(), activate(layers.0, x));
            for (found, expected) in [(found.0, out), (found.1, gradient)] {
                // As far as PyTorch's `1 + erf(x / sqrt(2))` has digits itself.
                assert!(
                    (found - expected).abs() < 1e-15 * x.abs().max(1.0),
                    "{name}({x}): {found}"
                );
            }
            let found = activate(layers.1, x as f32);
            for (found, expected) in [(found.0, out), (found.1, gradient)] {
                let error = (f64::from(found) - expected).abs();
                assert!(error < 3e-7 * x.abs().max(1.0), "{name}({x}): {found} in f32");
            }
        }
        let infinity = f64::INFINITY;
        let (out, gradient) = activate(layers.0, infinity);
        assert!(out == infinity && gradient.is_nan());
        for x in [-infinity, f64::NAN] {
            let (out, gradient) = activate(layers.0, x);
            assert!(out.is_nan() && gradient.is_nan());
        }
        let (out, gradient) = activate(layers.0, -1e3);
        assert!(out == 0.0 && out.is_sign_negative() && gradient == 0.0);
    }
    // What 1 + erf(x / sqrt(2)) has lost: -12 Phi(-12), and its gradient.
    let (out, gradient) = activate(&Gelu as &dyn Layer<f64>, -12.0);
    assert!((out / GELU_OF_MINUS_12.0 - 1.0).abs() < 1e-14, "{out}");
    assert!((gradient / GELU_OF_MINUS_12.1 - 1.0).abs() < 1e-14, "{gradient}");
}

#[test]
fn networks_with_gelu_and_silu_have_the_right_gradients_and_bits() {
    let network = || {
        let builder = Network::<f64>::builder(Shape::Features(19)).gelu().linear(40).gelu();
        let builder = builder.dropout(0.2).residual(|block| block.linear(40).silu().linear(40));
        builder.silu().residual(|block| block.gelu()).linear(5).seed(3).build().unwrap()
    };
    let (x, labels) = (random(6, 19, 9), [0, 4, 1, 1, 3, 2]);
    let criterion = (CrossEntropy::default(), L2::default());
    for mode in [Mode::Evaluation, Mode::Training { step: 11 }] {
        for check in check(&network(), (x.view(), &labels), criterion, mode, 1e-6).unwrap() {
            assert!(check.relative_error < TOLERANCE, "{}: {}", check.name, check.relative_error);
        }
    }

    let (x, labels) = (random(301, 19, 10), [2; 301]);
    let run = |set, threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let gemm = tilewise::gemm::Gemm::with_instruction_set(set).unwrap();
            let context = Context::of(gemm).unwrap().with_threads(tilewise::threads::Threads::Pool);
            let mut network = network();
            let mut plan = Plan::new(&network, 301, Passes::Gradient, context.unwrap()).unwrap();
            let (criterion, mode) = (CrossEntropy::default(), Mode::Training { step: 2 });
            let loss = plan.loss_and_gradient(&mut network, x.view(), &labels, criterion, mode);
            let gradients = plan.gradients().unwrap().iter().flat_map(|(_, gradient)| gradient);
            (loss.unwrap().to_bits(), gradients.map(|g| g.to_bits()).collect::<Vec<_>>())
        })
    };
    let fused = InstructionSet::available().find(|set| set.is_fused());
    for set in InstructionSet::available() {
        let one = run(set, 1);
        assert!(run(set, 3) == one, "{set}: threads");
        if let (true, Some(fused)) = (set.is_fused(), fused) {
            assert!(run(fused, 1) == one, "{set}, {fused}");
        }
    }
}

#[test]
fn dropout_drops_its_fraction_and_keeps_the_expectation() {
    let none = parameters::<f64>(Relu);
    let ones = Matrix::from_fn(500, 401, |_, _| 1.0f64).unwrap();
    for probability in [0.1, 0.5, 0.9] {
        let dropout = Dropout::new(probability).unwrap();
        let apply = |place| elements(forward(&dropout, &none, ones.view(), place).unwrap().view());
        let values = apply(place(7, 3, 1));
        let kept = values.iter().filter(|&&x| x != 0.0).count() as f64 / values.len() as f64;
        // Five standard deviations of a binomial fraction.
        let deviation = (probability * (1.0 - probability) / values.len() as f64).sqrt();
        assert!((kept - (1.0 - probability)).abs() < 5.0 * deviation, "{probability}: {kept}");
        assert!(values.iter().all(|&x| x == 0.0 || x == 1.0 / (1.0 - probability)));

        // The backward pass has the same mask; other steps, layers and seeds have others.
        let operands = (ones.view(), ones.view(), ones.view());
        let (gradient, _) = backward(&dropout, &none, operands, place(7, 3, 1)).unwrap();
        assert_eq!(elements(gradient.view()), values);
        for other in [place(7, 4, 1), place(7, 3, 2), place(8, 3, 1)] {
            let same = apply(other).iter().zip(&values).filter(|(a, b)| a == b).count();
            let fraction = same as f64 / values.len() as f64;
            let expected = probability * probability + (1.0 - probability) * (1.0 - probability);
            assert!((fraction - expected).abs() < 0.01, "{fraction} of the mask is the same");
        }
        // The rest of a batch that is computed in parts has the masks of the whole.
        let rest = RandomPlace { first_row: 100, ..place(7, 3, 1) };
        assert_eq!(apply(rest)[..400 * 401], values[100 * 401..]);
        // Evaluation drops nothing.
        let evaluation = RandomPlace { step: None, ..place(7, 3, 1) };
        assert_eq!(apply(evaluation), elements(ones.view()));
    }
}

#[test]
fn layers_refuse_settings_without_sense() {
    for probability in [-0.1, 1.0, 2.0, f64::NAN] {
        let error = Dropout::new(probability).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "dropout", .. }), "{error}");
    }
    for factor in [f64::NAN, f64::INFINITY] {
        assert!(Scale::new(factor).is_err());
    }
    assert!(Linear::new(0, 3).is_err() && Linear::new(3, 0).is_err());
}

#[test]
fn softmax_cross_entropy_has_the_right_loss_and_gradient() {
    let logits = random(4, 10, 8);
    let labels = [3, 0, 9, 3];
    let mut gradient = Matrix::zeros(4, 10).unwrap();
    let mut losses = [0.0; 4];
    let into = gradient.view_mut();
    let plain = CrossEntropy::default();
    let loss = plain.forward_backward(logits.view(), &labels, into, &mut losses).unwrap();
    let by_hand: f64 = labels
        .iter()
        .enumerate()
        .map(|(i, &label)| {
            let row = logits.view().row(i).unwrap();
            row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label as usize]
        })
        .sum();
    assert!((loss - by_hand / 4.0).abs() < 1e-14);
    let numeric = central_differences(&mut elements(logits.view()), 1e-5, |x| {
        plain.forward(MatRef::new(x, 4, 10)?, &labels, &mut [0.0; 4])
    });
    assert!(relative_error(&elements(gradient.view()), &numeric.unwrap()) < TOLERANCE);
}

#[test]
fn softmax_cross_entropy_stands_large_logits_and_names_bad_labels() {
    let logits = [1000.0f32, 0.0, -1000.0, 0.0];
    let logits = MatRef::new(&logits, 2, 2).unwrap();
    let mut losses = [0.0; 2];
    let plain = CrossEntropy::default();
    let loss = plain.forward(logits, &[1, 1], &mut losses).unwrap();
    assert_eq!((loss, losses), (500.0, [1000.0, 0.0]));
    for label in [2, 256, 258, u32::MAX] {
        let error = plain.forward(logits, &[0, label], &mut losses).unwrap_err();
        let Error::Label { label: found, row: 1, classes: 2 } = error else { panic!("{error}") };
        assert_eq!(found, label);
    }
}

fn check_whole_network(config: &MlpConfig, l2: f64, mode: Mode) {
    let network = mlp::<f64>(config).unwrap();
    let x = random(5, network.in_features(), 9);
    let labels = [0, 4, 1, 1, 3];
    let criterion = (CrossEntropy::default(), L2::new(l2).unwrap());
    for check in check(&network, (x.view(), &labels), criterion, mode, 1e-6).unwrap() {
        assert!(check.relative_error < TOLERANCE, "{}: {}", check.name, check.relative_error);
    }
}

#[test]
fn whole_networks_have_the_right_gradients() {
    for l2 in [0.0, 0.7] {
        let config = MlpConfig::default()
            .with_input(15)
            .with_hidden(vec![20, 30])
            .with_classes(5)
            .with_init(Init::Normal { std: 0.3 });
        check_whole_network(&config, l2, Mode::Evaluation);
        let two_layers = config.clone().with_hidden(vec![12]);
        check_whole_network(&two_layers, l2, Mode::Evaluation);
        let dropout = config.clone().with_dropout(0.25);
        check_whole_network(&dropout, l2, Mode::Training { step: 11 });
        let linear = config.with_hidden(vec![]);
        check_whole_network(&linear, l2, Mode::Evaluation);
    }
}

#[test]
fn the_loss_has_the_squares_of_the_weights_and_the_same_bits_on_every_fused_set() {
    let config = MlpConfig::default().with_input(90).with_hidden(vec![41]).with_classes(7);
    let mut network = mlp::<f64>(&config).unwrap();
    let l2 = L2::new(0.7).unwrap();
    let (x, labels) = (random(30, 90, 13), [3; 30]);
    let mut run = |l2: L2, set| {
        let context = Context::of(tilewise::gemm::Gemm::with_instruction_set(set).unwrap());
        let mut plan = Plan::new(&network, 30, Passes::Gradient, context.unwrap()).unwrap();
        let (criterion, mode) = (CrossEntropy::default(), Mode::Evaluation);
        let loss = plan.loss_and_gradient(&mut network, x.view(), &labels, criterion, mode);
        let loss = loss.unwrap() + l2.loss(&network, &mut plan).unwrap();
        l2.add_gradient(&network, &mut plan).unwrap();
        let gradients = plan.gradients().unwrap().iter().flat_map(|(_, gradient)| gradient);
        (loss, gradients.map(|g| g.to_bits()).collect::<Vec<_>>())
    };
    let sets: Vec<_> = InstructionSet::available().collect();
    let differences: Vec<f64> =
        sets.iter().map(|&set| run(l2, set).0 - run(L2::default(), set).0).collect();
    let fused = sets.iter().filter(|set| set.is_fused());
    let results: Vec<_> = fused.map(|&set| run(l2, set)).collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "fused sets differ");
    let weights = ["0.weight", "2.weight"].map(|name| network.parameters().get(name).unwrap());
    let squares: f64 = weights.concat().iter().map(|w| w * w).sum();
    for (set, difference) in sets.iter().zip(differences) {
        assert!((difference - 0.7 * squares).abs() < 1e-12, "{set}: {difference}");
    }
}

#[test]
fn a_gradient_check_sees_a_wrong_gradient() {
    assert!(relative_error(&[1.0, 2.0], &[1.0, 2.0 + 1e-6]) > TOLERANCE);
    assert_eq!(relative_error(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
}

fn small(hidden: &[usize], classes: usize, seed: u64) -> Network<f32> {
    let hidden = hidden.to_vec();
    mlp(&MlpConfig::default()
        .with_input(8)
        .with_hidden(hidden)
        .with_classes(classes)
        .with_seed(seed))
    .unwrap()
}

fn plan(network: &Network<f32>, capacity: usize, passes: Passes) -> Plan<f32> {
    Plan::new(network, capacity, passes, Context::new().unwrap()).unwrap()
}

#[test]
fn a_plan_takes_its_batch_and_no_larger_one() {
    let network = small(&[4], 3, 0);
    let context = Context::new().unwrap();
    let x = Matrix::zeros(7, 8).unwrap();
    for passes in [Passes::Forward, Passes::FusedUpdate, Passes::LayerUpdate, Passes::Gradient] {
        let mut plan = plan(&network, 6, passes);
        let bytes = Plan::planned_bytes(&network, 6, passes, &context).unwrap();
        assert_eq!((plan.bytes(), plan.capacity(), plan.passes()), (bytes, 6, passes));
        plan.forward(&network, x.view().part(0..6, 0..8).unwrap(), Mode::Evaluation).unwrap();
        let error = plan.forward(&network, x.view(), Mode::Evaluation).unwrap_err();
        assert!(matches!(error, Error::BatchTooLarge { batch: 7, capacity: 6 }), "{error}");
        let error = plan.loss(CrossEntropy::default(), &[0; 7]).unwrap_err();
        assert!(matches!(error, Error::BatchTooLarge { batch: 7, capacity: 6 }), "{error}");
        for capacity in [0, usize::MAX / 8] {
            assert!(Plan::new(&network, capacity, passes, context).is_err(), "{capacity}");
            assert!(Plan::planned_bytes(&network, capacity, passes, &context).is_err());
        }
    }
}

#[test]
fn a_plan_refuses_networks_of_other_layers() {
    let (mut own, mut copy) = (small(&[6, 5], 3, 0), small(&[6, 5], 3, 1));
    let x = Matrix::from_fn(4, 8, |i, j| (i + j) as f32 / 8.0 - 0.5).unwrap();
    let (x, labels) = (x.view(), [0, 1, 2, 0]);
    let (criterion, mode) = (CrossEntropy::default(), Mode::Evaluation);
    let mut plan = plan(&own, 4, Passes::Gradient);
    plan.loss_and_gradient(&mut own, x, &labels, criterion, mode).unwrap();
    let bits = |plan: &Plan<f32>| {
        let gradients = plan.gradients().unwrap().iter();
        gradients.flat_map(|(_, values)| values.to_vec()).collect::<Vec<f32>>()
    };
    let gradients = bits(&plan);

    // Other widths, of which some have room in the memory, other depths, other classes.
    let mut others = vec![small(&[5, 6], 3, 0), small(&[6], 3, 0), small(&[6, 5, 3], 3, 0)];
    others.extend([small(&[], 3, 0), small(&[6, 5], 2, 0), small(&[60, 50], 3, 0)]);
    others.push(small(&[1, 1], 1, 0));
    // The same layers and parameters in another structure; other settings of a layer.
    let input = Shape::Features(8);
    let shaped = |dropout: f64, scale: f64| {
        let network = Network::builder(input).linear(6).relu().dropout(dropout).scale(scale);
        network.residual(|block| block.linear(6)).linear(3).build().unwrap()
    };
    let flat = Network::builder(input).linear(6).relu().dropout(0.1).scale(2.0);
    others.extend([shaped(0.1, 2.0), flat.linear(6).linear(3).build().unwrap()]);
    for other in &mut others {
        let errors = [
            plan.forward(other, x, mode).unwrap_err(),
            plan.loss_and_gradient(other, x, &labels, criterion, mode).unwrap_err(),
        ];
        for error in errors {
            assert!(
                matches!(error, Error::OtherNetwork { what: "network of a plan", .. }),
                "{error}"
            );
            assert!(error.to_string().contains("linear(in_features = 8, out_features = 6)"));
        }
    }
    assert_eq!(bits(&plan), gradients);
    let mut of_shaped = self::plan(&shaped(0.1, 2.0), 4, Passes::Forward);
    for other in [shaped(0.2, 2.0), shaped(0.1, 2.5)] {
        assert!(of_shaped.forward(&other, x, mode).is_err(), "{other:?}");
    }
    of_shaped.forward(&shaped(0.1, 2.0), x, mode).unwrap();

    // Parameters are no part of the plan: a network of the same layers has its own results.
    plan.loss_and_gradient(&mut copy, x, &labels, criterion, mode).unwrap();
    let mut fresh = self::plan(&copy, 4, Passes::Gradient);
    fresh.loss_and_gradient(&mut copy, x, &labels, criterion, mode).unwrap();
    assert_eq!(elements(plan.logits(4).unwrap()), elements(fresh.logits(4).unwrap()));
    assert_eq!(bits(&plan), bits(&fresh));
    assert_ne!(bits(&plan), gradients);
}

#[test]
fn results_are_those_of_the_last_forward_pass_or_errors() {
    let (network, criterion) = (small(&[4], 3, 0), CrossEntropy::default());
    let mut plan = plan(&network, 6, Passes::Gradient);
    let x = Matrix::zeros(6, 8).unwrap();
    let error = plan.logits(1).unwrap_err();
    assert!(error.to_string().contains("at most 0"), "{error}");
    assert!(plan.loss(criterion, &[0]).is_err(), "no forward pass yet");
    let part = x.view().part(0..4, 0..8).unwrap();
    plan.forward(&network, part, Mode::Evaluation).unwrap();
    plan.loss(criterion, &[0; 4]).unwrap();
    assert_eq!(plan.logits(2).unwrap().shape(), (2, 3));
    for rows in [0, 3, 5] {
        let error = plan.loss(criterion, &vec![0; rows]).unwrap_err();
        assert!(matches!(error, Error::Length { expected: 4, .. }), "{rows}: {error}");
        let error = plan.row_losses(criterion, &vec![0; rows]).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Length { expected: 4, .. }), "{rows}: {error}");
    }
    assert!(plan.logits(5).is_err());
    // A pass that fails leaves no result behind.
    let narrow = x.view().part(0..4, 0..7).unwrap();
    assert!(plan.forward(&network, narrow, Mode::Evaluation).is_err());
    assert!(plan.loss(criterion, &[0; 4]).is_err());
}

#[test]
fn a_row_has_the_same_logits_in_any_batch() {
    let config = MlpConfig::default().with_input(100).with_hidden(vec![70]).with_classes(10);
    let network = mlp::<f32>(&config).unwrap();
    let x = random(37, 100, 10);
    let logits = |rows: std::ops::Range<usize>| {
        let mut plan = plan(&network, 37, Passes::Forward);
        let part = Matrix::from_fn(rows.len(), 100, |i, j| x.view().get(rows.start + i, j) as f32)
            .unwrap();
        plan.forward(&network, part.view(), Mode::Evaluation).unwrap();
        let logits = plan.logits(rows.len()).unwrap();
        (0..rows.len()).map(|i| logits.row(i).unwrap().to_vec()).collect::<Vec<_>>()
    };
    let whole = logits(0..37);
    for rows in [0..1, 5..6, 20..37, 0..36] {
        assert_eq!(logits(rows.clone()), whole[rows]);
    }
}

#[test]
fn senseless_networks_are_errors() {
    let config = MlpConfig::default();
    for bad in [
        config.clone().with_hidden(vec![0]),
        config.clone().with_classes(0),
        config.clone().with_input(0),
        config.clone().with_dropout(1.0),
        config.clone().with_dropout(f64::NAN),
        config.clone().with_init(Init::Normal { std: -1.0 }),
    ] {
        assert!(mlp::<f32>(&bad).is_err(), "{bad:?}");
    }
    assert!(L2::new(f64::NAN).is_err() && L2::new(-1.0).is_err());
    let network = Network::<f32>::builder(Shape::Features(3));
    let misfit = network.linear(4).layer(Linear::new(5, 2).unwrap()).build().unwrap_err();
    assert!(misfit.to_string().contains("4 features"), "{misfit}");
}
