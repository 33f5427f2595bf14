//! Imports run one way: a module uses only those below it.

use std::{fs, path::Path};

/// Modules from the ground up; a module may import from itself and from those before it.
const ORDER: [&str; 13] = [
    "error",
    "float",
    "aligned",
    "matrix",
    "threads",
    "atomic_file",
    "simd",
    "kernels",
    "gemm",
    "data",
    "nn",
    "train",
    "cli",
];

/// Pairs on one floor that must not know each other.
const STRANGERS: [(&str, &str); 2] = [("data", "gemm"), ("nn", "data")];

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
    let source = fs::read_to_string(path).unwrap();
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

#[test]
fn imports_run_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut problems = Vec::new();
    let mut files = 0;
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside = path.strip_prefix(&src).unwrap().with_extension("");
            let module = inside.iter().next().unwrap().to_str().unwrap().to_owned();
            if !["lib", "main"].contains(&module.as_str()) {
                files += 1;
                check(&path, &module, &mut problems);
            }
        }
    }
    assert!(files > 30, "only {files} files were looked at");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn imports_are_found_in_every_spelling() {
    let source =
        "use crate::{a::{b, c}, d,\n e::f};\nuse crate::g;\nlet x = crate::h::i;\n// crate::j";
    assert_eq!(imports(source), ["a", "d", "e", "g", "h"]);
}
