//! `tilewise data` as a user runs it, on a tiny data set.
//! What is loaded and fetched is tested elsewhere; here it is what gets printed.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::{TempDir, tempdir};

fn tilewise(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewise"));
    command.arg("data").args(arguments).env("TILEWISE_DATA", dir).output().unwrap()
}

/// Two training pictures of classes 3 and 9: one black, one white.
fn two_pictures() -> TempDir {
    let dir = tempdir().unwrap();
    let records = [vec![3], vec![0; 3072], vec![9], vec![255; 3072]].concat();
    fs::write(dir.path().join("data_batch_1.bin"), records).unwrap();
    dir
}

#[test]
fn info_prints_what_is_there() {
    let dir = two_pictures();
    let output = tilewise(&["info"], dir.path());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "training  2 pictures",
        "test      none",
        "shape     3 x 32 x 32 (channels x height x width)",
        "    9  truck              1       -",
        "      2  0.500000  0.500000",
        "3 9",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn info_prints_one_json_object() {
    let dir = two_pictures();
    let output = tilewise(&["info", "--json", &dir.path().display().to_string()], Path::new("-"));
    assert!(output.status.success(), "{output:?}");
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["source"]["form"], "binary-files");
    assert_eq!(object["train"]["pictures"], 2);
    assert_eq!(object["train"]["label_histogram"][3], 1);
    assert_eq!(object["test"], serde_json::Value::Null);
    assert_eq!(object["mean"][0], 0.5);
    assert_eq!(object["first_labels"], serde_json::json!([3, 9]));
}

#[test]
fn failures_go_to_standard_error() {
    let dir = tempdir().unwrap();
    let output = tilewise(&["info"], dir.path());
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("no CIFAR-10 here"), "{message}");
}
