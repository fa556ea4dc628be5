//! What the catalog says, and what a catalog of a user may say.

use tandem_core::BackendKind;

use super::*;

/// Weights of a model of this form, by the layers of transformers' `modeling_{qwen2,qwen3,llama,gemma3,bert,xlm_roberta,modernbert}.py`.
fn parameters(entry: &CatalogEntry) -> u64 {
    let (hidden, inner, layers) = (entry.hidden_size, entry.intermediate_size, entry.layers);
    let (queries, keys) = (entry.heads * entry.head_dim, entry.kv_heads * entry.head_dim);
    let embedding = entry.vocabulary * hidden;
    if entry.architecture == "modernbert" {
        return (embedding + hidden + layers * (4 * hidden * hidden + 3 * hidden * inner + 2 * hidden)) as u64;
    }
    if entry.architecture == "bert" || entry.architecture == "xlm-roberta" {
        let layer = 4 * (hidden * hidden + hidden) + 2 * hidden * inner + inner + hidden + 4 * hidden;
        // Two types and no rows before the first position, or one type and two.
        let tables = (entry.context + if entry.architecture == "bert" { 2 } else { 3 }) * hidden;
        // Of a reranker's head, the same matrix has another name.
        let head = if entry.kind == Kind::Reranking { hidden + 1 } else { 0 };
        return (embedding + tables + 2 * hidden + layers * layer + hidden * hidden + hidden + head) as u64;
    }
    let bias = if entry.architecture == "qwen2" { queries + 2 * keys } else { 0 };
    let is_gemma = entry.architecture == "gemma3_text";
    let qk_norms = if entry.architecture == "qwen3" || is_gemma { 2 * entry.head_dim } else { 0 };
    let norms = if is_gemma { 4 * hidden } else { 2 * hidden };
    let layer = hidden * (queries + 2 * keys) + queries * hidden + 3 * hidden * inner + norms + bias + qk_norms;
    let heads = if entry.tied_head { 1 } else { 2 };
    (heads * embedding + layers * layer + hidden) as u64
}

#[test]
fn the_list_is_whole() {
    let catalog = Catalog::builtin();
    for entry in catalog.entries() {
        entry.check("builtin.toml").unwrap();
        assert_eq!(parameters(entry), entry.parameters, "{}", entry.name);
        assert!(!entry.good_at.is_empty() && entry.good_at.len() <= 60, "{}: `{}`", entry.name, entry.good_at);
        assert_eq!(entry.heads % entry.kv_heads, 0, "{}", entry.name);
        assert_eq!(catalog.entries().iter().filter(|other| other.name == entry.name).count(), 1, "{}", entry.name);
    }
    for family in ["qwen2.5", "qwen2.5-coder", "qwen3", "llama3.2", "qwen3-embedding", "all-minilm", "bge", "bge-reranker"] {
        assert!(catalog.find(family).is_some(), "{family}");
    }
}

#[test]
fn names_are_found_exactly_or_by_family() {
    let catalog = Catalog::builtin();
    let check = |name: &str, expected: Option<&str>| {
        assert_eq!(catalog.find(name).map(|entry| entry.name.as_str()), expected, "{name}");
    };
    check("qwen2.5:1.5b", Some("qwen2.5:1.5b"));
    check("Qwen2.5:1.5B", Some("qwen2.5:1.5b"));
    check("qwen3", Some("qwen3:0.6b"));
    check("qwen2.5:70b", None);
    check("demo", None);
}

#[test]
fn a_name_is_neither_a_path_nor_a_repository() {
    let check = |reference: &str, expected: bool| assert_eq!(Catalog::is_name(reference), expected, "{reference}");
    check("qwen3:0.6b", true);
    check("./qwen3:0.6b", false);
    check("Qwen/Qwen3-0.6B", false);
    check("C:", false);
    check("demo", false);
}

#[test]
fn each_backend_has_its_repository() {
    let catalog = Catalog::builtin();
    let of = |name: &str, backend| catalog.find(name).unwrap().repository(backend).to_owned();
    assert_eq!(of("qwen3:0.6b", BackendKind::Onnx), "onnx-community/Qwen3-0.6B-ONNX");
    assert_eq!(of("qwen3:0.6b", BackendKind::Candle), "Qwen/Qwen3-0.6B");
    assert_eq!(of("qwen3:8b", BackendKind::Onnx), "Qwen/Qwen3-8B", "without graphs one is made of the checkpoint");
}

#[test]
fn an_unknown_name_is_told_its_neighbours() {
    let error = Catalog::builtin().unknown("qwen2.5:1.5");
    assert_eq!(error.to_string(), "no model `qwen2.5:1.5`: the catalog has no such name");
    assert!(error.hint().unwrap().to_string().contains("`qwen2.5:1.5b`"), "{error:?}");
    assert!(Catalog::builtin().unknown("nothing-like-it:9").hint().unwrap().to_string().contains("`llama3.2:1b`"));
}

#[test]
fn own_entries_come_first_and_are_checked() {
    let own = || CatalogEntry { name: "mine:1b".into(), ..Catalog::builtin().entries()[0].clone() };
    let with = |own: Vec<CatalogEntry>| Catalog::builtin().with_own(own, "tandem.toml");
    let catalog = with(vec![own()]).unwrap();
    assert_eq!(catalog.entries()[0].name, "mine:1b");
    assert_eq!(catalog.entries().len(), Catalog::builtin().entries().len() + 1);

    let replaced = CatalogEntry { name: "qwen3:8b".into(), licence: "own".into(), ..own() };
    assert_eq!(with(vec![replaced]).unwrap().find("qwen3:8b").unwrap().licence, "own");

    let check = |own: Vec<CatalogEntry>, expected: &str| assert_eq!(with(own).unwrap_err().to_string(), expected);
    check(
        vec![CatalogEntry { name: "Mine".into(), ..own() }],
        "`tandem.toml`: field `model.name`: `Mine` is not `family:size` in lower case",
    );
    check(vec![own(), own()], "`tandem.toml`: field `model.name`: `mine:1b` stands there twice");
    check(
        vec![CatalogEntry { checkpoint: "../x".into(), ..own() }],
        "`tandem.toml`: field `model.checkpoint`: `../x` of `mine:1b` is not of the form `owner/name`",
    );
    check(
        vec![CatalogEntry { layers: 0, ..own() }],
        "`tandem.toml`: field `model.layers`: `0` of `mine:1b` is not within 1 and 4194304",
    );
}
