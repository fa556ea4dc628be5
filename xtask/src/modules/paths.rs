//! The paths of Rust files that lead into other modules of their crate, read from tokens, so that those within macros count too.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// The module of what `lib.rs` or `main.rs` defines itself.
pub(super) const ROOT: &str = "crate";

/// One file.
pub(super) struct Source {
    /// Its path from the crate's own directory.
    pub(super) file: String,
    /// Its top-level module.
    pub(super) module: String,
    /// Its paths from the root of the crate.
    pub(super) paths: Vec<RootPath>,
    /// In the root: the names that it re-exports, with the module of each.
    pub(super) exports: Vec<(String, String)>,
    /// Modules for tests that it declares, each with its path.
    tests: Vec<Vec<String>>,
}

/// A path from the root of the crate, of which only the beginning matters here.
pub(super) struct RootPath {
    pub(super) segment: String,
    pub(super) line: usize,
}

/// Reads every file below `directory`, a crate's `src`, but those that are compiled for tests only.
pub(super) fn read(directory: &Path) -> Result<Vec<Source>> {
    let mut files = Vec::new();
    collect(directory, &mut Vec::new(), &mut files)?;
    let top: BTreeSet<String> = files.iter().filter_map(|(module, _)| module.first().cloned()).collect();
    let mut sources = Vec::new();
    for (module, file) in &files {
        let text = fs::read_to_string(file).with_context(|| format!("`{}`", file.display()))?;
        let tokens = TokenStream::from_str(&text).map_err(|error| anyhow!("`{}`: {error}", file.display()))?;
        let shown = file.strip_prefix(directory.parent().unwrap_or(directory)).unwrap_or(file).display().to_string();
        let name = module.first().map_or(ROOT, String::as_str).to_owned();
        let mut source = Source { file: shown, module: name, paths: Vec::new(), exports: Vec::new(), tests: Vec::new() };
        Reader { source: &mut source, top: &top, module: module.clone() }.read(tokens);
        sources.push(source);
    }
    let tests: Vec<Vec<String>> = sources.iter().flat_map(|source| source.tests.clone()).collect();
    let is_test = |module: &[String]| tests.iter().any(|test| module.starts_with(test));
    Ok(sources.into_iter().zip(files).filter(|(_, (module, _))| !is_test(module)).map(|(source, _)| source).collect())
}

/// The Rust files below `directory`, each with the path of its module.
fn collect(directory: &Path, module: &mut Vec<String>, files: &mut Vec<(Vec<String>, std::path::PathBuf)>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("`{}`", directory.display()))?;
    let mut paths: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    for path in paths {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_root = module.is_empty() && matches!(stem.as_str(), "lib" | "main");
        if path.is_dir() {
            module.push(stem);
            collect(&path, module, files)?;
            module.pop();
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let own = if is_root { vec![] } else { [module.clone(), vec![stem]].concat() };
            files.push((own, path));
        }
    }
    Ok(())
}

struct Reader<'a> {
    source: &'a mut Source,
    /// The crate's top-level modules.
    top: &'a BTreeSet<String>,
    /// The module that is being read.
    module: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = self.step(&tokens, at);
        }
    }

    /// Reads what begins at `at`; where the next begins.
    fn step(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        if let Some(attribute) = attribute(&tokens[at..]) {
            if is_for_tests(attribute) {
                return self.skip_item(tokens, at + 2);
            }
            self.read_quoted_paths(attribute.stream());
            return at + 2;
        }
        match &tokens[at] {
            TokenTree::Ident(word) if word == "mod" => self.read_module(tokens, at),
            TokenTree::Ident(word) if word == "use" => self.read_use(tokens, at),
            TokenTree::Ident(_) if is_separator(tokens, at + 1) && !is_after_separator(tokens, at) => {
                let mut leaves = Vec::new();
                let end = tree(&[], tokens, at, &mut leaves);
                self.add(leaves);
                end
            }
            TokenTree::Group(group) => {
                self.read(group.stream());
                at + 1
            }
            _ => at + 1,
        }
    }

    /// `mod name { … }` is read as the module that it is; of `mod name;` there is nothing to read.
    fn read_module(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) = (tokens.get(at + 1), tokens.get(at + 2)) {
            self.module.push(name.to_string());
            self.read(body.stream());
            self.module.pop();
            return at + 3;
        }
        at + 1
    }

    /// In the root, `pub use` says where a name comes from, and any other one brings what the root needs itself.
    fn read_use(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let mut leaves = Vec::new();
        let end = tree(&[], tokens, at + 1, &mut leaves);
        let is_public = match tokens[..at] {
            [.., TokenTree::Ident(ref word)] => word == "pub",
            [.., TokenTree::Ident(ref word), TokenTree::Group(ref group)] => {
                word == "pub" && group.delimiter() == Delimiter::Parenthesis
            }
            _ => false,
        };
        if self.module.is_empty() && is_public {
            for leaf in leaves {
                let path = self.within_crate(&leaf.path);
                if let (Some(module), Some(name)) = (path.and_then(|path| path.first().cloned()), leaf.name) {
                    self.source.exports.push((name, module));
                }
            }
        } else {
            self.add(leaves);
        }
        end
    }

    /// Notes the leaves that lead to the root of the crate or below.
    fn add(&mut self, leaves: Vec<Leaf>) {
        for leaf in leaves {
            if let Some(segment) = self.within_crate(&leaf.path).and_then(|path| path.first().cloned()) {
                self.source.paths.push(RootPath { segment, line: leaf.line });
            }
        }
    }

    /// A path as it is from the root of the crate, when it is within the crate.
    fn within_crate(&self, path: &[String]) -> Option<Vec<String>> {
        let n_super = path.iter().take_while(|segment| *segment == "super").count();
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "super" => {
                let parent = self.module.get(..self.module.len().checked_sub(n_super)?)?;
                Some([parent, &path[n_super..]].concat())
            }
            "self" => Some([&self.module, rest].concat()),
            module if self.module.is_empty() && self.top.contains(module) => Some(path.to_vec()),
            _ => None,
        }
    }

    /// Paths within the texts of an attribute, such as `#[serde(with = "crate::a")]`.
    fn read_quoted_paths(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.read_quoted_paths(group.stream()),
                TokenTree::Literal(literal) => {
                    let line = literal.span().start().line;
                    let text = literal.to_string();
                    if let Some(path) = text.trim_matches('"').strip_prefix("crate::") {
                        let segment = path.split("::").next().unwrap_or(path).to_owned();
                        self.source.paths.push(RootPath { segment, line });
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }

    /// Passes over an item for tests, and notes a module that lies in a file of its own.
    fn skip_item(&mut self, tokens: &[TokenTree], start: usize) -> usize {
        let mut at = start;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ';' => {
                    if let [.., TokenTree::Ident(word), TokenTree::Ident(name)] = &tokens[start..at]
                        && word == "mod"
                    {
                        self.source.tests.push([&self.module[..], &[name.to_string()]].concat());
                    }
                    return at + 1;
                }
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return at + 1,
                _ => at += 1,
            }
        }
        at
    }
}

/// The end of a path, and the name that a `use` gives to it.
struct Leaf {
    path: Vec<String>,
    name: Option<String>,
    line: usize,
}

/// Reads a path that begins at `at`, with all branches of its braces; where it ends.
fn tree(prefix: &[String], tokens: &[TokenTree], mut at: usize, leaves: &mut Vec<Leaf>) -> usize {
    let mut path = prefix.to_vec();
    let mut line = 0;
    loop {
        match tokens.get(at) {
            Some(TokenTree::Ident(segment)) => {
                line = segment.span().start().line;
                path.push(segment.to_string());
                at += 1;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let branches: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in branches.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
                    if !branch.is_empty() {
                        tree(&path, branch, 0, leaves);
                    }
                }
                return at + 1;
            }
            _ => break,
        }
        if !is_separator(tokens, at) {
            break;
        }
        at += 2;
    }
    if path.len() > prefix.len().max(1) && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    let renamed = match (tokens.get(at), tokens.get(at + 1)) {
        (Some(TokenTree::Ident(word)), Some(TokenTree::Ident(name))) if word == "as" => Some(name.to_string()),
        _ => None,
    };
    if !path.is_empty() {
        let name = renamed.or_else(|| path.last().cloned());
        leaves.push(Leaf { path, name, line });
    }
    at
}

/// `#[…]` or the brackets of `#![…]` at the beginning of `tokens`.
fn attribute(tokens: &[TokenTree]) -> Option<&Group> {
    match tokens {
        [TokenTree::Punct(hash), TokenTree::Group(group), ..] if hash.as_char() == '#' => {
            (group.delimiter() == Delimiter::Bracket).then_some(group)
        }
        _ => None,
    }
}

/// `cfg(test)` and `cfg(all(test, …))`.
fn is_for_tests(attribute: &Group) -> bool {
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let is_colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    is_colon(tokens.get(at)) && is_colon(tokens.get(at + 1))
}

fn is_after_separator(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && is_separator(tokens, at - 2)
}
