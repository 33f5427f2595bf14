//! The program as people run it, on a small data set, for the tests of its subcommands.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tilewise::data::synthetic;

/// What a run of the program gave.
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Checks the exit code and that standard error is one line that contains all of `texts`.
    pub fn expect_error(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("error: "), "{}", self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "{text:?} in {}", self.stderr);
        }
    }

    pub fn expect_success(&self) -> &Self {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        self
    }
}

/// The program, to be run in `dir`.
pub fn program(dir: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tilewise"));
    command.current_dir(dir.path()).args(arguments);
    command.env_remove("TILEWISE_DATA");
    command
}

pub fn run(dir: &TempDir, arguments: &[&str]) -> Output {
    finish(&mut program(dir, arguments))
}

pub fn finish(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Output {
        code: output.status.code().expect("an exit code"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A directory with a small data set in the form of CIFAR-10, as `set`.
pub fn with_data() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("set")).unwrap();
    for (name, images, seed) in [("data_batch_1.bin", 300, 1), ("test_batch.bin", 100, 2)] {
        let set = synthetic(images, seed).unwrap();
        let mut bytes = Vec::new();
        for (index, &label) in set.labels().iter().enumerate() {
            bytes.push(label as u8);
            bytes.extend(set.image(index).unwrap());
        }
        fs::write(dir.path().join("set").join(name), bytes).unwrap();
    }
    dir
}

/// The lines of a run's `metrics.jsonl` without times.
#[allow(dead_code, reason = "not every test of a subcommand looks at metrics")]
pub fn metrics_without_times(dir: &Path) -> Vec<Value> {
    let mut lines = metrics(dir);
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.remove("seconds").unwrap();
        line.remove("images_per_s").unwrap();
    }
    lines
}

/// The lines of a run's `metrics.jsonl`.
#[allow(dead_code, reason = "not every test of a subcommand looks at metrics")]
pub fn metrics(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Starts the program; its output is collected.
#[allow(dead_code, reason = "not every test of a subcommand has runs in the background")]
pub fn start(dir: &TempDir, arguments: &[&str]) -> Child {
    program(dir, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Sends signals, one immediately after the other.
#[allow(dead_code, reason = "not every test of a subcommand sends signals")]
pub fn signal(child: &Child, names: &[&str]) {
    let sent: Vec<String> =
        names.iter().map(|name| format!("kill -{name} {}", child.id())).collect();
    let sent = Command::new("sh").arg("-c").arg(sent.join(" && ")).status();
    assert!(sent.unwrap().success());
}

/// Waits until a file has some lines.
#[allow(dead_code, reason = "not every test of a subcommand has runs in the background")]
pub fn wait_for_lines(file: &Path, count: usize) {
    let begin = Instant::now();
    let lines = || fs::read_to_string(file).map_or(0, |text| text.lines().count());
    while lines() < count {
        let in_time = begin.elapsed() < Duration::from_secs(60);
        assert!(in_time, "no {count} lines in {}", file.display());
        sleep(Duration::from_millis(1));
    }
}
