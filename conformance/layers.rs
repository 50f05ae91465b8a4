//! The layer table of the design, enforced: who may use whom, file and function sizes, and where
//! `unsafe` is allowed. Scans the sources as text, so it runs in milliseconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Every module, lower layers first. A module may use those of lower layers: for most that is a
/// prefix of this list, the others name what they use (an arrow of the design each).
const ORDER: [&str; 27] = [
    // base
    "backoff",
    "clock",
    "drain",
    "telemetry",
    // words
    "model",
    // decisions: pure, synchronous, `now` is an argument
    "catalog",
    "health",
    "vips",
    "wire",
    "routes",
    "zone",
    "objects",
    // shared tools of the edges
    "store",
    "tls",
    // edges: none knows another
    "files",
    "kubernetes",
    "peering",
    "siblings",
    "gateway",
    "dns",
    "admin",
    // composition
    "config",
    "app",
    // top
    "args",
    "commands",
    "demo",
    "testing",
];

/// How many modules of [`ORDER`] lie below the edges, the composition and the top.
const BELOW_EDGES: usize = 14;
const BELOW_COMPOSITION: usize = 21;
const BELOW_TOP: usize = 23;

/// The modules of this crate that a module may use; `None`: an unknown module.
fn may_use(module: &str) -> Option<BTreeSet<&'static str>> {
    let below = |count: usize| ORDER[..count].iter().copied().collect();
    let named = |names: &[&'static str]| names.iter().copied().collect();
    Some(match module {
        "backoff" | "clock" | "drain" | "model" => named(&[]),
        "telemetry" | "store" => named(&["backoff", "clock", "drain"]),
        "catalog" | "health" | "vips" | "wire" => named(&["model"]),
        "routes" => named(&["model", "catalog", "health"]),
        "zone" | "objects" => named(&["model", "catalog", "health", "routes"]),
        "tls" => named(&["backoff", "clock", "drain", "telemetry", "model", "health"]),
        "files" => named(&["backoff", "clock", "drain", "telemetry", "model", "catalog"]),
        "kubernetes" => {
            named(&["backoff", "clock", "drain", "telemetry", "model", "catalog", "objects"])
        }
        "peering" | "siblings" | "gateway" | "dns" | "admin" => below(BELOW_EDGES),
        "config" => below(BELOW_COMPOSITION),
        // What runs is made from what was configured, and `testing` may use everything.
        "app" => below(BELOW_COMPOSITION + 1),
        "args" | "demo" => {
            let mut may: BTreeSet<_> = below(BELOW_TOP);
            may.insert("commands");
            may
        }
        "commands" => below(BELOW_TOP),
        "main" | "testing" => ORDER[..].iter().copied().collect(),
        _ => return None,
    })
}

/// Words that must not appear in the decisions.
const IMPURE: [&str; 6] = ["tokio::", "kube::", "hickory", "rustls", "clock::now", "clock::wall"];
const DECISIONS: [&str; 7] = ["catalog", "health", "routes", "zone", "objects", "vips", "wire"];

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 80;
const MAX_COMPOSITION_LINES: usize = 150;
/// Where `unsafe` is allowed: one module, and the counting allocator of one test.
const UNSAFE: [&str; 2] = ["conformance/allocation.rs", "src/dns/batch.rs"];
/// The module stays small enough to be read whole.
const MAX_UNSAFE_LINES: usize = 250;

struct Source {
    path: PathBuf,
    module: String,
    /// Production lines: comments blanked, test modules cut.
    lines: Vec<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

fn is_test_file(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let inside = path.components().any(|part| part.as_os_str() == "tests");
    stem == "tests" || stem.ends_with("_tests") || inside
}

/// Modules declared under `#[cfg(test)]`, as paths without extension.
fn test_modules(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for path in files {
        let text = fs::read_to_string(path).expect("readable");
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for two in lines.windows(2).filter(|two| two[0] == "#[cfg(test)]") {
            let Some(name) = two[1].rsplit_once("mod ").and_then(|(_, m)| m.strip_suffix(';'))
            else {
                continue;
            };
            let is_root = path.file_stem().is_some_and(|stem| stem == "mod" || stem == "lib");
            let folder = if is_root { path.with_file_name("") } else { path.with_extension("") };
            found.insert(folder.join(name));
        }
    }
    found
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    let test_only = test_modules(&files);
    files
        .into_iter()
        .filter(|path| !is_test_file(path) && !test_only.contains(&path.with_extension("")))
        .map(|path| {
            let relative = path.strip_prefix(&src).expect("below src");
            let first = relative.iter().next().expect("has a name").to_string_lossy();
            let module = first.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).expect("readable");
            Source { module, lines: production_lines(&text), path: relative.to_owned() }
        })
        .collect()
}

/// Everything before the inline test module, with comments blanked.
fn production_lines(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines
        .windows(2)
        .position(|two| two[0].trim() == "#[cfg(test)]" && two[1].trim().starts_with("mod tests {"))
        .unwrap_or(lines.len());
    lines[..end].iter().map(|line| line.split("//").next().unwrap_or_default().to_owned()).collect()
}

/// The modules that a source names after `crate::`, grouped imports included.
fn uses(source: &Source) -> BTreeSet<String> {
    let text = source.lines.join("\n");
    let prefix = if source.module == "main" { "portolan::" } else { "crate::" };
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(prefix) {
        let rest = &text[at + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0_usize;
            let mut item = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        found.insert(first_word(&std::mem::take(&mut item)));
                    }
                    _ if depth == 0 => item.push(c),
                    _ => {}
                }
            }
            found.insert(first_word(&item));
        } else {
            found.insert(first_word(rest));
        }
    }
    found.remove("");
    found
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn every_edge_is_in_the_table() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| s.module != "lib") {
        let Some(may) = may_use(&source.module) else {
            wrong.push(format!("{}: unknown module {}", source.path.display(), source.module));
            continue;
        };
        for used in uses(source) {
            if used != source.module && !may.contains(used.as_str()) {
                wrong.push(format!("{}: {} -> {used}", source.path.display(), source.module));
            }
        }
    }
    assert!(wrong.is_empty(), "edges outside the layer table:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_and_the_code_have_no_cycle() {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|s| s.module != "lib") {
        let into = edges.entry(source.module.clone()).or_default();
        into.extend(uses(source).into_iter().filter(|used| *used != source.module));
    }
    // Take away modules that use nothing that is left, until none can be: a rest is a cycle.
    loop {
        let free: Vec<String> =
            edges.iter().filter(|(_, uses)| uses.is_empty()).map(|(m, _)| m.clone()).collect();
        if free.is_empty() {
            break;
        }
        edges.retain(|module, _| !free.contains(module));
        for uses in edges.values_mut() {
            uses.retain(|used| !free.contains(used));
        }
    }
    assert!(edges.is_empty(), "import cycle among {:?}", edges.keys().collect::<Vec<_>>());
}

#[test]
fn decisions_are_pure() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| DECISIONS.contains(&s.module.as_str())) {
        for (number, line) in source.lines.iter().enumerate() {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", source.path.display(), number + 1));
            }
            if line.contains("async fn") {
                wrong.push(format!("{}:{}: async", source.path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "impure words in decisions:\n{}", wrong.join("\n"));
}

#[test]
fn no_production_file_is_too_long() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|source| source.lines.len() > MAX_FILE_LINES)
        .map(|source| format!("{} ({})", source.path.display(), source.lines.len()))
        .collect();
    assert!(long.is_empty(), "over {MAX_FILE_LINES} lines: {long:?}");
}

#[test]
fn the_median_file_is_short() {
    let mut sizes: Vec<usize> = sources().iter().map(|source| source.lines.len()).collect();
    sizes.sort_unstable();
    let median = sizes[sizes.len() / 2];
    assert!(median <= 200, "the median file has {median} lines");
}

#[test]
fn no_function_is_too_long() {
    let mut wrong = Vec::new();
    for source in sources() {
        let bound = if source.module == "app" { MAX_COMPOSITION_LINES } else { MAX_FUNCTION_LINES };
        for (name, start, length) in functions(&source.lines) {
            if length > bound {
                wrong.push(format!("{}:{start}: {name} ({length})", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "functions over their bound:\n{}", wrong.join("\n"));
}

/// Name, first line and length of every function, by indentation (the tree is formatted).
fn functions(lines: &[String]) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(at) = line.find("fn ") else { continue };
        let head = &line[..at];
        let is_item = head.split_whitespace().all(|word| {
            matches!(word, "async" | "const" | "unsafe")
                || word.starts_with("pub")
                || word == "in"
                || word.ends_with(')')
        });
        if !is_item {
            continue;
        }
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let closing = format!("{indent}}}");
        let end = lines[start..].iter().position(|l| l.trim_end() == closing);
        if let Some(length) = end {
            found.push((first_word(&line[at + 3..]), start + 1, length + 1));
        }
    }
    found
}

#[test]
fn unsafe_is_allowed_in_two_places_only() {
    let mut files = Vec::new();
    for dir in ["src", "conformance", "benches"] {
        rust_files(&root().join(dir), &mut files);
    }
    let this = Path::new(file!()).file_name();
    let mut allowed = Vec::new();
    for path in files.iter().filter(|path| path.file_name() != this) {
        let text = fs::read_to_string(path).expect("readable");
        let place = path.strip_prefix(root()).expect("below the root").to_string_lossy();
        if !text.contains("allow(unsafe_code") && !has_unsafe(&text) {
            continue;
        }
        assert!(text.lines().count() <= MAX_UNSAFE_LINES, "{place} is too long");
        let (blocks, reasons) = (text.matches("unsafe {"), text.matches("// SAFETY: "));
        assert!(reasons.count() >= blocks.count(), "{place}: a block without a reason");
        allowed.push(place.into_owned());
    }
    allowed.sort();
    assert_eq!(allowed, UNSAFE);
}

fn has_unsafe(text: &str) -> bool {
    production_lines(text)
        .iter()
        .any(|line| ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| line.contains(word)))
}

#[test]
fn unwraps_are_rare_and_nothing_is_unfinished() {
    let mut lines = 0_usize;
    let mut unwraps = Vec::new();
    for source in sources().iter().filter(|s| s.module != "testing") {
        lines += source.lines.len();
        for (number, line) in source.lines.iter().enumerate() {
            let place = format!("{}:{}: {}", source.path.display(), number + 1, line.trim());
            assert!(!line.contains(".unwrap()"), "unwrap in production: {place}");
            assert!(!line.contains("#[ignore"), "ignored: {place}");
            if line.contains(".expect(") {
                unwraps.push(place);
            }
        }
    }
    assert!(
        unwraps.len() * 1000 <= lines * 3,
        "more than 3 expects per 1000 lines ({} in {lines}):\n{}",
        unwraps.len(),
        unwraps.join("\n")
    );
}

#[test]
fn the_scanner_sees_grouped_imports_and_breaches() {
    let source = Source {
        path: "x.rs".into(),
        module: "zone".into(),
        lines: production_lines("use crate::{model::A, dns::{B, C}, routes};\n// crate::tls\n"),
    };
    let found = uses(&source);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["dns", "model", "routes"]);
    assert!(!may_use("zone").is_some_and(|may| may.contains("dns")));
}
