//! A block: several operators in one node. All of them treat each row alone, which is the vector of a token, so that a block takes rows and
//! returns rows, and what lies between its steps never leaves it.

use crate::error::{Error, Result};
use crate::graph::DataType;

/// The operator's name.
pub const BLOCK_OPERATOR: &str = "RowBlock";

/// The attribute with the steps, see [`RowBlock::from_ints`].
pub const STEPS_ATTRIBUTE: &str = "steps";

/// The attribute with the widths of all values.
pub const WIDTHS_ATTRIBUTE: &str = "widths";

/// The attribute with the numbers of the values that are outputs.
pub const OUTPUTS_ATTRIBUTE: &str = "outputs";

/// The attribute that names a product for adapters, by its number among the products of the block.
pub fn product_attribute(number: usize) -> String {
    format!("module.{number}")
}

/// The steps of a block. Its values are numbered: first the inputs of the node, then what each step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowBlock {
    /// The width of each value; 0 for inputs that are constants.
    pub widths: Vec<usize>,
    /// In the order of computation.
    pub steps: Vec<RowStep>,
    /// The values that the node returns.
    pub outputs: Vec<usize>,
}

/// One step of a block; values are named by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowStep {
    /// Products of one value with several matrices of blocks, of which each makes a value.
    Products {
        /// What is multiplied.
        input: usize,
        /// The matrices.
        matrices: Vec<BlockMatrix>,
    },
    /// As [`Products`](Self::Products), with matrices of floats.
    FloatProducts {
        /// What is multiplied.
        input: usize,
        /// The matrices.
        matrices: Vec<FloatMatrix>,
    },
    /// `x / √(mean(x²) + ε) * weight`, of each part of a row that is as wide as the weight.
    RmsNorm {
        /// What is normalised.
        input: usize,
        /// A constant.
        weight: usize,
        /// The bits of `ε`, a float of 32 bits.
        epsilon: u32,
    },
    /// The sum of two values.
    Add([usize; 2]),
    /// The product of two values, number by number.
    Mul([usize; 2]),
    /// A value plus a constant vector, in this order.
    AddVector([usize; 2]),
    /// A function of each number.
    Activation(RowFunction, usize),
    /// `function(first) * second`
    Gated(RowFunction, [usize; 2]),
    /// The columns of a value from one on, as many as the result has.
    Columns {
        /// What they are of.
        input: usize,
        /// The first.
        first: usize,
    },
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowFunction {
    /// `x / (1 + e^-x)`
    Silu,
    /// The approximation of GELU with a hyperbolic tangent.
    GeluTanh,
    /// `1 / (1 + e^-x)`
    Sigmoid,
}

/// A matrix of `MatMulNBits`, whose parts are inputs of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMatrix {
    /// Codes.
    pub codes: usize,
    /// Scales.
    pub scales: usize,
    /// Zero points.
    pub zeros: Option<usize>,
    /// A bias.
    pub bias: Option<usize>,
    /// Inputs.
    pub columns: usize,
    /// Outputs.
    pub rows: usize,
    /// Bits of a weight.
    pub bits: usize,
    /// Weights that share a scale.
    pub block_size: usize,
    /// Whether inputs may be rounded to 8 bits.
    pub is_fast: bool,
}

/// A matrix of floats, `[rows, columns]`, whose parts are inputs of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloatMatrix {
    /// The weights.
    pub weights: usize,
    /// Their type: floats of 32 or 16 bits.
    pub data_type: DataType,
    /// A bias.
    pub bias: Option<usize>,
    /// Inputs.
    pub columns: usize,
    /// Outputs.
    pub rows: usize,
}

/// The numbers that steps begin with.
const PRODUCTS: i64 = 0;
const RMS_NORM: i64 = 1;
const ADD: i64 = 2;
const MUL: i64 = 3;
const ADD_VECTOR: i64 = 4;
const ACTIVATION: i64 = 5;
const GATED: i64 = 6;
const FLOAT_PRODUCTS: i64 = 7;
const COLUMNS: i64 = 8;

/// What stands for an input that is left out.
const ABSENT: i64 = -1;

impl RowFunction {
    const ALL: [Self; 3] = [Self::Silu, Self::GeluTanh, Self::Sigmoid];

    fn number(self) -> i64 {
        self as i64
    }
}

impl RowStep {
    /// The values that it reads, constants among them.
    pub fn inputs(&self) -> Vec<usize> {
        match self {
            Self::Products { input, matrices } => {
                let parts = matrices.iter().flat_map(|m| [Some(m.codes), Some(m.scales), m.zeros, m.bias]);
                std::iter::once(*input).chain(parts.flatten()).collect()
            }
            Self::FloatProducts { input, matrices } => {
                std::iter::once(*input).chain(matrices.iter().flat_map(|m| [Some(m.weights), m.bias]).flatten()).collect()
            }
            Self::RmsNorm { input, weight, .. } => vec![*input, *weight],
            Self::Add(both) | Self::Mul(both) | Self::AddVector(both) | Self::Gated(_, both) => both.to_vec(),
            Self::Activation(_, input) | Self::Columns { input, .. } => vec![*input],
        }
    }

    /// How many values it makes.
    pub fn n_outputs(&self) -> usize {
        match self {
            Self::Products { matrices, .. } => matrices.len(),
            Self::FloatProducts { matrices, .. } => matrices.len(),
            _ => 1,
        }
    }

    fn write(&self, out: &mut Vec<i64>) {
        let number = |value: usize| value as i64;
        let optional = |value: Option<usize>| value.map_or(ABSENT, number);
        match self {
            Self::Products { input, matrices } => {
                out.extend([PRODUCTS, number(*input), number(matrices.len())]);
                for matrix in matrices {
                    let BlockMatrix { codes, scales, zeros, bias, columns, rows, bits, block_size, is_fast } = *matrix;
                    out.extend([number(codes), number(scales), optional(zeros), optional(bias)]);
                    out.extend([columns, rows, bits, block_size, usize::from(is_fast)].map(number));
                }
            }
            Self::FloatProducts { input, matrices } => {
                out.extend([FLOAT_PRODUCTS, number(*input), number(matrices.len())]);
                for FloatMatrix { weights, data_type, bias, columns, rows } in matrices {
                    out.extend([number(*weights), data_type.0.into(), optional(*bias), number(*columns), number(*rows)]);
                }
            }
            Self::RmsNorm { input, weight, epsilon } => {
                out.extend([RMS_NORM, number(*input), number(*weight), i64::from(*epsilon)]);
            }
            Self::Add([a, b]) => out.extend([ADD, number(*a), number(*b)]),
            Self::Mul([a, b]) => out.extend([MUL, number(*a), number(*b)]),
            Self::AddVector([a, b]) => out.extend([ADD_VECTOR, number(*a), number(*b)]),
            Self::Activation(function, input) => out.extend([ACTIVATION, function.number(), number(*input)]),
            Self::Gated(function, [a, b]) => out.extend([GATED, function.number(), number(*a), number(*b)]),
            Self::Columns { input, first } => out.extend([COLUMNS, number(*input), number(*first)]),
        }
    }
}

/// Reads integers one after the other.
struct Reader<'i>(std::slice::Iter<'i, i64>);

impl Reader<'_> {
    fn int(&mut self) -> Result<i64> {
        self.0.next().copied().ok_or_else(|| malformed("a step ends early"))
    }

    fn size(&mut self) -> Result<usize> {
        usize::try_from(self.int()?).map_err(|_| malformed("a number is negative"))
    }

    fn optional(&mut self) -> Result<Option<usize>> {
        match self.int()? {
            ABSENT => Ok(None),
            value => usize::try_from(value).map(Some).map_err(|_| malformed("a number is negative")),
        }
    }

    fn function(&mut self) -> Result<RowFunction> {
        let number = self.int()?;
        RowFunction::ALL
            .into_iter()
            .find(|function| function.number() == number)
            .ok_or_else(|| malformed("a function is unknown"))
    }

    fn matrix(&mut self) -> Result<BlockMatrix> {
        Ok(BlockMatrix {
            codes: self.size()?,
            scales: self.size()?,
            zeros: self.optional()?,
            bias: self.optional()?,
            columns: self.size()?,
            rows: self.size()?,
            bits: self.size()?,
            block_size: self.size()?,
            is_fast: self.int()? != 0,
        })
    }

    fn float_matrix(&mut self) -> Result<FloatMatrix> {
        Ok(FloatMatrix {
            weights: self.size()?,
            data_type: i32::try_from(self.int()?).map(DataType).map_err(|_| malformed("a type is unknown"))?,
            bias: self.optional()?,
            columns: self.size()?,
            rows: self.size()?,
        })
    }

    /// So many matrices as a number says, each read by `read`.
    fn matrices<M>(&mut self, read: impl Fn(&mut Self) -> Result<M>) -> Result<Vec<M>> {
        let n = self.size()?;
        // Each has several numbers.
        let n = if n <= self.0.len() { n } else { return Err(malformed("a step ends early")) };
        (0..n).map(|_| read(self)).collect()
    }

    fn step(&mut self) -> Result<RowStep> {
        Ok(match self.int()? {
            PRODUCTS => RowStep::Products { input: self.size()?, matrices: self.matrices(Self::matrix)? },
            FLOAT_PRODUCTS => RowStep::FloatProducts { input: self.size()?, matrices: self.matrices(Self::float_matrix)? },
            RMS_NORM => {
                let (input, weight) = (self.size()?, self.size()?);
                let epsilon = u32::try_from(self.int()?).map_err(|_| malformed("a float has more than 32 bits"))?;
                RowStep::RmsNorm { input, weight, epsilon }
            }
            ADD => RowStep::Add([self.size()?, self.size()?]),
            MUL => RowStep::Mul([self.size()?, self.size()?]),
            ADD_VECTOR => RowStep::AddVector([self.size()?, self.size()?]),
            ACTIVATION => RowStep::Activation(self.function()?, self.size()?),
            GATED => RowStep::Gated(self.function()?, [self.size()?, self.size()?]),
            COLUMNS => RowStep::Columns { input: self.size()?, first: self.size()? },
            _ => return Err(malformed("a step is unknown")),
        })
    }
}

fn malformed(problem: &str) -> Error {
    Error::bad_field(BLOCK_OPERATOR, STEPS_ATTRIBUTE, problem)
}

impl RowBlock {
    /// The steps as numbers, for the attribute [`STEPS_ATTRIBUTE`].
    pub fn steps_to_ints(&self) -> Vec<i64> {
        let mut out = Vec::new();
        self.steps.iter().for_each(|step| step.write(&mut out));
        out
    }

    /// A block of these attributes.
    ///
    /// # Errors
    /// For steps that are malformed, name values that come later or do not exist, or do not make as many as there are widths.
    pub fn from_ints(steps: &[i64], widths: &[i64], outputs: &[i64]) -> Result<Self> {
        let sizes = |values: &[i64]| {
            values
                .iter()
                .map(|&value| usize::try_from(value).map_err(|_| malformed("a number is negative")))
                .collect::<Result<_>>()
        };
        let mut reader = Reader(steps.iter());
        let mut block = Self { widths: sizes(widths)?, steps: Vec::new(), outputs: sizes(outputs)? };
        while !reader.0.as_slice().is_empty() {
            block.steps.push(reader.step()?);
        }
        let n_inputs = block.n_inputs().ok_or_else(|| malformed("there are fewer values than steps make"))?;
        let mut known = n_inputs;
        for step in &block.steps {
            if step.inputs().iter().any(|&value| value >= known) {
                return Err(malformed("a step reads a value that is not there"));
            }
            known += step.n_outputs();
        }
        if block.steps.is_empty() || block.outputs.iter().any(|&value| value < n_inputs || value >= known) {
            return Err(malformed("an output is not what a step makes"));
        }
        Ok(block)
    }

    /// How many of the values are inputs of the node; `None` where steps make more than there are.
    pub fn n_inputs(&self) -> Option<usize> {
        self.widths.len().checked_sub(self.steps.iter().map(RowStep::n_outputs).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> RowBlock {
        let matrix = BlockMatrix {
            codes: 1,
            scales: 2,
            zeros: None,
            bias: Some(3),
            columns: 64,
            rows: 32,
            bits: 4,
            block_size: 32,
            is_fast: true,
        };
        let floats = FloatMatrix { weights: 1, data_type: DataType::BFLOAT16, bias: Some(2), columns: 32, rows: 16 };
        RowBlock {
            widths: vec![64, 0, 0, 0, 32, 32, 32, 32, 32, 32, 32, 32, 16, 32, 8],
            steps: vec![
                RowStep::Products { input: 0, matrices: vec![matrix, BlockMatrix { zeros: Some(1), bias: None, ..matrix }] },
                RowStep::Gated(RowFunction::Silu, [4, 5]),
                RowStep::AddVector([6, 3]),
                RowStep::RmsNorm { input: 7, weight: 3, epsilon: 1e-6_f32.to_bits() },
                RowStep::Add([7, 8]),
                RowStep::Mul([9, 8]),
                RowStep::Activation(RowFunction::GeluTanh, 10),
                RowStep::FloatProducts { input: 11, matrices: vec![floats, FloatMatrix { bias: None, rows: 32, ..floats }] },
                RowStep::Columns { input: 13, first: 24 },
            ],
            outputs: vec![11, 7, 13],
        }
    }

    fn read(block: &RowBlock) -> Result<RowBlock> {
        let ints = |values: &[usize]| values.iter().map(|&value| value as i64).collect::<Vec<_>>();
        RowBlock::from_ints(&block.steps_to_ints(), &ints(&block.widths), &ints(&block.outputs))
    }

    #[test]
    fn blocks_are_read_as_they_were_written() {
        assert_eq!(read(&block()).unwrap(), block());
    }

    #[test]
    fn malformed_blocks_are_refused() {
        let changed = |change: &dyn Fn(&mut RowBlock)| {
            let mut block = block();
            change(&mut block);
            read(&block).unwrap_err().to_string()
        };
        assert!(changed(&|block| block.steps[1] = RowStep::Add([4, 6])).contains("not there"));
        assert!(changed(&|block| block.outputs[0] = 15).contains("an output"));
        assert!(changed(&|block| block.outputs[0] = 0).contains("an output"));
        assert!(changed(&|block| block.widths.truncate(3)).contains("fewer values"));
        let (steps, widths) = (block().steps_to_ints(), [64; 15]);
        for end in 1..steps.len() {
            // It ends within a step, or lacks values of later ones.
            let _ = RowBlock::from_ints(&steps[..end], &widths, &[11]);
        }
        assert!(RowBlock::from_ints(&[PRODUCTS, 0, i64::MAX], &widths, &[1]).is_err());
        assert!(RowBlock::from_ints(&[FLOAT_PRODUCTS, 0, 2, 1, 1, -1, 64, 64], &widths, &[1]).is_err());
        assert!(RowBlock::from_ints(&[ACTIVATION, 9, 0], &[1, 1], &[1]).is_err());
        assert!(RowBlock::from_ints(&[99], &[1, 1], &[1]).is_err());
        assert!(RowBlock::from_ints(&[], &[1, 1], &[]).is_err());
    }
}
