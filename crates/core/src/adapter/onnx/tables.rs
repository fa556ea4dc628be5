//! The tables of the flatbuffer: `onnxruntime/lora/adapter_format/adapter_schema.fbs` of ONNX Runtime, read with a verifier.
//!
//! ```text
//! table Parameter { name: string; dims: [int64]; data_type: int32; raw_data: [uint8] (force_align: 8); }
//! table Adapter { format_version: int; adapter_version: int; model_version: int; parameters: [Parameter]; }
//! root_type Adapter; file_identifier "TORT";
//! ```

use std::marker::PhantomData;

use flatbuffers::{
    FlatBufferBuilder, Follow, ForwardsUOffset, InvalidFlatbuffer, Table, UnionWIPOffset, VOffsetT, Vector, Verifiable, Verifier,
    VerifierOptions, WIPOffset, root_with_opts,
};

use super::super::found::MAX_MODULES;
use crate::error::{Error, Result};

/// Types of values by ONNX's numbers.
pub(super) const FLOAT: i32 = 1;
pub(super) const FLOAT16: i32 = 10;
pub(super) const BFLOAT16: i32 = 16;

/// What a file begins with, behind an offset of four bytes.
const IDENTIFIER: &str = "TORT";

/// The version of the format that ONNX Runtime reads and writes.
const VERSION: i32 = 1;

/// The largest flatbuffer, in bytes.
pub(super) const MAX_BYTES: usize = (1 << 31) - (1 << 20);

type Strings<'b> = ForwardsUOffset<&'b str>;
type List<'b, T> = ForwardsUOffset<Vector<'b, T>>;
type ParameterTables<'b> = List<'b, ForwardsUOffset<Record<'b, ParameterKind>>>;

/// A tensor of an adapter.
pub(super) struct Parameter<'b> {
    pub(super) name: &'b str,
    pub(super) dims: Vec<i64>,
    pub(super) data_type: i32,
    pub(super) bytes: &'b [u8],
}

/// The tensors of an adapter.
pub(super) struct Parameters;

impl Parameters {
    /// Verifies the whole of `content`, the file `file`, and gives its tensors.
    pub(super) fn parse<'b>(content: &'b [u8], file: &str) -> Result<Vec<Parameter<'b>>> {
        let bad = |problem: String| Error::BadFile {
            file: file.into(),
            problem,
            hint: Some("the file is damaged, or its download was cut short: obtain it again".into()),
            source: None,
        };
        if content.get(4..8) != Some(IDENTIFIER.as_bytes()) {
            return Err(bad(format!("is not an adapter of ONNX Runtime, which begins with `{IDENTIFIER}` at its fifth byte")));
        }
        // What tables refer to may not be more than the file holds, so that nothing is taken twice.
        let options = VerifierOptions {
            max_depth: 4,
            max_tables: 2 * MAX_MODULES + 1,
            max_apparent_size: content.len().saturating_mul(2).saturating_add(1 << 16),
            ignore_missing_null_terminator: false,
        };
        let root = root_with_opts::<Record<'_, AdapterKind>>(&options, content)
            .map_err(|error| Error::bad_file(file, "is not a complete adapter of ONNX Runtime", error))?;
        match root.get::<i32>(AdapterKind::FORMAT_VERSION) {
            Some(VERSION) => {}
            other => return Err(bad(format!("is of version {}, and {VERSION} is read", other.unwrap_or(0)))),
        }
        let Some(parameters) = root.get::<ParameterTables<'_>>(AdapterKind::PARAMETERS) else { return Ok(Vec::new()) };
        let parameter = |(number, table): (usize, Record<'b, ParameterKind>)| {
            let missing = |what: &str| Error::bad_field(file, format!("parameters.{number}"), format!("has no `{what}`"));
            let name = table.get::<Strings<'b>>(ParameterKind::NAME).ok_or_else(|| missing("name"))?;
            let dims = table.get::<List<'b, i64>>(ParameterKind::DIMS).ok_or_else(|| missing("dims"))?;
            let bytes = table.get::<List<'b, u8>>(ParameterKind::RAW_DATA).ok_or_else(|| missing("raw_data"))?;
            let data_type = table.get::<i32>(ParameterKind::DATA_TYPE).unwrap_or(0);
            Ok(Parameter { name, dims: dims.iter().collect(), data_type, bytes: bytes.bytes() })
        };
        parameters.iter().enumerate().map(parameter).collect()
    }

    /// The flatbuffer of `parameters`.
    pub(super) fn to_bytes(parameters: &[Parameter<'_>]) -> Vec<u8> {
        let n_bytes: usize = parameters.iter().map(|parameter| parameter.bytes.len() + parameter.name.len() + 128).sum();
        let mut builder = FlatBufferBuilder::with_capacity(n_bytes + 128);
        let tables: Vec<WIPOffset<UnionWIPOffset>> = parameters.iter().map(|parameter| put(&mut builder, parameter)).collect();
        let tables = builder.create_vector(&tables);
        let root = builder.start_table();
        builder.push_slot_always(AdapterKind::FORMAT_VERSION, VERSION);
        // Versions that the author counts; ONNX Runtime compares none.
        builder.push_slot_always(AdapterKind::ADAPTER_VERSION, 1_i32);
        builder.push_slot_always(AdapterKind::MODEL_VERSION, 1_i32);
        builder.push_slot_always(AdapterKind::PARAMETERS, tables);
        let root = builder.end_table(root);
        builder.finish(root, Some(IDENTIFIER));
        builder.finished_data().to_vec()
    }
}

fn put(builder: &mut FlatBufferBuilder<'_>, parameter: &Parameter<'_>) -> WIPOffset<UnionWIPOffset> {
    let name = builder.create_string(parameter.name);
    let dims = builder.create_vector(&parameter.dims);
    // Bytes at a multiple of eight: they are put as numbers of eight bytes, from the last to the first.
    let (whole, rest) = parameter.bytes.as_chunks::<8>();
    builder.start_vector::<u64>(parameter.bytes.len().div_ceil(8));
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        builder.push(u64::from_le_bytes(last));
    }
    whole.iter().rev().for_each(|bytes| {
        builder.push(u64::from_le_bytes(*bytes));
    });
    let bytes = builder.end_vector::<u64>(parameter.bytes.len());
    let table = builder.start_table();
    builder.push_slot_always(ParameterKind::NAME, name);
    builder.push_slot_always(ParameterKind::DIMS, dims);
    builder.push_slot_always(ParameterKind::DATA_TYPE, parameter.data_type);
    builder.push_slot_always(ParameterKind::RAW_DATA, bytes);
    builder.end_table(table).as_union_value()
}

/// A table of the kind `K`, which has been verified.
struct Record<'b, K>(Table<'b>, PhantomData<K>);

/// The fields of the root, by their places in its table of offsets.
struct AdapterKind;

impl AdapterKind {
    const FORMAT_VERSION: VOffsetT = 4;
    const ADAPTER_VERSION: VOffsetT = 6;
    const MODEL_VERSION: VOffsetT = 8;
    const PARAMETERS: VOffsetT = 10;
}

/// The fields of a parameter.
struct ParameterKind;

impl ParameterKind {
    const NAME: VOffsetT = 4;
    const DIMS: VOffsetT = 6;
    const DATA_TYPE: VOffsetT = 8;
    const RAW_DATA: VOffsetT = 10;
}

impl<'b, K> Record<'b, K> {
    /// The field at `place`. Callers name the type that the verifier has checked there.
    #[expect(unsafe_code, reason = "the library gives access to a field in no other way")]
    fn get<T: Follow<'b> + 'b>(&self, place: VOffsetT) -> Option<T::Inner> {
        // SAFETY: `root_with_opts` has verified the table as `Verifiable` below describes it, and each call in this file asks for the
        // type that stands there for its place.
        unsafe { self.0.get::<T>(place, None) }
    }
}

impl<'b, K: 'b> Follow<'b> for Record<'b, K> {
    type Inner = Self;

    #[expect(unsafe_code, reason = "the library's trait has it so")]
    unsafe fn follow(buffer: &'b [u8], place: usize) -> Self {
        // SAFETY: the caller promises that a table lies at `place`.
        Self(unsafe { Table::new(buffer, place) }, PhantomData)
    }
}

impl Verifiable for Record<'_, AdapterKind> {
    fn run_verifier(verifier: &mut Verifier<'_, '_>, place: usize) -> Result<(), InvalidFlatbuffer> {
        verifier
            .visit_table(place)?
            .visit_field::<i32>("format_version", AdapterKind::FORMAT_VERSION, false)?
            .visit_field::<i32>("adapter_version", AdapterKind::ADAPTER_VERSION, false)?
            .visit_field::<i32>("model_version", AdapterKind::MODEL_VERSION, false)?
            .visit_field::<ParameterTables<'_>>("parameters", AdapterKind::PARAMETERS, false)?
            .finish();
        Ok(())
    }
}

impl Verifiable for Record<'_, ParameterKind> {
    fn run_verifier(verifier: &mut Verifier<'_, '_>, place: usize) -> Result<(), InvalidFlatbuffer> {
        verifier
            .visit_table(place)?
            .visit_field::<Strings<'_>>("name", ParameterKind::NAME, false)?
            .visit_field::<List<'_, i64>>("dims", ParameterKind::DIMS, false)?
            .visit_field::<i32>("data_type", ParameterKind::DATA_TYPE, false)?
            .visit_field::<List<'_, u8>>("raw_data", ParameterKind::RAW_DATA, false)?
            .finish();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_lies_at_multiples_of_eight() {
        let bytes: Vec<u8> = (0..24).collect();
        let parameter = |name, bytes| Parameter { name, dims: vec![3, 2], data_type: FLOAT, bytes };
        let written =
            Parameters::to_bytes(&[parameter("a", &bytes), parameter("b.c", &bytes[..6]), parameter("d", &bytes[..12])]);
        let read = Parameters::parse(&written, "file").unwrap();
        let found: Vec<(&str, &[i64], i32, &[u8])> = read.iter().map(|p| (p.name, &p.dims[..], p.data_type, p.bytes)).collect();
        let dims = &[3, 2][..];
        assert_eq!(found, [("a", dims, 1, &bytes[..]), ("b.c", dims, 1, &bytes[..6]), ("d", dims, 1, &bytes[..12])]);
        for parameter in &read {
            assert_eq!((parameter.bytes.as_ptr() as usize - written.as_ptr() as usize) % 8, 0);
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = [0; 40];
        let written = Parameters::to_bytes(&[Parameter { name: "abc", dims: vec![10, 1], data_type: FLOAT, bytes: &bytes }]);
        for n in 0..written.len() {
            match Parameters::parse(&written[..n], "file") {
                Err(error) => assert!(error.to_string().contains("`file`"), "{error}"),
                // Nothing but padding was cut.
                Ok(read) => {
                    assert_eq!((read.len(), read[0].name, read[0].bytes), (1, "abc", &bytes[..]), "{n} of {}", written.len())
                }
            }
        }
    }
}
