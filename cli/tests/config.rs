//! `train --config`: what a file sets, what wins over it, and how mistakes in it are named.

mod support;

use std::fs;

use support::{finish, metrics, program, run, with_data};
use tempfile::TempDir;

const SMALL: &str = "data = 'set'\nhidden = [16, 12]\nepochs = 2\nbatch = 50\nlr = 0.05\n";

fn write(dir: &TempDir, text: &str) {
    fs::write(dir.path().join("c.toml"), text).unwrap();
}

/// The settings that a run in `out` has left behind.
fn config(dir: &TempDir, out: &str) -> toml::Table {
    fs::read_to_string(dir.path().join(out).join("config.toml")).unwrap().parse().unwrap()
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let dir = with_data();
    write(&dir, &format!("{SMALL}seed = 3\nquiet = true\nout = 'a'\n"));
    let result = run(&dir, &["train", "--config", "c.toml", "--epochs", "1", "--lr", "1e-3"]);
    let lines = result.expect_success().stdout.lines().count();
    assert_eq!(lines, 4, "quiet comes from the file: {}", result.stdout);
    let config = config(&dir, "a");
    let get = |key: &str| config[key].to_string();
    assert_eq!(["epochs", "lr", "seed", "hidden"].map(get), ["1", "0.001", "3", "[16, 12]"]);
    assert_eq!(get("lr-decay"), "0.95");
    assert_eq!(metrics(&dir.path().join("a")).len(), 1);
}

#[test]
fn flags_put_aside_what_contradicts_them_in_the_file() {
    let dir = with_data();
    write(&dir, SMALL);
    let more = ["--synthetic", "--train-size", "100", "--val-size", "50", "--out", "a"];
    run(&dir, &[&["train", "--config", "c.toml"][..], &more].concat()).expect_success();
    let config = config(&dir, "a");
    assert_eq!((config.get("data"), &config["synthetic"]), (None, &true.into()));

    write(&dir, &format!("{SMALL}synthetic = true\n"));
    run(&dir, &["train", "--config", "c.toml"])
        .expect_error(1, &["c.toml: data cannot be used with synthetic"]);
}

#[test]
fn a_preset_gives_way_to_the_file_and_the_flags() {
    let dir = with_data();
    write(&dir, "data = 'set'\nhidden = [16]\nbatch = 50\nepochs = 3\n");
    let flags = ["--preset", "two-layer", "--config", "c.toml", "--epochs", "1", "--out", "a"];
    run(&dir, &[&["train"][..], &flags].concat()).expect_success();
    let config = config(&dir, "a");
    let get = |key: &str| config[key].to_string();
    let found = ["epochs", "hidden", "batch", "lr", "lr-decay", "weight-scale"].map(get);
    assert_eq!(found, ["1", "[16]", "50", "0.4", "0.96", "0.01"]);
    assert_eq!(config.get("preset"), None, "what it set stands there instead");
    run(&dir, &["train", "--preset", "bets"]).expect_error(2, &["bets", "best", "two-layer"]);
}

#[test]
fn what_a_run_writes_repeats_it() {
    let dir = with_data();
    write(&dir, &format!("{SMALL}dropout = 0.2\nweight-scale = 0.02\nlast-batch = 'keep'\n"));
    run(&dir, &["train", "--config", "c.toml", "--out", "a"]).expect_success();
    run(&dir, &["train", "--config", "a/config.toml", "--out", "b"]).expect_success();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("a/config.toml"), read("b/config.toml"));
    assert_eq!(read("a/model.safetensors"), read("b/model.safetensors"));
}

#[test]
fn mistakes_are_named_with_file_line_and_key() {
    let dir = with_data();
    let cases: &[(&str, &[&str])] = &[
        ("epocs = 3", &["line 6: epocs: unknown setting; did you mean \"epochs\"?"]),
        ("weight_scale = 0.1", &["line 6", "\"weight-scale\""]),
        ("learning_rate = 0.1", &["learning_rate: unknown setting; did you mean \"lr\"?"]),
        ("batch_size = 10", &["did you mean \"batch\"?"]),
        ("zzzz = 1", &["zzzz: unknown setting; settings are named as the flags"]),
        ("config = 'd.toml'", &["line 6", "config", "unknown setting"]),
        (
            "\nseed = 'one'",
            &["line 7: seed = \"one\": expected a whole number, not a value of type string"],
        ),
        ("seed = 1.5", &["line 6", "seed", "a whole number", "float"]),
        ("reg = true", &["line 6", "reg", "a number", "boolean"]),
        ("quiet = 1", &["line 6", "quiet", "true or false"]),
        ("normalize = 1", &["line 6", "normalize", "a string"]),
        ("normalize = 'max'", &["line 6", "normalize", "mean-std"]),
        ("dropout = 1.5", &["line 6: dropout = 1.5: expected a number from 0 to below 1"]),
        ("weight-scale = inf", &["weight-scale = inf: expected a finite number above 0"]),
        ("seed = -1", &["seed = -1: expected a whole number from 0 to 9223372036854775807"]),
        ("\"\\u001b[31m\" = 1", &["line 6: \"\\u{1b}[31m\": unknown setting"]),
        ("seed = [1, 2]", &["line 6", "seed", "a whole number", "array"]),
        ("out = { a = 1 }", &["line 6", "out", "a string", "table"]),
        ("seed = 1\nseed = 2", &["line 7", "duplicate key"]),
        ("seed =", &["line 6"]),
        ("[run]\nversion = 1\n[other]\na = 1", &["line 8", "other", "unknown setting"]),
    ];
    for (text, expected) in cases {
        write(&dir, &format!("{SMALL}{text}\n"));
        let result = run(&dir, &["train", "--config", "c.toml"]);
        result.expect_error(1, &[expected, &["c.toml"][..]].concat());
        assert!(result.stderr.matches("expected").count() < 2, "{}", result.stderr);
        assert!(!result.stderr.contains("--seed") && !result.stderr.contains('\u{1b}'));
    }
    write(&dir, "hidden = []");
    run(&dir, &["train", "--config", "c.toml"]).expect_error(1, &["hidden", "at least one"]);
    run(&dir, &["train", "--config", "gone.toml"]).expect_error(1, &["gone.toml"]);
}

#[test]
fn a_large_file_is_refused_and_its_lines_are_counted_once() {
    let dir = with_data();
    let keys = |count: usize| (0..count).map(|i| format!("k{i:07} = 1\n")).collect::<String>();
    // Quadratic work on so many keys would take most of a minute.
    write(&dir, &(SMALL.to_owned() + &keys(80_000)));
    run(&dir, &["train", "--config", "c.toml"])
        .expect_error(1, &["c.toml: line 6: k0000000: unknown setting"]);
    write(&dir, &keys(700_000));
    run(&dir, &["train", "--config", "c.toml"])
        .expect_error(1, &["c.toml: has 9100000 bytes: expected at most 1048576"]);
    write(&dir, &format!("lr = '{}'", "x".repeat(900_000)));
    let result = run(&dir, &["train", "--config", "c.toml"]);
    result.expect_error(1, &["line 1: lr = \"xxx", "xxx... (", "expected a number"]);
    assert!(result.stderr.len() < 200, "{}", result.stderr.len());
}

#[test]
fn a_setting_is_named_as_it_was_spelled() {
    let dir = with_data();
    write(&dir, &format!("{SMALL}momentum = 1e-300\n"));
    let base = ["train", "--config", "c.toml"];
    run(&dir, &base).expect_error(2, &["c.toml: momentum = 1e-300: expected to be left out: sgd"]);
    run(&dir, &[&base[..], &["--momentum", "0.5"]].concat())
        .expect_error(2, &["error: --momentum 0.5: expected to be left out: sgd"]);
}

#[cfg(unix)]
#[test]
fn a_path_that_is_no_text_is_refused_instead_of_changed() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let dir = with_data();
    let mut command = program(&dir, &["train", "--synthetic", "--out"]);
    let result = finish(command.arg(OsStr::from_bytes(b"a\xff")));
    result.expect_error(2, &["UTF-8"]);
}

#[test]
fn every_example_is_accepted() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/presets");
    let files = |dir: &str| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for path in files(examples).chain(files(&format!("{examples}/optimizers"))) {
        if path.is_dir() {
            continue;
        }
        // What is wrong with a file is said before the data is looked for.
        let flags = ["train", "--data", "gone", "--config", path.to_str().unwrap()];
        let dir = tempfile::tempdir().unwrap();
        run(&dir, &flags).expect_error(1, &["gone: no CIFAR-10"]);
        seen += 1;
    }
    assert!(seen >= 13, "{seen} examples");
}
