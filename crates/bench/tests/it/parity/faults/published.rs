//! Graphs that others made show where they part as well.

use tandem_bench::parity::{BisectReport, Finding};
use tandem_core::backend::Numerics;
use tandem_core::{BackendKind, DType};

use super::edit::Copy;
use super::{assert_found, compare};
use crate::support::{Loaded, for_faults, shown, skips};

/// Every graph of f32 in the goldens, by writer.
const GRAPHS: [(&str, &str); 9] = [
    ("qwen2-tied", "genai_f32/model.onnx"),
    ("qwen2-tied", "optimum_f32/model.onnx"),
    ("qwen2-untied", "genai_f32/model.onnx"),
    ("qwen2-untied", "optimum_f32/model.onnx"),
    ("qwen3", "genai_f32/model.onnx"),
    ("qwen3", "optimum_f32/model.onnx"),
    ("llama3-rope", "genai_f32/model.onnx"),
    ("mistral", "optimum_f32/model.onnx"),
    ("onnx-community", "model.onnx"),
];

fn candle(reference: &str) -> Loaded {
    Loaded::new(reference, BackendKind::Candle, DType::F32, Numerics::Fast)
}

/// Stages of the first layer that were held against each other.
fn stages(bisect: &BisectReport) -> Vec<&'static str> {
    bisect.stages.iter().filter(|stage| stage.layer == Some(0)).map(|stage| stage.stage).collect()
}

#[test]
fn every_stage_of_a_sound_graph_is_as_it_should_be() {
    if skips() {
        return;
    }
    for (golden, graph) in GRAPHS {
        let reference = candle(golden);
        let pair = compare(&reference, &Loaded::published(golden, graph), for_faults());
        let all = format!("{golden} {graph}\n{}", shown(&reference, &pair));
        let bisect = pair.bisect.as_ref().expect(&all);
        assert_eq!(bisect.finding, Finding::Nothing, "{all}");
        let mut expected = vec!["attention_norm", "query", "key", "value"];
        if golden == "qwen3" {
            expected.extend(["query_norm", "key_norm"]);
        }
        expected.extend(["key_rope", "attention_context", "attention_output", "attention_residual", "mlp_norm", "gate", "up"]);
        expected.extend(["activation", "down", "mlp_residual"]);
        assert_eq!(stages(bisect), expected, "{all}");
        for outside in ["embedding", "final_norm", "logits"] {
            assert!(bisect.stages.iter().any(|stage| stage.stage == outside), "{outside}: {all}");
        }
    }
}

#[test]
fn weight_comparison_names_what_differs_from_the_checkpoint() {
    if skips() {
        return;
    }
    let check = |golden: &str, graphs: [&str; 2], layer, stage: &str, edit: &dyn Fn(&mut Copy)| {
        // The checkpoint is the one that is changed: to it, the graph is at fault.
        let mut copy = Copy::new(golden);
        edit(&mut copy);
        let reference = candle(copy.write());
        for graph in graphs {
            let pair = compare(&reference, &Loaded::published(golden, graph), for_faults());
            assert_found(&reference, &pair, layer, stage);
        }
    };
    let f32 = ["genai_f32/model.onnx", "optimum_f32/model.onnx"];
    let scaled = |values: &mut [f32]| values.iter_mut().for_each(|value| *value *= 1.5);
    check("qwen2-tied", f32, Some(0), "key_rope", &|copy| copy.config("rope_theta", 10_000.0));
    check("qwen2-tied", f32, Some(1), "query", &|copy| copy.weight("model.layers.1.self_attn.q_proj.bias", scaled));
    check("qwen2-untied", f32, Some(0), "attention_output", &|copy| {
        copy.weight("model.layers.0.self_attn.o_proj.weight", scaled);
    });
    check("qwen3", f32, Some(1), "key_norm", &|copy| copy.weight("model.layers.1.self_attn.k_norm.weight", scaled));
    check("llama3-rope", f32, Some(1), "down", &|copy| copy.weight("model.layers.1.mlp.down_proj.weight", scaled));
}

#[test]
fn quantised_graphs_show_their_stages() {
    if skips() {
        return;
    }
    let graphs = [
        ("qwen2-tied", "genai_int4/model.onnx"),
        ("qwen2-tied", "optimum_int8/model.onnx"),
        ("qwen3", "optimum_int8/model.onnx"),
        ("onnx-community", "model_fp16.onnx"),
        ("onnx-community", "model_q4f16.onnx"),
        ("onnx-community", "model_int8.onnx"),
    ];
    for (golden, graph) in graphs {
        let reference = candle(golden);
        let pair = compare(&reference, &Loaded::published(golden, graph), for_faults());
        let all = format!("{golden} {graph}\n{}", shown(&reference, &pair));
        let found = stages(pair.bisect.as_ref().expect(&all));
        assert!(found.len() >= 14, "{found:?} of {all}");
    }
}
