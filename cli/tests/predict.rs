//! `tilewise predict`: the same answers as `eval` gives for the same pixels, and how it refuses.

mod support;

use std::{fs, process::Command};

use image::{Rgb, RgbImage, imageops};
use serde_json::Value;
use support::{Output, finish, run, with_data};
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

/// An image of the test set.
fn test_image(index: usize) -> RgbImage {
    let set = synthetic(100, 2).unwrap();
    let bytes = set.image(index).unwrap();
    RgbImage::from_fn(32, 32, |x, y| {
        let at = (32 * y + x) as usize;
        Rgb([bytes[at], bytes[1024 + at], bytes[2048 + at]])
    })
}

#[test]
fn all_test_images_as_files_give_the_accuracy_of_eval() {
    let dir = with_model();
    let names: Vec<String> = (0..100).map(|index| format!("{index}.png")).collect();
    for (index, name) in names.iter().enumerate() {
        test_image(index).save(dir.path().join(name)).unwrap();
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
fn other_sizes_and_forms_are_the_same_image() {
    let dir = with_model();
    let small = test_image(3);
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
    test_image(0).save(dir.path().join("a.png")).unwrap();
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

/// The program with at most this much address space: what asks for more aborts.
#[cfg(unix)]
fn predict_within(dir: &TempDir, megabytes: usize, name: &str) -> Output {
    let mut command = Command::new("sh");
    let line = format!("ulimit -v {}; exec \"$0\" \"$@\"", megabytes << 10);
    command.args(["-c", &line, env!("CARGO_BIN_EXE_tilewise"), "predict", "--model", MODEL, name]);
    finish(command.current_dir(dir.path()))
}

/// A chunk of a PNG file.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    [&(data.len() as u32).to_be_bytes()[..], &body, &crc.sum().to_be_bytes()].concat()
}

/// A PNG that declares a size and holds `data`, not compressed much.
fn png(width: u32, height: u32, depth: u8, color: u8, interlace: u8, data: &[u8]) -> Vec<u8> {
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut zlib, data).unwrap();
    let size = [width.to_be_bytes(), height.to_be_bytes()].concat();
    let header = chunk(b"IHDR", &[&size[..], &[depth, color, 0, 0, interlace]].concat());
    let data = chunk(b"IDAT", &zlib.finish().unwrap());
    [b"\x89PNG\r\n\x1a\n", &header[..], &data, &chunk(b"IEND", &[])].concat()
}

/// A gray or CMYK JPEG whose blocks take two bits each, the least there is: the code for a
/// difference of 0 and that for the end of the block are both the bit 0.
fn jpeg(width: u16, height: u16, components: u8, data: usize) -> Vec<u8> {
    let segment = |marker: u8, body: &[u8]| {
        [&[0xff, marker][..], &(body.len() as u16 + 2).to_be_bytes(), body].concat()
    };
    let size = [height.to_be_bytes(), width.to_be_bytes()].concat();
    let frame: Vec<u8> = (1..=components).flat_map(|id| [id, 0x11, 0]).collect();
    let scan: Vec<u8> = (1..=components).flat_map(|id| [id, 0]).collect();
    let table = |class: u8| [&[class, 1][..], &[0; 15], &[0]].concat();
    [
        vec![0xff, 0xd8],
        segment(0xdb, &[&[0][..], &[1; 64]].concat()),
        segment(0xc0, &[&[8][..], &size, &[components], &frame].concat()),
        segment(0xc4, &table(0x00)),
        segment(0xc4, &table(0x10)),
        segment(0xda, &[&[components][..], &scan, &[0, 63, 0]].concat()),
        vec![0; data],
        vec![0xff, 0xd9],
    ]
    .concat()
}

/// Nothing is decoded: 1 GiB of address space is enough to say no. The sizes are those that a file
/// of this kind can declare, and what the program accepts with too few bytes behind it.
#[cfg(unix)]
#[test]
fn files_that_declare_huge_images_are_refused_before_they_are_decoded() {
    let dir = with_model();
    let mut animated = png(100_000, 20, 8, 6, 0, &[0; 100]);
    animated.splice(33..33, chunk(b"acTL", &[0, 0, 0, 9, 0, 0, 0, 0]));
    let large: &[&str] = &["at most 16384 x 16384 pixels", "scale it down"];
    let cases: [(&str, Vec<u8>, &[&str]); 13] = [
        ("square.png", png(100_000, 100_000, 8, 2, 0, &[]), large),
        ("widest.png", png(0x7fff_ffff, 1, 1, 0, 0, &[0; 9]), large),
        ("highest.png", png(1, 0x7fff_ffff, 1, 0, 0, &[0; 9]), large),
        ("interlaced.png", png(16_384, 16_384, 16, 6, 1, &[0; 9]), large),
        ("words.png", png(16_384, 16_384, 16, 2, 0, &[0; 9]), large),
        ("gray.png", png(20_000, 20_000, 1, 0, 0, &[0; 9]), large),
        ("animated.png", animated, large),
        ("square.jpg", jpeg(65_500, 65_500, 1, 1000), large),
        ("cmyk.jpg", jpeg(65_500, 65_500, 4, 1000), large),
        ("color.jpg", jpeg(16_384, 16_384, 3, 1000), large),
        ("short.jpg", jpeg(16_000, 13_000, 3, 1000), &["cannot hold 16000 x 13000", "not a whole"]),
        ("shorter.jpg", jpeg(1000, 1000, 1, 1000), &["cannot hold 1000 x 1000", "not a whole"]),
        ("ink.jpg", jpeg(16_384, 13_000, 4, 1000), &["cannot hold 16384 x 13000", "not a whole"]),
    ];
    for (name, bytes, words) in cases {
        fs::write(dir.path().join(name), bytes).unwrap();
        predict_within(&dir, 1024, name).expect_error(1, &[&[name], words].concat());
    }
}

/// What compresses best is no bomb: the least that a whole file of each kind can have.
#[test]
fn whole_images_are_read_however_small_their_files() {
    let dir = with_model();
    let gray = 1024 * 1024 / 64 * 2 / 8;
    for (name, bytes) in [
        ("gray.jpg", jpeg(1024, 1024, 1, gray)),
        ("color.jpg", jpeg(1024, 1024, 3, 3 * gray)),
        ("cmyk.jpg", jpeg(1024, 1024, 4, 4 * gray)),
        ("bits.png", png(4096, 4096, 1, 0, 0, &[0; 4096 * (1 + 512)])),
        ("words.png", png(1024, 1024, 16, 6, 0, &[0; 1024 * (1 + 8192)])),
    ] {
        fs::write(dir.path().join(name), bytes).unwrap();
        assert_eq!(objects(&predict(&dir, &[name, "--json"])).len(), 1);
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_regular_file_is_refused_as_image_and_as_model() {
    let dir = with_model();
    test_image(0).save(dir.path().join("a.png")).unwrap();
    assert!(Command::new("mkfifo").arg(dir.path().join("fifo")).status().unwrap().success());
    for (name, word) in [("fifo", "FIFO"), ("/dev/zero", "device"), (".", "irectory")] {
        predict(&dir, &["a.png", name]).expect_error(1, &[name, word]);
        run(&dir, &["predict", "--model", name, "a.png"]).expect_error(1, &[name, word]);
        run(&dir, &["eval", "--model", name, "--data", "set"]).expect_error(1, &[name, word]);
        run(&dir, &["train", "--config", name]).expect_error(1, &[name, word]);
    }
}

/// A model of 32 x 32 gray images and two classes whose names stand in its metadata.
fn with_names(dir: &TempDir, names: &[&str]) {
    let names = serde_json::to_string(names).unwrap();
    let json = format!(r#"{{"normalization":{{"scale":[1],"shift":[0]}},"class_names":{names}}}"#);
    let metadata = serde_json::json!({ "tilewise": json });
    let header = format!(
        r#"{{"__metadata__":{metadata},
        "0.weight":{{"dtype":"F32","shape":[2,1024],"data_offsets":[0,8192]}},
        "0.bias":{{"dtype":"F32","shape":[2],"data_offsets":[8192,8200]}}}}"#
    );
    let length = (header.len() as u64).to_le_bytes();
    let model = [&length, header.as_bytes(), &[0; 8200]].concat();
    fs::write(dir.path().join("m"), model).unwrap();
}

#[test]
fn names_from_a_file_are_bounded_and_cannot_command_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let image = "\x1b[31m\n\u{202e}.png";
    test_image(0).save_with_format(dir.path().join(image), image::ImageFormat::Png).unwrap();
    let names = ["\x1b]0;title\x07\ntrue  1.0", "\u{9b}2J\u{202e}evil \"cat\""];
    with_names(&dir, &names);
    let text = run(&dir, &["predict", "--model", "m", image]);
    let lines: Vec<&str> = text.expect_success().stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], r"\u001b[31m\u000a\u202e.png");
    assert!(lines[1].starts_with(r"  \u001b]0;title\u0007\u000atrue  1.0"), "{lines:?}");
    assert!(lines[2].starts_with(r#"  \u009b2J\u202eevil "cat""#), "{lines:?}");
    let object = &objects(&run(&dir, &["predict", "--model", "m", image, "--json"]))[0];
    assert_eq!(object["image"], image);
    for (class, name) in object["classes"].as_array().unwrap().iter().zip(names) {
        assert_eq!(class["class"], name);
    }
    // Errors quote paths and files.
    let error = run(&dir, &["predict", "--model", "\x1b[31m\ngone", image]);
    error.expect_error(1, &[r"\u001b[31m\u000agone"]);

    with_names(&dir, &["cat", &"x".repeat(65_536)]);
    run(&dir, &["predict", "--model", "m", image])
        .expect_error(1, &["m: ", "class 1", "65536 characters", "at most 256"]);
}

#[test]
fn what_is_no_image_and_what_is_no_model_is_named() {
    let dir = with_model();
    test_image(0).save(dir.path().join("a.png")).unwrap();
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

    // Four features are no square of three channels; without metadata there is no normalization.
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
    model("").expect_error(1, &["m: ", "normalization"]);
    let json = r#"{\"normalization\":{\"scale\":[1,1,1],\"shift\":[0,0,0]}}"#;
    let metadata = format!(r#""__metadata__":{{"tilewise":"{json}"}},"#);
    model(&metadata).expect_error(1, &["m: ", "takes 4 features and normalizes 3 channels"]);
}
