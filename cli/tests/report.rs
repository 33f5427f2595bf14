//! `tilewise report`: one file that needs nothing else, says what the runs' files say, and escapes
//! what stands in them.

mod support;

use std::fs;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;
use support::{metrics, run, with_data};
use tempfile::TempDir;
use tilewise::{
    io::model,
    nn::{Network, Shape},
};

fn train(dir: &TempDir, out: &str, flags: &[&str]) {
    let base = ["train", "--data", "set", "--hidden", "24", "--epochs", "3", "--batch", "50"];
    run(dir, &[&base[..], &["--lr", "0.05", "--out", out], flags].concat()).expect_success();
}

/// Makes a page and reads it.
fn report(dir: &TempDir, arguments: &[&str]) -> (String, String) {
    let result = run(dir, &[&["report", "--out", "r.html"], arguments].concat());
    let text = result.expect_success().stdout.clone();
    (fs::read_to_string(dir.path().join("r.html")).unwrap(), text)
}

/// The texts between each `start` and the next `end`.
fn between<'a>(page: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    page.split(start).skip(1).map(|rest| rest.split(end).next().unwrap()).collect()
}

#[test]
fn the_page_says_what_the_files_say() {
    let dir = with_data();
    train(&dir, "a", &[]);
    train(&dir, "b", &["--hidden", "16,8", "--seed", "4"]);
    let (page, text) = report(&dir, &["a", "b"]);
    assert_eq!(text, "written to r.html\n");
    for name in ["a", "b"] {
        let epochs = metrics(&dir.path().join(name));
        let best = epochs.iter().map(|line| line["val_acc"].as_f64().unwrap()).fold(0.0, f64::max);
        assert!(page.contains(&format!("{:.1} % (epoch ", 100.0 * best)), "{best}");
        let model = format!("{name}/model.safetensors");
        let eval = run(&dir, &["eval", "--json", "--data", "set", "--model", &model]);
        let eval: Value = serde_json::from_str(&eval.expect_success().stdout).unwrap();
        let accuracy = 100.0 * eval["accuracy"].as_f64().unwrap();
        assert!(page.contains(&format!(">{accuracy:.1} %<")), "{accuracy}");
        // The diagonal of the confusion matrix.
        for class in eval["classes"].as_array().unwrap() {
            let (class, right, all) = (&class["class"], &class["correct"], &class["images"]);
            let class = class.as_str().unwrap();
            let cell = format!("{class} classified as {class}: {right} of {all}");
            assert!(page.contains(&cell), "{cell}");
        }
    }
    // What differs is in front of the fold, the rest behind.
    let settings = between(&page, "<h2>Settings</h2>", "</section>")[0];
    let (different, equal) = settings.split_once("<details>").unwrap();
    let keys = between(different, "<code>", "</code>");
    assert_eq!(keys, ["hidden", "seed"]);
    assert!(between(equal, "<code>", "</code>").contains(&"epochs"));
    assert_eq!(between(&page, "<svg", "</svg>").len(), 4);
    assert!(page.contains("Learning rate") && page.contains("3072-24-16-8-10"));
}

#[test]
fn the_page_needs_nothing_else_and_its_images_are_whole() {
    let dir = with_data();
    train(&dir, "a", &[]);
    let (page, _) = report(&dir, &["a"]);
    for outside in ["<script", "<link", "http://", "@import", "url("] {
        let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!page.contains(outside), "{outside}");
    }
    let sources = between(&page, "src=\"", "\"");
    assert!(sources.len() > 1);
    let mut sizes = Vec::new();
    for source in sources {
        let data = source.strip_prefix("data:image/png;base64,").unwrap();
        let image = image::load_from_memory(&BASE64_STANDARD.decode(data).unwrap()).unwrap();
        sizes.push((image.width(), image.height()));
    }
    // 24 units in rows of 20, with gaps; then mistakes.
    assert_eq!(sizes[0], (20 * 34 - 2, 2 * 34 - 2));
    assert!(sizes[1..].iter().all(|&size| size == (32, 32)));
}

#[test]
fn a_network_that_is_no_perceptron_is_its_layers() {
    let dir = with_data();
    train(&dir, "a", &[]);
    let path = dir.path().join("a/model.safetensors");
    let (_, info) = model::load::<f32>(&path).unwrap();
    let image = Shape::Image { height: 32, width: 32, channels: 3 };
    let network = Network::<f32>::builder(image).flatten().linear(24).relu();
    let network = network.residual(|block| block.linear(24).relu()).linear(10);
    model::save(&path, &network.build().unwrap(), &info).unwrap();
    let (page, text) = report(&dir, &["a"]);
    assert_eq!(text, "written to r.html\n");
    let layers = "32x32x3 -&gt; flatten -&gt; linear(in_features = 3072, out_features = 24) -&gt; \
                  relu -&gt; residual(linear(";
    assert!(page.contains(layers) && page.contains("24 of 24 units"), "{page}");
}

#[test]
fn text_is_escaped() {
    let dir = with_data();
    let name = "<b>&\"x";
    train(&dir, name, &[]);
    let (page, _) = report(&dir, &[name]);
    assert!(page.contains("&lt;b&gt;&amp;&quot;x") && !page.contains("<b>&"));
}

#[test]
fn control_characters_are_escaped_and_long_values_cut() {
    let dir = with_data();
    train(&dir, "a", &[]);
    let config = dir.path().join("a/config.toml");
    let settings = fs::read_to_string(&config).unwrap();
    let long = "x".repeat(100_000);
    let settings = format!("\"\\u001bk\\u202e\" = \"\\u009b2J\\n{long}\"\n{settings}");
    fs::write(&config, settings).unwrap();
    let (page, _) = report(&dir, &["a"]);
    assert!(page.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')));
    assert!(page.contains(r"\u001bk\u202e") && page.contains(r"\u009b2J\u000axxx"));
    assert!(!page.contains(&long[..300]) && page.contains("more characters)"));
}

#[test]
fn runs_without_images_or_epochs_still_have_a_page() {
    let dir = with_data();
    train(&dir, "a", &[]);
    run(&dir, &["train", "--data", "set", "--lr", "1e30", "--batch", "50", "--out", "b"]);
    fs::rename(dir.path().join("set"), dir.path().join("elsewhere")).unwrap();
    let (page, text) = report(&dir, &["a", "b"]);
    assert!(text.contains("a: curves and settings only, because set: no CIFAR-10"), "{text}");
    assert!(page.contains("not tested") && !page.contains("Confusion matrix"));
    let (page, text) = report(&dir, &["a", "b", "--data", "elsewhere"]);
    assert!(text.contains("b: curves and settings only, because the run has no model"), "{text}");
    assert!(page.contains("Confusion matrix"));
}

#[test]
fn what_is_no_run_is_named() {
    let dir = with_data();
    run(&dir, &["report", "set"]).expect_error(1, &["config.toml"]);
    train(&dir, "a", &[]);
    run(&dir, &["report", "a", "--data", "gone"]).expect_error(1, &["gone", "no CIFAR-10"]);
    fs::write(dir.path().join("a/metrics.jsonl"), "{}\n").unwrap();
    run(&dir, &["report", "a"]).expect_error(1, &["metrics.jsonl", "line 1", "epoch"]);
    assert!(!dir.path().join("report.html").exists());
    run(&dir, &["report"]).expect_error(2, &["<DIR>"]);
}
