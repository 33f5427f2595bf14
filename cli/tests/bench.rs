//! `tilewise bench` as a user runs it, on tiny shapes: what it prints, and how it refuses.
//! How fast the products are is for the benchmarks to say.

use std::process::{Command, Output};

use serde_json::Value;

fn bench_gemm(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewise"));
    command.args(["bench", "gemm", "--seconds", "0.05"]).args(arguments).output().unwrap()
}

/// Standard output of a run that succeeds and has nothing to complain about.
fn print_gemm(arguments: &[&str]) -> String {
    let output = bench_gemm(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn objects(arguments: &[&str]) -> Vec<Value> {
    let text = print_gemm(&[&["--json"], arguments].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn json_has_one_object_for_each_shape_and_backend() {
    let objects = objects(&["--shapes", "8x16x5,1x10x3", "--transpose", "tt", "--dtype", "f64"]);
    let mut expected = Vec::new();
    for shape in [[8, 16, 5], [1, 10, 3]] {
        expected.extend(["tilewise", "matrixmultiply", "naive"].map(|backend| (backend, shape)));
    }
    assert_eq!(objects.len(), expected.len());
    for (object, (backend, [m, n, k])) in objects.iter().zip(expected) {
        let mut keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            [
                "backend",
                "best_gflops",
                "dtype",
                "fraction",
                "isa",
                "k",
                "m",
                "median_gflops",
                "n",
                "peak_gflops",
                "precision",
                "threads",
                "transpose",
            ]
        );
        assert_eq!(object["backend"], backend);
        assert_eq!([&object["m"], &object["n"], &object["k"]], [m, n, k]);
        assert_eq!((&object["transpose"], &object["dtype"]), (&"tt".into(), &"f64".into()));
        assert_eq!(object["threads"], 1);
    }
}

#[test]
fn products_of_bf16_are_compared_with_their_own_peak() {
    // Software multiplies bf16 there, with a small part of the rate of f32.
    let portable = ["--shapes", "8x16x5,33x20x7", "--isa", "portable", "--precision"];
    let of = |precision: &str| {
        objects(&[&portable[..], &[precision]].concat())
            .into_iter()
            .filter(|object| object["backend"] == "tilewise")
            .collect::<Vec<_>>()
    };
    let (bf16, f32) = (of("bf16"), of("f32"));
    assert_eq!((bf16.len(), f32.len()), (2, 2));
    for object in &bf16 {
        assert_eq!((&object["dtype"], &object["precision"]), (&"bf16".into(), &"bf16".into()));
        assert!(object["fraction"].as_f64().unwrap() > 0.0, "{object}");
        let peak = |object: &Value| object["peak_gflops"].as_f64().unwrap();
        assert!(peak(object) < peak(&f32[0]), "{object}");
    }
    // No other backend has them.
    assert_eq!(objects(&["--shapes", "8x16x5", "--precision", "bf16"]).len(), 1);
}

#[test]
fn a_fraction_is_the_best_rate_over_the_best_peak_of_the_run() {
    let objects = objects(&["--shapes", "8x16x5,24x32x20", "--isa", "portable"]);
    let peak = objects[0]["peak_gflops"].as_f64().unwrap();
    for object in &objects {
        let number = |key: &str| object[key].as_f64().unwrap();
        assert_eq!(object["isa"], "portable");
        assert_eq!(number("peak_gflops"), peak);
        assert_eq!(number("fraction"), number("best_gflops") / peak);
        assert!(0.0 < number("median_gflops"), "{object}");
        assert!(number("median_gflops") <= number("best_gflops"), "{object}");
    }
}

#[test]
fn only_tilewise_has_threads() {
    let objects = objects(&["--shapes", "8x16x5", "--threads", "2"]);
    let threads = objects.iter().map(|object| object["threads"].as_u64().unwrap());
    assert_eq!(threads.collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(objects[1]["peak_gflops"], objects[2]["peak_gflops"]);
}

#[test]
fn the_table_shows_facts_of_the_machine_and_a_line_for_each_backend() {
    let text = print_gemm(&["--shapes", "8x16x5", "--transpose", "nt", "--isa", "portable"]);
    for fact in ["f32, portable, tile ", "blocking mc ", "threads 1", "single-threaded"] {
        assert!(text.contains(fact), "{fact:?} is not in\n{text}");
    }
    let (_, table) = text.split_once("\n\n").unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() == lines[0].len()), "{table}");
    for (line, backend) in lines[1..].iter().zip(["tilewise", "matrixmultiply", "naive"]) {
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(columns[..4], ["8x16x5", "nt", backend, "1"]);
        assert!(columns[4..].iter().all(|number| number.parse::<f64>().is_ok()), "{line}");
    }
    assert_eq!(lines.len(), 4, "{table}");
}

const SEARCH: [&str; 5] = ["--search", "--shapes", "40x70x300,200x150x100", "--isa", "portable"];

#[test]
fn a_search_compares_the_best_blocking_with_the_default() {
    for (more, dtype) in [
        (&["--threads", "2"][..], "f32"),
        (&["--dtype", "f64"], "f64"),
        (&["--dtype", "bf16"], "bf16"),
    ] {
        let objects = objects(&[&SEARCH[..], more].concat());
        assert_eq!(objects.len(), 2);
        for (object, [m, n, k]) in objects.iter().zip([[40, 70, 300], [200, 150, 100]]) {
            let expected = [
                "best",
                "best_fraction",
                "best_gflops",
                "cpu",
                "default",
                "default_fraction",
                "default_gflops",
                "isa",
                "k",
                "l1_bytes",
                "l2_bytes",
                "m",
                "n",
                "pairs",
                "peak_gflops",
                "precision",
                "ratio",
                "threads",
                "tile",
                "transpose",
                "tried",
            ];
            assert_eq!(keys(object), expected);
            let number = |key: &str| object[key].as_f64().unwrap();
            assert_eq!([&object["m"], &object["n"], &object["k"]], [m, n, k]);
            assert_eq!((&object["precision"], &object["isa"]), (&dtype.into(), &"portable".into()));
            assert_eq!(object["threads"], if dtype == "f32" { 2 } else { 1 });
            assert!(number("tried") >= 2.0 && number("pairs") >= 3.0, "{object}");
            for which in ["best", "default"] {
                let fields = ["in_place_lines", "in_place_work", "kc", "mc", "nc"];
                assert_eq!(keys(&object[which]), fields);
                // In whole tiles, cut to the product.
                let size = |key: &str| object[which][key].as_u64().unwrap();
                let tile = |at: usize| object["tile"][at].as_u64().unwrap();
                assert!(size("kc") <= k + 1, "{object}");
                assert!(size("mc").is_multiple_of(tile(0)) && size("mc") < m + tile(0), "{object}");
                assert!(size("nc").is_multiple_of(tile(1)) && size("nc") < n + tile(1), "{object}");
                let fraction = number(&format!("{which}_gflops")) / number("peak_gflops");
                assert_eq!(number(&format!("{which}_fraction")), fraction);
            }
            // The default is the best unless another one wins.
            let is_default = object["best"] == object["default"];
            assert_eq!(number("ratio") > 1.0, !is_default, "{object}");
        }
    }
}

#[test]
fn the_table_of_a_search_has_the_default_and_the_best_and_asks_for_reports() {
    let text = print_gemm(&SEARCH);
    for fact in [
        "f32, portable, tile ",
        "threads 1",
        "L1d ",
        "To report this CPU, run the same with --json",
    ] {
        assert!(text.contains(fact), "{fact:?} is not in\n{text}");
    }
    let table = text.split("\n\n").nth(1).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() == lines[0].len()), "{table}");
    assert_eq!(lines.len(), 5, "{table}");
    for (line, shape) in
        lines[1..].iter().zip(["40x70x300", "40x70x300", "200x150x100", "200x150x100"])
    {
        let columns: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(columns[..2], [shape, "nn"]);
        assert!(
            columns[columns.len() - 7..].iter().all(|number| number.parse::<f64>().is_ok()),
            "{line}"
        );
    }
    for (pair, name) in [(&lines[1..3], ["default", "best"]), (&lines[3..], ["default", "best"])] {
        assert!(pair[0].contains(name[0]), "{table}");
        assert!(pair[1].contains(name[1]) || pair[1].contains("the same"), "{table}");
    }
}

#[test]
fn naive_is_left_out_where_it_would_take_seconds() {
    let backends = ["--backends", "naive"];
    let shape = ["--shapes", "2000x1001x1000"];
    assert!(objects(&[backends, shape].concat()).is_empty());
    let text = print_gemm(&[backends, shape].concat());
    let columns: Vec<&str> = text.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(columns[2..6], ["naive", "1", "-", "-"]);
    assert_eq!(columns[8], "-");
}

#[test]
fn bad_input_gets_one_line_and_exit_code_2() {
    let cases: [(&[&str], &str); 14] = [
        (&["--shapes", "512x512"], "'512x512' for '--shapes"),
        (&["--shapes", "8x8x8,axbxc"], "'axbxc' for '--shapes"),
        (&["--shapes", ""], "three whole numbers"),
        (&["--shapes", "8x0x8"], "sizes above 0"),
        (&["--shapes", "9999999999x9999999999x1"], "63 bits"),
        (&["--shapes", "3000000000x1x3000000000"], "--shapes 3000000000x1x3000000000: "),
        (&["--transpose", "xy"], "nn, tn, nt, tt"),
        (&["--isa", "sse9"], "instruction set \"sse9\" is not available here"),
        (&["--backends", "tilewise,blas"], "tilewise, matrixmultiply, naive"),
        (&["--threads", "0"], "--threads"),
        (&["--seconds", "0"], "--seconds"),
        (&["--dtype", "f16"], "f32, f64"),
        (&["--search", "--backends", "naive"], "'--backends"),
        (
            &["--search", "--shapes", "3000000000x1x3000000000"],
            "--shapes 3000000000x1x3000000000: ",
        ),
    ];
    for (arguments, text) in cases {
        let output = bench_gemm(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.starts_with("error: ") && message.contains(text), "{message}");
        assert!(output.stdout.is_empty());
    }
}

/// What `tilewise bench` prints as JSON, a line for each backend.
fn bench_objects(arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewise"));
    let output = command.arg("bench").args(arguments).arg("--json").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn training_steps_are_measured_with_their_phases() {
    for optimizer in ["sgd", "adam"] {
        let arguments = ["train", "--dims", "30,20,4", "--batch", "16", "--seconds", "0.00001"];
        let more = ["--optimizer", optimizer, "--dropout", "0.2", "--threads", "2"];
        let objects = bench_objects(&[&arguments[..], &more[..]].concat());
        let backends: Vec<_> = objects.iter().map(|object| object["backend"].clone()).collect();
        assert_eq!(backends, ["tilewise", "matrixmultiply", "naive"]);
        for object in &objects {
            assert_eq!(
                keys(object),
                [
                    "backend",
                    "batch",
                    "dims",
                    "dropout",
                    "dtype",
                    "fraction",
                    "gflops",
                    "images_per_s",
                    "median_ms",
                    "min_ms",
                    "optimizer",
                    "peak_gflops",
                    "phases",
                    "precision",
                    "threads",
                    "workspace_bytes",
                ]
            );
            assert_eq!(
                (&object["dims"], &object["optimizer"]),
                (&[30, 20, 4].into(), &optimizer.into())
            );
            let phases = ["d_w_update", "d_x", "forward", "loss", "other"];
            assert_eq!(keys(&object["phases"]), phases);
            let ms = |key: &str| object[key].as_f64().unwrap();
            assert!(ms("median_ms") >= ms("min_ms") && ms("min_ms") > 0.0, "{object}");
            // 2 operations for each of 3 products of 20 x 4 and 2 of 30 x 20, and the biases'.
            let flop = 16.0 * (6.0 * (30 * 20 + 20 + 20 * 4 + 4) as f64 - 2.0 * (30 * 20) as f64);
            let rate = 1e-6 * flop / ms("min_ms");
            assert!((ms("gflops") / rate - 1.0).abs() < 1e-9, "{object}");
            assert!((ms("fraction") - ms("gflops") / ms("peak_gflops")).abs() < 1e-12, "{object}");
        }
    }
}

#[test]
fn forward_passes_are_measured_at_each_batch_size() {
    let dims = ["infer", "--dims", "30,20,4", "--batch", "1,5", "--seconds", "0.05"];
    let arguments = [&dims[..], &["--threads", "2"]].concat();
    let objects = bench_objects(&arguments);
    let found: Vec<_> = objects
        .iter()
        .map(|o| (o["backend"].as_str(), o["batch"].as_i64(), o["threads"].as_i64()))
        .collect();
    let backends =
        [("tilewise", 1), ("read", 1), ("tilewise", 2), ("read", 2), ("matrixmultiply", 1)];
    let expected: Vec<_> = [1, 5]
        .iter()
        .flat_map(|&batch| {
            backends.map(|(backend, threads)| (Some(backend), Some(batch), Some(threads)))
        })
        .collect();
    assert_eq!(found, expected);
    for object in &objects {
        let expected = [
            "backend",
            "batch",
            "dims",
            "dtype",
            "images_per_s",
            "max_ms",
            "median_ms",
            "of_a_read",
            "p90_ms",
            "p99_ms",
            "precision",
            "threads",
        ];
        assert_eq!(keys(object), expected);
        let number = |key: &str| object[key].as_f64().unwrap();
        let times = ["median_ms", "p90_ms", "p99_ms", "max_ms"].map(number);
        assert!(times.is_sorted() && times[0] > 0.0, "{object}");
        assert!(number("of_a_read") > 0.0, "{object}");
    }
}

#[test]
fn steps_and_predictions_of_bf16_are_measured_with_their_own_peak() {
    let train = ["train", "--dims", "30,20,4", "--batch", "16", "--seconds", "0.00001"];
    let infer = ["infer", "--dims", "30,20,4", "--batch", "3", "--seconds", "0.02"];
    let of = |arguments: &[&str], precision: &str| {
        let more = ["--isa", "portable", "--precision", precision];
        bench_objects(&[arguments, &more].concat())
    };
    let (bf16, f32) = (of(&train, "bf16"), of(&train, "f32"));
    // No other backend has them.
    assert_eq!(bf16.len(), 1);
    let peak = |object: &Value| object["peak_gflops"].as_f64().unwrap();
    assert!(peak(&bf16[0]) < peak(&f32[0]), "software computes it: {bf16:?}");
    for (object, precision) in bf16.iter().zip(["bf16"]).chain(f32.iter().zip(["f32"; 3])) {
        assert_eq!(
            (&object["dtype"], &object["precision"]),
            (&precision.into(), &precision.into())
        );
    }
    for object in of(&infer, "bf16") {
        let own = object["backend"] != "matrixmultiply";
        assert_eq!(object["precision"], if own { "bf16" } else { "f32" }, "{object}");
    }
}

#[test]
fn senseless_networks_are_refused() {
    for subcommand in ["train", "infer"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tilewise"));
        let output = command.args(["bench", subcommand, "--dims", "30"]).output().unwrap();
        assert!(!output.status.success());
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert!(complaint.contains("--dims") && complaint.lines().count() == 1, "{complaint}");
    }
}
