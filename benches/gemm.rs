//! Products of the shapes that networks have, on one thread: naive, matrixmultiply, tilewise.

mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{CONTESTANTS, assert_close, gemm, random, set_flops};
use tilewise::{gemm::Epilogue, matrix::Matrix};

/// (m, n, k), whether A and whether B is stored transposed, and where it occurs.
const SHAPES: [(usize, usize, usize, bool, bool, &str); 7] = [
    (512, 512, 512, false, false, "square"),
    (512, 200, 3072, false, false, "two-layer forward"),
    (512, 512, 3072, false, false, "three-layer forward"),
    (512, 10, 1024, false, false, "logits"),
    (3072, 512, 512, true, false, "gradient of the first weights"),
    (512, 512, 1024, false, true, "gradient of a hidden layer"),
    (512, 1024, 10, false, true, "gradient of the last hidden layer"),
];

fn products(criterion: &mut Criterion) {
    for (m, n, k, a_transposed, b_transposed, name) in SHAPES {
        let letters = [a_transposed, b_transposed].map(|t| if t { "t" } else { "n" }).concat();
        let mut group = criterion.benchmark_group(format!("gemm/{name} {m}x{n}x{k} {letters}"));
        set_flops(&mut group, 2 * m * n * k);
        let a = if a_transposed { random(k, m, 1) } else { random(m, k, 1) };
        let b = if b_transposed { random(n, k, 2) } else { random(k, n, 2) };
        let a = if a_transposed { a.view().t() } else { a.view() };
        let b = if b_transposed { b.view().t() } else { b.view() };
        let mut expected: Option<Matrix<f32>> = None;
        for (contestant, backend) in CONTESTANTS {
            let gemm = gemm(backend);
            let mut c = Matrix::zeros(m, n).expect("a small matrix");
            let mut scratch = gemm.scratch(m, n, k).expect("little scratch memory");
            let mut multiply = |c: &mut Matrix<f32>| {
                gemm.run(1.0, a, b, c.view_mut(), Epilogue::default(), &mut scratch)
                    .expect("operands that fit");
            };
            multiply(&mut c);
            assert_close(
                c.view(),
                expected.get_or_insert_with(|| c.try_clone().expect("memory for a copy")).view(),
                k,
            );
            group.bench_function(contestant, |bencher| bencher.iter(|| multiply(&mut c)));
        }
    }
}

criterion_group! { name = benches; config = support::criterion(); targets = products }
criterion_main!(benches);
