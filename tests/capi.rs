//! The C ABI as C programs see it: `tests/capi/*.c`, compiled by the system's compiler with all
//! warnings as errors and linked with the static and the shared library.
#![cfg(all(feature = "capi", unix))]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use bytemuck::cast_slice;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tempfile::TempDir;
use tilewise::{
    Context, Precision,
    data::Normalization,
    infer::{Examples, Predictor},
    io::model::{self, ModelInfo},
    matrix::{MatMut, MatRef},
    nn::{CrossEntropy, Init, MlpConfig, Network, Shape, mlp},
    train::{Optimizer, Trainer, TrainerConfig},
};

/// What a program is linked with.
#[derive(Clone, Copy, Debug)]
enum Library {
    Static,
    Shared,
}

/// Runs a command and returns what it printed; fails if it fails.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// The directory of the libraries, built at the first call: by a cargo of its own with a target
/// directory of its own, because this test's cargo holds the lock of the usual one.
fn libraries() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi");
        let arguments = "rustc --quiet -p tilewise --lib --release --features capi \
                         --crate-type cdylib,staticlib --target-dir";
        run(Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(arguments.split_whitespace())
            .arg(&target));
        target.join("release")
    })
}

/// Compiles a program of `tests/capi` into `dir`.
fn compile(name: &str, library: Library, flags: &[&str], dir: &TempDir) -> PathBuf {
    let (root, libraries) = (Path::new(env!("CARGO_MANIFEST_DIR")), libraries());
    let program = dir.path().join(name);
    let mut compiler = Command::new(env::var_os("CC").unwrap_or("cc".into()));
    compiler
        .args("-std=c99 -O1 -Wall -Wextra -Wpedantic -Wconversion -Werror -pthread".split(' '))
        .arg("-I")
        .arg(root.join("include"))
        .arg(root.join("tests/capi").join(name).with_extension("c"))
        .arg("-o")
        .arg(&program)
        .args(flags);
    match library {
        Library::Static => compiler.arg(libraries.join("libtilewise.a")).args(["-ldl", "-lm"]),
        Library::Shared => compiler
            .arg("-L")
            .arg(libraries)
            .arg("-ltilewise")
            .arg(format!("-Wl,-rpath,{}", libraries.display())),
    };
    run(&mut compiler);
    program
}

#[test]
fn bad_input_is_a_status_with_a_text_and_changes_nothing() {
    for library in [Library::Static, Library::Shared] {
        let dir = tempfile::tempdir().unwrap();
        let program = compile("border", library, &[], &dir);
        run(Command::new(program).arg(dir.path()));
    }
}

#[test]
fn products_are_those_of_plain_loops() {
    for library in [Library::Static, Library::Shared] {
        let dir = tempfile::tempdir().unwrap();
        let program = compile("gemm", library, &[], &dir);
        let said = run(&mut Command::new(program));
        assert!(said.starts_with(&format!("tilewise {} on ", env!("CARGO_PKG_VERSION"))), "{said}");
    }
}

#[test]
fn networks_have_the_bits_that_they_have_in_rust() {
    let dir = tempfile::tempdir().unwrap();
    train_for_comparison(dir.path());
    for library in [Library::Static, Library::Shared] {
        let program = compile("network", library, &[], &dir);
        run(Command::new(program).arg(dir.path()));
    }
}

#[test]
fn nothing_is_allocated_where_the_header_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let wrap = "-Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=posix_memalign";
    let program = compile("no_alloc", Library::Static, &[wrap], &dir);
    run(&mut Command::new(program));
}

/// Trains and predicts with the settings of `tests/capi/network.c`, and leaves in `dir` what that
/// program needs.
fn train_for_comparison(dir: &Path) {
    const BATCH: usize = 256;
    let config = MlpConfig::default()
        .with_input(147)
        .with_hidden(vec![400, 50])
        .with_classes(11)
        .with_init(Init::Xavier)
        .with_dropout(0.25)
        .with_seed(7);
    let settings = TrainerConfig::default()
        .with_batch_size(BATCH)
        .with_optimizer(Optimizer::nesterov(0.9))
        .with_learning_rate(0.1)
        .with_loss(CrossEntropy::new(0.1).unwrap())
        .with_l2(1e-4)
        .with_clip_norm(Some(1.0));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let x: Vec<f32> = (0..BATCH * 147).map(|_| rng.random_range(-1.0..1.0)).collect();
    let images: Vec<u8> = (0..BATCH * 147).map(|_| rng.random()).collect();
    let labels: Vec<u32> = (0..BATCH).map(|_| rng.random_range(0..11)).collect();
    let mut trainer = Trainer::new(mlp::<f32>(&config).unwrap(), settings).unwrap();
    let rows = MatRef::new(&x, BATCH, 147).unwrap();
    let mut losses = Vec::new();
    for step in 0..6 {
        if step == 3 {
            trainer.set_learning_rate(0.05).unwrap();
        }
        losses.push(trainer.step(rows, &labels).unwrap().loss);
    }

    let scale = vec![1.0 / 256.0, 1.0 / 128.0, 1.0 / 512.0];
    let normalization = Normalization::new(scale, vec![-0.5, 0.25, 0.0]).unwrap();
    let predictor = Predictor::new(trainer.network()).unwrap().with_normalization(&normalization);
    let predictor = predictor.unwrap();
    let predict = |predictor: &Predictor<f32>, x: Examples<'_, f32>| {
        let mut out = vec![0.0; BATCH * 11];
        let mut scratch = predictor.scratch(BATCH).unwrap();
        let to = MatMut::new(&mut out, BATCH, 11).unwrap();
        predictor.predict_into(x, to, &mut scratch).unwrap();
        out
    };
    let info = ModelInfo::default()
        .with_normalization(Some(normalization))
        .with_precision(Some(Precision::F32));
    model::save(&dir.join("model.safetensors"), trainer.network(), &info).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).unwrap();
    write("x", cast_slice(&x));
    write("images", &images);
    write("labels", cast_slice(&labels));
    write("losses", cast_slice(&losses));
    write("logits", cast_slice(&predict(&predictor, rows.into())));
    write("image_logits", cast_slice(&predict(&predictor, images[..].into())));

    let shape = Shape::Image { height: 7, width: 7, channels: 3 };
    let network = Network::<f32>::builder(shape).seed(3).flatten().linear(11).relu().dropout(0.25);
    let network = network.residual(|block| block.linear(11).relu()).build().unwrap();
    let path = dir.join("residual.safetensors");
    model::save(&path, &network, &ModelInfo::default()).unwrap();
    let logits = predict(&Predictor::new(&network).unwrap(), rows.into());
    write("residual_logits", cast_slice(&logits));
    let settings = TrainerConfig::default()
        .with_batch_size(BATCH)
        .with_optimizer(Optimizer::momentum(0.9))
        .with_learning_rate(0.1);
    let network = network.with_seed(9);
    let mut trainer = Trainer::new(network.try_clone().unwrap(), settings.clone()).unwrap();
    let losses = [(); 6].map(|()| trainer.step(rows, &labels).unwrap().loss);
    write("residual_losses", cast_slice(&losses));
    let settings = settings.with_precision(Some(Precision::Bf16));
    let mut trainer = Trainer::new(network, settings).unwrap();
    let losses = [(); 6].map(|()| trainer.step(rows, &labels).unwrap().loss);
    write("bf16_losses", cast_slice(&losses));
    let context = Context::new().unwrap().with_precision(Precision::Bf16).unwrap();
    let predictor = Predictor::with_context(trainer.network(), context).unwrap();
    write("bf16_logits", cast_slice(&predict(&predictor, rows.into())));
}
