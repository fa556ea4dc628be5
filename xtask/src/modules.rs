//! The modules of a crate depend on each other in one direction.
//!
//! A node is a top-level module, `foo.rs` together with `foo/`; an edge is a path of one that leads into another. What `lib.rs` or
//! `main.rs` re-exports counts as the module it comes from, what it defines itself as the module `crate`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Result, ensure};

use crate::process;

use self::paths::Source;

mod paths;

const CRATES: [&str; 9] = ["backend-candle", "backend-onnx", "bench", "cli", "core", "hub", "kernels", "onnx-graph", "tandem"];

/// The places in a cycle that are shown for each edge.
const MAX_PLACES: usize = 4;

/// Modules by name, each with the modules it refers to and where it does: `file:line`.
type Graph = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Prints every cycle, and fails when there is one.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for name in CRATES {
        let graph = read(&process::root().join("crates").join(name).join("src"))?;
        let cycles = cycles(&graph);
        cycles.iter().for_each(|cycle| print(name, cycle, &graph));
        if !cycles.is_empty() {
            wrong.push(format!("modules of {name} depend on each other: move what both need below both"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// Prints the edges of a cycle, and the lines that make them.
fn print(name: &str, cycle: &BTreeSet<&str>, graph: &Graph) {
    println!("crates/{name}: the modules {} depend on each other:", cycle.iter().copied().collect::<Vec<_>>().join(", "));
    for from in cycle {
        for (to, places) in graph[*from].iter().filter(|(to, _)| cycle.contains(to.as_str())) {
            let shown: Vec<&str> = places.iter().take(MAX_PLACES).map(String::as_str).collect();
            let more = if places.len() > MAX_PLACES { ", …" } else { "" };
            println!("    {from} -> {to}: {}{more}", shown.join(", "));
        }
    }
}

fn read(directory: &Path) -> Result<Graph> {
    let sources = paths::read(directory)?;
    Ok(graph(&sources))
}

/// The edges between different modules, with the places that make one.
fn graph(sources: &[Source]) -> Graph {
    let root: BTreeMap<&str, &str> =
        sources.iter().flat_map(|source| &source.exports).map(|(name, module)| (name.as_str(), module.as_str())).collect();
    let mut graph: Graph = sources.iter().map(|source| (source.module.clone(), BTreeMap::new())).collect();
    for source in sources {
        for path in &source.paths {
            let first = path.segment.as_str();
            let target = if graph.contains_key(first) { first } else { root.get(first).copied().unwrap_or(paths::ROOT) };
            if target != source.module && graph.contains_key(target) {
                let target = target.to_owned();
                let place = format!("{}:{}", source.file, path.line);
                graph.entry(source.module.clone()).or_default().entry(target).or_default().insert(place);
            }
        }
    }
    graph
}

/// The strongly connected components of more than one module.
fn cycles(graph: &Graph) -> Vec<BTreeSet<&str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph.keys().map(|from| (from.as_str(), reachable(graph, from))).collect();
    let mut cycles: Vec<BTreeSet<&str>> = Vec::new();
    for (&from, to) in &reached {
        let cycle: BTreeSet<&str> = to.iter().copied().filter(|other| reached[other].contains(from)).collect();
        if cycle.len() > 1 && !cycles.contains(&cycle) {
            cycles.push(cycle);
        }
    }
    cycles
}

/// The modules that `from` leads to.
fn reachable<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = graph[from].keys().map(String::as_str).collect();
    while let Some(module) = open.pop() {
        if reached.insert(module) {
            open.extend(graph[module].keys().map(String::as_str));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the cycles of a crate whose files are given by their paths below `src`.
    fn check(files: &[(&str, &str)], expected: &[&[&str]]) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let graph = read(directory.path()).unwrap();
        let expected: Vec<BTreeSet<&str>> = expected.iter().map(|cycle| cycle.iter().copied().collect()).collect();
        assert_eq!(cycles(&graph), expected, "{graph:?}");
    }

    const LIB: (&str, &str) = ("lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::{deep::B, self}; const LIMIT: u8 = 1;");

    #[test]
    fn one_direction_is_not_a_cycle() {
        check(&[LIB, ("a.rs", "use crate::b::B;"), ("b.rs", "use crate::c::C; mod deep;"), ("c.rs", "pub struct C;")], &[]);
        check(&[LIB, ("a.rs", ""), ("a/x.rs", "use super::y::Y;"), ("a/y.rs", "use super::x::X;"), ("b.rs", "")], &[]);
    }

    #[test]
    fn cycles_are_found_through_every_form_of_path() {
        let c = ("c.rs", "");
        for a in [
            "use crate::b::B;",
            "use crate::{c::C, b::{self, B}};",
            "use super::b as other;",
            "fn f() { crate::b::f() }",
            "fn f() { println!(\"{}\", crate::b::N) }",
            "use crate::B;",
            "#[serde(with = \"crate::b\")] struct S;",
            "mod inner { use super::super::b; }",
        ] {
            check(&[LIB, ("a.rs", a), ("b.rs", "use crate::a;"), c], &[&["a", "b"]]);
        }
        check(&[LIB, ("a/x.rs", "use super::super::b;"), ("a.rs", "mod x;"), ("b.rs", "use crate::A;"), c], &[&["a", "b"]]);
        check(
            &[LIB, ("a.rs", "use crate::b;"), ("b.rs", "use crate::c;"), ("c.rs", "use crate::{LIMIT, A};")],
            &[&["a", "b", "c"]],
        );
    }

    #[test]
    fn what_the_root_defines_and_uses_closes_a_cycle() {
        let root = ("main.rs", "mod a; use a::f; fn main() { f() } struct Failure;");
        check(&[root, ("a.rs", "use crate::Failure;")], &[&["a", "crate"]]);
    }

    #[test]
    fn tests_and_documents_do_not_count() {
        for a in ["/// As [`crate::b::B`].\nstruct A;", "#[cfg(test)] mod tests { use crate::b; }"] {
            check(&[LIB, ("a.rs", a), ("b.rs", "use crate::a;"), ("c.rs", "")], &[]);
        }
        let (a, tests) = (("a.rs", "#[cfg(test)]\nmod tests;"), ("a/tests.rs", "use crate::b;"));
        check(&[LIB, a, tests, ("b.rs", "use crate::a;"), ("c.rs", "")], &[]);
    }
}
