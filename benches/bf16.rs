//! What bf16 brings. Products on one thread: of f32; of bf16 with C in bf16; of f32 operands that are
//! rounded while they are packed, with C in f32; and with weights that were packed before. Training
//! steps at batch 512, in f32 and in bf16, on one thread and on two.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{Steps, perceptron, random, set_flops, sizes};
use tilewise::{
    Bf16, Context, Precision,
    gemm::{Bf16ToF32, Epilogue, Gemm, Operand, Product},
    matrix::{MatMut, MatRef, Matrix},
};

/// (m, n, k), whether A and whether B is stored transposed, and where it occurs.
const SHAPES: [(usize, usize, usize, bool, bool, &str); 5] = [
    (512, 512, 512, false, false, "square"),
    (512, 512, 3072, false, false, "three-layer forward"),
    (3072, 512, 512, true, false, "gradient of the first weights"),
    (512, 512, 1024, false, true, "gradient of a hidden layer"),
    (1, 512, 3072, false, false, "prediction"),
];

/// The same elements, rounded.
fn rounded(matrix: &Matrix<f32>) -> Matrix<Bf16> {
    let element = |i, j| Bf16::from_f32(matrix.view().get(i, j));
    Matrix::from_fn(matrix.rows(), matrix.cols(), element).expect("a small matrix")
}

/// The matrix as a product takes it.
fn turned<T: Copy>(matrix: MatRef<'_, T>, transposed: bool) -> MatRef<'_, T> {
    if transposed { matrix.t() } else { matrix }
}

/// The best kernels on one thread.
fn gemm<P: Product>() -> Gemm<P> {
    Gemm::new().expect("an available instruction set")
}

fn products(criterion: &mut Criterion) {
    for (m, n, k, a_transposed, b_transposed, name) in SHAPES {
        let letters = [a_transposed, b_transposed].map(|t| if t { "t" } else { "n" }).concat();
        let mut group = criterion.benchmark_group(format!("bf16/{name} {m}x{n}x{k} {letters}"));
        set_flops(&mut group, 2 * m * n * k);
        let a = if a_transposed { random(k, m, 1) } else { random(m, k, 1) };
        let b = if b_transposed { random(n, k, 2) } else { random(k, n, 2) };
        let (a16, b16) = (rounded(&a), rounded(&b));
        let (a, b) = (turned(a.view(), a_transposed), turned(b.view(), b_transposed));
        let (a16, b16) = (turned(a16.view(), a_transposed), turned(b16.view(), b_transposed));
        let (mut c, mut c16) = (vec![0.0; m * n], vec![Bf16::ZERO; m * n]);
        let fits = "operands that fit";

        let single = gemm::<f32>();
        let mut scratch = single.scratch(m, n, k).expect("little scratch memory");
        group.bench_function("f32", |bencher| {
            bencher.iter(|| {
                let c = MatMut::new(&mut c, m, n).expect(fits);
                single.run(1.0, a, b, c, Epilogue::default(), &mut scratch).expect(fits);
            });
        });
        let half = gemm::<Bf16>();
        let packed = half.pack_b(b16).expect("small panels");
        let mut scratch = half.scratch(m, n, k).expect("little scratch memory");
        for (contestant, b) in [("bf16", Operand::from(b16)), ("bf16 prepacked", (&packed).into())]
        {
            group.bench_function(contestant, |bencher| {
                bencher.iter(|| {
                    let c = MatMut::new(&mut c16, m, n).expect(fits);
                    half.run(1.0, a16, b, c, Epilogue::default(), &mut scratch).expect(fits);
                });
            });
        }
        let to_f32 = gemm::<Bf16ToF32>();
        let mut scratch = to_f32.scratch(m, n, k).expect("little scratch memory");
        let (a, b) = (Operand::Rounded(a), Operand::Rounded(b));
        group.bench_function("rounded f32", |bencher| {
            bencher.iter(|| {
                let c = MatMut::new(&mut c, m, n).expect(fits);
                to_f32.run(1.0, a, b, c, Epilogue::default(), &mut scratch).expect(fits);
            });
        });
    }
}

fn steps(criterion: &mut Criterion) {
    let hidden = [512, 1024];
    let network = perceptron(&hidden);
    let sizes = sizes(&network, &hidden);
    let mut group = criterion.benchmark_group(format!("bf16/train step {sizes:?}"));
    set_flops(&mut group, Steps::flops(&network, &sizes));
    for threads in [1, 2] {
        for precision in [Precision::F32, Precision::Bf16] {
            let context = Context::new().and_then(|context| context.with_precision(precision));
            let mut steps = Steps::new(&network, context.expect("parameters in f32"), threads);
            let name = format!("{precision}, {threads} threads");
            group.bench_function(name, |bencher| bencher.iter_custom(|count| steps.run(count)));
        }
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = products, steps }
criterion_main!(benches);
