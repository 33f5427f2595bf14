//! Training runs that are stopped and go on: by Ctrl-C, by a kill at any instant, and what is
//! refused.
#![cfg(unix)]

mod support;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use support::{metrics, program, run, with_data};
use tempfile::TempDir;

/// A run of about two seconds with every kind of state.
const LONG: [&str; 29] = [
    "train",
    "--data",
    "set",
    "--hidden",
    "64,32",
    "--epochs",
    "120",
    "--batch",
    "20",
    "--optimizer",
    "adam",
    "--lr",
    "0.001",
    "--schedule",
    "one-cycle",
    "--dropout",
    "0.1",
    "--flip",
    "--shift",
    "2",
    "--ema-decay",
    "0.9",
    "--threads",
    "2",
    "--quiet",
    "--acc-samples",
    "50",
    "--val-size",
    "100",
];

fn start(dir: &TempDir, arguments: &[&str]) -> Child {
    program(dir, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(sent.unwrap().success());
}

/// Waits until the run in `out` has finished some epochs.
fn wait_for_epochs(out: &Path, count: usize) {
    let begin = Instant::now();
    let epochs =
        || fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    while epochs() < count {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "no {count} epochs in {}",
            out.display()
        );
        sleep(Duration::from_millis(1));
    }
}

fn metrics_without_times(out: &Path) -> Vec<Value> {
    let mut lines = metrics(out);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.remove("seconds").unwrap();
        line.remove("images_per_s").unwrap();
    }
    lines
}

/// Checks that two runs left the same behind, times aside.
fn expect_same(dir: &TempDir, a: &str, b: &str) {
    let (a, b) = (dir.path().join(a), dir.path().join(b));
    assert_eq!(metrics_without_times(&a), metrics_without_times(&b));
    let model = |out: &Path| fs::read(out.join("model.safetensors")).unwrap();
    assert!(model(&a) == model(&b), "models differ");
    assert!(!b.join("checkpoint.safetensors").exists(), "the checkpoint of a finished run");
    let left = fs::read_dir(&b).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    // A killed process may leave its temporary file, a finished one does not.
    assert!(left.len() <= 8, "{left:?}");
}

#[test]
fn a_run_that_was_interrupted_goes_on_to_the_same_end() {
    let dir = with_data();
    run(&dir, &[&LONG[..], &["--out", "whole"]].concat()).expect_success();
    let mut child = start(&dir, &[&LONG[..], &["--out", "part"]].concat());
    let out = dir.path().join("part");
    for round in 1..=3 {
        wait_for_epochs(&out, 20 * round);
        signal(&child, if round == 2 { "TERM" } else { "INT" });
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert!(text.contains("--resume part goes on"), "{text}");
        assert!(out.join("checkpoint.safetensors").exists() && out.join("curves.svg").exists());
        child = start(&dir, &["train", "--resume", "part", "--threads", "1", "--quiet"]);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    expect_same(&dir, "whole", "part");
    let again = run(&dir, &["train", "--resume", "part"]);
    again.expect_error(1, &["part", "holds no checkpoint", "come to its end"]);
}

#[test]
fn a_run_that_was_killed_goes_on_from_its_last_checkpoint() {
    let dir = with_data();
    let every = ["--checkpoint-every", "1"];
    run(&dir, &[&LONG[..], &["--out", "whole"]].concat()).expect_success();
    let mut child = start(&dir, &[&LONG[..], &every, &["--out", "part"]].concat());
    let out = dir.path().join("part");
    for round in 0..12 {
        wait_for_epochs(&out, 2 + 3 * round);
        // At different places of an epoch, of the writing of metrics, and of that of a checkpoint.
        sleep(Duration::from_micros(1700 * round as u64));
        signal(&child, "KILL");
        child.wait().unwrap();
        child = start(&dir, &["train", "--resume", "part", "--quiet"]);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    expect_same(&dir, "whole", "part");
}

#[test]
fn what_cannot_go_on_is_refused_in_one_line() {
    let dir = with_data();
    let child = start(&dir, &[&LONG[..], &["--out", "part"]].concat());
    wait_for_epochs(&dir.path().join("part"), 3);
    signal(&child, "INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));

    let checkpoint = dir.path().join("part/checkpoint.safetensors");
    let whole = fs::read(&checkpoint).unwrap();
    let resume = ["train", "--resume", "part"];
    fs::write(&checkpoint, &whole[..whole.len() - 100]).unwrap();
    run(&dir, &resume).expect_error(1, &["checkpoint.safetensors", "truncated or altered"]);
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    fs::write(&checkpoint, altered).unwrap();
    run(&dir, &resume).expect_error(1, &["checkpoint.safetensors", "truncated or altered"]);
    fs::write(&checkpoint, &whole).unwrap();

    run(&dir, &["train", "--resume", "part", "--lr", "1"]).expect_error(2, &["lr", "config.toml"]);
    run(&dir, &["train", "--resume", "part", "--out", "b"]).expect_error(2, &["--out"]);
    run(&dir, &["train", "--resume", "gone"]).expect_error(1, &["gone/config.toml"]);
    let config = fs::read_to_string(dir.path().join("part/config.toml")).unwrap();
    let other = config.replace("epochs = 120", "epochs = 121");
    assert_ne!(config, other);
    fs::write(dir.path().join("part/config.toml"), other).unwrap();
    run(&dir, &resume).expect_error(2, &["epochs 121", "120"]);
    fs::write(dir.path().join("part/config.toml"), config).unwrap();

    let lines = fs::read_to_string(dir.path().join("part/metrics.jsonl")).unwrap();
    fs::write(dir.path().join("part/metrics.jsonl"), lines.lines().next().unwrap()).unwrap();
    run(&dir, &resume).expect_error(1, &["metrics.jsonl", "has 1 epochs"]);
    fs::write(dir.path().join("part/metrics.jsonl"), lines).unwrap();
    run(&dir, &[&resume[..], &["--quiet"]].concat()).expect_success();
}

#[test]
fn patience_ends_a_run_and_says_so() {
    let dir = with_data();
    let arguments = ["train", "--data", "set", "--hidden", "8", "--epochs", "9", "--batch", "50"];
    let flags = ["--lr", "1e-12", "--patience", "2", "--out", "a", "--quiet"];
    let result = run(&dir, &[&arguments[..], &flags].concat());
    let text = &result.expect_success().stdout;
    assert!(
        text.starts_with("stopped after epoch 3: no better validation accuracy in 2 epochs"),
        "{text}"
    );
    assert_eq!(metrics(&dir.path().join("a")).len(), 3);
}
