//! Checks the gradients of a small network against central differences and prints the errors.
//!
//! `cargo run --release --example gradcheck`

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Result,
    matrix::Matrix,
    nn::{CrossEntropy, Init, L2, Mode, Network, Shape, gradcheck::check},
};

fn main() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let x = Matrix::from_fn(8, 48, |_, _| rng.random_range(-1.0..1.0))?;
    let labels = [0, 1, 2, 3, 4, 5, 6, 7];
    let init = Init::Normal { std: 0.2 };
    let network = Network::builder(Shape::Features(48)).linear_with(30, init).relu().dropout(0.2);
    let network = network.residual(|block| block.linear_with(30, init).relu().dropout(0.2));
    let network = network.linear_with(10, init).build()?;
    for l2 in [0.0, 0.7] {
        println!("{network:?}, l2 {l2}");
        let criterion = (CrossEntropy::default(), L2::new(l2)?);
        let mode = Mode::Training { step: 1 };
        for check in check(&network, (x.view(), &labels), criterion, mode, 1e-6)? {
            println!(
                "  {:16} {:5} elements, error {:.1e}",
                check.name, check.len, check.relative_error
            );
        }
    }
    Ok(())
}
