//! The products that are measured, each with its type, threads and storage: the rows of the report.
//! Squares, and what training steps and predictions of perceptrons need.

use std::fmt;

/// The element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// bfloat16, with sums in f32.
    Bf16,
}

/// How A and B are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Both by rows.
    Nn,
    /// A transposed, as (k, m): the gradient of weights.
    Tn,
    /// B transposed, as (n, k): the gradient of a layer's input.
    Nt,
}

/// One row: C (m, n) = A (m, k) B (k, n).
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub dtype: Dtype,
    pub threads: usize,
    pub storage: Storage,
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

const F32: [(Storage, usize, usize, usize); 18] = [
    (Storage::Nn, 1024, 1024, 1024),
    (Storage::Nn, 2048, 2048, 2048),
    (Storage::Nn, 4096, 4096, 4096),
    (Storage::Nn, 512, 512, 512),
    (Storage::Nn, 256, 256, 256),
    (Storage::Nn, 128, 128, 128),
    (Storage::Nn, 64, 64, 64),
    (Storage::Nn, 512, 512, 3072),
    (Storage::Nn, 512, 1024, 512),
    (Storage::Nn, 512, 200, 3072),
    (Storage::Tn, 3072, 512, 512),
    (Storage::Tn, 512, 1024, 512),
    (Storage::Nt, 512, 512, 1024),
    (Storage::Nt, 512, 1024, 10),
    (Storage::Nn, 512, 10, 1024),
    (Storage::Tn, 1024, 10, 512),
    (Storage::Nn, 8, 512, 3072),
    (Storage::Nn, 1, 512, 3072),
];

const F32_THREADS: [(Storage, usize, usize, usize); 4] = [
    (Storage::Nn, 2048, 2048, 2048),
    (Storage::Nn, 1024, 1024, 1024),
    (Storage::Nn, 256, 256, 256),
    (Storage::Nn, 512, 512, 3072),
];

const F64: [(Storage, usize, usize, usize); 4] = [
    (Storage::Nn, 1024, 1024, 1024),
    (Storage::Nn, 256, 256, 256),
    (Storage::Nn, 512, 512, 3072),
    (Storage::Nn, 512, 1024, 512),
];

const BF16: [(Storage, usize, usize, usize); 13] = [
    (Storage::Nn, 1024, 1024, 1024),
    (Storage::Nn, 2048, 2048, 2048),
    (Storage::Nn, 512, 512, 512),
    (Storage::Nn, 256, 256, 256),
    (Storage::Nn, 128, 128, 128),
    (Storage::Nn, 512, 512, 3072),
    (Storage::Nn, 512, 1024, 512),
    (Storage::Nn, 512, 200, 3072),
    (Storage::Tn, 3072, 512, 512),
    (Storage::Tn, 512, 1024, 512),
    (Storage::Nt, 512, 512, 1024),
    (Storage::Nn, 512, 10, 1024),
    (Storage::Nn, 8, 512, 3072),
];

/// All rows, those of several threads with this number of them.
pub fn all(several: usize) -> impl Iterator<Item = Row> {
    let groups: [(Dtype, usize, &[_]); 4] = [
        (Dtype::F32, 1, &F32),
        (Dtype::F32, several, &F32_THREADS),
        (Dtype::F64, 1, &F64),
        (Dtype::Bf16, 1, &BF16),
    ];
    groups.into_iter().flat_map(|(dtype, threads, products)| {
        let row = move |&(storage, m, n, k)| Row { dtype, threads, storage, m, n, k };
        products.iter().map(row)
    })
}

impl Row {
    /// Floating-point operations: two for each multiply-add.
    pub fn flops(self) -> f64 {
        2.0 * self.m as f64 * self.n as f64 * self.k as f64
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        })
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nn => "nn",
            Self::Tn => "tn",
            Self::Nt => "nt",
        })
    }
}

impl fmt::Display for Row {
    /// The name: type, threads, storage, m x n x k.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, threads, storage, m, n, k } = self;
        f.pad(&format!("{dtype} t{threads} {storage} {m}x{n}x{k}"))
    }
}
