//! Training runs that are stopped and resumed: by signals, by a kill at any instant; that one
//! process owns a run's directory; and what is refused.
#![cfg(unix)]

mod support;

use std::{
    fs,
    io::{Write, pipe},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use support::{
    metrics, metrics_without_times, program, run, signal, start, wait_for_lines, with_data,
};
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

/// The flags of [`LONG`] for a run that does not end by itself.
fn endless() -> [&'static str; 29] {
    LONG.map(|flag| if flag == "120" { "100000" } else { flag })
}

/// Waits until the run in `out` has finished some epochs.
fn wait_for_epochs(out: &Path, count: usize) {
    wait_for_lines(&out.join("metrics.jsonl"), count);
}

/// Checks that a signal ended a run as it should, and that what it had done is there.
fn expect_interrupted(child: Child, out: &Path) {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("interrupted in epoch") && text.contains("continues"), "{text}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    for name in ["checkpoint.safetensors", "model.safetensors", "curves.svg"] {
        assert!(out.join(name).exists(), "no {name} in {}", out.display());
    }
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
    assert_eq!(left, [".lock"], "left over in {}", b.display());
}

#[test]
fn a_run_that_was_interrupted_continues_to_the_same_end() {
    let dir = with_data();
    run(&dir, &[&LONG[..], &["--out", "whole"]].concat()).expect_success();
    let mut child = start(&dir, &[&LONG[..], &["--out", "part"]].concat());
    let out = dir.path().join("part");
    for round in 1..=3 {
        wait_for_epochs(&out, 20 * round);
        // INT is ignored in the background of some shells; TERM is the same request.
        signal(&child, if round == 2 { &["TERM"] } else { &["INT", "TERM"] });
        expect_interrupted(child, &out);
        child = start(&dir, &["train", "--resume", "part", "--threads", "1", "--quiet"]);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    expect_same(&dir, "whole", "part");
    let again = run(&dir, &["train", "--resume", "part"]);
    again.expect_error(1, &["part", "holds no checkpoint", "come to its end"]);
}

#[test]
fn a_run_that_was_killed_continues_from_its_last_checkpoint() {
    let dir = with_data();
    let every = ["--checkpoint-every", "1"];
    run(&dir, &[&LONG[..], &["--out", "whole"]].concat()).expect_success();
    let mut child = start(&dir, &[&LONG[..], &every, &["--out", "part"]].concat());
    let out = dir.path().join("part");
    for round in 0..12 {
        wait_for_epochs(&out, 2 + 3 * round);
        // At different places of an epoch, of the writing of metrics, and of that of a checkpoint.
        sleep(Duration::from_micros(1700 * round as u64));
        signal(&child, &["KILL"]);
        child.wait().unwrap();
        child = start(&dir, &["train", "--resume", "part", "--quiet"]);
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    expect_same(&dir, "whole", "part");
}

#[test]
fn what_cannot_be_resumed_is_refused_in_one_line() {
    let dir = with_data();
    let child = start(&dir, &[&LONG[..], &["--out", "part"]].concat());
    wait_for_epochs(&dir.path().join("part"), 3);
    signal(&child, &["TERM"]);
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
    run(&dir, &resume).expect_error(2, &["part/config.toml: epochs = 121: expected 120"]);
    fs::write(dir.path().join("part/config.toml"), config).unwrap();

    run(&dir, &[&resume[..], &["--quiet"]].concat()).expect_success();
}

#[test]
fn signals_close_together_are_one_request() {
    let dir = with_data();
    run(&dir, &[&LONG[..], &["--out", "whole"]].concat()).expect_success();
    let out = dir.path().join("part");
    let mut child = start(&dir, &[&LONG[..], &["--out", "part"]].concat());
    for round in 1..=5 {
        wait_for_epochs(&out, 10 * round);
        // GNU timeout sends a signal twice and then CONT; a closed terminal is signalled twice too.
        let kind = ["TERM", "HUP", "INT"][round % 3];
        signal(&child, &[kind, kind, "CONT", "TERM"]);
        expect_interrupted(child, &out);
        child = start(&dir, &["train", "--resume", "part", "--quiet"]);
    }
    assert!(child.wait().unwrap().success());
    expect_same(&dir, "whole", "part");
}

#[test]
fn a_signal_a_second_after_the_first_ends_a_run_at_once() {
    let dir = with_data();
    let out = dir.path().join("part");
    // A full pipe that nobody reads: the run hangs when it prints its results.
    let (reader, writer) = pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    let filler = spawn(move || while full.write_all(&[0; 4096]).is_ok() {});
    let mut command = program(&dir, &[&endless()[..], &["--out", "part"]].concat());
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    wait_for_epochs(&out, 3);
    let first = Instant::now();
    signal(&child, &["TERM"]);
    wait_for_lines(&out.join("curves.svg"), 1);
    signal(&child, &["INT", "TERM", "HUP"]);
    let sent = first.elapsed();
    sleep(Duration::from_millis(100));
    if sent < Duration::from_millis(900) {
        assert!(child.try_wait().unwrap().is_none(), "cut short {sent:?} after the first signal");
        sleep(Duration::from_millis(1200) - sent);
        signal(&child, &["TERM"]);
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("interrupted again: ended at once") && text.lines().count() == 1);
    drop(reader);
    filler.join().unwrap();
    assert!(out.join("checkpoint.safetensors").exists());
}

/// Signals to the program in its first steps. Linux says which signals a process handles.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_before_training_ends_the_program_at_once() {
    let dir = with_data();
    // A full pipe: the program hangs when it says that it uses synthetic images.
    let (reader, writer) = pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    let filler = spawn(move || while full.write_all(&[0; 4096]).is_ok() {});
    sleep(Duration::from_millis(100));
    for command in [&["train"][..], &["sweep", "--grid", "lr=1"]] {
        let mut command = program(&dir, &[command, &["--out", "a"]].concat());
        let child = command.stdout(writer.try_clone().unwrap()).stderr(Stdio::piped()).spawn();
        let child = child.unwrap();
        let begin = Instant::now();
        let handles_term = || {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
            u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0
        };
        while !handles_term() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(1));
        }
        signal(&child, &["TERM"]);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{text}");
        assert_eq!(text, "interrupted before training began\n");
        assert!(!dir.path().join("a/metrics.jsonl").exists());
    }
    drop(reader);
    filler.join().unwrap();
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let dir = with_data();
    let out = dir.path().join("part");
    // As nohup starts a program.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_tilewise")]);
    command.args(endless()).args(["--out", "part"]).current_dir(dir.path());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_epochs(&out, 2);
    signal(&child, &["HUP"]);
    sleep(Duration::from_millis(50));
    wait_for_epochs(&out, metrics(&out).len() + 3);
    signal(&child, &["TERM"]);
    expect_interrupted(child, &out);
}

#[test]
fn a_run_whose_output_fails_leaves_a_checkpoint() {
    let dir = with_data();
    run(&dir, &[&LONG[..], &["--out", "whole"]].concat()).expect_success();
    let loud: Vec<&str> = LONG.into_iter().filter(|&flag| flag != "--quiet").collect();
    // A connection that its other end resets, as it does with data unread: to write is an error,
    // other than with a closed pipe, and as with a closed terminal.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other_end, _) = listener.accept().unwrap();
    let mut command = program(&dir, &[&loud[..], &["--out", "part"]].concat());
    let child = command.stdout(OwnedFd::from(output)).stderr(Stdio::piped()).spawn().unwrap();
    drop(command);
    let out = dir.path().join("part");
    wait_for_epochs(&out, 3);
    drop(other_end);
    let result = child.wait_with_output().unwrap();
    let text = String::from_utf8(result.stderr).unwrap();
    assert_eq!(result.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: cannot write to standard output"), "{text}");
    assert!(metrics(&out).len() < 120, "the run did not notice");
    run(&dir, &["train", "--resume", "part", "--quiet"]).expect_success();
    expect_same(&dir, "whole", "part");
}

#[test]
fn one_process_owns_a_run_directory() {
    let dir = with_data();
    let out = dir.path().join("part");
    let flags = endless();
    let fresh = [&flags[..], &["--out", "part"]].concat();
    let child = start(&dir, &fresh);
    wait_for_epochs(&out, 2);
    signal(&child, &["TERM"]);
    expect_interrupted(child, &out);

    let resume = ["train", "--resume", "part", "--quiet", "--checkpoint-every", "1"];
    let mut child = start(&dir, &resume);
    wait_for_epochs(&out, metrics(&out).len() + 2);
    let sweep = ["sweep", "--data", "set", "--grid", "lr=0.1", "--out", "part"];
    let overwrite = [&fresh[..], &["--overwrite"]].concat();
    for second in [&fresh[..], &overwrite, &resume, &sweep] {
        let texts = ["part: another process is training", "wait until", "another directory"];
        run(&dir, second).expect_error(1, &texts);
    }
    // Whoever reads needs no lock.
    let model = ["eval", "--data", "set", "--model", "part/model.safetensors"];
    run(&dir, &model).expect_success();
    run(&dir, &["report", "--out", "report.html", "part"]).expect_success();
    assert!(child.try_wait().unwrap().is_none(), "the owner has ended");

    // A lock dies with its owner.
    signal(&child, &["KILL"]);
    child.wait().unwrap();
    let before = metrics(&out).len();
    let child = start(&dir, &resume);
    wait_for_epochs(&out, before + 2);
    signal(&child, &["TERM"]);
    expect_interrupted(child, &out);
}

#[test]
fn of_runs_that_race_for_a_new_directory_one_wins() {
    let dir = with_data();
    let flags = ["train", "--data", "set", "--hidden", "8", "--epochs", "3", "--quiet", "--out"];
    for round in 0..3 {
        let out = format!("run-{round}");
        let racers: Vec<Child> =
            (0..4).map(|_| start(&dir, &[&flags[..], &[&out]].concat())).collect();
        let mut winners = 0;
        for racer in racers {
            let output = racer.wait_with_output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            match output.status.code() {
                Some(0) => winners += 1,
                code => {
                    assert_eq!(code, Some(1), "{text}");
                    // The winner may have ended by then.
                    let refused = ["another process", "of an earlier run"];
                    assert!(refused.iter().any(|refusal| text.contains(refusal)), "{text}");
                }
            }
        }
        assert_eq!(winners, 1);
        assert_eq!(metrics(&dir.path().join(&out)).len(), 3);
    }
}

#[test]
fn the_next_owner_removes_what_a_killed_run_left() {
    let dir = with_data();
    let out = dir.path().join("part");
    fs::create_dir(&out).unwrap();
    let files = [".tilewise-aB3dE6", ".tilewise-notes", ".tilewise-aB3dE67"];
    let [gone, folder, kept] = files.map(|name| out.join(name));
    fs::write(&gone, "cut").unwrap();
    fs::write(&kept, "of the user").unwrap();
    fs::create_dir(&folder).unwrap();
    let flags = ["train", "--data", "set", "--hidden", "8", "--epochs", "1", "--quiet", "--out"];
    run(&dir, &[&flags[..], &["part"]].concat()).expect_success();
    assert!(!gone.exists() && kept.exists() && folder.exists());
}

/// A run that was stopped after 2 of 4 epochs, in `part`; and the same run without a stop, in
/// `whole`.
fn stopped() -> TempDir {
    let dir = with_data();
    // Successive halving stops the worse of two trials there.
    let flags = ["--data", "set", "--batch", "50", "--epochs", "4", "--hidden", "8", "--quiet"];
    let sweep = ["sweep", "--grid", "lr=0.05,1e-9", "--halving", "--out", "s"];
    run(&dir, &[&sweep[..], &flags].concat()).expect_success();
    let trials = [("s/trial-001", "0.05"), ("s/trial-002", "1e-9")].into_iter();
    let mut stopped =
        trials.filter(|(trial, _)| dir.path().join(trial).join("checkpoint.safetensors").exists());
    let (trial, lr) = stopped.next().expect("a trial that was stopped");
    assert_eq!(stopped.next(), None);
    fs::rename(dir.path().join(trial), dir.path().join("part")).unwrap();
    run(&dir, &[&["train", "--lr", lr, "--out", "whole"][..], &flags].concat()).expect_success();
    dir
}

#[test]
fn metrics_that_are_certain_are_repaired() {
    let dir = stopped();
    let file = dir.path().join("part/metrics.jsonl");
    let checkpoint = dir.path().join("part/checkpoint.safetensors");
    let (text, saved) = (fs::read_to_string(&file).unwrap(), fs::read(&checkpoint).unwrap());
    let whole = fs::read_to_string(dir.path().join("whole/metrics.jsonl")).unwrap();
    let next = whole.lines().nth(2).unwrap();
    let cases = [
        ("whole", text.clone()),
        ("no last end of line", text.trim_end().to_owned()),
        ("an epoch after the checkpoint", format!("{text}{next}\n")),
        ("the same without an end of line", format!("{text}{next}")),
        ("a part of an epoch after the checkpoint", format!("{text}{}", &next[..40])),
    ];
    for (case, content) in cases {
        fs::write(&file, content).unwrap();
        fs::write(&checkpoint, &saved).unwrap();
        let result = run(&dir, &["train", "--resume", "part", "--quiet"]);
        assert_eq!((result.code, result.stderr.as_str()), (0, ""), "{case}");
        expect_same(&dir, "whole", "part");
        assert!(fs::read_to_string(&file).unwrap().ends_with("}\n"), "{case}");
    }
}

#[test]
fn metrics_that_are_not_those_of_the_checkpoint_are_refused() {
    let dir = stopped();
    let file = dir.path().join("part/metrics.jsonl");
    let checkpoint = dir.path().join("part/checkpoint.safetensors");
    let (text, saved) = (fs::read_to_string(&file).unwrap(), fs::read(&checkpoint).unwrap());
    let [first, second] = text.lines().collect::<Vec<_>>().try_into().unwrap();
    let lines = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    // With another value, by its name, in the second line.
    let other = |name: &str, value: &str| {
        let (before, rest) = second.split_once(&format!("\"{name}\":")).unwrap();
        let end = rest.find([',', '}']).unwrap();
        lines(&[first, &format!("{before}\"{name}\":{value}{}", &rest[end..])])
    };
    let mut binary = lines(&[first, second]).into_bytes();
    binary[first.len() + 5] = 0xff;
    let cases: Vec<(Vec<u8>, &[&str])> = vec![
        (lines(&["garbage", second]).into(), &["line 1: "]),
        (lines(&[first, "garbage"]).into(), &["line 2: "]),
        (lines(&[first, second, "garbage"]).into(), &["line 3: "]),
        (lines(&[first, "", second]).into(), &["line 2: "]),
        (lines(&[second, first]).into(), &["line 1: epoch 2, expected epoch 1"]),
        (lines(&[first, first]).into(), &["line 2: epoch 1, expected epoch 2"]),
        (lines(&[first, second, second]).into(), &["line 3: epoch 2, expected epoch 3"]),
        (lines(&[first]).into(), &["line 2: missing", "2 epochs"]),
        (Vec::new(), &["line 1: missing"]),
        (format!("{first}\n{}", &second[..30]).into(), &["line 2: "]),
        (format!("{first}{second}\n").into(), &["line 1: "]),
        (binary, &["line 2: not UTF-8"]),
        (other("val_acc", "0.25").into(), &["line 2: val_acc is 0.25, in the checkpoint "]),
        (other("train_acc", "2").into(), &["line 2: train_acc is 2, in the checkpoint "]),
        (other("loss", "1.5").into(), &["line 2: loss is 1.5, in the checkpoint "]),
        (other("iteration", "7").into(), &["line 2: iteration is 7, in the checkpoint "]),
        (other("lr", "null").into(), &["line 2: "]),
        (other("seconds", "1e999").into(), &["line 2: "]),
        (other("epoch", "-2").into(), &["line 2: "]),
    ];
    for (content, texts) in cases {
        fs::write(&file, &content).unwrap();
        let result = run(&dir, &["train", "--resume", "part", "--quiet"]);
        result.expect_error(
            1,
            &[&["part/metrics.jsonl: ", "put back", "--overwrite"], texts].concat(),
        );
        assert!(fs::read(&file).unwrap() == content, "{texts:?}: the metrics were changed");
        assert!(fs::read(&checkpoint).unwrap() == saved, "{texts:?}: the checkpoint was changed");
    }
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
