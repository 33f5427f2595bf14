//! Checks the gradients of a small network against central differences and prints the errors.
//!
//! `cargo run --release --example gradcheck`

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Result,
    matrix::Matrix,
    nn::{FullyConnectedNet, Init, Mode, NetConfig, gradcheck::check_net},
};

fn main() -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let x = Matrix::from_fn(8, 48, |_, _| rng.random_range(-1.0..1.0))?;
    let labels = [0, 1, 2, 3, 4, 5, 6, 7];
    for l2 in [0.0, 0.7] {
        let net = FullyConnectedNet::new(&NetConfig {
            input: 48,
            hidden: vec![30, 20],
            init: Init::Normal { std: 0.2 },
            l2,
            dropout: 0.2,
            ..NetConfig::default()
        })?;
        println!("48-30-20-10 with dropout 0.2, regularisation {l2}");
        for check in check_net(&net, x.view(), &labels, Mode::Training { step: 1 }, 1e-6)? {
            println!(
                "  {:16} {:5} elements, error {:.1e}",
                check.name, check.len, check.relative_error
            );
        }
    }
    Ok(())
}
