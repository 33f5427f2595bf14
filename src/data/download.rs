//! Downloads the official CIFAR-10 archive: resumes after a break, verifies, and unpacks, so that the
//! data is there completely or not at all.
//!
//! ```text
//! DIR/cifar-10-binary.tar.gz.part      grows over any number of attempts and calls
//! DIR/.cifar-10-XXXXXX/                unpacked here, written through to the disk
//! DIR/cifar-10-batches-bin/            renamed to this once everything is there
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Component, Path, PathBuf},
    thread,
    time::Duration,
};

use md5::{Digest, Md5};
use ureq::{
    Agent, Body,
    http::{
        Response, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE},
    },
};

use super::{
    archive,
    batch_files::{Encoding, MAX_FILE_BYTES, Part},
    cifar10::{Form, locate},
};
use crate::{
    config::with_fields,
    error::{Cause, Error, Result},
    input_file,
};

const URL: &str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";
const MD5: &str = "c32a1d4ab5d03f1284b67883e8d87530";
const PART_NAME: &str = "cifar-10-binary.tar.gz.part";
/// Bytes copied at a time, and between two progress reports.
const CHUNK_BYTES: usize = 1 << 16;
/// Six times the official archive; a server that sends more must not fill the disk.
const MAX_ARCHIVE_BYTES: u64 = 1 << 30;

/// The settings of a download.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DownloadOptions {
    /// Directory for the folder `cifar-10-batches-bin`; it is created if it is missing.
    pub dir: PathBuf,
    /// Address of the binary archive.
    pub url: String,
    /// MD5 sum of the archive, as 32 hexadecimal digits.
    pub md5: String,
    /// Number of attempts before giving up; at least one is made.
    pub attempts: usize,
    /// Time from a broken connection to the next attempt.
    pub retry_pause: Duration,
    /// Timeout for a connection, a response, or its next bytes.
    pub patience: Duration,
}

with_fields! {
    DownloadOptions {
        dir with_dir: PathBuf,
        url with_url: String,
        md5 with_md5: String,
        attempts with_attempts: usize,
        retry_pause with_retry_pause: Duration,
        patience with_patience: Duration,
    }
}

impl DownloadOptions {
    /// The official archive, five attempts with pauses of two seconds, and a timeout of 30 seconds.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            url: URL.into(),
            md5: MD5.into(),
            attempts: 5,
            retry_pause: Duration::from_secs(2),
            patience: Duration::from_secs(30),
        }
    }
}

/// The progress of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownloadProgress {
    /// Bytes are received.
    Fetching {
        /// Bytes on the disk, including those of earlier attempts.
        received: u64,
        /// Bytes of the whole archive, if the server reports it.
        total: Option<u64>,
    },
    /// The connection broke; another attempt follows after the pause.
    Retrying {
        /// Number of the next attempt, from 2.
        attempt: usize,
        /// Why the last one ended.
        reason: String,
    },
    /// The checksum is computed.
    Verifying,
    /// The files are unpacked.
    Unpacking,
}

/// Downloads the archive, verifies its checksum and unpacks it; returns where the data is. If `dir`
/// already has a complete CIFAR-10 in any form, nothing is downloaded.
///
/// After a broken transfer the bytes received so far are kept in `dir`, and a later call resumes from
/// them. `progress` is called on this thread.
///
/// # Errors
/// [`Error::Download`] if the server refuses or the attempts are used up, [`Error::File`] if the
/// archive is not the one expected, `cifar-10-batches-bin` is there but incomplete, or another
/// download into `dir` is running, and [`Error::Io`] if the disk cannot be written.
pub fn download(
    options: &DownloadOptions,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<PathBuf> {
    let dir = &options.dir;
    let target = dir.join(Encoding::Binary.folder());
    if let Some(source) = locate(dir)? {
        let missing = source.missing()?;
        if missing.is_empty() {
            return Ok(source.path);
        }
        if source.form == Form::BinaryFiles && source.path == target {
            let detail = format!("lacks {}; delete it and download again", missing.join(", "));
            return Err(Error::file(target, detail));
        }
    }
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let mut part = PartFile::open(dir.join(PART_NAME))?;
    if let Err(error) = fetch(options, &mut part, progress) {
        if part.len().is_ok_and(|length| length == 0) {
            part.delete()?;
        }
        return Err(error);
    }
    progress(DownloadProgress::Unpacking);
    let unpacked = unpack(&mut part, dir, &target);
    match unpacked {
        Ok(()) => {
            part.delete()?;
            Ok(target)
        }
        // No good as a whole, and so of no use to the next call.
        Err(Error::File { path, mut detail, source }) => {
            part.delete()?;
            detail += "; it is deleted, download it again";
            Err(Error::File { path, detail, source })
        }
        Err(error) => Err(error),
    }
}

/// The archive as far as it has been fetched, locked against other downloads.
struct PartFile {
    path: PathBuf,
    file: File,
}

impl PartFile {
    fn open(path: PathBuf) -> Result<Self> {
        if let Ok(metadata) = fs::metadata(&path) {
            input_file::check_regular(&path, &metadata)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(path, "another download into this directory is under way"))
            }
            // Some file systems have no locks; the checksum still detects a garbled file.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { path, file }),
        }
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io("read", &self.path))?.len())
    }

    fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::io("truncate", &self.path))
    }

    fn delete(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(Error::io("delete", &self.path))
    }

    fn rewind(&mut self) -> Result<&mut File> {
        self.file.rewind().map_err(Error::io("read", &self.path))?;
        Ok(&mut self.file)
    }

    fn md5(&mut self) -> Result<String> {
        let mut hash = Md5::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        self.rewind()?;
        loop {
            match self.file.read(&mut chunk).map_err(Error::io("read", &self.path))? {
                0 => break,
                bytes => hash.update(&chunk[..bytes]),
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// How an attempt ended.
enum Attempt {
    /// The server has no more bytes.
    Complete,
    /// It may go better next time.
    Broken(String, Option<Cause>),
}

/// Fetches the rest of the archive and verifies it.
fn fetch(
    options: &DownloadOptions,
    part: &mut PartFile,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<()> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .accept_encoding("identity")
        .timeout_resolve(Some(options.patience))
        .timeout_connect(Some(options.patience))
        .timeout_recv_response(Some(options.patience))
        .timeout_per_read(Some(options.patience));
    let agent = config.build().new_agent();
    if part.len()? > 0 {
        progress(DownloadProgress::Verifying);
        if part.md5()?.eq_ignore_ascii_case(&options.md5) {
            return Ok(());
        }
    }
    let mut attempt = 1;
    loop {
        let (reason, source) = match fetch_once(&agent, options, part, progress)? {
            Attempt::Complete => return verify(options, part, progress),
            Attempt::Broken(reason, source) => (reason, source),
        };
        if attempt >= options.attempts {
            let mut detail = format!("gave up after {attempt} attempts: {reason}; ");
            detail += &match part.len()? {
                0 => "nothing was received".to_owned(),
                kept => format!(
                    "{kept} bytes are kept in {}, and the same command resumes there",
                    part.path.display()
                ),
            };
            return Err(Error::Download { url: options.url.clone(), detail, source });
        }
        attempt += 1;
        progress(DownloadProgress::Retrying { attempt, reason });
        thread::sleep(options.retry_pause);
    }
}

fn verify(
    options: &DownloadOptions,
    part: &mut PartFile,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<()> {
    progress(DownloadProgress::Verifying);
    let (found, length) = (part.md5()?, part.len()?);
    if found.eq_ignore_ascii_case(&options.md5) {
        return Ok(());
    }
    part.clear()?;
    let detail = format!(
        "expected the MD5 sum {}, found {found} in {length} bytes; they are deleted, try again or \
         use another address",
        options.md5
    );
    Err(Error::Download { url: options.url.clone(), detail, source: None })
}

fn fetch_once(
    agent: &Agent,
    options: &DownloadOptions,
    part: &mut PartFile,
    progress: &mut dyn FnMut(DownloadProgress),
) -> Result<Attempt> {
    let fatal = |detail: String| Error::Download { url: options.url.clone(), detail, source: None };
    let mut offset = part.len()?;
    let mut request = agent.get(&options.url);
    if offset > 0 {
        request = request.header(RANGE, format!("bytes={offset}-"));
    }
    let mut response = match request.call() {
        Ok(response) => response,
        Err(
            error @ (ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)),
        ) => return Ok(Attempt::Broken(error.to_string(), Some(error.into()))),
        Err(error) => return Err(fatal(error.to_string()).with_source(error)),
    };
    match response.status() {
        StatusCode::OK => offset = 0,
        StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(offset) => {}
        StatusCode::PARTIAL_CONTENT => {
            part.clear()?;
            return Ok(Attempt::Broken(
                "the server sent another range than asked for".into(),
                None,
            ));
        }
        StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
            part.clear()?;
            return Ok(Attempt::Broken("what an earlier download left is too long".into(), None));
        }
        status @ (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => {
            return Ok(Attempt::Broken(format!("the server answered {status}"), None));
        }
        status if status.is_server_error() => {
            return Ok(Attempt::Broken(format!("the server answered {status}"), None));
        }
        status => {
            return Err(fatal(format!("the server answered {status}; is the address right?")));
        }
    }
    let length = response.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let total = length.map(|length: u64| offset.saturating_add(length));
    // Without Range support the server sends everything again, so the file starts from 0.
    part.file.set_len(offset).map_err(Error::io("truncate", &part.path))?;
    part.file.seek(SeekFrom::Start(offset)).map_err(Error::io("write", &part.path))?;
    let mut body = response.body_mut().as_reader();
    let mut chunk = vec![0; CHUNK_BYTES];
    progress(DownloadProgress::Fetching { received: offset, total });
    loop {
        match body.read(&mut chunk) {
            Ok(0) => return Ok(Attempt::Complete),
            Ok(bytes) => {
                part.file.write_all(&chunk[..bytes]).map_err(Error::io("write", &part.path))?;
                offset += bytes as u64;
                if offset > MAX_ARCHIVE_BYTES {
                    part.clear()?;
                    return Err(fatal(format!("more than {MAX_ARCHIVE_BYTES} bytes came")));
                }
                progress(DownloadProgress::Fetching { received: offset, total });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Ok(Attempt::Broken(error.to_string(), Some(error.into()))),
        }
    }
}

/// First byte of a partial response: 7 from "bytes 7-9/10".
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// Unpacks the archive next to `target` and then renames it to `target`.
fn unpack(part: &mut PartFile, dir: &Path, target: &Path) -> Result<()> {
    let path = part.path.clone();
    let mut builder = tempfile::Builder::new();
    // With the permissions of the user's mask, unlike other temporary directories.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let staging = builder.prefix(".cifar-10-").tempdir_in(dir);
    let staging = staging.map_err(Error::io("create a directory in", dir))?;
    let mut missing: Vec<Part> = Part::batches().collect();
    archive::visit(&path, part.rewind()?, &mut |member| {
        let archive::Member { path: name, is_file, size, content } = member;
        if !name.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
            let detail = format!("the entry {} leaves the directory", name.display());
            return Err(Error::file(&path, detail));
        }
        let Some(found) = archive::part_of(&name, Encoding::Binary) else { return Ok(()) };
        if !is_file || size > MAX_FILE_BYTES {
            let detail = format!("the entry {} of {size} bytes is no batch", name.display());
            return Err(Error::file(&path, detail));
        }
        let file_path = staging.path().join(found.file_name(Encoding::Binary));
        let mut file = File::create_new(&file_path).map_err(Error::io("create", &file_path))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match content.read(&mut chunk).map_err(archive::damaged(&path))? {
                0 => break,
                bytes => file.write_all(&chunk[..bytes]).map_err(Error::io("write", &file_path))?,
            }
        }
        file.sync_all().map_err(Error::io("write", &file_path))?;
        missing.retain(|&part| part != found);
        Ok(())
    })?;
    if let Some(part) = missing.first() {
        let detail = format!("{} is missing in this archive", part.file_name(Encoding::Binary));
        return Err(Error::file(path, detail));
    }
    sync_dir(staging.path())?;
    let staged = staging.keep();
    if let Err(error) = fs::rename(&staged, target) {
        // The error of the rename says more than one of the clean-up.
        let _ = fs::remove_dir_all(&staged);
        return Err(Error::io("create", target)(error));
    }
    sync_dir(dir)
}

/// Syncs a directory to the disk, if the system can.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(Error::io("write", dir))?;
    }
    Ok(())
}
