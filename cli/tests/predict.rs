//! `tilewise predict`: the same answers as `eval` gives for the same pixels, and how it refuses.

mod support;

use std::fs;

use image::{Rgb, RgbImage, imageops};
use serde_json::Value;
use support::{Output, run, with_data};
use tempfile::TempDir;
use tilewise::data::synthetic;

const MODEL: &str = "a/model.safetensors";

/// A data set and a network trained on it.
fn with_model() -> TempDir {
    let dir = with_data();
    let flags = ["--hidden", "24", "--epochs", "4", "--batch", "25", "--lr", "0.05", "--out", "a"];
    run(&dir, &[&["train", "--data", "set"], &flags[..]].concat()).expect_success();
    dir
}

fn predict(dir: &TempDir, arguments: &[&str]) -> Output {
    run(dir, &[&["predict", "--model", MODEL], arguments].concat())
}

fn objects(output: &Output) -> Vec<Value> {
    let lines = output.expect_success().stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A picture of the test set.
fn picture(index: usize) -> RgbImage {
    let set = synthetic(100, 2).unwrap();
    let bytes = set.picture(index).unwrap();
    RgbImage::from_fn(32, 32, |x, y| {
        let at = (32 * y + x) as usize;
        Rgb([bytes[at], bytes[1024 + at], bytes[2048 + at]])
    })
}

#[test]
fn all_test_pictures_as_files_give_the_accuracy_of_eval() {
    let dir = with_model();
    let names: Vec<String> = (0..100).map(|index| format!("{index}.png")).collect();
    for (index, name) in names.iter().enumerate() {
        picture(index).save(dir.path().join(name)).unwrap();
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let objects = objects(&predict(&dir, &[&names, &["--json", "--top", "10"][..]].concat()));
    assert_eq!(objects.len(), 100);
    let labels = synthetic(100, 2).unwrap().labels().to_vec();
    let mut correct = 0;
    for ((object, name), label) in objects.iter().zip(&names).zip(labels) {
        assert_eq!(object["image"], *name);
        let classes = object["classes"].as_array().unwrap();
        let shares: Vec<f64> = classes.iter().map(|c| c["probability"].as_f64().unwrap()).collect();
        assert!(
            (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9 && shares.is_sorted_by(|a, b| a >= b)
        );
        correct += u64::from(classes[0]["label"] == label);
    }
    let eval = run(&dir, &["eval", "--model", MODEL, "--data", "set", "--json"]);
    let eval: Value = serde_json::from_str(&eval.expect_success().stdout).unwrap();
    assert_eq!(eval["correct"], correct);
}

#[test]
fn other_sizes_and_forms_are_the_same_picture() {
    let dir = with_model();
    let small = picture(3);
    small.save(dir.path().join("small.png")).unwrap();
    let large = imageops::resize(&small, 320, 320, imageops::FilterType::Nearest);
    large.save(dir.path().join("large.png")).unwrap();
    large.save(dir.path().join("large.jpg")).unwrap();
    // The content tells the format, not the name.
    fs::copy(dir.path().join("large.jpg"), dir.path().join("jpeg.png")).unwrap();
    let files = ["small.png", "large.png", "large.jpg", "jpeg.png", "--json", "--top", "1"];
    let objects = objects(&predict(&dir, &files));
    let first = |index: usize| {
        let class = &objects[index]["classes"][0];
        (class["label"].clone(), class["probability"].as_f64().unwrap())
    };
    for index in 1..4 {
        assert_eq!(first(index).0, first(0).0);
        assert!((first(index).1 - first(0).1).abs() < 0.05, "{index}: {objects:?}");
    }
    assert_eq!(first(2), first(3));
}

#[test]
fn text_names_the_likeliest_classes() {
    let dir = with_model();
    picture(0).save(dir.path().join("a.png")).unwrap();
    let text = predict(&dir, &["a.png", "--top", "2"]);
    let lines: Vec<&str> = text.expect_success().stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, "a.png"));
    let object = &objects(&predict(&dir, &["a.png", "--top", "2", "--json"]))[0];
    for (line, class) in lines[1..].iter().zip(object["classes"].as_array().unwrap()) {
        let (name, share) = line.trim().split_once(char::is_whitespace).unwrap();
        assert_eq!(class["class"], name);
        let share: f64 = share.trim().parse().unwrap();
        assert!((class["probability"].as_f64().unwrap() - share).abs() < 1e-4, "{line}");
    }
}

#[test]
fn what_is_no_picture_and_what_is_no_model_is_named() {
    let dir = with_model();
    picture(0).save(dir.path().join("a.png")).unwrap();
    fs::write(dir.path().join("notes.png"), "dear diary").unwrap();
    let bytes = fs::read(dir.path().join("a.png")).unwrap();
    fs::write(dir.path().join("half.png"), &bytes[..bytes.len() / 2]).unwrap();
    for name in ["notes.png", "half.png"] {
        let result = predict(&dir, &["a.png", name]);
        result.expect_error(1, &[name, "PNG or JPEG"]);
        assert_eq!(result.stdout, "");
    }
    predict(&dir, &["gone.png"]).expect_error(1, &["gone.png"]);
    predict(&dir, &[]).expect_error(2, &["<IMAGE>"]);
    predict(&dir, &["a.png", "--top", "0"]).expect_error(2, &["--top"]);
    run(&dir, &["predict", "--model", "a.png", "a.png"])
        .expect_error(1, &["a.png", "safetensors file"]);

    // Four inputs are no square of three colours; without metadata there is no normalisation.
    let model = |metadata: &str| {
        let tensor = |shape: &str, from: usize, to: usize| {
            format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
        };
        let header = format!(
            r#"{{{metadata}"0.weight":{},"0.bias":{}}}"#,
            tensor("[2,4]", 0, 32),
            tensor("[2]", 32, 40)
        );
        let length = (header.len() as u64).to_le_bytes();
        fs::write(dir.path().join("m"), [&length, header.as_bytes(), &[0; 40]].concat()).unwrap();
        run(&dir, &["predict", "--model", "m", "a.png"])
    };
    model("").expect_error(1, &["m: ", "normalisation"]);
    let json = r#"{\"normalization\":{\"scale\":[1,1,1],\"shift\":[0,0,0]}}"#;
    let metadata = format!(r#""__metadata__":{{"tilewise":"{json}"}},"#);
    model(&metadata).expect_error(1, &["m: ", "4 inputs", "3 channels"]);
}
