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

/// Two training images of classes 3 and 9: one black, one white.
fn two_images() -> TempDir {
    let dir = tempdir().unwrap();
    let records = [vec![3], vec![0; 3072], vec![9], vec![255; 3072]].concat();
    fs::write(dir.path().join("data_batch_1.bin"), records).unwrap();
    dir
}

#[test]
fn info_prints_what_is_there() {
    let dir = two_images();
    let output = tilewise(&["info"], dir.path());
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    for line in [
        "training  2 images",
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
    let dir = two_images();
    let output = tilewise(&["info", "--json", &dir.path().display().to_string()], Path::new("-"));
    assert!(output.status.success(), "{output:?}");
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["source"]["form"], "binary-files");
    assert_eq!(object["train"]["images"], 2);
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

/// Names of classes come from the data set, and the directory may have any name.
#[test]
fn text_from_files_cannot_command_the_terminal() {
    let parent = tempdir().unwrap();
    let dir = parent.path().join("\x1b[31m");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("data_batch_1.bin"), vec![3; 3073]).unwrap();
    let names = "\x1b]0;title\x07\nb\nc\nd\u{202e}\ne\u{9b}2J\nf\ng\nh\ni\nj\n";
    fs::write(dir.join("batches.meta.txt"), names).unwrap();
    let is_harmless = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
    for arguments in [&["info"][..], &["info", "--json"]] {
        let output = tilewise(arguments, &dir);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(is_harmless(&text) && !text.contains('\u{202e}'), "{text:?}");
        assert!(text.contains(r"\u001b]0;title\u0007") && text.contains(r"d\u202e"), "{text}");
    }
    let output = tilewise(&["info", "--json"], &dir);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["class_names"][0], "\x1b]0;title\x07");
    fs::remove_file(dir.join("data_batch_1.bin")).unwrap();
    let output = tilewise(&["info"], &dir);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(is_harmless(&message) && message.contains(r"\u001b[31m"), "{message:?}");
}

#[test]
fn an_archive_unlike_the_original_gives_warnings() {
    let dir = tempdir().unwrap();
    let gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gz);
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]
        .into_iter()
        .chain(["test_batch"])
    {
        let images = if name == "data_batch_3" { 2 } else { 10_000 };
        let bytes = vec![3; images * 3073];
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, format!("{name}.bin"), &bytes[..]).unwrap();
    }
    let archive = tar.into_inner().unwrap().finish().unwrap();
    fs::write(dir.path().join("cifar-10-binary.tar.gz"), archive).unwrap();
    let output = tilewise(&["info"], dir.path());
    assert!(output.status.success(), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.starts_with("warning: "), "{message}");
    assert!(message.contains("data_batch_3.bin has 2 images"), "{message}");
}
