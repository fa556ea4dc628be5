//! Sessions that share forward passes get what each gets alone, to the bit; so does a prompt in any chunks of more than 8 tokens, or in any
//! parts.

use std::num::NonZeroUsize;

use tandem_core::adapter::ScaledAdapter;
use tandem_core::backend::{Append, Numerics};
use tandem_core::conformance::{
    adapter_of_two_modules, batches_have_the_bits_of_each_alone, parts_have_the_bits_of_whole_prompts, session_of, text,
};
use tandem_core::sequence::LEAST_CHUNK;
use tandem_core::{DType, LoadOptions, Logits, LogitsRequest};

use crate::{edited, golden, load};

fn options(dtype: DType, numerics: Numerics, threads: usize) -> LoadOptions {
    LoadOptions::new().with_dtype(dtype).with_numerics(numerics).with_threads(NonZeroUsize::new(threads).unwrap())
}

#[test]
fn batched_sessions_get_the_bits_of_each_alone() {
    for name in ["qwen2-tied", "qwen3", "llama3-rope", "mistral-window", "gemma2-window", "gemma3", "phi3"] {
        for (dtype, numerics) in [
            (DType::F32, Numerics::Exact),
            (DType::Int8, Numerics::Fast),
            (DType::Int4, Numerics::Fast),
            (DType::Int4, Numerics::Exact),
        ] {
            for threads in [1, 2] {
                let model = load(&golden(name), &options(dtype, numerics, threads)).unwrap();
                batches_have_the_bits_of_each_alone(&*model, &format!("{name}, {dtype}, {numerics:?}, {threads} threads"));
            }
        }
    }
}

#[test]
fn sessions_that_need_several_passes_get_the_bits_of_each_alone() {
    let directory = edited("mistral-window", |config| config["max_position_embeddings"] = 2048.into(), |_| true);
    for dtype in [DType::F32, DType::Int4] {
        batches_have_the_bits_of_each_alone(
            &*load(directory.path(), &options(dtype, Numerics::Fast, 2)).unwrap(),
            &format!("long, {dtype}"),
        );
    }
}

#[test]
fn batched_sessions_with_an_adapter_get_the_bits_of_each_alone() {
    for dtype in [DType::F32, DType::Int4] {
        let model = load(&golden("qwen2-untied"), &options(dtype, Numerics::Fast, 2)).unwrap();
        let config = tandem_core::files::ModelFiles::discover(&golden("qwen2-untied"), "model").unwrap().model_config().unwrap();
        let adapter = adapter_of_two_modules(&config);
        let adapted = model.with_adapters(&[ScaledAdapter::new(adapter)]).unwrap();
        batches_have_the_bits_of_each_alone(&*adapted, &format!("adapted, {dtype}"));
        let (mut own, mut other) = (session_of(&*adapted, &[1]), session_of(&*model, &[1]));
        let [mut first, mut second] = [Logits::default(), Logits::default()];
        let results = adapted.append_batch(&mut [
            Append::new(&mut *own, &[2], LogitsRequest::Last(1), &mut first),
            Append::new(&mut *other, &[2], LogitsRequest::Last(1), &mut second),
        ]);
        assert!(results[0].is_ok() && results[1].is_err(), "a session of the base is of another batch");
    }
}

#[test]
fn prompts_in_chunks_have_the_bits_of_whole_ones() {
    for name in ["qwen2-tied", "mistral-window", "gemma2-window", "gemma3"] {
        let directory = edited(name, |config| config["max_position_embeddings"] = 700.into(), |_| true);
        for dtype in [DType::F32, DType::Int4] {
            let model = load(directory.path(), &options(dtype, Numerics::Fast, 2)).unwrap();
            let all = text(512, 1);
            let whole = session_of(&*model, &[]).append(&all, LogitsRequest::Last(1)).unwrap();
            for chunk in [LEAST_CHUNK, 17, 100, 241] {
                let (mut session, mut rest) = (session_of(&*model, &[]), &all[..]);
                while rest.len() >= 2 * chunk {
                    session.append(&rest[..chunk], LogitsRequest::None).unwrap();
                    rest = &rest[chunk..];
                }
                let last = session.append(rest, LogitsRequest::Last(1)).unwrap();
                assert!(last == whole, "{name}, {dtype}: chunks of {chunk}");
            }
        }
    }
}

#[test]
fn prompts_in_parts_have_the_bits_of_whole_ones() {
    for name in ["qwen2-tied", "llama3-rope", "mistral-window", "gemma2-window", "gemma3", "phi3"] {
        let directory = edited(name, |config| config["max_position_embeddings"] = 700.into(), |_| true);
        for (dtype, numerics, n) in [
            (DType::F32, Numerics::Exact, 330),
            (DType::Int8, Numerics::Fast, 90),
            (DType::Int4, Numerics::Fast, 90),
            (DType::Int4, Numerics::Exact, 40),
        ] {
            let model = load(directory.path(), &options(dtype, numerics, 2)).unwrap();
            parts_have_the_bits_of_whole_prompts(&*model, n, &format!("{name}, {dtype}, {numerics:?}"));
        }
    }
}

#[test]
fn prompts_in_parts_with_an_adapter_have_the_bits_of_whole_ones() {
    let directory = golden("qwen2-untied");
    let config = tandem_core::files::ModelFiles::discover(&directory, "model").unwrap().model_config().unwrap();
    for dtype in [DType::F32, DType::Int4] {
        let model = load(&directory, &options(dtype, Numerics::Fast, 2)).unwrap();
        let adapted = model.with_adapters(&[ScaledAdapter::new(adapter_of_two_modules(&config))]).unwrap();
        parts_have_the_bits_of_whole_prompts(&*adapted, 60, &format!("adapted, {dtype}"));
    }
}
