//! Model files: what is saved loads again, files of others load, and damaged ones are errors that
//! name the file and the place.
#![cfg(feature = "model-files")]

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use tilewise::{
    Element, Error, Precision,
    data::Normalization,
    io::model::{self, ModelInfo, load, save, save_in},
    nn::{Init, MlpConfig, Network, NodeConfig, Shape, mlp},
};

/// A network with two hidden layers and biases that are not zero.
fn net<T: Element>(dropout: f64) -> Network<T> {
    let config = MlpConfig::default()
        .with_input(6)
        .with_hidden(vec![4, 5])
        .with_classes(3)
        .with_init(Init::He)
        .with_dropout(dropout)
        .with_seed(7);
    with_biases(mlp(&config).unwrap())
}

/// The same network with biases that are not zero.
fn with_biases<T: Element>(mut network: Network<T>) -> Network<T> {
    for number in 0..network.parameters().layout().tensors().len() {
        if network.parameters().layout().tensors()[number].name().ends_with("bias") {
            let bias = network.parameters_mut().tensor_mut(number);
            for (index, value) in bias.iter_mut().enumerate() {
                *value = T::from_f64(0.1 + index as f64);
            }
        }
    }
    network
}

fn info() -> ModelInfo {
    // Numbers whose shortest decimal form is long.
    let scale = vec![1.0 / 255.0, std::f64::consts::PI * 1e-7, 0.1 + 0.2];
    let shift = vec![-0.4913996898739353, f64::MIN_POSITIVE, -1e300 / 3.0];
    ModelInfo::default()
        .with_normalization(Some(Normalization::new(scale, shift).unwrap()))
        .with_class_names(["cat", "a \"dog\"", "größer"].map(String::from).to_vec())
}

/// All parameters, layer by layer, weights before biases.
fn parameters<T: Element>(network: &Network<T>) -> Vec<f64> {
    network.parameters().iter().flat_map(|(_, values)| values).map(|x| x.to_f64()).collect()
}

/// Inputs of the layers that have weights, and the classes.
fn dims<T: Element>(network: &Network<T>) -> Vec<usize> {
    let tensors = network.parameters().layout().tensors().iter();
    let weights = tensors.filter(|tensor| tensor.shape().len() == 2);
    weights.map(|tensor| tensor.shape()[0]).chain([network.classes()]).collect()
}

/// The kinds of the layers, in order; those of a block in brackets.
fn kinds(config: &[NodeConfig]) -> Vec<String> {
    let kind = |node: &NodeConfig| match node {
        NodeConfig::Layer(layer) => layer.kind.clone(),
        NodeConfig::Residual(block) => format!("[{}]", kinds(block).join(" ")),
    };
    config.iter().map(kind).collect()
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("model.safetensors")
}

/// The header of a file as JSON, and the bytes behind it.
fn read(path: &PathBuf) -> (serde_json::Value, Vec<u8>) {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), bytes[8 + len..].to_vec())
}

/// A file with a header and data.
fn compose(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A file with f32 tensors of the given names and shapes, filled with 1, 2, 3, …
fn tensors(list: &[(&str, &[usize])]) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in list {
        let start = data.len();
        for number in 1..=shape.iter().product() {
            data.extend((number as f32).to_le_bytes());
        }
        let end = data.len();
        header.push(format!(
            r#""{name}":{{"dtype":"F32","shape":{shape:?},"data_offsets":[{start},{end}]}}"#
        ));
    }
    compose(&format!("{{{}}}", header.join(",")), &data)
}

fn round_trip<T: Element>(dropout: f64) {
    let dir = tempfile::tempdir().unwrap();
    let (saved, info) = (net::<T>(dropout), info());
    save(&file(&dir), &saved, &info).unwrap();
    let (loaded, loaded_info) = load::<T>(&file(&dir)).unwrap();
    assert_eq!(parameters(&loaded), parameters(&saved));
    assert_eq!(loaded.config(), saved.config());
    assert_eq!((loaded.input_shape(), loaded.classes()), (Shape::Features(6), 3));
    assert_eq!(loaded_info, info);
}

#[test]
fn a_saved_network_loads_with_the_same_bits() {
    round_trip::<f32>(0.0);
    round_trip::<f64>(0.0);
    round_trip::<f32>(0.3);
}

#[test]
fn activations_are_saved_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Network::<f32>::builder(Shape::Features(6)).linear(4).gelu();
    let saved = builder.residual(|block| block.linear(4).silu()).linear(3).build().unwrap();
    save(&file(&dir), &saved, &info()).unwrap();
    let (loaded, _) = load::<f32>(&file(&dir)).unwrap();
    assert_eq!((loaded.config(), parameters(&loaded)), (saved.config(), parameters(&saved)));
    assert_eq!(kinds(&loaded.config()), ["linear", "gelu", "[linear silu]", "linear"]);
}

#[test]
fn names_and_shapes_are_those_of_a_pytorch_sequential() {
    let dir = tempfile::tempdir().unwrap();
    for (dropout, step) in [(0.0, 2), (0.5, 3)] {
        let net = net::<f32>(dropout);
        save(&file(&dir), &net, &ModelInfo::default()).unwrap();
        let (header, data) = read(&file(&dir));
        let mut names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
        names.sort();
        let mut expected = Vec::new();
        for number in 0..3 {
            expected.push(format!("{}.bias", step * number));
            expected.push(format!("{}.weight", step * number));
        }
        expected.push("__metadata__".to_owned());
        assert_eq!(names, expected);
        let tensor = &header[format!("{step}.weight")];
        assert_eq!(tensor["shape"], serde_json::json!([5, 4]));
        assert_eq!(tensor["dtype"], "F32");
        let start = tensor["data_offsets"][0].as_u64().unwrap() as usize;
        let weight = net.parameters().get(&format!("{step}.weight")).unwrap(); // (4, 5), rows contiguous
        for (index, bytes) in data[start..start + 80].chunks_exact(4).enumerate() {
            let value = f32::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(value, weight[index % 4 * 5 + index / 4], "element {index}");
        }
    }
}

#[test]
fn equal_networks_make_equal_files() {
    let dir = tempfile::tempdir().unwrap();
    let save = || {
        save(&file(&dir), &net::<f32>(0.2), &info()).unwrap();
        fs::read(file(&dir)).unwrap()
    };
    assert_eq!(save(), save());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn precisions_convert() {
    let dir = tempfile::tempdir().unwrap();
    let double = net::<f64>(0.0);
    save(&file(&dir), &double, &info()).unwrap();
    let (single, _) = load::<f32>(&file(&dir)).unwrap();
    let rounded: Vec<f64> =
        parameters(&double).iter().map(|&value| f64::from(value as f32)).collect();
    assert_ne!(rounded, parameters(&double));
    assert_eq!(parameters(&single), rounded);
    save(&file(&dir), &single, &info()).unwrap();
    assert_eq!(parameters(&load::<f64>(&file(&dir)).unwrap().0), rounded);
}

#[test]
fn a_file_in_bf16_loads_exactly() {
    let dir = tempfile::tempdir().unwrap();
    // 1, -3.140625 and the smallest denormal, 2^-133: the upper halves of these f32.
    let halves: [u16; 3] = [0x3f80, 0xc049, 0x0001];
    fs::write(file(&dir), filled("BF16", &halves.map(u16::to_le_bytes).concat())).unwrap();
    let expected = [-3.140625, 2f64.powi(-133), 1.0];
    assert_eq!(parameters(&load::<f32>(&file(&dir)).unwrap().0), expected);
    assert_eq!(parameters(&load::<f64>(&file(&dir)).unwrap().0), expected);
}

#[test]
fn a_plain_file_with_gaps_between_its_layers_loads() {
    let dir = tempfile::tempdir().unwrap();
    // In text order 10 would come before 4.
    let shapes: [(&str, &[usize]); 4] =
        [("10.bias", &[1]), ("10.weight", &[1, 2]), ("4.bias", &[2]), ("4.weight", &[2, 3])];
    fs::write(file(&dir), tensors(&shapes)).unwrap();
    let (net, info) = load::<f32>(&file(&dir)).unwrap();
    assert_eq!(dims(&net), [3, 2, 1]);
    assert_eq!(kinds(&net.config()), ["linear", "relu", "linear"]);
    // Each weight transposed, then its bias.
    let expected = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 1.0, 2.0, 1.0, 2.0, 1.0];
    assert_eq!(parameters(&net), expected);
    assert_eq!(info, ModelInfo::default());
}

#[test]
fn a_flatten_before_the_layers_and_one_prefix_for_all_names_load() {
    let dir = tempfile::tempdir().unwrap();
    // nn.Sequential(Flatten, Linear, ReLU, Dropout, Linear), alone and as a part of modules.
    for prefix in ["", "model.", "net.0.layers.", "_orig_mod.module."] {
        let names =
            ["1.weight", "1.bias", "4.weight", "4.bias"].map(|name| [prefix, name].concat());
        let shapes: [&[usize]; 4] = [&[2, 3], &[2], &[1, 2], &[1]];
        let list: Vec<(&str, &[usize])> = names.iter().map(String::as_str).zip(shapes).collect();
        fs::write(file(&dir), tensors(&list)).unwrap();
        let (net, _) = load::<f32>(&file(&dir)).unwrap();
        assert_eq!(dims(&net), [3, 2, 1], "{prefix}");
        let expected = [1.0, 4.0, 2.0, 5.0, 3.0, 6.0, 1.0, 2.0, 1.0, 2.0, 1.0];
        assert_eq!(parameters(&net), expected, "{prefix}");

        fs::write(file(&dir), tensors(&list[..3])).unwrap();
        let message = load::<f32>(&file(&dir)).unwrap_err().to_string();
        let expected = format!("`{prefix}4.bias` is missing for `{prefix}4.weight`");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn numbers_that_are_not_finite_are_not_saved() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = net::<f32>(0.0);
    net.parameters_mut().get_mut("2.weight").unwrap()[3 * 5 + 2] = f32::NAN;
    let message = save(&file(&dir), &net, &info()).unwrap_err().to_string();
    assert!(message.contains("`2.weight` holds NaN at [2, 3]"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_missing_file_or_directory_is_an_error_with_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone").join("m.safetensors");
    for error in [
        load::<f32>(&path).map(drop).unwrap_err(),
        save(&path, &net::<f32>(0.0), &info()).unwrap_err(),
        load::<f32>(dir.path()).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    }
}

/// One tensor of one kind with a header of its own, beside a good bias.
fn lying(weight: &str, data: usize) -> Vec<u8> {
    let header = format!(
        r#"{{"0.bias":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"0.weight":{weight}}}"#
    );
    compose(&header, &vec![0; data])
}

/// A good network of one layer and the given metadata of tilewise.
fn described(json: &str) -> Vec<u8> {
    let json = serde_json::to_string(json).unwrap();
    let header = format!(
        r#"{{"__metadata__":{{"tilewise":{json}}},
            "0.bias":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},
            "0.weight":{{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}}}"#
    );
    compose(&header, &[0; 8])
}

/// A good network of one layer, with 12 bytes for the bias and the two weights.
fn filled(dtype: &str, data: &[u8]) -> Vec<u8> {
    let size = data.len() / 3;
    let header = format!(
        r#"{{"0.bias":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{size}]}},
            "0.weight":{{"dtype":"{dtype}","shape":[1,2],"data_offsets":[{size},{}]}}}}"#,
        data.len()
    );
    compose(&header, data)
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let floats = |values: [f32; 3]| values.map(f32::to_le_bytes).concat();
    let doubles = |values: [f64; 3]| values.map(f64::to_le_bytes).concat();
    let good = tensors(&[("0.bias", &[1]), ("0.weight", &[1, 2])]);
    let whole = "not a whole safetensors file";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], whole),
        ("text", b"hello, this is no model".to_vec(), whole),
        ("cut off in the header", good[..40].to_vec(), whole),
        ("cut off in the data", good[..good.len() - 1].to_vec(), whole),
        ("a byte too many", [&good[..], &[0]].concat(), whole),
        ("header of endless length", [&u64::MAX.to_le_bytes()[..], &good[8..]].concat(), whole),
        ("header longer than the file", [&9999u64.to_le_bytes()[..], &good[8..]].concat(), whole),
        (
            "shape larger than the data",
            lying(r#"{"dtype":"F32","shape":[1,1000000],"data_offsets":[4,8]}"#, 8),
            whole,
        ),
        (
            "shape beyond the address space",
            lying(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[4,8]}"#, 8),
            whole,
        ),
        (
            "offsets beyond the file",
            lying(r#"{"dtype":"F32","shape":[1,1000],"data_offsets":[4,4004]}"#, 8),
            whole,
        ),
        (
            "offsets that run backwards",
            lying(r#"{"dtype":"F32","shape":[1,1],"data_offsets":[8,4]}"#, 8),
            whole,
        ),
        ("no tensors", compose("{}", &[]), "holds no tensors"),
        (
            "two networks",
            tensors(&[("a.0.weight", &[1, 2]), ("b.0.bias", &[1])]),
            "expected those of one nn.Sequential",
        ),
        (
            "a prefix that is empty",
            tensors(&[("0.weight", &[1, 2]), (".0.bias", &[1])]),
            "expected those of one nn.Sequential",
        ),
        ("names", tensors(&[("fc1.weight", &[1, 2])]), "unexpected tensor \"fc1.weight\""),
        ("no bias", tensors(&[("2.weight", &[1, 2])]), "`2.bias` is missing for `2.weight`"),
        ("no weight", tensors(&[("2.bias", &[1])]), "`2.weight` is missing for `2.bias`"),
        ("other layers", tensors(&[("0.running_mean", &[1])]), r#"tensor "0.running_mean""#),
        ("a name twice", tensors(&[("0.bias", &[1]), ("00.bias", &[1])]), r#"tensor "00.bias""#),
        ("a convolution", tensors(&[("0.bias", &[1]), ("0.weight", &[1, 2, 3])]), "[1, 2, 3]"),
        (
            "a bias of another layer",
            tensors(&[("0.bias", &[2]), ("0.weight", &[1, 2])]),
            "`0.bias` has shape [2], expected [1]",
        ),
        (
            "layers that do not chain",
            tensors(&[
                ("0.bias", &[2]),
                ("0.weight", &[2, 3]),
                ("2.bias", &[1]),
                ("2.weight", &[1, 4]),
            ]),
            "`2.weight` has shape [1, 4], expected [1, 2] after a layer with 2 outputs",
        ),
        (
            "a layer of nothing",
            tensors(&[("0.bias", &[0]), ("0.weight", &[0, 2])]),
            "out_features = 0: expected at least 1",
        ),
        ("whole numbers", filled("I32", &[0; 12]), "`0.weight` is of type I32"),
        ("half precision", filled("F16", &[0; 6]), "`0.weight` is of type F16, expected BF16,"),
        (
            "an infinity in bf16",
            filled("BF16", &[0, 0, 0, 0, 0x80, 0x7f]),
            "`0.weight` holds inf at [0, 1]",
        ),
        ("NaN", filled("F32", &floats([0.0, 1.0, f32::NAN])), "`0.weight` holds NaN at [0, 1]"),
        (
            "an infinity",
            filled("F32", &floats([f32::NEG_INFINITY, 1.0, 2.0])),
            "`0.bias` holds -inf at [0]",
        ),
        (
            "a number beyond f32",
            filled("F64", &doubles([0.0, 1e39, 0.0])),
            "at [0, 0]: too large for f32",
        ),
        ("metadata cut off", described(r#"{"dropout":"#), "metadata entry \"tilewise\""),
        ("all dropped", described(r#"{"dropout":1.0}"#), "dropout"),
        (
            "half a normalization",
            described(r#"{"normalization":{"scale":[1.0],"shift":[]}}"#),
            "shifts of a normalization",
        ),
        ("names of other classes", described(r#"{"class_names":["a","b"]}"#), "2 class names"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes, expected) in cases {
        fs::write(file(&dir), bytes).unwrap();
        let error = load::<f32>(&file(&dir)).map(drop).expect_err(name);
        assert!(
            matches!(
                error,
                Error::File { .. }
                    | Error::MissingTensor { .. }
                    | Error::UnexpectedTensor { .. }
                    | Error::TensorShape { .. }
                    | Error::UnsupportedFormat { .. }
            ),
            "{name}: {error:?}"
        );
        if ["metadata cut off", "all dropped", "half a normalization"].contains(&name) {
            assert!(std::error::Error::source(&error).is_some(), "{name}: {error:?}");
        }
        let message = error.to_string();
        assert!(message.contains(expected), "{name}: {message}");
        assert!(message.contains("model.safetensors"), "{name}: {message}");
        assert_eq!(message.lines().count(), 1, "{name}: {message}");
    }
}

#[test]
fn the_frame_of_the_bad_files_is_good() {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("tensors", tensors(&[("0.bias", &[1]), ("0.weight", &[1, 2])])),
        ("lying", lying(r#"{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}"#, 8)),
        ("described", described(r#"{"dropout":0.5,"class_names":["a"]}"#)),
        ("filled", filled("F64", &[0; 24])),
    ] {
        fs::write(file(&dir), bytes).unwrap();
        load::<f32>(&file(&dir)).map(drop).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let dir = tempfile::tempdir().unwrap();
    let builder = Network::<f32>::builder(Shape::Features(2));
    let mut net = builder.linear(1).relu().residual(|b| b.linear(1)).linear(2).build().unwrap();
    net.parameters_mut().get_mut("0.bias").unwrap()[0] = 1.0;
    save(&file(&dir), &net, &ModelInfo::default()).unwrap();
    let good = fs::read(file(&dir)).unwrap();
    let attempt = |bytes: &[u8]| {
        fs::write(file(&dir), bytes).unwrap();
        load::<f32>(&file(&dir)).is_ok()
    };
    assert!(attempt(&good));
    for len in 0..good.len() {
        assert!(!attempt(&good[..len]), "the first {len} of {} bytes", good.len());
    }
    for index in 0..good.len() {
        for value in [0, 0x20, b'9', 0x7F, 0xFF] {
            let mut bytes = good.clone();
            bytes[index] = value;
            attempt(&bytes);
        }
    }
}

#[test]
fn names_of_classes_are_bounded_when_saved_and_when_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let with_name = |length: usize| {
        let class_names = vec!["a".to_owned(), "ß".repeat(length), "c".to_owned()];
        ModelInfo::default().with_normalization(None).with_class_names(class_names)
    };
    save(&path, &net::<f32>(0.0), &with_name(256)).unwrap();
    assert_eq!(load::<f32>(&path).unwrap().1, with_name(256));
    let error = save(&path, &net::<f32>(0.0), &with_name(257)).unwrap_err().to_string();
    assert!(error.contains("class 1") && error.contains("at most 256"), "{error}");
    let (header, data) = read(&path);
    let header = header.to_string().replace("ßß", "ßßß");
    fs::write(&path, compose(&header, &data)).unwrap();
    let error = load::<f32>(&path).unwrap_err().to_string();
    assert!(error.contains("class 1 has 384 characters"), "{error}");
}

/// The files are holes, so a test that reads them takes long; and the second would need 15 GiB.
#[test]
fn a_file_of_any_size_is_only_read_behind_a_header() {
    let dir = tempfile::tempdir().unwrap();
    let sized = |bytes: u64| fs::File::create(file(&dir)).unwrap().set_len(bytes).unwrap();
    for (bytes, word) in [(17 << 30, "at most 17179869184"), (15 << 30, "safetensors file")] {
        sized(bytes);
        let error = load::<f32>(&file(&dir)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    // A header of 90 MB that is none, in a file of 15 GiB.
    let mut bytes = 90_000_000u64.to_le_bytes().to_vec();
    bytes.extend(b"{");
    fs::write(file(&dir), bytes).unwrap();
    fs::OpenOptions::new().write(true).open(file(&dir)).unwrap().set_len(15 << 30).unwrap();
    let error = load::<f32>(&file(&dir)).unwrap_err().to_string();
    assert!(error.contains("safetensors file"), "{error}");
}

#[test]
fn messages_that_quote_a_file_are_bounded_and_escaped() {
    let dir = tempfile::tempdir().unwrap();
    let name = "\\u001b[31m\\n\\u202e".to_owned() + &"x".repeat(1_000_000);
    fs::write(file(&dir), tensors(&[(&name, &[1])])).unwrap();
    let error = load::<f32>(&file(&dir)).unwrap_err().to_string();
    assert!(error.len() < 5000 && error.contains("[31m"), "{} bytes", error.len());
    assert!(!error.contains(['\x1b', '\n', '\u{202e}']), "{:?}", &error[..200]);
}

#[test]
fn a_file_says_in_which_precision_its_network_was_trained() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let f32 = Network::<f32>::builder(Shape::Features(3)).linear(2).build().unwrap();
    let f64 = Network::<f64>::builder(Shape::Features(3)).linear(2).build().unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let info = ModelInfo::default().with_precision(Some(precision));
        save(&path, &f32, &info).unwrap();
        assert_eq!(load::<f32>(&path).unwrap().1, info);
        assert_eq!(model::precision(&path).unwrap(), precision);
    }
    // By the tensors, where the file says nothing.
    save(&path, &f32, &ModelInfo::default()).unwrap();
    assert_eq!(model::precision(&path).unwrap(), Precision::F32);
    save(&path, &f64, &ModelInfo::default()).unwrap();
    assert_eq!(load::<f64>(&path).unwrap().1.precision, None);
    assert_eq!(model::precision(&path).unwrap(), Precision::F64);

    for (types, precision) in [
        (["BF16", "BF16"], Precision::Bf16),
        (["BF16", "F32"], Precision::Bf16),
        (["F32", "BF16"], Precision::F32),
        (["BF16", "F64"], Precision::F64),
    ] {
        let [weight, bias] = types.map(|dtype| match dtype {
            "BF16" => 2,
            "F32" => 4,
            _ => 8,
        });
        let header = format!(
            r#"{{"0.weight":{{"dtype":"{}","shape":[1,1],"data_offsets":[0,{weight}]}},
                "0.bias":{{"dtype":"{}","shape":[1],"data_offsets":[{weight},{}]}}}}"#,
            types[0],
            types[1],
            weight + bias
        );
        fs::write(&path, compose(&header, &vec![0; weight + bias])).unwrap();
        assert_eq!(load::<f32>(&path).unwrap().1.precision, None);
        assert_eq!(model::precision(&path).unwrap(), precision, "{types:?}");
    }
    // What is recorded counts, not the type of the weights.
    let info = ModelInfo::default().with_precision(Some(Precision::F32));
    save_in(&path, &f32, &info, Precision::Bf16).unwrap();
    assert_eq!(model::precision(&path).unwrap(), Precision::F32);

    save(&path, &f32, &ModelInfo::default().with_precision(Some(Precision::Bf16))).unwrap();
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|four| four == b"bf16").unwrap();
    let mut wrong = bytes.clone();
    wrong[at..at + 4].copy_from_slice(b"bf99");
    fs::write(&path, wrong).unwrap();
    for error in [load::<f32>(&path).map(drop), model::precision(&path).map(drop)] {
        let error = error.unwrap_err().to_string();
        assert!(error.contains("bf99") && error.contains("f32, f64 or bf16"), "{error}");
    }
}

/// The bits of the bf16 nearest to a normal number or 0: of the two beside it, the nearer one, or the
/// even one.
fn nearest(value: f32) -> u16 {
    let below = (value.to_bits() >> 16) as u16;
    let number = |half: u16| f64::from(f32::from_bits(u32::from(half) << 16));
    let distance = |half: u16| (number(half) - f64::from(value)).abs();
    let [near, far] = [distance(below), distance(below + 1)];
    if near < far || near == far && below.is_multiple_of(2) { below } else { below + 1 }
}

#[test]
fn weights_are_saved_in_bf16_and_biases_in_f32() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = net::<f32>(0.1);
    let bits = [0x3f80_8000, 0x3f81_8000, 0xbf80_8001, 0x3f80_7fff, 0x8080_0000, 0];
    let weights = net.parameters_mut().get_mut("3.weight").unwrap();
    for (weight, bits) in weights.iter_mut().zip(bits) {
        *weight = f32::from_bits(bits);
    }
    save_in(&file(&dir), &net, &info(), Precision::Bf16).unwrap();

    // The bytes, by the header alone.
    let (header, data) = read(&file(&dir));
    let parameters = net.parameters().iter();
    let mut total = 0;
    for (tensor, values) in parameters {
        let entry = &header[tensor.name()];
        let offsets = [0, 1].map(|at| entry["data_offsets"][at].as_u64().unwrap() as usize);
        let bytes = &data[offsets[0]..offsets[1]];
        total += bytes.len();
        let &[inputs, outputs] = tensor.shape() else {
            assert_eq!(entry["dtype"], "F32");
            let expected: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(bytes, expected, "{}", tensor.name());
            continue;
        };
        assert_eq!(entry["dtype"], "BF16");
        assert_eq!(entry["shape"], serde_json::json!([outputs, inputs]));
        assert_eq!(bytes.len(), 2 * inputs * outputs);
        for (index, bytes) in bytes.chunks(2).enumerate() {
            let value = values[index % inputs * outputs + index / inputs];
            let found = u16::from_le_bytes(bytes.try_into().unwrap());
            assert_eq!(found, nearest(value), "{value} in {}", tensor.name());
        }
    }
    assert_eq!(total, data.len());

    let (loaded, loaded_info) = load::<f32>(&file(&dir)).unwrap();
    assert_eq!((loaded.config(), loaded_info), (net.config(), info()));
    for ((tensor, values), (_, saved)) in loaded.parameters().iter().zip(net.parameters().iter()) {
        for (value, &saved) in values.iter().zip(saved) {
            let is_weight = tensor.shape().len() == 2;
            let expected =
                if is_weight { u32::from(nearest(saved)) << 16 } else { saved.to_bits() };
            assert_eq!(value.to_bits(), expected, "{saved} in {}", tensor.name());
        }
    }
    // What is rounded already stays the same.
    let first = fs::read(file(&dir)).unwrap();
    save_in(&file(&dir), &loaded, &info(), Precision::Bf16).unwrap();
    assert!(fs::read(file(&dir)).unwrap() == first);
}

#[test]
fn a_saved_precision_is_that_of_the_parameters_or_bf16_for_f32() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir);
    let (mut f32, f64) = (net::<f32>(0.0), net::<f64>(0.0));
    save_in(&path, &f32, &info(), Precision::F32).unwrap();
    let bytes = fs::read(&path).unwrap();
    save(&path, &f32, &info()).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    save_in(&path, &f64, &info(), Precision::F64).unwrap();
    assert_eq!(parameters(&load::<f64>(&path).unwrap().0), parameters(&f64));
    fs::remove_file(&path).unwrap();

    for error in [
        save_in(&path, &f32, &info(), Precision::F64).unwrap_err(),
        save_in(&path, &f64, &info(), Precision::F32).unwrap_err(),
        save_in(&path, &f64, &info(), Precision::Bf16).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Setting { .. }), "{error:?}");
        assert!(error.to_string().contains("for parameters in f"), "{error}");
    }
    // It would be rounded to infinity.
    f32.parameters_mut().get_mut("0.weight").unwrap()[4 + 2] = -f32::MAX;
    let error = save_in(&path, &f32, &info(), Precision::Bf16).unwrap_err().to_string();
    assert!(error.contains("`0.weight` holds -3402823") && error.contains("at [2, 1]"), "{error}");
    assert!(error.contains("too large for BF16"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
