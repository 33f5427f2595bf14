//! Layers against their definitions and against central differences, in f64; whole networks too.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Error, Result,
    gemm::{Epilogue, Gemm},
    matrix::{MatRef, Matrix},
    nn::{
        CrossEntropy, Dropout, DropoutPosition, FullyConnectedNet, Init, Linear, LinearGradient,
        LinearRelu, Mode, NetConfig, Relu, TwoLayerNet,
        gradcheck::{central_differences, check_net, relative_error},
    },
    simd::InstructionSet,
};

/// What the analytic gradients may differ from the numeric ones.
const TOLERANCE: f64 = 1e-7;

fn random(rows: usize, cols: usize, seed: u64) -> Matrix<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Matrix::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0)).unwrap()
}

fn elements(matrix: MatRef<'_, f64>) -> Vec<f64> {
    (0..matrix.rows()).flat_map(|i| matrix.row(i).unwrap()).copied().collect()
}

/// The sum of `weights * out`: its gradient with respect to `out` is `weights`.
fn probe(out: MatRef<'_, f64>, weights: MatRef<'_, f64>) -> f64 {
    elements(out).iter().zip(elements(weights)).map(|(a, b)| a * b).sum()
}

fn layer(in_features: usize, out_features: usize) -> Linear<f64> {
    let mut layer =
        Linear::new(in_features, out_features, Init::Normal { std: 0.5 }, 1, 0).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    layer.bias_mut().iter_mut().for_each(|b| *b = rng.random_range(-0.5..0.5));
    layer
}

/// Analytic and numeric gradients of a layer's W, b and input, under `forward`.
fn check_linear(
    layer: &Linear<f64>,
    x: &Matrix<f64>,
    forward: impl Fn(&Linear<f64>, MatRef<'_, f64>) -> Result<f64>,
    analytic: (Vec<f64>, Vec<f64>, Vec<f64>),
) {
    let h = 1e-6;
    let (inputs, outputs) = (layer.in_features(), layer.out_features());
    let mut weights = elements(layer.weight());
    let d_weight = central_differences(&mut weights, h, |weights| {
        let mut moved = layer.clone();
        for i in 0..inputs {
            let row = &weights[i * outputs..(i + 1) * outputs];
            moved.weight_mut().row_mut(i).unwrap().copy_from_slice(row);
        }
        forward(&moved, x.view())
    });
    assert!(relative_error(&analytic.0, &d_weight.unwrap()) < TOLERANCE);
    let d_bias = central_differences(&mut layer.bias().to_vec(), h, |bias| {
        let mut moved = layer.clone();
        moved.bias_mut().copy_from_slice(bias);
        forward(&moved, x.view())
    });
    assert!(relative_error(&analytic.1, &d_bias.unwrap()) < TOLERANCE);
    let d_x = central_differences(&mut elements(x.view()), h, |x| {
        forward(layer, MatRef::new(x, x.len() / inputs, inputs)?)
    });
    assert!(relative_error(&analytic.2, &d_x.unwrap()) < TOLERANCE);
}

#[test]
fn linear_has_the_right_gradients() {
    let gemm = Gemm::new().unwrap();
    let (layer, x, d_out) = (layer(7, 5), random(6, 7, 3), random(6, 5, 4));
    let mut scratch = vec![0; layer.scratch_bytes(&gemm, 6).unwrap()];
    let (mut weight, mut bias, mut d_x) =
        (Matrix::zeros(7, 5).unwrap(), [0.0; 5], Matrix::zeros(6, 7).unwrap());
    let gradient = LinearGradient { weight: weight.view_mut(), bias: &mut bias };
    let into = Some((d_x.view_mut(), Epilogue::default()));
    layer.backward(&gemm, x.view(), d_out.view(), gradient, into, &mut scratch).unwrap();
    check_linear(
        &layer,
        &x,
        |layer, x| {
            let mut out = Matrix::zeros(6, 5)?;
            let mut scratch = gemm.scratch(6, 7, 7)?;
            layer.forward(&gemm, x, out.view_mut(), &mut scratch)?;
            Ok(probe(out.view(), d_out.view()))
        },
        (elements(weight.view()), bias.to_vec(), elements(d_x.view())),
    );
}

#[test]
fn linear_relu_has_the_right_gradients() {
    let gemm = Gemm::new().unwrap();
    let (layer, x, d_out) = (layer(7, 5), random(6, 7, 5), random(6, 5, 6));
    let forward = |layer: &Linear<f64>, x: MatRef<'_, f64>| -> Result<Matrix<f64>> {
        let mut out = Matrix::zeros(6, 5)?;
        let mut scratch = gemm.scratch(6, 7, 7)?;
        LinearRelu(layer.clone()).forward(&gemm, x, out.view_mut(), &mut scratch)?;
        Ok(out)
    };
    let out = forward(&layer, x.view()).unwrap();
    let zeros = elements(out.view()).iter().filter(|&&x| x == 0.0).count();
    assert!((5..25).contains(&zeros), "{zeros} of 30 activations are 0");
    let mut scratch = vec![0; layer.scratch_bytes(&gemm, 6).unwrap()];
    let (mut weight, mut bias, mut d_x) =
        (Matrix::zeros(7, 5).unwrap(), [0.0; 5], Matrix::zeros(6, 7).unwrap());
    let gradient = LinearGradient { weight: weight.view_mut(), bias: &mut bias };
    let into = Some((d_x.view_mut(), Epilogue::default()));
    let mut d_out_copy = d_out.clone();
    LinearRelu(layer.clone())
        .backward(
            &gemm,
            (x.view(), out.view()),
            d_out_copy.view_mut(),
            gradient,
            into,
            &mut scratch,
        )
        .unwrap();
    check_linear(
        &layer,
        &x,
        |layer, x| Ok(probe(forward(layer, x)?.view(), d_out.view())),
        (elements(weight.view()), bias.to_vec(), elements(d_x.view())),
    );
}

#[test]
fn the_fused_pair_equals_its_parts_to_the_bit() {
    let gemm = Gemm::<f32>::new().unwrap();
    let (batch, inputs, outputs) = (33, 100, 47);
    let layer = Linear::new(inputs, outputs, Init::He, 3, 0).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let x = Matrix::from_fn(batch, inputs, |_, _| rng.random_range(-1.0f32..1.0)).unwrap();
    let mut scratch = gemm.scratch(batch, inputs, inputs).unwrap();
    let mut sum = Matrix::zeros(batch, outputs).unwrap();
    let mut parts = Matrix::zeros(batch, outputs).unwrap();
    let mut fused = Matrix::zeros(batch, outputs).unwrap();
    layer.forward(&gemm, x.view(), sum.view_mut(), &mut scratch).unwrap();
    Relu.forward(&gemm, sum.view(), parts.view_mut()).unwrap();
    LinearRelu(layer).forward(&gemm, x.view(), fused.view_mut(), &mut scratch).unwrap();
    for i in 0..batch {
        assert_eq!(parts.view().row(i), fused.view().row(i));
    }
}

#[test]
fn dropout_in_a_network_equals_the_layer_to_the_bit() {
    let gemm = Gemm::<f32>::new().unwrap();
    let config = NetConfig {
        input: 90,
        hidden: vec![40],
        classes: 5,
        init: Init::He,
        dropout: 0.3,
        seed: 9,
        ..NetConfig::default()
    };
    let net = FullyConnectedNet::<f32>::new(&config).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    let x = Matrix::from_fn(70, 90, |_, _| rng.random_range(-1.0f32..1.0)).unwrap();
    let mut workspace = net.workspace(gemm, 70).unwrap();
    net.forward(x.view(), &mut workspace, Mode::Training { step: 4 }).unwrap();

    let mut scratch = gemm.scratch(70, 90, 90).unwrap();
    let mut hidden = Matrix::zeros(70, 40).unwrap();
    let mut logits = Matrix::zeros(70, 5).unwrap();
    let [first, last] = net.layers() else { panic!("two layers") };
    LinearRelu(first.clone()).forward(&gemm, x.view(), hidden.view_mut(), &mut scratch).unwrap();
    let position = DropoutPosition { step: 4, layer: 0 };
    Dropout::new(0.3, 9).unwrap().forward(&gemm, position, hidden.view_mut()).unwrap();
    last.forward(&gemm, hidden.view(), logits.view_mut(), &mut scratch).unwrap();
    for i in 0..70 {
        assert_eq!(logits.view().row(i), workspace.logits(70).unwrap().row(i));
    }
}

#[test]
fn relu_has_gradient_zero_at_zero_and_keeps_nan() {
    let gemm = Gemm::new().unwrap();
    let x = [-1.0, 0.0, 2.0, f64::NAN];
    let x = MatRef::new(&x, 1, 4).unwrap();
    let mut out = Matrix::zeros(1, 4).unwrap();
    Relu.forward(&gemm, x, out.view_mut()).unwrap();
    assert_eq!(&out.view().row(0).unwrap()[..3], &[0.0, 0.0, 2.0]);
    assert!(out.view().get(0, 3).is_nan());
    let mut gradient = Matrix::from_fn(1, 4, |_, _| 1.0).unwrap();
    Relu.backward(&gemm, x, gradient.view_mut()).unwrap();
    assert_eq!(gradient.view().row(0).unwrap(), &[0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn dropout_drops_its_share_and_keeps_the_expectation() {
    let gemm = Gemm::new().unwrap();
    let ones = || Matrix::from_fn(500, 401, |_, _| 1.0f64).unwrap();
    for probability in [0.1, 0.5, 0.9] {
        let dropout = Dropout::new(probability, 7).unwrap();
        let position = DropoutPosition { step: 3, layer: 1 };
        let mut x = ones();
        dropout.forward(&gemm, position, x.view_mut()).unwrap();
        let values = elements(x.view());
        let kept = values.iter().filter(|&&x| x != 0.0).count() as f64 / values.len() as f64;
        // Five standard deviations of a binomial share.
        let deviation = (probability * (1.0 - probability) / values.len() as f64).sqrt();
        assert!((kept - (1.0 - probability)).abs() < 5.0 * deviation, "{probability}: {kept}");
        assert!(values.iter().all(|&x| x == 0.0 || x == 1.0 / (1.0 - probability)));

        // The backward pass has the same mask; other steps, layers and seeds have others.
        let mut gradient = ones();
        dropout.backward(&gemm, position, gradient.view_mut()).unwrap();
        assert_eq!(elements(gradient.view()), values);
        for (seed, step, layer) in [(7, 4, 1), (7, 3, 2), (8, 3, 1)] {
            let mut other = ones();
            let position = DropoutPosition { step, layer };
            let dropout = Dropout::new(probability, seed).unwrap();
            dropout.forward(&gemm, position, other.view_mut()).unwrap();
            let same = elements(other.view()).iter().zip(&values).filter(|(a, b)| a == b).count();
            let share = same as f64 / values.len() as f64;
            let expected = probability * probability + (1.0 - probability) * (1.0 - probability);
            assert!((share - expected).abs() < 0.01, "{share} of the mask is the same");
        }
    }
}

#[test]
fn dropout_refuses_what_is_no_probability() {
    for probability in [-0.1, 1.0, 2.0, f64::NAN] {
        let error = Dropout::new(probability, 0).unwrap_err();
        assert!(matches!(error, Error::Setting { name: "dropout", .. }), "{error}");
    }
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
            row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[usize::from(label)]
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
    let error = plain.forward(logits, &[0, 2], &mut losses).unwrap_err();
    assert!(matches!(error, Error::Label { label: 2, row: 1, classes: 2 }), "{error}");
}

fn check_whole_net(net: &FullyConnectedNet<f64>, mode: Mode) {
    let x = random(5, net.input(), 9);
    let labels = [0, 4, 1, 1, 3];
    for check in check_net(net, x.view(), &labels, mode, 1e-6).unwrap() {
        assert!(check.relative_error < TOLERANCE, "{}: {}", check.name, check.relative_error);
    }
}

#[test]
fn whole_networks_have_the_right_gradients() {
    for l2 in [0.0, 0.7] {
        let config = NetConfig {
            input: 15,
            hidden: vec![20, 30],
            classes: 5,
            init: Init::Normal { std: 0.3 },
            l2,
            ..NetConfig::default()
        };
        check_whole_net(&FullyConnectedNet::new(&config).unwrap(), Mode::Evaluation);
        check_whole_net(&TwoLayerNet::new(12, &config).unwrap(), Mode::Evaluation);
        let dropout = NetConfig { dropout: 0.25, ..config.clone() };
        let net = FullyConnectedNet::new(&dropout).unwrap();
        check_whole_net(&net, Mode::Training { step: 11 });
        let linear = NetConfig { hidden: vec![], ..config };
        check_whole_net(&FullyConnectedNet::new(&linear).unwrap(), Mode::Evaluation);
    }
}

#[test]
fn the_loss_has_the_squares_of_the_weights_and_the_same_bits_on_every_fused_set() {
    let config = NetConfig { input: 90, hidden: vec![41], classes: 7, ..NetConfig::default() };
    let (plain, l2) = (FullyConnectedNet::<f64>::new(&config).unwrap(), 0.7);
    let regularised = FullyConnectedNet::new(&NetConfig { l2, ..config }).unwrap();
    let (x, labels) = (random(30, 90, 13), [3; 30]);
    let run = |net: &FullyConnectedNet<f64>, set| {
        let gemm = Gemm::with_instruction_set(set).unwrap();
        let mut workspace = net.workspace(gemm, 30).unwrap();
        let loss =
            net.loss_and_gradient(x.view(), &mut workspace, &labels, Mode::Evaluation).unwrap();
        let gradients = (0..2).flat_map(|l| workspace.gradient(l).concat());
        (loss, gradients.map(f64::to_bits).collect::<Vec<_>>())
    };
    let squares: f64 =
        plain.layers().iter().flat_map(|layer| elements(layer.weight())).map(|w| w * w).sum();
    for set in InstructionSet::available() {
        let difference = run(&regularised, set).0 - run(&plain, set).0;
        assert!((difference - l2 * squares).abs() < 1e-12, "{set}: {difference}");
    }
    let fused = InstructionSet::available().filter(|set| set.is_fused());
    let results: Vec<_> = fused.map(|set| run(&regularised, set)).collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "fused sets differ");
}

#[test]
fn a_gradient_check_sees_a_wrong_gradient() {
    assert!(relative_error(&[1.0, 2.0], &[1.0, 2.0 + 1e-6]) > TOLERANCE);
    assert_eq!(relative_error(&[0.0, 0.0], &[0.0, 0.0]), 0.0);
}

#[test]
fn a_workspace_takes_its_batch_and_no_larger_one() {
    let config = NetConfig { input: 8, hidden: vec![4], classes: 3, ..NetConfig::default() };
    let net = FullyConnectedNet::<f32>::new(&config).unwrap();
    let mut workspace = net.workspace(Gemm::new().unwrap(), 6).unwrap();
    let x = Matrix::zeros(7, 8).unwrap();
    assert_eq!(workspace.bytes(), net.workspace_bytes(workspace.gemm(), 6).unwrap());
    net.forward(x.view().part(0..6, 0..8).unwrap(), &mut workspace, Mode::Evaluation).unwrap();
    let error = net.forward(x.view(), &mut workspace, Mode::Evaluation).unwrap_err();
    assert!(matches!(error, Error::BatchTooLarge { batch: 7, capacity: 6 }), "{error}");
    let error = net.loss(&mut workspace, &[0; 7]).unwrap_err();
    assert!(matches!(error, Error::BatchTooLarge { batch: 7, capacity: 6 }), "{error}");
    assert!(net.workspace(Gemm::new().unwrap(), 0).is_err());
    assert!(net.workspace(Gemm::new().unwrap(), usize::MAX / 8).is_err());
}

#[test]
fn a_workspace_refuses_networks_of_other_shapes() {
    let net = |hidden: &[usize], classes: usize, seed| {
        let hidden = hidden.to_vec();
        let config =
            NetConfig { input: 8, hidden, classes, l2: 1e-3, seed, ..NetConfig::default() };
        FullyConnectedNet::<f32>::new(&config).unwrap()
    };
    let (own, copy) = (net(&[6, 5], 3, 0), net(&[6, 5], 3, 1));
    let x = Matrix::from_fn(4, 8, |i, j| (i + j) as f32 / 8.0 - 0.5).unwrap();
    let (x, labels) = (x.view(), [0, 1, 2, 0]);
    let mut workspace = own.workspace(Gemm::new().unwrap(), 4).unwrap();
    own.loss_and_gradient(x, &mut workspace, &labels, Mode::Evaluation).unwrap();
    let logits: Vec<f32> = elements_of(workspace.logits(4).unwrap());
    let gradient = workspace.gradient(1).concat();

    // Other widths, of which some have room in the memory, other depths, other classes.
    let mut others = vec![net(&[5, 6], 3, 0), net(&[6], 3, 0), net(&[6, 5, 3], 3, 0)];
    others.extend([net(&[], 3, 0), net(&[6, 5], 2, 0), net(&[60, 50], 3, 0), net(&[1, 1], 1, 0)]);
    // A network whose layers no longer fit each other.
    let mut broken = own.clone();
    broken.layers_mut()[1] = Linear::zeros(4, 5).unwrap();
    others.push(broken);
    for other in &others {
        let mode = Mode::Evaluation;
        let errors = [
            other.forward(x, &mut workspace, mode).unwrap_err(),
            other.loss(&mut workspace, &labels).unwrap_err(),
            other.row_losses(&mut workspace, &labels).map(|_| ()).unwrap_err(),
            other.loss_and_gradient(x, &mut workspace, &labels, mode).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, Error::Setting { name: "workspace", .. }), "{error}");
            assert!(error.to_string().contains("[(8, 6), (6, 5), (5, 3)]"), "{error}");
        }
    }
    assert_eq!(elements_of(workspace.logits(4).unwrap()), logits);
    assert_eq!(workspace.gradient(1).concat(), gradient);

    // Parameters are no part of the plan: a network of the same shape has its own results.
    copy.loss_and_gradient(x, &mut workspace, &labels, Mode::Evaluation).unwrap();
    let mut fresh = copy.workspace(Gemm::new().unwrap(), 4).unwrap();
    copy.loss_and_gradient(x, &mut fresh, &labels, Mode::Evaluation).unwrap();
    let found = elements_of(workspace.logits(4).unwrap());
    assert_eq!(found, elements_of(fresh.logits(4).unwrap()));
    assert_ne!(found, logits);
    for layer in 0..3 {
        assert_eq!(workspace.gradient(layer).concat(), fresh.gradient(layer).concat());
    }
}

#[test]
fn results_are_those_of_the_last_forward_pass_or_errors() {
    let config = NetConfig { input: 8, hidden: vec![4], classes: 3, ..NetConfig::default() };
    let net = FullyConnectedNet::<f32>::new(&config).unwrap();
    let mut workspace = net.workspace(Gemm::new().unwrap(), 6).unwrap();
    let x = Matrix::zeros(6, 8).unwrap();
    let error = workspace.logits(1).unwrap_err();
    assert!(error.to_string().contains("at most 0"), "{error}");
    assert!(net.loss(&mut workspace, &[0]).is_err(), "no forward pass yet");
    let part = x.view().part(0..4, 0..8).unwrap();
    net.forward(part, &mut workspace, Mode::Evaluation).unwrap();
    net.loss(&mut workspace, &[0; 4]).unwrap();
    assert_eq!(workspace.logits(2).unwrap().shape(), (2, 3));
    for rows in [0, 3, 5] {
        let error = net.loss(&mut workspace, &vec![0; rows]).unwrap_err();
        assert!(matches!(error, Error::Length { expected: 4, .. }), "{rows}: {error}");
        let error = net.row_losses(&mut workspace, &vec![0; rows]).map(|_| ()).unwrap_err();
        assert!(matches!(error, Error::Length { expected: 4, .. }), "{rows}: {error}");
    }
    assert!(workspace.logits(5).is_err());
    // A pass that fails leaves no result behind.
    let narrow = x.view().part(0..4, 0..7).unwrap();
    assert!(net.forward(narrow, &mut workspace, Mode::Evaluation).is_err());
    assert!(net.loss(&mut workspace, &[0; 4]).is_err());
}

fn elements_of(matrix: MatRef<'_, f32>) -> Vec<f32> {
    (0..matrix.rows()).flat_map(|i| matrix.row(i).unwrap()).copied().collect()
}

#[test]
fn a_row_has_the_same_logits_in_any_batch() {
    let config = NetConfig { input: 100, hidden: vec![70], classes: 10, ..NetConfig::default() };
    let net = FullyConnectedNet::<f32>::new(&config).unwrap();
    let x = random(37, 100, 10);
    let logits = |rows: std::ops::Range<usize>| {
        let mut workspace = net.workspace(Gemm::new().unwrap(), 37).unwrap();
        let part = Matrix::from_fn(rows.len(), 100, |i, j| x.view().get(rows.start + i, j) as f32)
            .unwrap();
        net.forward(part.view(), &mut workspace, Mode::Evaluation).unwrap();
        let logits = workspace.logits(rows.len()).unwrap();
        (0..rows.len()).map(|i| logits.row(i).unwrap().to_vec()).collect::<Vec<_>>()
    };
    let whole = logits(0..37);
    for rows in [0..1, 5..6, 20..37, 0..36] {
        assert_eq!(logits(rows.clone()), whole[rows]);
    }
}

#[test]
fn senseless_networks_are_errors() {
    let config = NetConfig::default();
    for bad in [
        NetConfig { hidden: vec![0], ..config.clone() },
        NetConfig { classes: 0, ..config.clone() },
        NetConfig { input: 0, ..config.clone() },
        NetConfig { dropout: 1.0, ..config.clone() },
        NetConfig { l2: f64::NAN, ..config.clone() },
        NetConfig { init: Init::Normal { std: -1.0 }, ..config.clone() },
    ] {
        assert!(FullyConnectedNet::<f32>::new(&bad).is_err(), "{bad:?}");
    }
    let layers = vec![Linear::<f32>::zeros(3, 4).unwrap(), Linear::zeros(5, 2).unwrap()];
    let error = FullyConnectedNet::from_layers(layers, 0.0, 0.0, 0).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}
