//! Imports run one way: a module uses only those below it. Unsafe code has its few places.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Modules from the ground up; a module may import from itself and from those before it.
const ORDER: &[&str] = &[
    "printable",
    "error",
    "input_file",
    "float",
    "aligned",
    "matrix",
    "atomic_file",
    "simd",
    "threads",
    "kernels",
    "gemm",
    "cblas",
    "data",
    "nn",
    "ndarray",
    "train",
    "capi",
];

/// Pairs on one floor that must not know each other.
const STRANGERS: [(&str, &str); 2] = [("data", "gemm"), ("nn", "data")];

/// Where unsafe code may stand.
const UNSAFE: [&str; 8] = [
    "simd",
    "kernels",
    "aligned.rs",
    "matrix.rs",
    "gemm/blas.rs",
    "cblas.rs",
    "ndarray.rs",
    "capi",
];

fn imports(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    c if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    let module = |path: &String| path.trim().split("::").next().unwrap_or_default().to_owned();
    found.iter().map(module).filter(|name| !name.is_empty()).collect()
}

fn check(path: &Path, module: &str, problems: &mut Vec<String>) {
    let place = |name: &str| ORDER.iter().position(|&module| module == name);
    let source = read(path);
    for import in imports(&source) {
        // `crate::Error` and its like are re-exports at the root.
        if import.starts_with(char::is_uppercase) {
            continue;
        }
        let upward = match (place(module), place(&import)) {
            (Some(from), Some(to)) => to > from || STRANGERS.contains(&(module, import.as_str())),
            _ => true,
        };
        if upward {
            problems.push(format!("{} imports {import}", path.display()));
        }
    }
}

/// All files of the crate, by their path from `src` on.
fn sources() -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut folders) = (Vec::new(), vec![src.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.strip_prefix(&src).unwrap().to_owned());
            }
        }
    }
    assert!(files.len() > 30, "only {} files were found", files.len());
    files
}

/// The text of a file of the crate.
fn read(file: &Path) -> String {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    fs::read_to_string(src.join(file)).unwrap()
}

#[test]
fn imports_run_one_way() {
    let mut problems = Vec::new();
    for file in sources() {
        let inside = file.with_extension("");
        let module = inside.iter().next().unwrap().to_str().unwrap();
        if module != "lib" {
            check(&file, module, &mut problems);
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Whether the word `unsafe` stands in the code, comments and lints aside.
fn is_unsafe(source: &str) -> bool {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut words = code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    words.any(|word| word == "unsafe")
}

#[test]
fn unsafe_code_stays_in_its_places() {
    let places = UNSAFE.map(Path::new);
    let mut used = Vec::new();
    for file in sources().iter().filter(|file| is_unsafe(&read(file))) {
        let place = places.iter().find(|place| file.starts_with(place));
        used.push(place.unwrap_or_else(|| panic!("unsafe code in {}", file.display())));
    }
    for place in &places {
        assert!(used.contains(&place), "{}: nothing unsafe there, take it off", place.display());
    }
}

#[test]
fn unsafe_is_found_in_code_alone() {
    for code in ["unsafe { f() }", "pub unsafe fn f();", "x;\n  unsafe impl Send for X {}"] {
        assert!(is_unsafe(code), "{code}");
    }
    for code in ["// SAFETY: unsafe", "#![deny(unsafe_op_in_unsafe_fn)]", "f(); // unsafe"] {
        assert!(!is_unsafe(code), "{code}");
    }
}

#[test]
fn imports_are_found_in_every_spelling() {
    let source =
        "use crate::{a::{b, c}, d,\n e::f};\nuse crate::g;\nlet x = crate::h::i;\n// crate::j";
    assert_eq!(imports(source), ["a", "d", "e", "g", "h"]);
}
