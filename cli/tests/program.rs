//! The program as people run it: what it prints, what it leaves behind, and how it refuses.

mod support;

use std::{collections::BTreeSet, fs, io::Read, path::Path, process::Stdio};

use serde_json::{Value, json};
use support::{Output, finish, metrics, program, run, with_data};
use tempfile::TempDir;
use tilewise::{
    io::model::{self, ModelInfo},
    nn::{Network, Shape},
    simd::InstructionSet,
};

const RECORD: usize = 3073;
/// A small network and few epochs; further flags may follow.
const SMALL: [&str; 10] =
    ["train", "--data", "set", "--hidden", "24", "--epochs", "3", "--batch", "50", "--quiet"];

/// Runs `SMALL` with further flags.
fn train(dir: &TempDir, flags: &[&str]) -> Output {
    run(dir, &[&SMALL, flags].concat())
}

/// The files in a directory, except the one by which a process owns it.
fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".lock").collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The number behind `label` in a result.
fn number(output: &str, label: &str) -> f64 {
    let rest = output.split(label).nth(1).unwrap_or_else(|| panic!("{label:?} in {output}"));
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn training_leaves_four_whole_files() {
    let dir = with_data();
    let out = dir.path().join("runs/a");
    let flags = ["--lr", "0.05", "--dropout", "0.1", "--reg", "1e-3", "--val-size", "100"];
    let result = train(&dir, &[&flags[..], &["--out", "runs/a"]].concat());
    result.expect_success();
    let files = ["config.toml", "curves.svg", "metrics.jsonl", "model.safetensors"];
    assert_eq!(names(&out), set(&files));

    let metrics = metrics(&out);
    assert_eq!(metrics.len(), 3);
    let fields =
        ["epoch", "iteration", "loss", "train_acc", "val_acc", "lr", "seconds", "images_per_s"];
    for (line, epoch) in metrics.iter().zip(1..) {
        let line = line.as_object().unwrap();
        assert_eq!(line.keys().cloned().collect::<BTreeSet<_>>(), set(&fields));
        assert_eq!(
            (line["epoch"].as_i64(), line["iteration"].as_i64()),
            (Some(epoch), Some(4 * epoch))
        );
        assert!(fields.iter().all(|&field| line[field].as_f64().is_some()), "{line:?}");
    }
    let best = metrics.iter().map(|line| line["val_acc"].as_f64().unwrap()).fold(0.0, f64::max);
    assert!((number(&result.stdout, "best validation accuracy") - best).abs() < 1e-4);

    let config = fs::read_to_string(out.join("config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let expected = [
        ("data", "set".into()),
        ("hidden", vec![24i64].into()),
        ("epochs", 3i64.into()),
        ("batch", 50i64.into()),
        ("lr", 0.05.into()),
        ("dropout", 0.1.into()),
        ("reg", 1e-3.into()),
        ("seed", 0i64.into()),
        ("train-size", 200i64.into()),
        ("val-size", 100i64.into()),
        ("precision", "f32".into()),
        ("normalize", "mean".into()),
    ];
    for (key, value) in expected {
        let value: toml::Value = value;
        assert_eq!(config.get(key), Some(&value), "{key}");
    }
    assert_eq!(config["run"]["version"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    assert!(config["run"]["instruction-set"].is_str());

    let curves = fs::read_to_string(out.join("curves.svg")).unwrap();
    assert!(curves.starts_with("<svg") && curves.trim_end().ends_with("</svg>"));
    for text in ["iteration", "epoch", "loss", "accuracy", "validation"] {
        assert!(curves.contains(text), "{text}");
    }
}

#[test]
fn eval_finds_the_test_accuracy_that_training_printed() {
    let dir = with_data();
    let result = train(&dir, &["--out", "a"]);
    let arguments = ["eval", "--model", "a/model.safetensors", "--data", "set"];
    let json = run(&dir, &[&arguments[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&json.expect_success().stdout).unwrap();
    let accuracy = json["accuracy"].as_f64().unwrap();
    assert!((number(&result.stdout, "test accuracy") - accuracy).abs() < 1e-4);
    assert_eq!(json["images"], 100);
    let classes = json["classes"].as_array().unwrap();
    let sum = |field: &str| classes.iter().map(|class| class[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((classes.len(), sum("images")), (10, 100));
    assert_eq!(sum("correct"), json["correct"].as_u64().unwrap());
    assert!((json["correct"].as_f64().unwrap() / 100.0 - accuracy).abs() < 1e-12);

    let text = run(&dir, &arguments);
    let text = &text.expect_success().stdout;
    assert!((number(text, "accuracy") - accuracy).abs() < 1e-4, "{text}");
    let lines = json["classes"].as_array().unwrap().iter();
    for name in lines.map(|class| class["class"].as_str().unwrap()) {
        assert!(text.contains(name), "{name} in {text}");
    }
    // Images in other batches are the same images.
    let other =
        run(&dir, &[&arguments[..], &["--json", "--batch", "7", "--threads", "2"]].concat());
    assert_eq!(serde_json::from_str::<Value>(&other.stdout).unwrap(), json);
}

#[test]
fn the_number_of_threads_does_not_change_the_run() {
    let dir = with_data();
    // Large enough to be divided.
    let wide = ["--hidden", "64", "--batch", "200", "--dropout", "0.2", "--seed", "5"];
    let metrics_of = |threads: &str, out: &str| {
        let base = ["train", "--data", "set", "--epochs", "3", "--lr", "0.05", "--quiet"];
        let flags = ["--threads", threads, "--out", out];
        run(&dir, &[&base[..], &wide, &flags].concat()).expect_success();
        let mut lines = metrics(&dir.path().join(out));
        for line in &mut lines {
            let line = line.as_object_mut().unwrap();
            line.remove("seconds").unwrap();
            line.remove("images_per_s").unwrap();
        }
        (lines, fs::read(dir.path().join(out).join("model.safetensors")).unwrap())
    };
    let one = metrics_of("1", "one");
    assert!(one == metrics_of("2", "two"), "other metrics or another model with two threads");
    let losses: BTreeSet<String> = one.0.iter().map(|line| line["loss"].to_string()).collect();
    assert_eq!(losses.len(), 3, "the net does not learn: {losses:?}");
}

#[test]
fn double_precision_trains_as_well() {
    let dir = with_data();
    let flags = ["--dtype", "f64", "--normalize", "mean-std", "--hidden", "16,12", "--out", "a"];
    let base =
        ["train", "--data", "set", "--epochs", "2", "--batch", "64", "--weight-scale", "0.01"];
    run(&dir, &[&base[..], &flags].concat()).expect_success();
    let eval = ["eval", "--model", "a/model.safetensors", "--data", "set"];
    let text = run(&dir, &eval).expect_success().stdout.clone();
    assert!(text.contains("in f64"), "{text}");
}

#[test]
fn the_test_accuracy_is_that_of_the_weights_in_the_file() {
    let dir = with_data();
    let mut last = None;
    // An accuracy of few images often survives the rounding: of many seeds it does not.
    for seed in 0..40 {
        let seed = seed.to_string();
        let flags = ["--seed", &seed];
        let tested = |out: &str, more: &[&str]| {
            let flags = [&flags, more, &["--overwrite", "--out", out]].concat();
            let text = train(&dir, &flags).expect_success().stdout.clone();
            let model = format!("{out}/model.safetensors");
            let eval = ["eval", "--model", &model, "--data", "set", "--json"];
            let json = run(&dir, &eval).expect_success().stdout.clone();
            let json: Value = serde_json::from_str(&json).unwrap();
            let (printed, found) =
                (number(&text, "test accuracy"), json["accuracy"].as_f64().unwrap());
            assert!((printed - found).abs() < 1e-4, "seed {seed}: {found} in the file; {text}");
            (printed, text.contains("; weights rounded to bf16, as saved)"))
        };
        let (whole, rounded) =
            (tested("whole", &[]), tested("half", &["--save-precision", "bf16"]));
        assert!(!whole.1 && rounded.1, "seed {seed}");
        last = Some((whole.0, rounded.0));
        if whole.0 != rounded.0 {
            break;
        }
    }
    let (whole, rounded) = last.unwrap();
    assert_ne!(whole, rounded, "no seed shows a difference");
    let bf16 = train(&dir, &["--precision", "bf16", "--save-precision", "bf16", "--out", "c"]);
    assert!(!bf16.expect_success().stdout.contains("rounded"));
}

#[test]
fn bf16_trains_and_models_are_used_in_the_precision_they_were_trained_in() {
    let dir = with_data();
    let base = ["train", "--data", "set", "--epochs", "2", "--batch", "50", "--hidden", "24"];
    let flags = ["--precision", "bf16", "--out", "a"];
    let text = run(&dir, &[&base[..], &flags].concat()).expect_success().stdout.clone();
    assert!(text.contains("parameters, bf16)"), "{text}");
    let config = fs::read_to_string(dir.path().join("a/config.toml")).unwrap();
    assert!(config.contains("precision = \"bf16\"") && !config.contains("dtype"), "{config}");
    let eval = |more: &[&str]| {
        let eval = ["eval", "--model", "a/model.safetensors", "--data", "set", "--json"];
        let text = run(&dir, &[&eval[..], more].concat()).expect_success().stdout.clone();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let (own, f32) = (eval(&[]), eval(&["--precision", "f32"]));
    assert_eq!((&own["precision"], &f32["precision"]), (&"bf16".into(), &"f32".into()));
    assert_ne!(own["loss"], f32["loss"]);
    assert!((number(&text, "test accuracy") - own["accuracy"].as_f64().unwrap()).abs() < 1e-4);

    // Weights in bf16 are what the products round them to: half the file, and the same results.
    let twin = [&base[..], &flags[..2], &["--save-precision", "bf16", "--out", "c"]].concat();
    run(&dir, &twin).expect_success();
    let size = |out: &str| {
        fs::metadata(dir.path().join(out).join("model.safetensors")).unwrap().len() as f64
    };
    assert!(size("c") < 0.51 * size("a"), "{} and {} bytes", size("a"), size("c"));
    let arguments = ["eval", "--model", "c/model.safetensors", "--data", "set", "--json"];
    let twin = run(&dir, &arguments).expect_success().stdout.clone();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&twin).unwrap(), own);

    // Instruction sets with a fused multiply-add have the same bits; where one has no bf16, a line says
    // what that costs.
    let twin = [&base[..], &["--dtype", "bf16", "--out", "b"]].concat();
    let output = finish(program(&dir, &twin).env("TILEWISE_ISA", "avx2"));
    if InstructionSet::available().any(|set| set.to_string() == "avx2") {
        let text = &output.expect_success().stdout;
        assert!(text.contains("bf16: avx2 has no instruction for it; products take "), "{text}");
        let model = |out: &str| fs::read(dir.path().join(out).join("model.safetensors")).unwrap();
        let is_fused = InstructionSet::preferred().unwrap() != InstructionSet::Portable;
        assert_eq!(model("a") == model("b"), is_fused, "the models of two instruction sets");
    }
}

#[test]
fn without_data_it_says_so_once_and_trains_on_synthetic_images() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["train", "--hidden", "8", "--epochs", "1", "--train-size", "500"];
    let result = run(&dir, &flags);
    let lines: Vec<&str> = result.expect_success().stdout.lines().collect();
    let notices = lines.iter().filter(|line| line.contains("no CIFAR-10")).count();
    assert_eq!(notices, 1, "{}", result.stdout);
    for text in ["data/", "tilewise data download", "synthetic"] {
        assert!(lines[0].contains(text), "{text:?} in {}", lines[0]);
    }
    assert!(result.stdout.contains("--out"), "{}", result.stdout);
    assert!(lines.iter().any(|line| line.starts_with("epoch 1/1")), "{}", result.stdout);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn the_default_directory_and_the_variable_are_searched() {
    let dir = with_data();
    let flags = ["train", "--hidden", "8", "--epochs", "1"];
    let result = finish(program(&dir, &flags).env("TILEWISE_DATA", "set"));
    let stdout = &result.expect_success().stdout;
    assert!(stdout.contains("binary files in set") && !stdout.contains("synthetic"), "{stdout}");
    fs::rename(dir.path().join("set"), dir.path().join("data")).unwrap();
    let result = run(&dir, &flags);
    let stdout = &result.expect_success().stdout;
    assert!(stdout.contains("binary files in data") && !stdout.contains("synthetic"), "{stdout}");
    let result = finish(program(&dir, &flags).env("TILEWISE_DATA", "gone"));
    result.expect_error(1, &["gone", "no CIFAR-10 here", "tilewise data download"]);
}

#[test]
fn quiet_prints_the_result_alone() {
    let dir = with_data();
    let result = train(&dir, &[]);
    let lines: Vec<&str> = result.expect_success().stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{}", result.stdout);
    assert!(lines[0].starts_with("best validation accuracy"), "{}", lines[0]);
    assert!(lines[1].starts_with("test accuracy"), "{}", lines[1]);
    assert!(lines[2].starts_with("training time"), "{}", lines[2]);
}

#[test]
fn a_batch_larger_than_the_set_is_one_batch_and_a_note() {
    let dir = with_data();
    let base = ["train", "--data", "set", "--hidden", "8", "--epochs", "2", "--out", "a"];
    let result = run(&dir, &[&base[..], &["--batch", "1000"]].concat());
    let stdout = &result.expect_success().stdout;
    assert!(stdout.contains("--batch 1000 exceeds the 240 training images"), "{stdout}");
    let iterations: Vec<Value> =
        metrics(&dir.path().join("a")).iter().map(|line| line["iteration"].clone()).collect();
    assert_eq!(iterations, [1, 2]);
}

#[test]
fn an_earlier_run_is_replaced_only_on_request() {
    let dir = with_data();
    let out = dir.path().join("a");
    train(&dir, &["--out", "a"]).expect_success();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let read = || names(&out).into_iter().map(|name| fs::read(out.join(name)).unwrap());
    let before: Vec<_> = read().collect();
    train(&dir, &["--out", "a", "--seed", "1"]).expect_error(1, &["a: ", "--overwrite"]);
    assert!(read().eq(before.clone()), "a refused run changed files");
    train(&dir, &["--out", "a", "--seed", "1", "--overwrite"]).expect_success();
    let after: Vec<_> = read().collect();
    assert_eq!(after.len(), 5);
    let changed: Vec<bool> = after.iter().zip(&before).map(|(a, b)| a != b).collect();
    // config.toml, curves.svg, metrics.jsonl, model.safetensors, notes.txt
    assert_eq!(changed, [true, true, true, true, false]);
}

#[test]
fn a_directory_that_cannot_be_written_stops_the_run_before_it_trains() {
    let dir = with_data();
    fs::write(dir.path().join("file"), "").unwrap();
    let base = ["train", "--data", "set", "--hidden", "8"];
    for out in ["file", "file/below"] {
        let result = run(&dir, &[&base[..], &["--out", out]].concat());
        result.expect_error(1, &[out]);
        assert!(!result.stdout.contains("epoch"), "{}", result.stdout);
    }
    assert_eq!(names(dir.path()), set(&["file", "set"]));
}

#[test]
fn update_rule_and_schedule_are_settings() {
    let dir = with_data();
    let flags = ["--optimizer", "rmsprop", "--momentum", "0.5", "--lr", "0.001", "--schedule"];
    let flags = [&flags[..], &["cosine", "--warm-up-epochs", "1", "--val-size", "100"]].concat();
    train(&dir, &[&flags[..], &["--out", "a"]].concat()).expect_success();
    let config = fs::read_to_string(dir.path().join("a/config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let expected = [
        ("optimizer", Some("rmsprop".into())),
        ("momentum", Some(0.5.into())),
        ("rms-decay", Some(0.99.into())),
        ("epsilon", Some(1e-8.into())),
        ("weight-decay", Some(0.0.into())),
        ("beta1", None),
        ("schedule", Some("cosine".into())),
        ("lr-min", Some(0.0.into())),
        ("lr-decay", None),
        ("warm-up-epochs", Some(1.0.into())),
    ];
    for (key, value) in expected {
        let value: Option<toml::Value> = value;
        assert_eq!(config.get(key), value.as_ref(), "{key}");
    }
    // Epochs of 4 steps: the last of the warm-up, and the last steps of the cosine's 8.
    let metrics = metrics(&dir.path().join("a"));
    let cosine = |t: f64| 0.001 * (1.0 + (std::f64::consts::PI * t / 8.0).cos()) / 2.0;
    for (line, expected) in metrics.iter().zip([0.001 * 4.0 / 5.0, cosine(3.0), cosine(7.0)]) {
        let rate = line["lr"].as_f64().unwrap();
        assert!((rate - expected).abs() < 1e-12, "{rate} instead of {expected}");
    }
    for optimizer in ["sgd", "momentum", "nesterov", "adagrad", "adam", "adamw"] {
        let flags = ["--optimizer", optimizer, "--lr", "0.001", "--weight-decay", "1e-4"];
        train(&dir, &flags).expect_success();
    }
}

#[test]
fn a_run_that_diverges_keeps_what_it_had() {
    let dir = with_data();
    let out = dir.path().join("a");
    // The second epoch's rate is out of all bounds.
    let flags = ["--lr-decay", "1e30", "--out", "a"];
    train(&dir, &flags).expect_error(1, &["iteration", "learning rate"]);
    let files = ["config.toml", "curves.svg", "metrics.jsonl", "model.safetensors"];
    assert_eq!(names(&out), set(&files));
    assert_eq!(metrics(&out).len(), 1);
    let eval = ["eval", "--model", "a/model.safetensors", "--data", "set"];
    run(&dir, &eval).expect_success();

    train(&dir, &["--lr", "1e30", "--out", "b"]).expect_error(1, &["iteration", "learning rate"]);
    assert_eq!(names(&dir.path().join("b")), set(&["config.toml", "curves.svg", "metrics.jsonl"]));
}

#[test]
fn damaged_data_is_named() {
    let dir = with_data();
    let batch = dir.path().join("set/data_batch_1.bin");
    let good = fs::read(&batch).unwrap();
    let out = ["--out", "a"];

    fs::write(&batch, &good[..good.len() - 5]).unwrap();
    let found = (300 * RECORD - 5).to_string();
    train(&dir, &out).expect_error(1, &["data_batch_1.bin", &found]);

    let mut bytes = good.clone();
    bytes[2 * RECORD] = 10;
    fs::write(&batch, &bytes).unwrap();
    train(&dir, &out).expect_error(1, &["data_batch_1.bin", "10"]);

    fs::remove_file(&batch).unwrap();
    train(&dir, &out).expect_error(1, &["set"]);

    fs::create_dir(dir.path().join("empty")).unwrap();
    run(&dir, &["train", "--data", "empty", "--out", "a"])
        .expect_error(1, &["empty", "no CIFAR-10"]);
    run(&dir, &["train", "--data", "gone", "--out", "a"]).expect_error(1, &["gone", "no CIFAR-10"]);
    assert_eq!(names(dir.path()), set(&["empty", "set"]));
}

#[test]
fn wrong_usage_has_its_own_exit_code() {
    let dir = with_data();
    let cases: &[(&[&str], &str)] = &[
        (&["--hidden", "0"], "--hidden"),
        (&["--hidden", "10,,5"], "--hidden"),
        (&["--hidden", "ten"], "--hidden"),
        (&["--epochs", "0"], "--epochs"),
        (&["--batch", "0"], "--batch"),
        (&["--batch", "-4"], "-4"),
        (&["--dropout", "1"], "--dropout"),
        (&["--dropout", "-0.1"], "--dropout"),
        (&["--lr", "nan"], "--lr"),
        (&["--lr", "-0.1"], "--lr"),
        (&["--lr", "inf"], "--lr"),
        (&["--lr-decay", "0"], "--lr-decay"),
        (&["--optimizer", "adamax"], "nesterov"),
        (&["--optimizer", "adam", "--momentum", "0.9"], "adam does not use it"),
        (&["--beta1", "0.9"], "--beta1 0.9: "),
        (&["--optimizer", "adam", "--beta2", "1"], "--beta2"),
        (&["--optimizer", "adam", "--epsilon", "1e-60"], "above 0 in f32"),
        (&["--schedule", "triangle"], "one-cycle"),
        (&["--schedule", "cosine", "--lr-decay", "0.9"], "--lr-decay 0.9: "),
        (&["--schedule", "cosine", "--lr-min", "1"], "--lr-min 1: "),
        (&["--warm-up-epochs", "-1"], "--warm-up-epochs"),
        (&["--reg", "-1"], "--reg"),
        (&["--reg", "NaN"], "--reg"),
        (&["--weight-scale", "-1"], "--weight-scale"),
        (&["--threads", "0"], "--threads"),
        (&["--seed", "-1"], "-1"),
        (&["--train-size", "0"], "--train-size"),
        (&["--train-size", "1000"], "--train-size 1000: "),
        (&["--val-size", "300"], "--val-size 300: "),
        (&["--normalize", "max"], "--normalize"),
        (&["--dtype", "f16"], "--precision"),
        (&["--save-precision", "f16"], "--save-precision"),
        (
            &["--save-precision", "f64"],
            "--save-precision f64: expected f32 or bf16 with --precision",
        ),
        (&["--precision", "f64", "--save-precision", "bf16"], "expected f64 with --precision f64"),
        (&["--synthetic"], "--synthetic"),
        (&["--epoch", "3"], "--epochs"),
    ];
    for (flags, text) in cases {
        // A flag given twice would be another mistake.
        let base = ["train", "--data", "set", "--out", "a"];
        run(&dir, &[&base, *flags].concat()).expect_error(2, &[text]);
    }
    run(&dir, &["eval"]).expect_error(2, &["--model"]);
    run(&dir, &["fly"]).expect_error(2, &["fly"]);
    assert_eq!(names(dir.path()), set(&["set"]));

    let result = finish(program(&dir, &SMALL).env("TILEWISE_ISA", "sse9"));
    result.expect_error(2, &["sse9", "portable"]);
    let huge = ["train", "--data", "set", "--hidden", "999999999999", "--out", "a"];
    run(&dir, &huge).expect_error(1, &["use smaller sizes"]);
    let help = run(&dir, &["train", "--help"]);
    assert!(help.expect_success().stdout.contains("--weight-scale"), "{}", help.stdout);
}

/// What no message may say: a word twice, a number by its zeros, the library's or the system's words
/// for what is wrong, or nothing where a name should be.
const FORBIDDEN: [&str; 12] = [
    "expected expected",
    "expected invalid",
    "expected no such",
    "as given",
    "0000000000",
    "invalid digit",
    "target type",
    "unexpected argument '-1",
    "(os error",
    "picture",
    "error: :",
    "cannot read :",
];

#[test]
fn messages_say_what_is_wrong_in_the_words_of_the_user() {
    let dir = with_data();
    fs::write(dir.path().join("file"), "text").unwrap();
    fs::create_dir(dir.path().join("dir")).unwrap();
    let train = "train --data set --hidden 8 --epochs 1";
    let sweep = "sweep --data set --out s";
    let whole = "expected a whole number above 0";
    let large = "expected a whole number of at most 9223372036854775807";
    let seed = "expected a whole number from 0 to 9223372036854775807";
    let cases: &[(&str, &str, i32, &[&str])] = &[
        (train, "--seed -1", 2, &["'-1' for '--seed <N>'", seed]),
        (train, "--seed one", 2, &["'one' for '--seed <N>'", seed]),
        (train, "--seed 18446744073709551615", 2, &["--seed", large]),
        (train, "--seed 99999999999999999999999", 2, &["--seed", large]),
        (train, "--batch -4", 2, &["'-4' for '--batch <N>'", whole]),
        (train, "--batch 18446744073709551615", 2, &["--batch", large]),
        (train, "--patience 1.5", 2, &["'1.5' for '--patience", whole]),
        (train, "--threads -1", 2, &["'-1' for '--threads <N>'", "from 1 to 4096"]),
        (train, "--shift -1", 2, &["'-1' for '--shift", "expected a whole number, 0 or above"]),
        (train, "--cutout x", 2, &["'x' for '--cutout", "expected a whole number, 0 or above"]),
        (train, "--shift 32", 2, &["--shift 32: expected below 32 for images of 32 pixels"]),
        (train, "--lr -1", 2, &["'-1' for '--lr <RATE>'", "a finite number above 0"]),
        (train, "--momentum 0.9", 2, &["--momentum 0.9: expected to be left out: sgd"]),
        (train, "--optimizer adam --momentum 1e-300", 2, &["--momentum 1e-300: "]),
        (train, "--optimizer adam --epsilon 1e-300", 2, &["--epsilon 1e-300: expected above 0"]),
        (train, "--schedule cosine --lr-min 1e300", 2, &["--lr-min 1e300: expected a number from"]),
        (train, "--train-size 1000", 2, &["--train-size 1000: expected 1 to 240: 60 of 300"]),
        (train, "--dtype f16", 2, &["'f16' for '--precision", "[possible values: f32, f64, bf16]"]),
        (train, "--learning_rate 1", 2, &["'--learning_rate'", "'--lr'", "run --help for details"]),
        (train, "--config dir", 1, &["cannot read dir: is a directory, not a file"]),
        (train, "--config gone.toml", 1, &["cannot read gone.toml: no such file"]),
        (train, "--config=", 2, &["a value is required for '--config <FILE>'"]),
        (train, "--out file", 1, &["cannot create file: a file of that name exists"]),
        ("train", "--hidden 99999999999", 1, &["parameters: 3072 x 99999999999 elements exceed"]),
        ("train", "--data file", 1, &["cannot list file: not a directory"]),
        ("train", "--data gone", 1, &["gone: no CIFAR-10", "`tilewise data download gone`"]),
        ("train", "--data=", 2, &["a value is required for '--data <DIR>'"]),
        ("train", "--resume dir --lr 1", 2, &["--resume cannot be used with --lr: ", "--threads"]),
        ("eval", "--model dir", 1, &["cannot read dir: is a directory, not a file"]),
        ("eval", "--model gone", 1, &["cannot read gone: no such file"]),
        ("data", "info file", 1, &["cannot list file: not a directory"]),
        ("data", "download dir --url nonsense", 2, &["'nonsense' for '--url", "https://"]),
        ("data", "download dir --md5 zz", 2, &["'zz' for '--md5", "32 hexadecimal digits"]),
        ("sweep", "--data set --grid lr=1", 2, &["--out DIR is missing"]),
        (sweep, "", 2, &["at least one --grid or --random"]),
        (sweep, "--grid lr", 2, &["--grid \"lr\": expected FLAG=VALUES, as in lr=0.1,0.2"]),
        (sweep, "--grid lr=x", 2, &["--grid lr=x: expected a finite number above 0"]),
        (sweep, "--grid lr=0", 2, &["--grid lr=0: expected a finite number above 0"]),
        (sweep, "--grid batch=1.5", 2, &["--grid batch=1.5: expected a whole number above 0"]),
        (sweep, "--grid seed=-1", 2, &["--grid seed=-1: expected a whole number from 0"]),
        (sweep, "--grid out=a,b", 2, &["--grid out: cannot be varied"]),
        (
            sweep,
            "--grid learning_rate=1",
            2,
            &["learning_rate: unknown setting; did you mean \"lr\""],
        ),
        (sweep, "--grid zzzz=1", 2, &["zzzz: unknown setting; settings are named as"]),
        (sweep, "--grid lr=1 --random lr=1..2", 2, &["--random lr: given twice"]),
        (
            sweep,
            "--random lr=1..0.1",
            2,
            &["--random lr=1..0.1: expected the smaller number first"],
        ),
        (sweep, "--random lr=0.1..", 2, &["--random lr=: expected a finite number above 0"]),
        (sweep, "--random lr=log:3", 2, &["--random lr=log:3: expected lr=log:LOW..HIGH"]),
        (sweep, "--random optimizer=a..b", 2, &["--random optimizer=a..b: expected a list"]),
        (sweep, "--random lr=1..2 --trials 1000000000", 2, &["1000000000 trials", "10000 in a"]),
        ("bench", "train --dims 5", 2, &["--dims: a single size; expected at least two"]),
        ("bench", "train --optimizer foo", 2, &["'foo' for '--optimizer", "sgd, momentum"]),
        ("bench", "gemm --shapes 9999999x9999999x9", 2, &["--shapes 9999999x9999999x9: the matri"]),
    ];
    for (base, flags, code, expected) in cases {
        let line: Vec<&str> = base.split_whitespace().chain(flags.split_whitespace()).collect();
        let result = run(&dir, &line);
        eprintln!("{}\n  {}", line.join(" "), result.stderr.trim_end());
        result.expect_error(*code, expected);
        // The number of trials is a long one, and its user's.
        let said = result.stderr.replace("1000000000", "");
        let found = FORBIDDEN.iter().find(|text| said.contains(*text));
        assert_eq!(found, None, "{}: {}", line.join(" "), result.stderr);
        let twice = result.stderr.matches("expected").count();
        assert!(twice < 2, "{}: {}", line.join(" "), result.stderr);
    }
    assert_eq!(names(dir.path()), set(&["dir", "file", "set"]));
}

#[test]
fn an_empty_variable_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["train", "--hidden", "8", "--epochs", "1", "--train-size", "500"];
    let result = finish(program(&dir, &flags).env("TILEWISE_DATA", ""));
    assert!(result.expect_success().stdout.contains("no CIFAR-10 in data/"), "{}", result.stdout);
    let result = finish(program(&dir, &["data", "info"]).env("TILEWISE_DATA", ""));
    result.expect_error(1, &["error: data/: no CIFAR-10"]);
}

#[test]
fn a_network_whose_logits_are_not_finite_has_no_accuracy() {
    let dir = with_data();
    train(&dir, &["--out", "a"]).expect_success();
    let model = dir.path().join("a/model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // Weights that are finite, but too large for the sums of products.
    for weight in bytes[header..].chunks_exact_mut(4) {
        weight.copy_from_slice(&3e38f32.to_le_bytes());
    }
    fs::write(&model, bytes).unwrap();
    for more in [&[][..], &["--json"], &["--batch", "7"]] {
        let eval = ["eval", "--model", "a/model.safetensors", "--data", "set"];
        let result = run(&dir, &[&eval[..], more].concat());
        result.expect_error(1, &["a/model.safetensors: test set, image 0: ", "finite"]);
        assert!(!result.stdout.contains("accuracy"), "{}", result.stdout);
    }
    let eval = ["eval", "--model", "a/model.safetensors", "--data", "set", "--dtype", "f64"];
    run(&dir, &eval).expect_success();
    image::RgbImage::from_pixel(32, 32, image::Rgb([255; 3]))
        .save(dir.path().join("w.png"))
        .unwrap();
    let result = run(&dir, &["predict", "--model", "a/model.safetensors", "w.png"]);
    result.expect_error(1, &["a/model.safetensors: w.png: image 0: ", "finite"]);
    assert_eq!(result.stdout, "");
}

#[test]
fn a_run_that_diverges_in_its_last_step_has_no_network() {
    let dir = with_data();
    // One step, whose own loss is still finite.
    let flags = ["train", "--data", "set", "--hidden", "8", "--epochs", "1", "--batch", "240"];
    for lr in ["1e30", "1e300"] {
        let result = run(&dir, &[&flags[..], &["--lr", lr, "--out", lr]].concat());
        result.expect_error(1, &["iteration 1, at learning rate 1e30", "not finite"]);
        let files = ["config.toml", "curves.svg", "metrics.jsonl"];
        assert_eq!(names(&dir.path().join(lr)), set(&files));
        assert_eq!(metrics(&dir.path().join(lr)).len(), 0);
    }
}

/// Puts `entry` in the place of a model's metadata, or takes that away.
fn set_metadata(model: &Path, entry: Option<Value>) {
    let bytes = fs::read(model).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    header.as_object_mut().unwrap().remove("__metadata__");
    if let Some(entry) = entry {
        header["__metadata__"] = json!({ "tilewise": entry.to_string() });
    }
    let header = header.to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(model, [&length, &header[..], &bytes[8 + len..]].concat()).unwrap();
}

#[test]
fn eval_normalises_as_training_would_where_the_model_does_not_say() {
    let dir = with_data();
    train(&dir, &["--out", "a"]).expect_success();
    let eval = ["eval", "--model", "a/model.safetensors", "--data", "set"];
    let with = run(&dir, &eval);
    let model = dir.path().join("a/model.safetensors");
    set_metadata(&model, None);
    let without = run(&dir, &eval);
    let (note, result) = without.expect_success().stdout.split_once('\n').unwrap();
    assert!(note.contains("has no normalization"), "{note}");
    assert_eq!(result, with.expect_success().stdout);

    let one_channel = json!({ "normalization": { "scale": [1.0], "shift": [0.0] } });
    set_metadata(&model, Some(one_channel));
    run(&dir, &eval).expect_error(1, &["model.safetensors", "1 channel", "3"]);
}

#[test]
fn eval_refuses_what_does_not_fit() {
    let dir = with_data();
    let eval = |model: &str, data: &str| run(&dir, &["eval", "--model", model, "--data", data]);
    eval("gone.safetensors", "set").expect_error(1, &["gone.safetensors"]);
    fs::write(dir.path().join("bad.safetensors"), "no model").unwrap();
    eval("bad.safetensors", "set").expect_error(1, &["bad.safetensors", "safetensors file"]);

    train(&dir, &["--out", "a"]).expect_success();
    let model = "a/model.safetensors";
    // Trained on the classes of CIFAR-10, not on shapes.
    run(&dir, &["eval", "--model", model, "--synthetic"])
        .expect_error(1, &[model, "airplane", "disc"]);
    fs::remove_file(dir.path().join("set/test_batch.bin")).unwrap();
    eval(model, "set").expect_error(1, &["set", "test_batch.bin"]);
}

#[test]
fn info_knows_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let json = run(&dir, &["info", "--json"]);
    let json: Value = serde_json::from_str(&json.expect_success().stdout).unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(
        (&json["version"], &json["cores"]),
        (&env!("CARGO_PKG_VERSION").into(), &cores.into())
    );
    let available = json["available"].as_array().unwrap();
    assert!(available.contains(&json["instruction_set"]) && available.contains(&"portable".into()));
    let kernels = json["kernels"].as_array().unwrap();
    assert_eq!(kernels.len(), 3 * available.len());
    assert_eq!(kernels.iter().filter(|kernel| kernel["in_use"] == true).count(), 3);

    assert!(json["amx"]["bf16"].is_boolean(), "{json}");

    let text = finish(program(&dir, &["info"]).env("TILEWISE_ISA", "portable"));
    let text = &text.expect_success().stdout;
    assert!(text.contains("portable, multiply-add"), "{text}");
    assert!(text.contains("\nAMX  "), "{text}");
    for kernel in kernels {
        assert!(text.contains(kernel["name"].as_str().unwrap()), "{text}");
    }
}

#[test]
fn info_prints_the_plan_of_a_network() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |flags: &[&str]| {
        let result = run(&dir, &[&["info", "--plan"], flags].concat());
        result.expect_success().stdout.clone()
    };
    let text = plan(&["--hidden", "24,16", "--dropout", "0.2", "--batch", "50", "--threads", "1"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("3072-24-16-10 (f32, sgd), "), "{text}");
    assert!(lines[0].ends_with("threads 1") && lines[1].contains("batches of up to 50"), "{text}");
    // A step for each linear layer, with all that is fused into it, in the order of the network.
    assert_eq!(lines.len(), 2 + 3, "{text}");
    for (line, (name, fused)) in
        lines[2..].iter().zip([("0", " + relu + dropout"), ("3", " + relu + dropout"), ("6", "")])
    {
        let expected = format!("linear{fused} ");
        let mut words = line.split_whitespace();
        assert_eq!(words.nth(1), Some(name), "{line}");
        assert!(line.contains(&expected) && line.contains("columns at "), "{line}");
    }
    let gates = text.matches("gated by the ReLU").count();
    assert!(gates > 0 && lines[2].ends_with("no input gradient"), "{text}");
    // The updates of every optimizer are part of the products of the gradients.
    assert!(plan(&["--hidden", "8"]).contains("FusedUpdate"));
    assert!(plan(&["--hidden", "8", "--optimizer", "adam"]).contains("FusedUpdate"));

    let network = Network::<f64>::builder(Shape::Features(6));
    let network = network.residual(|block| block.linear(6).relu()).linear(2).build().unwrap();
    model::save(&dir.path().join("m"), &network, &ModelInfo::default()).unwrap();
    let text = plan(&["--model", "m", "--dtype", "f64"]);
    assert!(text.starts_with("6 features -> residual(linear(in_features = 6, "), "{text}");
    for step in [" 0.0 ", "linear + relu ", " add "] {
        assert!(text.contains(step), "{step} in {text}");
    }

    for (flags, code, expected) in [
        (&["--plan", "--model", "gone"][..], 1, "cannot read gone: no such file"),
        (&["--plan", "--model", "m", "--hidden", "8"], 2, "--hidden"),
        (&["--plan", "--json"], 2, "--json"),
        (&["--hidden", "8"], 2, "--plan"),
        (&["--plan", "--hidden", "8,0"], 2, "--hidden"),
        (&["--plan", "--hidden", "99999999999"], 1, "exceed the memory; use smaller sizes"),
        (&["--plan", "--batch", "9999999999999"], 1, "exceed the memory; use smaller sizes"),
    ] {
        run(&dir, &[&["info"], flags].concat()).expect_error(code, &[expected]);
    }
}

#[test]
fn flags_of_train_stand_under_headings() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(&dir, &["train", "--help"]).expect_success().stdout.clone();
    let headings = [
        ("Options", &["config", "preset", "seed", "threads", "help"][..]),
        ("Data", &["data", "synthetic", "train-size", "batch", "last-batch", "acc-samples"]),
        ("Model", &["hidden", "weight-scale", "precision"]),
        (
            "Optimizer",
            &["optimizer", "momentum", "beta1", "weight-decay", "clip-norm", "ema-decay"],
        ),
        ("Schedule", &["epochs", "lr", "schedule", "lr-decay", "warm-up-epochs", "patience"]),
        ("Regularization", &["reg", "dropout", "label-smoothing"]),
        ("Augmentation", &["flip", "shift", "border", "cutout"]),
        ("Output", &["out", "save-precision", "overwrite", "quiet", "checkpoint-every", "resume"]),
    ];
    let lines: Vec<&str> = help.lines().collect();
    fn heading<'a>(line: &&'a str) -> Option<&'a str> {
        line.strip_suffix(':').filter(|text| !text.starts_with(' '))
    }
    let found: Vec<&str> = lines.iter().filter_map(heading).collect();
    assert_eq!(found, headings.map(|(heading, _)| heading), "{help}");
    let section = |line: &str| {
        let at = lines.iter().position(|other| *other == line).unwrap();
        lines[..at].iter().rev().find_map(heading).unwrap()
    };
    for (heading, flags) in headings {
        for flag in flags {
            let flag = format!("--{flag}");
            let is_flag = |line: &&&str| line.split([' ', ',']).any(|word| word == flag);
            let is_option = |line: &&&str| line.trim_start().starts_with('-') && is_flag(line);
            let line = lines.iter().find(is_option).unwrap_or_else(|| panic!("{flag} in {help}"));
            assert_eq!(section(line), heading, "{flag}");
        }
    }
    let prose = help.to_lowercase().replace("--one-cycle-share", "");
    for word in ["picture", "share", "regularis", "normalis", "colour", "go on"] {
        assert!(!prose.contains(word), "{word} in {help}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_leaves_early_does_not_stop_the_run() {
    let dir = with_data();
    let arguments = ["train", "--data", "set", "--hidden", "8", "--epochs", "3", "--out", "a"];
    let mut command = program(&dir, &arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
    assert_eq!(metrics(&dir.path().join("a")).len(), 3);
}
