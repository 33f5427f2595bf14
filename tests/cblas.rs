//! The library for programs written against BLAS: C programs linked with it, statically or not, or
//! started with it preloaded, and the bits of its products.
#![cfg(all(feature = "cblas", target_os = "linux"))]

use std::{
    env,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tempfile::TempDir;
use tilewise::{cblas, gemm};

/// How a program comes to the library.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Link {
    Static,
    Shared,
    /// Linked with another BLAS.
    Preloaded,
}

const LINKS: [Link; 3] = [Link::Static, Link::Shared, Link::Preloaded];

/// A C program in a directory of its own.
struct Program {
    dir: TempDir,
    link: Link,
}

impl Program {
    /// Compiles `tests/cblas/{name}.c`.
    fn new(name: &str, defines: &[&str], link: Link) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (library, place) = (library(), dir.path().to_str().unwrap());
        let mut cc = cc(&format!("{name}.c"), &dir.path().join("program"));
        cc.args(defines);
        match link {
            Link::Static => cc.arg(library.join("libtilewise.a")),
            Link::Shared => {
                let folder = library.to_str().unwrap();
                cc.args([&format!("-L{folder}"), "-ltilewise", &format!("-Wl,-rpath,{folder}")])
            }
            Link::Preloaded => {
                let mut other = self::cc("other_blas.c", &dir.path().join("libother.so"));
                let own_handlers = defines.contains(&"-DOWN_HANDLERS");
                let handlers = if own_handlers { "-DHANDLERS" } else { "-DNO_HANDLERS" };
                run(other.args(["-shared", handlers]).args(defines));
                cc.args([&format!("-L{place}"), "-lother", &format!("-Wl,-rpath,{place}")])
            }
        };
        // What `rustc --print native-static-libs` names.
        run(cc.args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-lc"]));
        Self { dir, link }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("program")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.path());
        if self.link == Link::Preloaded {
            command.env("LD_PRELOAD", library().join("libtilewise.so"));
        }
        command
    }
}

fn cc(source: &str, to: &Path) -> Command {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cblas");
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O1", "-g", "-fPIC", "-fexceptions", "-Wall", "-Wextra", "-Werror"]);
    cc.arg(sources.join(source)).arg("-o").arg(to);
    cc
}

/// Runs a command that must succeed, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// The folder of `libtilewise.so` and `libtilewise.a`, built once as the documentation says.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cblas-library");
        let mut cargo = Command::new(env::var_os("CARGO").unwrap());
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args(["rustc", "--quiet", "--offline", "--release", "--lib"]);
        cargo.args(["-p", "tilewise", "--features", "cblas"]);
        cargo.args(["--crate-type", "cdylib,staticlib", "--target-dir"]).arg(&target);
        run(&mut cargo);
        target.join("release")
    })
}

#[test]
fn programs_get_the_products_of_this_library() {
    for link in LINKS {
        let program = Program::new("products", &[], link);
        let from = match link {
            Link::Static => program.path(),
            Link::Shared | Link::Preloaded => library().join("libtilewise.so"),
        };
        let mut expected: Vec<String> = ["cblas_sgemm", "cblas_dgemm", "sgemm_", "dgemm_"]
            .map(|routine| format!("{routine} from {}", from.display()))
            .into();
        expected.push("all products are right".to_owned());
        let printed = run(&mut program.command());
        assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{link:?}");
    }
}

#[test]
fn wrong_arguments_are_told_to_the_handler_by_their_position() {
    for link in LINKS {
        let (own, only_fortran) = ("-DOWN_HANDLERS", "-DONLY_FORTRAN_HANDLER");
        let (row_major, call) = ("-DROW_MAJOR_VARIABLE", "-DCALL_VARIABLE");
        for handlers in [
            &[][..],
            &[own],
            &[own, only_fortran],
            // netlib's testers.
            &[own, row_major],
            // Programs over the reference.
            &[own, row_major, call],
            &[own, only_fortran, row_major, call],
        ] {
            // The other BLAS has both handlers.
            if link == Link::Preloaded && handlers.contains(&only_fortran) {
                continue;
            }
            let program = Program::new("errors", handlers, link);
            let printed = run(&mut program.command());
            assert_eq!(printed, "all reports are right\n", "{link:?} {handlers:?}");
        }
    }
}

#[test]
fn what_no_handler_is_told_aborts_with_a_message() {
    let program = Program::new("aborts", &[], Link::Shared);
    run(program.command().arg("1000"));
    for (memory, set, message) in [
        ("1", None, "elements exceed the memory; use smaller sizes"),
        ("1000", Some("none"), r#"instruction set "none" is not available here"#),
    ] {
        let mut command = program.command();
        command.arg(memory).envs(set.map(|set| ("TILEWISE_ISA", set)));
        let Output { status, stderr, .. } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{stderr}");
        assert!(stderr.starts_with("tilewise: cblas_sgemm: "), "{stderr}");
        assert!(stderr.contains(message) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn the_shared_library_exports_its_routines_alone() {
    let mut nm = Command::new("nm");
    let names = run(nm.args(["-D", "--defined-only", "-j"]).arg(library().join("libtilewise.so")));
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["cblas_dgemm", "cblas_sgemm", "dgemm_", "sgemm_"]);
}

#[test]
fn either_layout_gives_the_bits_of_gemm() {
    let (seed, (m, n, k)) = (21, (37, 29, 401));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut numbers =
        |len: usize| (0..len).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
    let (a, b, c) = (numbers(m * k), numbers(k * n), numbers(m * n));
    let (alpha, beta) = (0.7, 0.3);
    let [im, ik, in_] = [m, k, n].map(|size| size as isize);
    for by_rows in [true, false] {
        let strides = |rows, cols| if by_rows { (cols, 1) } else { (1, rows) };
        let ((ra, ca), (rb, cb), (rc, cc)) = (strides(im, ik), strides(ik, in_), strides(im, in_));
        let (mut expected, mut found) = (c.clone(), c.clone());
        let (layout, none) = (if by_rows { 101 } else { 102 }, 111);
        let [lda, ldb, ldc] = [ra.max(ca), rb.max(cb), rc.max(cc)].map(|stride| stride as i32);
        let (a, b) = (a.as_ptr(), b.as_ptr());
        // SAFETY: the sizes are those of the slices, which do not overlap.
        unsafe {
            let to = expected.as_mut_ptr();
            gemm::sgemm(m, k, n, alpha, a, ra, ca, b, rb, cb, beta, to, rc, cc);
            let [m, n, k] = [m, n, k].map(|size| size as i32);
            let to = found.as_mut_ptr();
            cblas::cblas_sgemm(layout, none, none, m, n, k, alpha, a, lda, b, ldb, beta, to, ldc);
        }
        assert!(expected == found, "seed {seed}, by rows {by_rows}");
    }
}
