//! `tilewise sweep`: its trials are those of `train`, its tables agree with their files, after a
//! kill or a signal it resumes with what is missing, and one process owns its directory.

mod support;

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;
use support::{Output, metrics, metrics_without_times, run, with_data};
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

    let plot = read(&dir, "sweep.svg");
    for line in &table {
        assert!(plot.contains(&line["val_acc"]), "{}", line["val_acc"]);
    }
}

#[test]
fn trials_at_the_same_time_give_the_same_table() {
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
    // The settings are those of the sweep in any order.
    let settings = read(&dir, "sweep.toml");
    let reversed: Vec<String> = settings.lines().rev().map(|line| format!("{line}\n")).collect();
    fs::write(dir.path().join("s/sweep.toml"), reversed.concat()).unwrap();
    let result = sweep(&dir, &GRID);
    assert!(result.expect_success().stdout.contains("4 of them trained before"));
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

/// Checks that the sweep in one directory came to the results of that in another, times aside.
fn expect_same(a: &TempDir, b: &TempDir) {
    assert_eq!(without_times(a), without_times(b));
    let sorted = |dir: &TempDir| {
        let mut records = records(dir);
        for record in &mut records {
            record.as_object_mut().unwrap().remove("seconds").unwrap();
        }
        records.sort_by_key(|record| (record["epochs"].as_u64(), record["trial"].as_u64()));
        records
    };
    assert_eq!(sorted(a), sorted(b));
    for line in table(a) {
        let [a, b] = [a, b].map(|dir| dir.path().join(&line["dir"]));
        let model = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
        assert!(model(&a) == model(&b), "models of {} differ", line["dir"]);
        assert_eq!(metrics_without_times(&a), metrics_without_times(&b));
    }
}

const HALVING: [&str; 9] = [
    "--random",
    "lr=log:1e-4..0.3",
    "--trials",
    "4",
    "--epochs",
    "4",
    "--halving",
    "--hidden",
    "8",
];

#[test]
fn trials_that_are_further_than_their_records_come_to_the_same_results() {
    let (whole, again) = (with_data(), with_data());
    for dir in [&whole, &again] {
        sweep(dir, &HALVING).expect_success();
    }
    // All records after the first epoch are lost. One trial has its checkpoint where it has to stop
    // next, as after a kill between checkpoint and record; others have one further on, or none.
    let kept: Vec<String> = read(&again, "trials.jsonl")
        .lines()
        .filter(|line| line.contains("\"epochs\":1,"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(kept.len(), 4);
    fs::write(again.path().join("s/trials.jsonl"), kept.concat()).unwrap();
    sweep(&again, &HALVING).expect_success();
    expect_same(&whole, &again);

    // Trained further by hand than the sweep had it trained.
    let last = table(&again).into_iter().find(|line| line["epochs"] == "1").unwrap();
    run(&again, &["train", "--resume", &last["dir"], "--quiet"]).expect_success();
    fs::write(again.path().join("s/trials.jsonl"), "").unwrap();
    sweep(&again, &HALVING).expect_success();
    expect_same(&whole, &again);
}

#[test]
fn records_that_are_not_those_of_the_sweep_are_refused() {
    let (whole, dir) = (with_data(), with_data());
    for dir in [&whole, &dir] {
        sweep(dir, &GRID).expect_success();
    }
    let file = dir.path().join("s/trials.jsonl");
    let text = read(&dir, "trials.jsonl");
    let first = text.lines().next().unwrap();
    let cases = [
        (format!("{text}garbage\n"), "line 5: "),
        (format!("garbage\n{text}"), "line 1: "),
        (format!("{text}{first}\n"), "line 5: a second record of trial 1"),
        (text.replace("\"trial\":4,", "\"trial\":5,"), "line 4: trial 5, expected one from 1 to 4"),
        (text.replace("\"trial\":4,", "\"trial\":0,"), "line 4: trial 0, expected one from 1 to 4"),
        (text.replacen("\"epochs\":2,", "\"epochs\":1,", 1), "line 1: trial 1 after 1 epochs"),
        (text.replacen("\"lr\":0.01", "\"lr\":0.02", 1), "line 1: trial 1 has other settings"),
    ];
    for (content, text) in cases {
        fs::write(&file, content).unwrap();
        sweep(&dir, &GRID).expect_error(1, &["s/trials.jsonl: ", text, "remove the line"]);
    }
    // A last line that was cut, or lacks its end, is certain.
    for end in [text.len() - 20, text.len() - 1] {
        fs::write(&file, &text[..end]).unwrap();
        sweep(&dir, &GRID).expect_success();
        expect_same(&whole, &dir);
    }
}

#[test]
fn a_sweep_and_a_run_do_not_share_a_directory() {
    let dir = with_data();
    let flags = ["train", "--data", "set", "--hidden", "8", "--epochs", "1", "--out"];
    let train = |out: &str, more: &[&str]| run(&dir, &[&flags[..], &[out], more].concat());
    sweep(&dir, &GRID).expect_success();
    train("s", &[]).expect_error(1, &["s: holds a sweep", "another --out"]);
    train("s", &["--overwrite"]).expect_error(1, &["s: holds a sweep", "another --out"]);
    train("a", &[]).expect_success();
    for more in [&[][..], &["--overwrite"]] {
        let into = [&["sweep", "--data", "set", "--out", "a"][..], &GRID, more].concat();
        run(&dir, &into).expect_error(1, &["a: holds config.toml of a training run"]);
    }
    assert!(!dir.path().join("a/sweep.toml").exists());
}

#[cfg(unix)]
mod processes {
    use std::{
        thread::sleep,
        time::{Duration, SystemTime},
    };

    use super::*;
    use support::{signal, start, wait_for_lines};

    /// A sweep of a second or two.
    const LONG: [&str; 15] = [
        "sweep",
        "--data",
        "set",
        "--batch",
        "20",
        "--out",
        "s",
        "--grid",
        "lr=0.01,0.1",
        "--grid",
        "hidden=8,16-8",
        "--epochs",
        "40",
        "--threads",
        "1",
    ];

    fn whole() -> TempDir {
        let dir = with_data();
        run(&dir, &LONG).expect_success();
        dir
    }

    #[test]
    fn a_sweep_that_was_interrupted_or_killed_comes_to_the_same_results() {
        let (whole, dir) = (whole(), with_data());
        let mut interrupted = 0;
        for round in 0..6 {
            let jobs = if round < 3 { "1" } else { "2" };
            let begin = SystemTime::now();
            let mut child = start(&dir, &[&LONG[..], &["--jobs", jobs]].concat());
            let is_training = || {
                let times = (1..=4).filter_map(|trial| {
                    let path = dir.path().join(format!("s/trial-00{trial}/metrics.jsonl"));
                    fs::metadata(path).ok()?.modified().ok()
                });
                times.max() > Some(begin)
            };
            while child.try_wait().unwrap().is_none() && !is_training() {
                sleep(Duration::from_millis(1));
            }
            // At different places of a trial.
            sleep(Duration::from_millis(17 * round));
            // As GNU timeout does; a kill in between.
            let signals: &[&str] = if round == 1 { &["KILL"] } else { &["TERM", "TERM", "INT"] };
            signal(&child, signals);
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            match output.status.code() {
                Some(130) => {
                    assert!(text.contains("interrupted with "), "{text}");
                    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
                    interrupted += 1;
                }
                None => assert_eq!(round, 1, "{text}"),
                // The last trial had just ended.
                code => assert_eq!(code, Some(0), "{text}"),
            }
        }
        assert!(interrupted >= 2, "the sweep is too short for this test");
        run(&dir, &LONG).expect_success();
        expect_same(&whole, &dir);
    }

    #[test]
    fn of_two_sweeps_at_once_one_is_refused() {
        let whole = whole();
        let mut refusals = 0;
        for _ in 0..3 {
            let dir = with_data();
            let sweeps = [(); 2].map(|()| start(&dir, &LONG));
            for output in sweeps.map(|sweep| sweep.wait_with_output().unwrap()) {
                let text = String::from_utf8(output.stderr).unwrap();
                if output.status.code() == Some(1) {
                    assert!(text.contains("s: another process is training"), "{text}");
                    refusals += 1;
                } else {
                    assert!(output.status.success(), "{text}");
                }
            }
            expect_same(&whole, &dir);
        }
        // A process may start so late that the other has ended; not every time.
        assert!(refusals > 0);
    }

    #[test]
    fn a_sweep_owns_its_trials() {
        let (whole, dir) = (whole(), with_data());
        let mut child = start(&dir, &LONG);
        wait_for_lines(&dir.path().join("s/trials.jsonl"), 1);
        let flags = ["train", "--data", "set", "--hidden", "8", "--quiet"];
        for more in [
            &["--out", "s/trial-001", "--overwrite"][..],
            &["--out", "s/trial-009"],
            &["--out", "s"],
        ] {
            let result = run(&dir, &[&flags[..], more].concat());
            result.expect_error(1, &["s: another process is training"]);
        }
        let result = run(&dir, &["train", "--resume", "s/trial-002"]);
        result.expect_error(1, &["s: another process is training"]);
        run(&dir, &LONG).expect_error(1, &["s: another process is training"]);
        assert!(child.try_wait().unwrap().is_none(), "the sweep has ended");
        assert!(child.wait().unwrap().success());
        fs::remove_dir(dir.path().join("s/trial-009")).unwrap();
        expect_same(&whole, &dir);
    }
}
