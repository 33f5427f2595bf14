//! `tilewise sweep`: its trials are those of `train`, its tables agree with their files, and after
//! a kill it goes on with what is missing.

mod support;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;
use support::{Output, metrics, run, with_data};
use tempfile::TempDir;

fn sweep(dir: &TempDir, arguments: &[&str]) -> Output {
    let base = ["sweep", "--data", "set", "--batch", "50", "--out", "s"];
    run(dir, &[&base[..], arguments].concat())
}

fn read(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join("s").join(name)).unwrap()
}

fn records(dir: &TempDir) -> Vec<Value> {
    read(dir, "trials.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines of the table by their columns.
fn table(dir: &TempDir) -> Vec<BTreeMap<String, String>> {
    let text = read(dir, "sweep.csv");
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let head: Vec<String> = lines.next().unwrap().collect();
    lines.map(|line| head.iter().cloned().zip(line).collect()).collect()
}

fn best(run: &Path) -> f64 {
    metrics(run).iter().map(|line| line["val_acc"].as_f64().unwrap()).fold(0.0, f64::max)
}

/// The table without times.
fn without_times(dir: &TempDir) -> Vec<BTreeMap<String, String>> {
    let mut table = table(dir);
    for line in &mut table {
        line.remove("seconds").unwrap();
    }
    table
}

const GRID: [&str; 8] =
    ["--grid", "lr=0.01,0.1", "--grid", "hidden=8,16-8", "--epochs", "2", "--seed", "3"];

#[test]
fn a_grid_trains_every_combination_as_train_would() {
    let dir = with_data();
    let result = sweep(&dir, &GRID);
    assert!(result.expect_success().stdout.contains("4 trials of lr, hidden"), "{}", result.stdout);
    let table = table(&dir);
    let mut settings: Vec<_> =
        table.iter().map(|line| (line["lr"].as_str(), line["hidden"].as_str())).collect();
    let accuracies: Vec<f64> = table.iter().map(|line| line["val_acc"].parse().unwrap()).collect();
    assert!(accuracies.is_sorted_by(|a, b| a >= b), "{accuracies:?}");
    for (line, accuracy) in table.iter().zip(&accuracies) {
        assert!((best(&dir.path().join(&line["dir"])) - accuracy).abs() < 1e-4);
    }
    settings.sort_unstable();
    assert_eq!(settings, [("0.01", "16-8"), ("0.01", "8"), ("0.1", "16-8"), ("0.1", "8")]);

    let one = table.iter().find(|line| line["lr"] == "0.1" && line["hidden"] == "16-8").unwrap();
    let flags = ["--lr", "0.1", "--hidden", "16,8", "--epochs", "2", "--seed", "3"];
    let base = ["train", "--data", "set", "--batch", "50", "--out", "alone"];
    run(&dir, &[&base[..], &flags].concat()).expect_success();
    let model = |run: &str| fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
    assert!(model(&one["dir"]) == model("alone"), "the sweep trained another network");

    let picture = read(&dir, "sweep.svg");
    for line in &table {
        assert!(picture.contains(&line["val_acc"]), "{}", line["val_acc"]);
    }
}

#[test]
fn trials_side_by_side_give_the_same_table() {
    let dir = with_data();
    sweep(&dir, &GRID).expect_success();
    let one = without_times(&dir);
    sweep(&dir, &[&GRID[..], &["--jobs", "3", "--overwrite"]].concat()).expect_success();
    assert_eq!(without_times(&dir), one);
}

#[test]
fn what_a_kill_left_undone_is_done_and_nothing_else() {
    let dir = with_data();
    sweep(&dir, &GRID).expect_success();
    let whole = without_times(&dir);
    // As if killed while the second trial was on: no record of it, half a directory.
    let kept: Vec<String> = read(&dir, "trials.jsonl")
        .lines()
        .filter(|line| !line.contains("\"trial\":2,"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(kept.len(), 3);
    fs::write(dir.path().join("s/trials.jsonl"), kept.concat()).unwrap();
    fs::remove_file(dir.path().join("s/trial-002/model.safetensors")).unwrap();
    fs::remove_file(dir.path().join("s/sweep.csv")).unwrap();
    let time = |trial: &str| {
        let path = dir.path().join("s").join(trial).join("metrics.jsonl");
        fs::metadata(path).unwrap().modified().unwrap()
    };
    let before = [time("trial-001"), time("trial-002")];
    let result = sweep(&dir, &GRID);
    assert!(result.expect_success().stdout.contains("3 of them trained before"));
    assert_eq!(without_times(&dir), whole);
    assert_eq!(time("trial-001"), before[0], "a finished trial was trained again");
    assert!(time("trial-002") > before[1]);
    assert!(dir.path().join("s/trial-002/model.safetensors").exists());

    sweep(&dir, &[&GRID[..], &["--reg", "0.1"]].concat())
        .expect_error(1, &["s: ", "another sweep", "--overwrite"]);
    assert_eq!(without_times(&dir), whole);
}

#[test]
fn halving_keeps_the_better_half() {
    let dir = with_data();
    let flags = ["--random", "lr=log:1e-5..0.3", "--trials", "8", "--epochs", "8", "--halving"];
    sweep(&dir, &[&flags[..], &["--hidden", "16", "--quiet"]].concat()).expect_success();
    let records = records(&dir);
    let at = |epochs: u64| -> Vec<(u64, f64)> {
        let found = records.iter().filter(|record| record["epochs"] == epochs);
        let pair = |record: &Value| {
            (record["trial"].as_u64().unwrap(), record["val_acc"].as_f64().unwrap())
        };
        found.map(pair).collect()
    };
    let mut before = at(1);
    assert_eq!(before.len(), 8);
    for (epochs, count) in [(2, 4), (4, 2), (8, 1)] {
        let now = at(epochs);
        assert_eq!(now.len(), count, "after {epochs} epochs");
        let is_kept = |trial: u64| now.iter().any(|&(number, _)| number == trial);
        type Trials = Vec<(u64, f64)>;
        let (kept, dropped): (Trials, Trials) =
            before.iter().partition(|(trial, _)| is_kept(*trial));
        let worst = kept.iter().map(|pair| pair.1).fold(1.0, f64::min);
        assert!(dropped.iter().all(|pair| pair.1 <= worst), "{kept:?} {dropped:?}");
        before = now;
    }
    // The last one went on three times, to what a run without a stop comes to.
    let table = table(&dir);
    let last = table.iter().find(|line| line["epochs"] == "8").unwrap();
    let config = format!("{}/config.toml", last["dir"]);
    run(&dir, &["train", "--config", &config, "--out", "alone"]).expect_success();
    let model = |run: &str| fs::read(dir.path().join(run).join("model.safetensors")).unwrap();
    assert!(model(&last["dir"]) == model("alone"), "halving changed the network");
    // A trial that was stopped has the epochs of its last rung, at the learning rates of the whole.
    for line in table {
        let metrics = metrics(&dir.path().join(&line["dir"]));
        assert_eq!(metrics.len().to_string(), line["epochs"]);
        assert!(
            (metrics[0]["lr"].as_f64().unwrap() / line["lr"].parse::<f64>().unwrap() - 1.0).abs()
                < 1e-9
        );
    }
}

#[test]
fn a_trial_that_diverges_is_a_result() {
    let dir = with_data();
    let flags = ["--grid", "lr=1e30,0.05", "--hidden", "8", "--epochs", "2"];
    let result = sweep(&dir, &flags);
    assert!(result.expect_success().stdout.contains("diverged"), "{}", result.stdout);
    let table = table(&dir);
    assert_eq!(table.len(), 2);
    let diverged: Vec<_> =
        table.iter().map(|line| (line["trial"].as_str(), line["diverged"].as_str())).collect();
    assert_eq!(diverged, [("2", "false"), ("1", "true")]);
    assert!(read(&dir, "sweep.svg").trim_end().ends_with("</svg>"));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_trained() {
    let dir = with_data();
    let cases: &[(&[&str], &str)] = &[
        (&[], "--grid"),
        (&["--grid", "lt=1"], "did you mean \"lr\"?"),
        (&["--grid", "lr=-1"], "above 0"),
        (&["--random", "lr=1..0.1"], "smaller number first"),
        (&["--grid", "lr=1", "--random", "lr=0.1..1"], "each setting once"),
        (&["--grid", "epochs=1,2", "--halving"], "with --halving"),
        (&["--grid", "lr=1", "--jobs", "0"], "--jobs"),
        (&["--grid", "lr=1", "--resume", "b"], "--resume"),
    ];
    for (flags, text) in cases {
        sweep(&dir, flags).expect_error(2, &[text]);
    }
    run(&dir, &["sweep", "--data", "set", "--grid", "lr=1"]).expect_error(2, &["out"]);
    assert!(!dir.path().join("s").exists());
    fs::write(dir.path().join("c.toml"), "hiden = 3").unwrap();
    sweep(&dir, &["--grid", "lr=1", "--config", "c.toml"]).expect_error(1, &["c.toml", "hidden"]);
}
