//! A layer that does not exist in the crate: PReLU (He et al. 2015), `x` where it is above 0 and
//! `slope x` elsewhere, with a slope for each feature that is trained. Its gradients are checked;
//! a network with it is trained, saved, loaded, and classifies as before.
//!
//! `cargo run --release --example custom_layer`

use std::{error::Error, sync::Arc};

use tilewise::{
    Context, Element, Result,
    infer::Predictor,
    io::model::{ModelInfo, load_with, save},
    matrix::{MatMut, Matrix},
    nn::{
        Backward, CrossEntropy, Fill, Forward, L2, Layer, LayerConfig, Mode, Network,
        ParameterKind, Shape, TensorSpec, gradcheck::check, layers,
    },
    train::{Optimizer, Trainer, TrainerConfig},
};

#[derive(Debug)]
struct PRelu {
    features: usize,
}

impl<T: Element> Layer<T> for PRelu {
    /// What a model file says of the layer.
    fn config(&self) -> LayerConfig {
        LayerConfig::new("prelu").with_count("features", self.features)
    }

    fn output_shape(&self, input: Shape) -> Result<Shape> {
        if input == Shape::Features(self.features) {
            return Ok(input);
        }
        let expected = format!("{} features", self.features);
        Err(tilewise::Error::setting("input of a PReLU", input, expected))
    }

    /// The slopes; weight decay and L2 regularization are for weights, not for them.
    fn parameters(&self) -> Vec<TensorSpec> {
        let (shape, slope) = (&[self.features], Fill::Constant(0.25));
        vec![TensorSpec::new("weight", shape, ParameterKind::Scale, slope)]
    }

    fn forward(&self, _: &Context<T>, pass: Forward<'_, T>) -> Result<()> {
        let (slopes, mut out) = (pass.parameters.get(0), pass.out);
        for i in 0..pass.x.rows() {
            for (j, &slope) in slopes.iter().enumerate() {
                let x = pass.x.get(i, j);
                out.set(i, j, if x > T::ZERO { x } else { slope * x });
            }
        }
        Ok(())
    }

    fn backward(&self, _: &Context<T>, mut pass: Backward<'_, T>) -> Result<()> {
        let x = pass.x.expect("the input, which a layer gets unless `needs` says otherwise");
        // Empty where the slopes are frozen.
        let d_slopes = pass.gradients.get_mut(0);
        if !pass.accumulate {
            d_slopes.fill(T::ZERO);
        }
        for i in 0..x.rows() {
            for (j, &slope) in pass.parameters.get(0).iter().enumerate() {
                let (x, d_out) = (x.get(i, j), pass.d_out.get(i, j));
                let factor = if x > T::ZERO { T::ONE } else { slope };
                if let Some(d_x) = &mut pass.d_x {
                    d_x.set(i, j, factor * d_out);
                }
                if let (false, Some(d_slope)) = (x > T::ZERO, d_slopes.get_mut(j)) {
                    *d_slope += x * d_out;
                }
            }
        }
        Ok(())
    }
}

/// A layer by its configuration: those of the crate, and the one of this file.
fn make<T: Element>(config: &LayerConfig) -> Result<Arc<dyn Layer<T>>> {
    match config.kind.as_str() {
        "prelu" => Ok(Arc::new(PRelu { features: config.count("features")? })),
        _ => layers::from_config(config),
    }
}

fn network<T: Element>() -> Result<Network<T>> {
    let builder = Network::builder(Shape::Features(2)).linear(16).layer(PRelu { features: 16 });
    let builder = builder.residual(|block| block.linear(16).layer(PRelu { features: 16 }));
    builder.linear(2).seed(1).build()
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    // Points in a square; the classes are inside and outside of a circle.
    let point = |i: usize, j: usize| ((i * 73 + j * 151 + i * j) % 199) as f64 / 99.5 - 1.0;
    let radius = |i: usize| point(i, 0).hypot(point(i, 1));
    let labels: Vec<u32> = (0..400).map(|i| u32::from(radius(i) > 0.8)).collect();

    let x = Matrix::from_fn(20, 2, point)?;
    let criterion = (CrossEntropy::default(), L2::default());
    for check in check(&network()?, (x.view(), &labels[..20]), criterion, Mode::Evaluation, 1e-6)? {
        println!("{:12} error {:.1e}", check.name, check.relative_error);
        if check.relative_error > 1e-7 {
            return Err(format!("the gradient of {} is wrong", check.name).into());
        }
    }

    let x = Matrix::from_fn(400, 2, |i, j| point(i, j) as f32)?;
    let config = TrainerConfig::default().with_batch_size(400).with_learning_rate(0.01);
    let mut trainer = Trainer::new(network()?, config.with_optimizer(Optimizer::adam()))?;
    for _ in 0..500 {
        trainer.step(x.view(), &labels)?;
    }

    let dir = tempfile::tempdir()?;
    let path = dir.path().join("model.safetensors");
    save(&path, trainer.network(), &ModelInfo::default())?;
    let (loaded, _) = load_with::<f32>(&path, &make)?;
    let logits = |network: &Network<f32>| -> Result<Vec<f32>> {
        let (predictor, mut logits) = (Predictor::new(network)?, vec![0.0; 400 * 2]);
        let out = MatMut::new(&mut logits, 400, 2)?;
        predictor.predict_into(x.view(), out, &mut predictor.scratch(400)?)?;
        Ok(logits)
    };
    let found = logits(&loaded)?;
    if found != logits(trainer.network())? {
        return Err("the loaded network has other logits".into());
    }
    let pairs = found.chunks(2).zip(&labels);
    let right = pairs.filter(|(row, label)| u32::from(row[1] > row[0]) == **label).count();
    println!("{right} of 400 points are classified right, also by the loaded network");
    if right < 380 { Err(format!("{right} of 400, expected 380").into()) } else { Ok(()) }
}
