//! Imports run one way: a module uses only those below it, and the files of a folder do not import
//! each other in a circle. Unsafe code has its few places.

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// Folders whose files are held to it.
const FOLDERS: [&str; 4] = ["simd", "kernels", "kernels/pack", "gemm"];

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

/// The paths of a `use` tree, from its first name on: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn tree(source: &str) -> Vec<Vec<String>> {
    let name: String = source.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(rest) = source[name.len()..].strip_prefix("::") else { return vec![vec![name]] };
    let Some(group) = rest.strip_prefix('{') else {
        return tree(rest).into_iter().map(|path| [vec![name.clone()], path].concat()).collect();
    };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => parts.push(String::new()),
            c => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                parts.last_mut().unwrap().push(c);
            }
        }
    }
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(tree).map(|path| [vec![name.clone()], path].concat()).collect()
}

/// Code without comments and without the tests at its end.
fn code(source: &str) -> String {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Which file of `folder` each file imports from; "mod" is `mod.rs`, whose re-exports are looked
/// through and do not count.
fn imports_within(
    folder: &str,
    files: &BTreeMap<String, String>,
) -> BTreeMap<String, BTreeSet<String>> {
    let inside = format!("crate::{}::", folder.replace('/', "::"));
    let (mut exported, mut module) = (BTreeMap::new(), String::new());
    for statement in files["mod"].split_inclusive(';') {
        match statement.trim_start().split_once(" use ") {
            Some((visibility, paths)) if visibility.starts_with("pub") => {
                for path in tree(paths.trim_end_matches(';')) {
                    exported.insert(path.last().unwrap().clone(), path[0].clone());
                }
            }
            _ => module.push_str(statement),
        }
    }
    let file_of = |name: &str| {
        let origin = exported.get(name).map_or(name, String::as_str);
        if files.contains_key(origin) {
            Some(origin.to_owned())
        } else if exported.contains_key(name) {
            None // Of another module.
        } else {
            Some("mod".to_owned())
        }
    };
    let mut found = BTreeMap::new();
    for (file, source) in files {
        let mut imports = BTreeSet::new();
        if file == "mod" {
            for child in files.keys() {
                let path = format!("{child}::");
                let paths = module.match_indices(&path);
                let mut own = paths.filter(|(at, _)| {
                    !module[..*at].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c))
                });
                if own.next().is_some() {
                    imports.insert(child.clone());
                }
            }
        } else {
            for (at, _) in source.match_indices("crate::") {
                for path in tree(&source[at..]).iter().map(|path| path.join("::")) {
                    if let Some(rest) = path.strip_prefix(&inside) {
                        imports.extend(file_of(rest.split("::").next().unwrap_or_default()));
                    }
                }
            }
            for (at, _) in source.match_indices("super::") {
                let names = tree(&source[at..]);
                let names = names.iter().filter_map(|path| path.get(1));
                let siblings = names.filter(|name| files.contains_key(*name));
                imports.extend(siblings.cloned());
            }
            // A submodule in the same file, `use super::*`, imports from its own file.
            imports.remove(file);
        }
        found.insert(file.clone(), imports);
    }
    found
}

/// A circle of imports, if there is one.
fn circle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit<'a>(
        file: &'a str,
        imports: &'a BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|&other| other == file) {
            return Some(path[start..].iter().chain([&file]).map(|&f| f.to_owned()).collect());
        }
        if !done.contains(file) {
            path.push(file);
            let next = imports.get(file).into_iter().flatten();
            let found = next.map(|next| visit(next, imports, path, done)).find(Option::is_some);
            if let Some(found) = found {
                return found;
            }
            path.pop();
            done.insert(file);
        }
        None
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|file| visit(file, imports, &mut Vec::new(), &mut done))
}

/// The code of a folder's files, by their names; a folder inside counts as one file.
fn folder(folder: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::<String, String>::new();
    for file in sources() {
        let Ok(inside) = file.strip_prefix(folder) else { continue };
        let name = inside.with_extension("");
        let name = name.iter().next().unwrap().to_str().unwrap().to_owned();
        files.entry(name).or_default().push_str(&code(&read(&file)));
    }
    files
}

#[test]
fn files_of_a_folder_import_each_other_one_way() {
    for name in FOLDERS {
        let imports = imports_within(name, &folder(name));
        let found: usize = imports.values().map(BTreeSet::len).sum();
        assert!(found >= 2, "{name}: only {found} imports were found: {imports:?}");
        if let Some(circle) = circle(&imports) {
            panic!("{name}: {}", circle.join(" imports "));
        }
    }
}

#[test]
fn circles_are_found() {
    let files = |files: &[(&str, &str)]| {
        files.iter().map(|(name, code)| (name.to_string(), code.to_string())).collect()
    };
    // Through a re-export, `super`, and what stands in mod.rs itself.
    let exported = "mod a;\npub use b::{X, y};\nuse crate::other::Z;";
    for (module, a, b) in [
        (exported, "use crate::{f::{X, c::Q}, g};", "use crate::f::a::P;"),
        (exported, "let x = super::b::y();", "use super::a;"),
        ("use a::P;\npub fn f() {}", "use crate::f::{b, f};", ""),
    ] {
        let imports = imports_within("f", &files(&[("mod", module), ("a", a), ("b", b)]));
        assert!(circle(&imports).is_some(), "{imports:?}");
    }
    let one_way = [("mod", "pub use a::X;\npub use crate::g::W;"), ("a", "use crate::f::{W, b};")];
    let imports = imports_within("f", &files(&[one_way[0], one_way[1], ("b", "use crate::g;")]));
    assert_eq!(circle(&imports), None, "{imports:?}");
}
