//! Imports run one way: a module uses only those below it, and the files of a module do not use
//! each other in a circle. Unsafe code has its few places.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Modules from the ground up; a module may import from itself and from those before it.
const ORDER: &[&str] = &[
    "config",
    "printable",
    "error",
    "input_file",
    "float",
    "bf16",
    "aligned",
    "matrix",
    "atomic_file",
    "simd",
    "threads",
    "kernels",
    "precision",
    "gemm",
    "context",
    "cblas",
    "nn",
    "data",
    "io",
    "infer",
    "ndarray",
    "train",
    "capi",
];

/// Modules that do not know one below them: data sets know neither products nor networks.
const STRANGERS: [(&str, &str); 2] = [("data", "gemm"), ("data", "nn")];

/// Where unsafe code may stand.
const UNSAFE: [&str; 9] = [
    "bf16.rs",
    "simd",
    "kernels",
    "aligned.rs",
    "matrix.rs",
    "gemm/blas.rs",
    "cblas.rs",
    "ndarray.rs",
    "capi",
];

/// All paths below `crate` that the code names, groups written out.
fn paths(source: &str) -> Vec<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (start, name) in code.match_indices("crate::") {
        write_out(&code[start + name.len()..], "", &mut found);
    }
    found
}

/// Adds the paths of a `use` tree, which begins a text; returns what comes after it.
fn write_out<'a>(mut rest: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        let name = |c: char| c.is_alphanumeric() || c == '_' || c == '*';
        let end = rest.find(|c| !name(c)).unwrap_or(rest.len());
        let (path, after) = (format!("{prefix}{}", &rest[..end]), &rest[end..]);
        return match after.strip_prefix("::") {
            Some(tree) if end > 0 => write_out(tree, &format!("{path}::"), found),
            _ => {
                found.push(path);
                after
            }
        };
    };
    rest = group;
    loop {
        rest = write_out(rest, prefix, found).trim_start();
        // A name may be bound to another.
        rest = rest.find([',', '}']).map_or("", |end| &rest[end..]);
        match rest.strip_prefix(',').map(str::trim_start) {
            Some(more) if !more.starts_with('}') => rest = more,
            more => return more.unwrap_or(rest).strip_prefix('}').unwrap_or_default(),
        }
    }
}

/// The modules that the code names.
fn imports(source: &str) -> Vec<String> {
    let paths = paths(source);
    let module = |path: &String| path.split("::").next().unwrap_or_default().to_owned();
    let mut modules: Vec<String> = paths.iter().map(module).filter(|m| !m.is_empty()).collect();
    modules.dedup();
    modules
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

/// The file that a path names: the deepest that there is, or where its folder has it from.
fn file_of(path: &str, sources: &BTreeMap<PathBuf, String>) -> Option<PathBuf> {
    let mut at = PathBuf::new();
    for segment in path.split("::") {
        at.push(segment);
        let file = at.with_extension("rs");
        if sources.contains_key(&file) {
            return Some(file);
        }
        if sources.contains_key(&at.join("mod.rs")) {
            continue;
        }
        at.pop();
        let index = at.join("mod.rs");
        let source = sources.get(&index)?;
        let exported = re_exports(source).into_iter().find(|path| path.ends_with(segment));
        let Some(exported) = exported else { return Some(index) };
        let (file, _) = exported.split_once("::")?;
        let file = at.join(file);
        let candidates = [file.with_extension("rs"), file.join("mod.rs")];
        return candidates.into_iter().find(|file| sources.contains_key(file));
    }
    Some(at.join("mod.rs"))
}

/// What a `mod.rs` passes on from the files of its folder, as `file::Name`.
fn re_exports(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (start, word) in source.match_indices("use ") {
        let line = source[..start].rsplit('\n').next().unwrap_or_default();
        if line.starts_with("pub") {
            write_out(&source[start + word.len()..], "", &mut found);
        }
    }
    found
}

/// The files of its own module that a file uses. What a `mod.rs` passes on does not count.
fn neighbors(file: &Path, sources: &BTreeMap<PathBuf, String>) -> BTreeSet<PathBuf> {
    let source = &sources[file];
    let mut paths = paths(source);
    if file.ends_with("mod.rs") {
        let folder = file.parent().unwrap();
        let prefix = folder.iter().map(|part| part.to_str().unwrap()).collect::<Vec<_>>();
        for line in source.lines().filter_map(|line| line.strip_prefix("use ")) {
            let name = line.split([':', ';']).next().unwrap_or_default();
            let own = [folder.join(name).with_extension("rs"), folder.join(name).join("mod.rs")];
            if own.iter().any(|file| sources.contains_key(file)) {
                paths.push([&prefix[..], &[name]].concat().join("::"));
            }
        }
    }
    let module = |file: &Path| file.iter().next().map(|part| part.to_owned());
    let files = paths.iter().filter_map(|path| file_of(path, sources));
    files.filter(|other| other != file && module(other) == module(file)).collect()
}

/// A circle in a graph, if there is one.
fn circle(graph: &BTreeMap<PathBuf, BTreeSet<PathBuf>>) -> Option<Vec<PathBuf>> {
    fn visit(
        at: &PathBuf,
        graph: &BTreeMap<PathBuf, BTreeSet<PathBuf>>,
        way: &mut Vec<PathBuf>,
        done: &mut BTreeSet<PathBuf>,
    ) -> Option<Vec<PathBuf>> {
        if let Some(start) = way.iter().position(|file| file == at) {
            return Some(way[start..].to_vec());
        }
        if done.contains(at) {
            return None;
        }
        way.push(at.clone());
        let found = graph.get(at).into_iter().flatten().find_map(|to| visit(to, graph, way, done));
        way.pop();
        done.insert(at.clone());
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|file| visit(file, graph, &mut Vec::new(), &mut done))
}

#[test]
fn files_of_a_module_use_each_other_one_way() {
    let sources: BTreeMap<PathBuf, String> =
        sources().into_iter().map(|file| (file.clone(), read(&file))).collect();
    let graph: BTreeMap<_, _> =
        sources.keys().map(|file| (file.clone(), neighbors(file, &sources))).collect();
    // That files are found at all.
    let uses = |from: &str, to: &str| graph[Path::new(from)].contains(Path::new(to));
    assert!(
        uses("nn/plan/run.rs", "nn/plan/lower.rs") && uses("nn/plan/mod.rs", "nn/plan/place.rs")
    );
    assert!(uses("nn/network.rs", "nn/layers/mod.rs") && uses("nn/mlp.rs", "nn/network.rs"));
    assert!(uses("train/solver.rs", "train/trainer.rs"));
    for module in ["simd", "kernels", "gemm", "data", "nn", "infer", "io", "train"] {
        let part = graph.iter().filter(|(file, _)| file.starts_with(module));
        let part = part.map(|(file, uses)| (file.clone(), uses.clone())).collect();
        assert_eq!(circle(&part), None, "files of {module} that use each other");
    }
}

#[test]
fn a_circle_is_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for (from, to) in edges {
            graph.entry(from.into()).or_default().insert(to.into());
        }
        circle(&graph).map(|files| files.len())
    };
    assert_eq!(graph(&[("a", "b"), ("b", "c"), ("a", "c")]), None);
    assert_eq!(graph(&[("a", "b"), ("b", "c"), ("c", "b")]), Some(2));
    assert_eq!(graph(&[("a", "b"), ("c", "d"), ("d", "e"), ("e", "c")]), Some(3));
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
    let source = "use crate::{a::{b, c as x}, d,\n e::{f::{self, *}, g}, h,\n};\nuse crate::i;\n\
                  let x = crate::j::k(1);\n// crate::l";
    let expected = ["a::b", "a::c", "d", "e::f::self", "e::f::*", "e::g", "h", "i", "j::k"];
    assert_eq!(paths(source), expected);
    assert_eq!(imports(source), ["a", "d", "e", "h", "i", "j"]);
}
