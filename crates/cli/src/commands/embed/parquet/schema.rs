//! The columns that vectors are written to.

use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::Result;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::{ColumnPath, TypePtr};

use crate::args::Precision;
use crate::commands::embed::row_file::Layout;

/// The columns in their order: those of `jsonl`, an embedding as a list.
pub(super) fn schema(layout: &Layout) -> Result<TypePtr> {
    let chunk = if layout.has_chunks { "required int64 chunk; required int64 start; required int64 end;" } else { "" };
    let text = if layout.has_text { "required binary text (STRING);" } else { "" };
    let element = match layout.precision {
        Precision::F32 => "float element",
        Precision::F16 => "fixed_len_byte_array(2) element (FLOAT16)",
        Precision::Int8 => "int32 element (INTEGER(8,true))",
        Precision::Binary => "int32 element (INTEGER(8,false))",
    };
    let message = format!(
        "message vectors {{ required int64 index; {chunk} {text} required int64 n_tokens; required boolean truncated; \
         required group embedding (LIST) {{ repeated group list {{ required {element}; }} }} }}"
    );
    parse_message_type(&message).map(Into::into)
}

/// Texts are compressed; vectors would hardly become smaller. Statistics and indexes would be of no use.
pub(super) fn properties() -> Result<WriterProperties> {
    let embedding = ColumnPath::from(["embedding", "list", "element"].map(str::to_owned).to_vec());
    Ok(WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_column_compression(embedding, Compression::UNCOMPRESSED)
        .build())
}
