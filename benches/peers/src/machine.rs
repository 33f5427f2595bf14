//! What is known about the machine, the environment and the versions; and waiting until this
//! process is idle.

use std::{
    env, fs, thread,
    time::{Duration, Instant},
};

use crate::Result;

/// Variables that change how a contestant runs, by how their names begin. They are reported.
const VARIABLES: [&str; 8] =
    ["GOTO_", "KMP_", "MATMUL_", "MKL_", "OMP_", "OPENBLAS_", "RAYON_", "TILEWISE_ISA"];

/// The CPU's name, or none where the system does not tell.
pub fn cpu() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The mean number of threads that wanted a core in the last minute, of the whole machine, or none
/// where the system does not tell.
pub fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Variables of the environment that may change results, as NAME=VALUE.
pub fn environment() -> Vec<String> {
    let text = env::vars_os().map(|(name, value)| {
        (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
    });
    let known = text.filter(|(name, _)| VARIABLES.iter().any(|begin| name.starts_with(begin)));
    let mut found: Vec<String> = known.map(|(name, value)| format!("{name}={value}")).collect();
    found.sort();
    found
}

/// The version of a crate that this program was built with.
pub fn version(name: &str) -> &'static str {
    let lock = include_str!("../Cargo.lock");
    let entry = format!("name = \"{name}\"\nversion = \"");
    let version = lock.split_once(&entry).and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("unknown", |(version, _)| version)
}

/// Returns as soon as no thread of this process runs any more: those of OpenMP and OpenBLAS spin
/// for a while after a product, and would slow down who comes next.
///
/// # Errors
/// If one still runs after `limit`.
pub fn wait_until_idle(limit: Duration) -> Result<()> {
    const SLEEP: Duration = Duration::from_millis(5);
    let begin = Instant::now();
    loop {
        let before = cpu_time();
        thread::sleep(SLEEP);
        if cpu_time() - before < SLEEP / 10 {
            return Ok(());
        }
        if begin.elapsed() > limit {
            return Err(
                "threads of a peer do not stop: check KMP_BLOCKTIME, OMP_WAIT_POLICY".into()
            );
        }
    }
}

/// CPU time of all threads of this process.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a whole timespec; the clock exists on every Unix.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        assert!(version("faer").starts_with("0.24."));
        assert!(version("gemm").starts_with("0.19."));
        assert_eq!(version("no-such-crate"), "unknown");
    }
}
