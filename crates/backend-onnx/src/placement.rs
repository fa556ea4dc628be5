//! Which execution provider runs which nodes, as the engine recorded it when the session was created.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr;

use ort::AsPointer;
use ort::session::Session;
use tandem_core::Device;
use tandem_core::backend::Placement;
use tandem_onnx_graph::OPERATOR_DOMAIN;

use crate::device::provider_name;

/// The configuration entry that has the engine record it.
pub(crate) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// Reads the record of `session`; the provider with the most nodes comes first.
///
/// # Errors
/// When the session was created without [`RECORD`].
#[expect(unsafe_code, reason = "ort has no safe form of these calls")]
pub(crate) fn read(session: &Session) -> ort::Result<Vec<Placement>> {
    let api = ort::api();
    let mut providers: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    // SAFETY: the arrays and strings belong to the session, which outlives this function; each is read only after the call that fills it
    // has succeeded.
    unsafe {
        for &subgraph in list(|items, n| (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), items, n))? {
            let provider = text(|out| (api.EpAssignedSubgraph_GetEpName)(subgraph, out))?;
            let operators = providers.entry(provider).or_default();
            for &node in list(|items, n| (api.EpAssignedSubgraph_GetNodes)(subgraph, items, n))? {
                let operator = text(|out| (api.EpAssignedNode_GetOperatorType)(node, out))?;
                let is_own = text(|out| (api.EpAssignedNode_GetDomain)(node, out))? == OPERATOR_DOMAIN;
                let operator = if is_own { format!("{OPERATOR_DOMAIN}.{operator}") } else { operator };
                *operators.entry(operator).or_default() += 1;
            }
        }
    }
    let mut placements: Vec<Placement> = providers
        .into_iter()
        .map(|(provider, operators)| {
            let mut operators: Vec<_> = operators.into_iter().collect();
            operators.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            Placement { provider, n_nodes: operators.iter().map(|(_, n)| n).sum(), operators }
        })
        .collect();
    placements.sort_by_key(|p| std::cmp::Reverse(p.n_nodes));
    Ok(placements)
}

/// How many nodes run on Tandem's own kernels, and how many there are.
pub(crate) fn own_nodes(placements: &[Placement]) -> [usize; 2] {
    let is_own = |operator: &str| operator.split_once('.').is_some_and(|(domain, _)| domain == OPERATOR_DOMAIN);
    let own = placements.iter().flat_map(|placed| &placed.operators).filter(|(operator, _)| is_own(operator));
    [own.map(|(_, n)| n).sum(), placements.iter().map(|placed| placed.n_nodes).sum()]
}

/// The share of all nodes, 0 to 1, that `provider` runs.
pub(crate) fn share(placements: &[Placement], provider: &str) -> f64 {
    let nodes = |of: &mut dyn Iterator<Item = &Placement>| of.map(|p| p.n_nodes).sum::<usize>() as f64;
    let all = nodes(&mut placements.iter());
    if all == 0.0 { 1.0 } else { nodes(&mut placements.iter().filter(|p| p.provider == provider)) / all }
}

/// Those of the operators with most of a model's arithmetic that the processor was given although `device` is another, with their numbers.
pub(crate) fn left_to_processor(placements: &[Placement], device: Device) -> Vec<(String, usize)> {
    const ARITHMETIC: [&str; 7] =
        ["MatMul", "Gemm", "MatMulNBits", "MatMulInteger", "GroupQueryAttention", "MultiHeadAttention", "Attention"];
    let processor = provider_name(Device::Cpu);
    let operators = placements.iter().filter(|p| device != Device::Cpu && p.provider == processor).flat_map(|p| &p.operators);
    operators.filter(|(operator, _)| ARITHMETIC.contains(&operator.as_str())).cloned().collect()
}

/// # Safety
/// `fill` writes a pointer to an array that outlives `'a`, and its length.
#[expect(unsafe_code, reason = "reads an array of the engine")]
unsafe fn list<'a, T>(fill: impl FnOnce(*mut *const T, *mut usize) -> ort::sys::OrtStatusPtr) -> ort::Result<&'a [T]> {
    let (mut items, mut n) = (ptr::null(), 0);
    let status = fill(&raw mut items, &raw mut n);
    // SAFETY: on success the engine has written a pointer to `n` items, which live for `'a` by the contract of this function.
    unsafe {
        ort::Error::result_from_status(status)?;
        Ok(if n == 0 || items.is_null() { &[] } else { std::slice::from_raw_parts(items, n) })
    }
}

/// # Safety
/// `fill` writes a pointer to a string that is alive until it is copied here.
#[expect(unsafe_code, reason = "reads a string of the engine")]
unsafe fn text(fill: impl FnOnce(*mut *const c_char) -> ort::sys::OrtStatusPtr) -> ort::Result<String> {
    let mut out = ptr::null();
    let status = fill(&raw mut out);
    // SAFETY: on success the engine has written null or a pointer to a string that ends with a zero byte, and it is copied at once.
    unsafe {
        ort::Error::result_from_status(status)?;
        Ok(if out.is_null() { String::new() } else { CStr::from_ptr(out).to_string_lossy().into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_nodes_are_those_of_the_domain() {
        let operators = [("tandem.MatMulNBits", 9), ("MatMulNBits", 2), ("Add", 1)].map(|(name, n)| (name.to_owned(), n));
        let placed = Placement { provider: "CPUExecutionProvider".into(), n_nodes: 12, operators: operators.into() };
        assert_eq!(own_nodes(&[placed]), [9, 12]);
    }

    #[test]
    fn arithmetic_on_the_processor_is_named_for_other_devices() {
        let placed = |provider: &str, operators: &[(&str, usize)]| Placement {
            provider: provider.into(),
            n_nodes: operators.iter().map(|(_, n)| n).sum(),
            operators: operators.iter().map(|(name, n)| ((*name).into(), *n)).collect(),
        };
        let placements = [
            placed("CUDAExecutionProvider", &[("MatMul", 49)]),
            placed("CPUExecutionProvider", &[("GroupQueryAttention", 24), ("Gather", 2)]),
        ];
        assert_eq!(left_to_processor(&placements, Device::Cuda(0)), [("GroupQueryAttention".to_owned(), 24)]);
        assert!(left_to_processor(&placements, Device::Cpu).is_empty());
    }
}
