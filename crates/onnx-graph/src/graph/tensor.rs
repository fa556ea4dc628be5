//! Tensors of a graph: their type, shape, and where their data is. The data itself is never loaded.

use std::fmt;
use std::ops::Range;

/// The type of a tensor's elements: ONNX's `TensorProto.DataType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataType(pub i32);

/// One tensor: an initializer, or a constant within an attribute.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The value's name; constants in attributes often have none.
    pub name: String,
    /// The shape; empty for a scalar.
    pub dims: Vec<i64>,
    /// The elements' type.
    pub data_type: DataType,
    /// Where the elements are.
    pub data: TensorData,
    /// The whole `TensorProto`, as positions in the file.
    pub range: Range<usize>,
}

/// Where a tensor's elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorData {
    /// `raw_data`: little-endian elements at these positions of the file.
    Inline(Range<usize>),
    /// A typed list such as `float_data`, with this many entries.
    List {
        /// The list's field.
        field: &'static str,
        /// Its entries.
        n_entries: usize,
    },
    /// Another file.
    External(ExternalData),
}

/// The `external_data` entries of a tensor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalData {
    /// The path, relative to the graph's directory.
    pub location: String,
    /// First byte.
    pub offset: u64,
    /// Bytes; `None` leaves them to shape and type.
    pub length: Option<u64>,
}

/// A sparse tensor as two dense ones.
#[derive(Clone, Debug)]
pub struct SparseTensor {
    /// The elements that are not zero.
    pub values: Option<Tensor>,
    /// Their indices.
    pub indices: Option<Tensor>,
}

impl DataType {
    /// 32-bit float.
    pub const FLOAT: Self = Self(1);
    /// Unsigned byte.
    pub const UINT8: Self = Self(2);
    /// Signed byte.
    pub const INT8: Self = Self(3);
    /// 32-bit integer.
    pub const INT32: Self = Self(6);
    /// 64-bit integer.
    pub const INT64: Self = Self(7);
    /// Text, whose size is not fixed.
    pub const STRING: Self = Self(8);
    /// 16-bit float of IEEE 754.
    pub const FLOAT16: Self = Self(10);
    /// 16-bit float with the exponent of a 32-bit one.
    pub const BFLOAT16: Self = Self(16);

    /// Bits per element; `None` for text and unknown types.
    pub fn bits(self) -> Option<u64> {
        Some(match self.0 {
            2 | 3 | 9 | 17..=20 | 24 => 8,
            4 | 5 | 10 | 16 => 16,
            1 | 6 | 12 => 32,
            7 | 11 | 13 | 14 => 64,
            15 => 128,
            21..=23 => 4,
            25 | 26 => 2,
            27 | 28 => 6,
            _ => return None,
        })
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 29] = [
            "undefined",
            "float",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "double",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
            "float8e4m3fn",
            "float8e4m3fnuz",
            "float8e5m2",
            "float8e5m2fnuz",
            "uint4",
            "int4",
            "float4e2m1",
            "float8e8m0",
            "uint2",
            "int2",
            "float6e2m3",
            "float6e3m2",
        ];
        match usize::try_from(self.0).ok().and_then(|index| NAMES.get(index)) {
            Some(name) => f.write_str(name),
            None => write!(f, "data type {}", self.0),
        }
    }
}

impl Tensor {
    /// The product of the dims; `None` if one is negative or the product overflows 64 bits.
    pub fn n_elements(&self) -> Option<u64> {
        self.dims.iter().try_fold(1_u64, |product, &dim| product.checked_mul(u64::try_from(dim).ok()?))
    }

    /// The bytes of the data by shape and type; elements smaller than a byte are packed.
    pub fn n_bytes(&self) -> Option<u64> {
        Some(self.n_elements()?.checked_mul(self.data_type.bits()?)?.div_ceil(8))
    }
}
