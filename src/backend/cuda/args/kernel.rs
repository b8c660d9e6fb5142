//! The kernels by name.

use chaski_quant::{QuantType, scalar::attention::KvType};

/// A kernel: an entry of the PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// RMSNorm and quantisation: [`NormQuantizeArgs`](super::NormQuantizeArgs).
    NormQuantize,
    /// Quantisation: [`QuantizeArgs`](super::QuantizeArgs).
    Quantize,
    /// SwiGLU and quantisation: [`SwigluArgs`](super::SwigluArgs).
    Swiglu,
    /// QK-norm, rotation, and keys and values to their place: [`RopeStoreArgs`](super::RopeStoreArgs).
    RopeStore,
    /// A quantised matrix times 1 to [`MATVEC_ROWS`](super::MATVEC_ROWS) rows: [`MatrixArgs`](super::MatrixArgs).
    Matvec(QuantType),
    /// A quantised matrix times any number of rows: [`MatrixArgs`](super::MatrixArgs).
    Matmul(QuantType),
    /// A float matrix times any number of rows: [`MatrixArgs`](super::MatrixArgs).
    MatrixFloat(QuantType),
    /// A few rows' attention within spans: [`AttendArgs`](super::AttendArgs).
    Attend(KvType),
    /// The spans of each row together: [`AttendMergeArgs`](super::AttendMergeArgs).
    AttendMerge,
    /// Many rows' attention: [`AttendRowsArgs`](super::AttendRowsArgs).
    AttendRows(KvType),
    /// Reading memory and nothing else: [`ReadProbeArgs`](super::ReadProbeArgs).
    ReadProbe,
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 27] = [
        Self::NormQuantize,
        Self::Quantize,
        Self::Swiglu,
        Self::RopeStore,
        Self::Matvec(QuantType::Q3),
        Self::Matvec(QuantType::Q4),
        Self::Matvec(QuantType::Q4H),
        Self::Matvec(QuantType::Q5),
        Self::Matvec(QuantType::Q6),
        Self::Matvec(QuantType::Q8),
        Self::Matmul(QuantType::Q3),
        Self::Matmul(QuantType::Q4),
        Self::Matmul(QuantType::Q4H),
        Self::Matmul(QuantType::Q5),
        Self::Matmul(QuantType::Q6),
        Self::Matmul(QuantType::Q8),
        Self::MatrixFloat(QuantType::F32),
        Self::MatrixFloat(QuantType::F16),
        Self::MatrixFloat(QuantType::BF16),
        Self::Attend(KvType::F32),
        Self::Attend(KvType::F16),
        Self::Attend(KvType::Q8),
        Self::AttendMerge,
        Self::AttendRows(KvType::F32),
        Self::AttendRows(KvType::F16),
        Self::AttendRows(KvType::Q8),
        Self::ReadProbe,
    ];

    /// The entry's name.
    ///
    /// # Panics
    ///
    /// If there is no such kernel for the type: float matrices have [`MatrixFloat`](Self::MatrixFloat) alone, quantised ones the others.
    pub const fn entry(self) -> &'static str {
        match self {
            Self::NormQuantize => "chaski_norm_quantize",
            Self::Quantize => "chaski_quantize",
            Self::Swiglu => "chaski_swiglu",
            Self::RopeStore => "chaski_rope_store",
            Self::Matvec(QuantType::Q3) => "chaski_matvec_q3",
            Self::Matvec(QuantType::Q4) => "chaski_matvec_q4",
            Self::Matvec(QuantType::Q4H) => "chaski_matvec_q4h",
            Self::Matvec(QuantType::Q5) => "chaski_matvec_q5",
            Self::Matvec(QuantType::Q6) => "chaski_matvec_q6",
            Self::Matvec(QuantType::Q8) => "chaski_matvec_q8",
            Self::Matmul(QuantType::Q3) => "chaski_matmul_q3",
            Self::Matmul(QuantType::Q4) => "chaski_matmul_q4",
            Self::Matmul(QuantType::Q4H) => "chaski_matmul_q4h",
            Self::Matmul(QuantType::Q5) => "chaski_matmul_q5",
            Self::Matmul(QuantType::Q6) => "chaski_matmul_q6",
            Self::Matmul(QuantType::Q8) => "chaski_matmul_q8",
            Self::MatrixFloat(QuantType::F32) => "chaski_matrix_f32",
            Self::MatrixFloat(QuantType::F16) => "chaski_matrix_f16",
            Self::MatrixFloat(QuantType::BF16) => "chaski_matrix_bf16",
            Self::Attend(KvType::F32) => "chaski_attend_f32",
            Self::Attend(KvType::F16) => "chaski_attend_f16",
            Self::Attend(KvType::Q8) => "chaski_attend_q8",
            Self::AttendMerge => "chaski_attend_merge",
            Self::ReadProbe => "chaski_read_probe",
            Self::AttendRows(KvType::F32) => "chaski_attend_rows_f32",
            Self::AttendRows(KvType::F16) => "chaski_attend_rows_f16",
            Self::AttendRows(KvType::Q8) => "chaski_attend_rows_q8",
            Self::Matvec(_) | Self::Matmul(_) | Self::MatrixFloat(_) => {
                panic!("no kernel for this type")
            }
        }
    }
}
