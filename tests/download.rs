//! The download against a server of the test's own on this machine: breaks, resumption, refusals,
//! and archives that are not what they should be.
#![cfg(feature = "download")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use md5::{Digest, Md5};
use tempfile::tempdir;
use tilewise::{
    Error,
    data::{DownloadOptions, DownloadProgress, download, load},
};

const PART: &str = "cifar-10-binary.tar.gz.part";
const FOLDER: &str = "cifar-10-batches-bin";

/// A record of a batch, which does not compress well.
fn record(batch: u8) -> Vec<u8> {
    let mut state = u32::from(batch) + 1;
    let pixel = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::once(batch).chain((0..3072).map(pixel)).collect()
}

fn files() -> Vec<(String, Vec<u8>)> {
    let training = (1..=5).map(|batch| (format!("{FOLDER}/data_batch_{batch}.bin"), record(batch)));
    training.chain([(format!("{FOLDER}/test_batch.bin"), record(0))]).collect()
}

/// A `.tar.gz` of entries whose paths are not checked.
fn tar_gz(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &bytes[..]).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

fn md5_of(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the server does with one request; a request after the last is answered like the last.
#[derive(Clone, Copy, Debug)]
enum Reply {
    /// All bytes that were asked for.
    Whole,
    /// So many of the bytes that were asked for, then the connection is cut.
    Cut(usize),
    /// So many of the bytes that were asked for, then silence.
    Stall(usize),
    /// Everything from the beginning, whatever was asked for.
    WithoutRanges,
    /// Everything from the beginning, called a range.
    WrongRange,
    /// This status and nothing else.
    Status(&'static str),
}

/// A server for one file; it writes down where each request wanted to start.
struct Server {
    url: String,
    starts: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    fn new(content: Vec<u8>, replies: &'static [Reply]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/cifar.tar.gz", listener.local_addr().unwrap());
        let starts = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&starts);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let reply = replies[number.min(replies.len() - 1)];
                let (content, log) = (content.clone(), Arc::clone(&log));
                // The client may hang up at any time; the test looks at its side.
                thread::spawn(move || answer(stream.unwrap(), &content, reply, &log));
            }
        });
        Self { url, starts }
    }

    fn starts(&self) -> Vec<Option<usize>> {
        self.starts.lock().unwrap().clone()
    }
}

fn answer(
    mut stream: TcpStream,
    content: &[u8],
    reply: Reply,
    log: &Mutex<Vec<Option<usize>>>,
) -> std::io::Result<()> {
    let mut start = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    log.lock().unwrap().push(start);
    let (status, from, limit) = match (reply, start) {
        (Reply::Status(status), _) => {
            return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        }
        (Reply::WithoutRanges, _) | (_, None) => ("200 OK", 0, content.len()),
        (Reply::WrongRange, _) => ("206 Partial Content", 0, content.len()),
        (_, Some(start)) if start >= content.len() => {
            return write!(stream, "HTTP/1.1 416 Range\r\nContent-Length: 0\r\n\r\n");
        }
        (_, Some(start)) => ("206 Partial Content", start, content.len()),
    };
    let limit = match reply {
        Reply::Cut(bytes) | Reply::Stall(bytes) => limit.min(from + bytes),
        _ => limit,
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n\
         Connection: close\r\n\r\n",
        content.len() - from,
        content.len() - 1,
        content.len()
    )?;
    stream.write_all(&content[from..limit])?;
    if let Reply::Stall(_) = reply {
        thread::sleep(Duration::from_secs(60));
    }
    Ok(())
}

fn options(dir: &Path, server: &Server, content: &[u8]) -> DownloadOptions {
    DownloadOptions::new(dir)
        .with_url(server.url.clone())
        .with_md5(md5_of(content))
        .with_attempts(4)
        .with_retry_pause(Duration::from_millis(1))
        .with_patience(Duration::from_secs(20))
}

fn run(options: &DownloadOptions) -> (Result<(), Error>, Vec<DownloadProgress>) {
    let mut seen = Vec::new();
    let result = download(options, &mut |progress| seen.push(progress));
    (result.map(|path| assert_eq!(path, options.dir.join(FOLDER))), seen)
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn assert_complete(dir: &Path) {
    assert_eq!(names(dir), [FOLDER]);
    let cifar = load(dir).unwrap();
    assert_eq!(cifar.train.labels(), [1, 2, 3, 4, 5]);
    assert_eq!(cifar.train.image(4), Some(&record(5)[1..]));
    assert_eq!(cifar.test.unwrap().image(0), Some(&record(0)[1..]));
}

#[test]
fn a_download_leaves_the_data_and_nothing_else() {
    let content = tar_gz(&files());
    let server = Server::new(content.clone(), &[Reply::Whole]);
    let parent = tempdir().unwrap();
    let dir = parent.path().join("made/for/it");
    let options = options(&dir, &server, &content);
    let (result, seen) = run(&options);
    result.unwrap();
    assert_complete(&dir);
    let total = content.len() as u64;
    let all = DownloadProgress::Fetching { received: total, total: Some(total) };
    assert!(seen.ends_with(&[all, DownloadProgress::Verifying, DownloadProgress::Unpacking]));

    run(&options).0.unwrap();
    assert_eq!(server.starts(), [None], "data that is there must not be fetched again");
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let content = tar_gz(&files());
    let replies = &[Reply::Cut(1000), Reply::Status("503 Busy"), Reply::Cut(2000), Reply::Whole];
    let server = Server::new(content.clone(), replies);
    let dir = tempdir().unwrap();
    let (result, seen) = run(&options(dir.path(), &server, &content));
    result.unwrap();
    assert_complete(dir.path());
    assert_eq!(server.starts(), [None, Some(1000), Some(1000), Some(3000)]);
    let retries: Vec<usize> = seen
        .iter()
        .filter_map(|progress| match progress {
            DownloadProgress::Retrying { attempt, .. } => Some(*attempt),
            _ => None,
        })
        .collect();
    assert_eq!(retries, [2, 3, 4]);
}

#[test]
fn what_came_is_kept_for_the_next_call() {
    let content = tar_gz(&files());
    const CUT: Reply = Reply::Cut(700);
    let server = Server::new(content.clone(), &[CUT, CUT, CUT, CUT, Reply::Whole]);
    let dir = tempdir().unwrap();
    let options = options(dir.path(), &server, &content);
    let error = run(&options).0.unwrap_err();
    assert!(matches!(error, Error::Download { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("4 attempts") && message.contains("2800 bytes"), "{message}");
    assert_eq!(names(dir.path()), [PART]);
    assert_eq!(fs::read(dir.path().join(PART)).unwrap(), content[..2800]);

    run(&options).0.unwrap();
    assert_complete(dir.path());
    assert_eq!(server.starts().last(), Some(&Some(2800)));
}

#[test]
fn a_silent_server_is_asked_again() {
    let content = tar_gz(&files());
    let server = Server::new(content.clone(), &[Reply::Stall(600), Reply::Whole]);
    let dir = tempdir().unwrap();
    let patience = Duration::from_secs(1);
    let options = options(dir.path(), &server, &content).with_patience(patience);
    run(&options).0.unwrap();
    assert_complete(dir.path());
    assert_eq!(server.starts(), [None, Some(600)]);
}

#[test]
fn a_wrong_sum_names_both_and_leaves_nothing() {
    let content = tar_gz(&files());
    let server = Server::new(content.clone(), &[Reply::Whole]);
    let dir = tempdir().unwrap();
    let mut options = options(dir.path(), &server, &content);
    options.md5 = md5_of(b"something else");
    let message = run(&options).0.unwrap_err().to_string();
    for part in [&options.url, &options.md5, &md5_of(&content)] {
        assert!(message.contains(part.as_str()), "{part} is not in {message}");
    }
    assert!(names(dir.path()).is_empty());
    assert_eq!(server.starts().len(), 1);
}

#[test]
fn a_missing_page_is_not_asked_for_twice() {
    let server = Server::new(Vec::new(), &[Reply::Status("404 Not Found")]);
    let dir = tempdir().unwrap();
    let error = run(&options(dir.path(), &server, b"")).0.unwrap_err();
    assert!(matches!(error, Error::Download { .. }), "{error:?}");
    assert!(error.to_string().contains("404"), "{error}");
    assert!(names(dir.path()).is_empty());
    assert_eq!(server.starts().len(), 1);
}

#[test]
fn nobody_listening_is_an_error_after_all_attempts() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = Server { url: format!("http://{closed}/"), starts: Arc::default() };
    let dir = tempdir().unwrap();
    let error = run(&options(dir.path(), &server, b"")).0.unwrap_err();
    assert!(error.to_string().contains("4 attempts"), "{error}");
}

#[test]
fn a_server_without_ranges_begins_anew() {
    for anew in [&[Reply::Cut(1000), Reply::WithoutRanges], &[Reply::Cut(1000), Reply::WrongRange]]
    {
        let content = tar_gz(&files());
        let server = Server::new(content.clone(), anew);
        let dir = tempdir().unwrap();
        run(&options(dir.path(), &server, &content)).0.unwrap();
        assert_complete(dir.path());
    }
}

#[test]
fn a_part_that_is_all_or_too_much_is_dealt_with() {
    let content = tar_gz(&files());
    let too_long = [&content[..], b"more"].concat();
    let stale = vec![1; content.len()];
    let cases = [
        (&content, &[][..]),
        (&too_long, &[Some(too_long.len()), None]),
        (&stale, &[Some(stale.len()), None]),
    ];
    for (left, starts) in cases {
        let server = Server::new(content.clone(), &[Reply::Whole]);
        let dir = tempdir().unwrap();
        fs::write(dir.path().join(PART), left).unwrap();
        run(&options(dir.path(), &server, &content)).0.unwrap();
        assert_complete(dir.path());
        assert_eq!(server.starts(), starts);
    }
}

/// Downloads this archive, which must be refused with these words and leave nothing.
#[track_caller]
fn assert_refused(archive: Vec<u8>, words: &[&str]) {
    let server = Server::new(archive.clone(), &[Reply::Whole]);
    let parent = tempdir().unwrap();
    let dir = parent.path().join("data");
    let error = run(&options(&dir, &server, &archive)).0.unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in {error}");
    }
    // Nobody is told to delete what is not there.
    assert!(names(&dir).is_empty(), "{:?}", names(&dir));
    assert!(error.to_string().ends_with("; it is deleted, download it again"), "{error}");
    assert!(!error.to_string().contains("delete it"), "{error}");
    assert_eq!(names(parent.path()), ["data"]);
}

#[test]
fn entries_that_try_to_escape_are_refused() {
    for escape in ["../escaped.bin", "/tmp/tilewise-escaped.bin", "cifar-10-batches-bin/../../x"] {
        let mut entries = files();
        entries.insert(1, (escape.to_string(), record(1)));
        assert_refused(tar_gz(&entries), &[escape, "leaves the directory"]);
        assert!(!Path::new("/tmp/tilewise-escaped.bin").exists());
    }
}

#[test]
fn archives_that_lack_a_batch_or_end_early_are_refused() {
    assert_refused(tar_gz(&files()[..5]), &["test_batch.bin is missing"]);
    let whole = tar_gz(&files());
    assert_refused(whole[..whole.len() / 2].to_vec(), &["damaged or incomplete"]);
    assert_refused(b"<html>not here</html>".to_vec(), &["damaged or incomplete"]);
}

#[test]
fn an_incomplete_folder_is_left_to_its_owner() {
    let content = tar_gz(&files());
    let server = Server::new(content.clone(), &[Reply::Whole]);
    let dir = tempdir().unwrap();
    let folder = dir.path().join(FOLDER);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("data_batch_1.bin"), record(1)).unwrap();
    let message = run(&options(dir.path(), &server, &content)).0.unwrap_err().to_string();
    assert!(message.contains("data_batch_2.bin") && message.contains("test_batch"), "{message}");
    assert!(server.starts().is_empty());
    assert_eq!(names(&folder), ["data_batch_1.bin"]);
}
