//! Every kind of reference, and names that are nothing.

use std::path::Path;

use tandem::catalog::{Catalog, CatalogEntry};
use tandem::machine::Memory;
use tandem::plan::{Choice, Measurements};
use tandem::{BackendKind, Error, ModelRef, OpenedModel, Resolver, Settings};

use crate::support::{engines, golden, hub_cache, on, resolver};

#[test]
fn references_are_parsed_in_one_order() {
    let check = |text: &str, expected: &str| {
        let reference = ModelRef::from(text);
        let kind = match &reference {
            ModelRef::BuiltIn => "built-in",
            ModelRef::Local(_) => "local",
            ModelRef::Hub(_) => "hub",
            ModelRef::Auto => "auto",
            ModelRef::Catalog(_) => "catalog",
            _ => "another",
        };
        assert_eq!(kind, expected, "{text}");
        assert_eq!(reference.to_string(), text);
        assert_eq!(text.parse::<ModelRef>().unwrap(), reference);
    };
    check("demo", "built-in");
    check("./demo", "local");
    check("/no/such/place", "local");
    check("model_q4.onnx", "local");
    check("x.gguf", "local");
    check(golden("qwen3").to_str().unwrap(), "local");
    // A directory that exists is meant before a repository of its name.
    check("src/catalog", "local");
    check("Qwen/Qwen3-0.6B", "hub");
    check("owner/name@v1", "hub");
    check("owner/name:Q4_K_M", "hub");
    check("owner/name:model.gguf", "hub");
    check("auto", "auto");
    check("qwen2.5:0.5b", "catalog");
    check("anything", "catalog");
    assert_eq!(ModelRef::from(Path::new("owner/name")), ModelRef::Local("owner/name".into()));
}

#[test]
fn catalog_names_resolve_to_the_repository_of_the_backend() {
    let of = |kind, name: &str| resolver().resolve(&name.into(), &on(kind)).unwrap();
    let candle = of(BackendKind::Candle, "qwen3:0.6b");
    assert_eq!(candle.model.to_string(), "Qwen/Qwen3-0.6B");
    let onnx = of(BackendKind::Onnx, "qwen3");
    assert_eq!(onnx.model.to_string(), "onnx-community/Qwen3-0.6B-ONNX");
    let both: Vec<String> = onnx.repositories().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(both, ["Qwen/Qwen3-0.6B", "onnx-community/Qwen3-0.6B-ONNX"]);
    assert_eq!(onnx.into_checkpoint().unwrap().model.to_string(), "Qwen/Qwen3-0.6B");
}

#[test]
fn a_users_own_entries_are_found() {
    let own = CatalogEntry { name: "mine:1b".into(), checkpoint: "me/mine".into(), ..Catalog::builtin().entries()[0].clone() };
    let catalog = Catalog::builtin().with_own(vec![own], "tandem.toml").unwrap();
    let resolved = Resolver::new(catalog).resolve(&"mine:1b".into(), &on(BackendKind::Candle)).unwrap();
    assert_eq!(resolved.model.to_string(), "me/mine");
    let error = Catalog::builtin().with_toml("[[model]]\nlayer = 2", "tandem.toml").unwrap_err();
    assert!(error.to_string().starts_with("`tandem.toml`: field `model`: unknown field `layer`"), "{error}");
    assert!(Catalog::builtin().with_toml("threads = 2", "tandem.toml").is_ok(), "other keys are not the catalog's");
}

#[test]
fn wrong_names_are_offered_what_is_near() {
    let check = |name: &str, reason: &str, hint: &str| {
        let error = resolver().resolve(&name.into(), &Settings::default()).unwrap_err();
        assert!(matches!(error, Error::ModelNotFound { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.hint().unwrap().to_string().contains(hint), "{:?}", error.hint());
    };
    check("dmeo", "nor of the form `owner/name[@revision]`", "did you mean `demo`?");
    check("qwen2.5:1.5", "the catalog has no such name", "`qwen2.5:1.5b`");
    check("something-else-entirely", "it is neither the built-in model", "name `demo`");
    let error = resolver().find(&resolver().resolve(&"./nowhere".into(), &Settings::default()).unwrap(), &Settings::default());
    assert!(error.unwrap_err().to_string().contains("no file or directory `./nowhere`"));
}

#[test]
fn what_is_on_this_machine_is_not_on_the_hub() {
    for (text, reason) in [("demo", "part of the program"), ("./model", "a path on this machine")] {
        let resolved = resolver().resolve(&text.into(), &Settings::default()).unwrap();
        let error = resolved.repository().unwrap_err().to_string();
        assert!(error.contains(reason) && resolved.repositories().is_err(), "{error}");
    }
}

#[test]
fn auto_is_the_largest_that_fits_and_is_fast() {
    for settings in engines() {
        let of = |gibibytes: u64, bandwidth| {
            let resolver = resolver().with_memory(Memory::of_machine_with(gibibytes << 30)).with_bandwidth(bandwidth);
            resolver.choose(&settings).unwrap()
        };
        let chosen = |choice: &Choice| choice.chosen().unwrap().clone();
        let (fast, slow, slowest) = (of(16, 1e12), of(16, 15e9), of(16, 1e8));
        assert!(fast.candidates.is_sorted_by(|a, b| a.entry.parameters >= b.entry.parameters));
        let licences = fast.candidates.iter().map(|candidate| candidate.entry.licence.as_str());
        assert!(licences.clone().all(|licence| licence == "apache-2.0"), "what needs a token is named by its name only");
        assert_eq!(fast.chosen, fast.candidates.iter().position(|candidate| candidate.estimate.fits), "memory alone decides");
        assert!(
            chosen(&slow).entry.parameters < chosen(&fast).entry.parameters && chosen(&slow).estimate.tokens_per_second >= 10.0
        );
        assert_eq!(slowest.chosen, Some(slowest.candidates.len() - 1), "nothing is fast enough");
        assert!(chosen(&of(4, 1e12)).entry.parameters < chosen(&fast).entry.parameters);

        let resolver = resolver().with_memory(Memory::of_machine_with(1 << 29));
        let error = resolver.resolve(&ModelRef::Auto, &settings).unwrap_err();
        assert!(error.to_string().contains("no model of the catalog fits"), "{error}");
        assert!(error.hint().unwrap().to_string().contains("`qwen2.5:0.5b` takes "), "{:?}", error.hint());
    }
}

#[test]
fn models_of_the_hub_are_found_in_its_cache() {
    let (_cache, hub) = hub_cache();
    for settings in engines() {
        let resolver = resolver().with_hub(hub.clone());
        let model = resolver.load(&"owner/name".into(), &settings).unwrap();
        assert_eq!((model.info().name.as_str(), Some(model.info().backend)), ("owner/name", settings.backend));
        let error = resolver.load(&"owner/other".into(), &settings).err().unwrap();
        assert!(error.to_string().contains("no model `owner/other`: `HF_HUB_OFFLINE` is set"), "{error}");
    }
}

#[test]
fn an_opened_model_knows_what_it_is() {
    for settings in engines() {
        let files = tandem::find(golden("qwen2-tied").as_path()).unwrap();
        let opened = OpenedModel::open(files, &settings).unwrap();
        assert_eq!((opened.config().n_layers, opened.dtype()), (2, tandem::DType::F32));
        let plan = opened.planner().plan(64, &Measurements::default()).unwrap();
        assert!(plan.peak() > 1_000_000 && plan.to_string().contains("engine "), "{plan}");
        assert_eq!(opened.load().unwrap().info().n_layers, 2);
    }
}
