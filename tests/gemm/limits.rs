//! Where products end: sizes of 0, and what is refused, with both sizes in the error.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Bf16, Error,
    gemm::{
        Backend, Bf16ToF32, Companions, Epilogue, Finish, GatheredRows, Gemm, Operand, Packed,
        Rule, Start, Update,
        epilogue::{Descent, Momentum},
        gemm,
    },
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
    threads::Threads,
};

/// Row-major views of zeros.
const ZEROS: [f32; 64] = [0.0; 64];

fn zeros(rows: usize, cols: usize) -> MatRef<'static, f32> {
    MatRef::new(&ZEROS[..rows * cols], rows, cols).unwrap()
}

/// The error of a product with a C of `shape`.
fn refusal<'a>(
    gemm: Gemm<f32>,
    alpha: f32,
    a: impl Into<Operand<'a, f32>>,
    b: impl Into<Operand<'a, f32>>,
    (rows, cols): (usize, usize),
    epilogue: Epilogue<'_, f32>,
) -> Error {
    let mut c = vec![7.0; rows * cols];
    let mut scratch = vec![0; 1 << 18];
    let view = MatMut::new(&mut c, rows, cols).unwrap();
    let error = gemm.run(alpha, a, b, view, epilogue, &mut scratch).unwrap_err();
    assert!(c.iter().all(|&c| c == 7.0), "C was written before the error: {error}");
    error
}

fn plan() -> Gemm<f32> {
    Gemm::new().unwrap()
}

#[test]
fn without_depth_start_and_finish_remain() {
    for (m, n) in [(1, 1), (3, 100), (40, 50)] {
        let mut c = vec![-2.0f32; m * n];
        let (a, b) = (MatRef::new(&[], m, 0).unwrap(), MatRef::new(&[], 0, n).unwrap());
        let view = MatMut::new(&mut c, m, n).unwrap();
        plan().run(1.0, a, b, view, Epilogue::scaled(0.5), &mut []).unwrap();
        assert!(c.iter().all(|&c| c == -1.0), "{m} x {n}: beta");
        let bias: Vec<f32> = (0..n).map(|j| j as f32 - 1.0).collect();
        let view = MatMut::new(&mut c, m, n).unwrap();
        plan().run(1.0, a, b, view, Epilogue::bias_relu(&bias), &mut []).unwrap();
        let expected = |at: usize| bias[at % n].max(0.0);
        assert!(c.iter().enumerate().all(|(at, &c)| c == expected(at)), "{m} x {n}: bias");
    }
}

#[test]
fn without_rows_or_columns_nothing_happens() {
    for (m, n) in [(0, 0), (0, 5), (5, 0)] {
        let mut bias = vec![1.0; n];
        let (a, b) = (zeros(m, 4), zeros(4, n));
        let view = MatMut::new(&mut [], m, n).unwrap();
        plan().run(1.0, a, b, view, Epilogue::bias(&bias), &mut [0; 4 * 4096]).unwrap();
        let sums = Epilogue { column_sums: Some(&mut bias), ..Epilogue::default() };
        let view = MatMut::new(&mut [], m, n).unwrap();
        plan().run(1.0, a, b, view, sums, &mut [0; 4 * 4096]).unwrap();
        assert!(bias.iter().all(|&sum| sum == 0.0), "{m} x {n}: sums of B, which has columns");
    }
}

#[test]
fn operands_that_do_not_fit() {
    let error = refusal(plan(), 1.0, zeros(3, 4), zeros(3, 4), (3, 4), Epilogue::default());
    assert_eq!(error.to_string(), "B of a product with A: expected 4 x 4, found 3 x 4");
    let error = refusal(plan(), 1.0, zeros(3, 4), zeros(4, 3), (3, 2), Epilogue::default());
    assert_eq!(error.to_string(), "C of a product: expected 3 x 3, found 3 x 2");
    let mut c = [0.0; 6];
    let view = MatMut::new(&mut c, 3, 2).unwrap();
    let error = gemm(1.0, zeros(3, 4), zeros(4, 3), 0.0, view).unwrap_err();
    assert!(matches!(error, Error::Shape { expected: (3, 3), found: (3, 2), .. }), "{error}");
    let packed = plan().pack_b(zeros(5, 3)).unwrap();
    let error = refusal(plan(), 1.0, zeros(3, 4), &packed, (3, 3), Epilogue::default());
    assert!(matches!(error, Error::Shape { expected: (4, 3), found: (5, 3), .. }), "{error}");
}

#[test]
fn epilogues_that_do_not_fit() {
    let (a, b) = (zeros(3, 4), zeros(4, 5));
    let refused = |epilogue: Epilogue<'_, f32>| refusal(plan(), 1.0, a, b, (3, 5), epilogue);
    let error = refused(Epilogue::bias(&[0.0; 4]));
    assert_eq!(error.to_string(), "bias: expected 5 elements, found 4");
    let error = refused(Epilogue { column_sums: Some(&mut [0.0; 6]), ..Epilogue::default() });
    assert_eq!(error.to_string(), "sums of the columns of B: expected 5 elements, found 6");
    let error = refused(Epilogue::relu_gradient(zeros(5, 3)));
    assert_eq!(error.to_string(), "activation: expected 3 x 5, found 5 x 3");
    let error = refused(Epilogue::relu_gradient(zeros(5, 3).t()));
    assert!(matches!(error, Error::Setting { .. }), "{error}");
    let rule = Momentum { learning_rate: 0.1, momentum: 0.9, nesterov: false };
    let update = Update { l2: 0.0, weight_decay: 0.0, rule: Rule::Momentum(rule) };
    let mut velocity = [0.0; 12];
    let error = refused(Epilogue::update(update, MatMut::new(&mut velocity, 3, 4).unwrap()));
    assert_eq!(error.to_string(), "velocity: expected 3 x 5, found 3 x 4");
    // Too few companions, too many, and one that may not be changed.
    let error = refused(Epilogue::update(update, Companions::default()));
    assert!(error.to_string().contains("1: velocity"), "{error}");
    let companions = zeros(3, 5).into();
    let error = refused(Epilogue { companions, ..Epilogue::default() });
    assert!(error.to_string().contains("companions = 1"), "{error}");
    let error = refused(Epilogue::update(update, zeros(3, 5)));
    assert!(matches!(error, Error::Setting { name: "velocity", .. }), "{error}");
}

#[test]
fn an_update_starts_from_0() {
    let bias = [0.0; 5];
    for start in [Start::Scaled(1.0), Start::Scaled(0.5), Start::Bias(&bias)] {
        let rule = Rule::Descent(Descent { learning_rate: 0.1 });
        let finish = Finish::Update(Update { l2: 0.0, weight_decay: 0.0, rule });
        let epilogue = Epilogue { start, finish, ..Epilogue::default() };
        let error = refusal(plan(), 1.0, zeros(3, 4), zeros(4, 5), (3, 5), epilogue);
        assert!(matches!(error, Error::Setting { name: "start", .. }), "{start:?}: {error}");
    }
}

#[test]
fn a_c_by_columns_takes_no_bias() {
    let mut c = [0.0; 15];
    let view = MatMut::new(&mut c, 5, 3).unwrap().t();
    let bias = Epilogue::bias(&[0.0; 5]);
    let error = plan().run(1.0, zeros(3, 4), zeros(4, 5), view, bias, &mut []).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error}");
}

#[test]
fn short_scratch_memory() {
    // Large enough to be packed; beside it the same product with just enough.
    let (m, n, k) = (150, 160, 170);
    let (a, b) = (vec![1.0f32; m * k], vec![1.0; k * n]);
    let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
    let needed = plan().scratch_bytes(m, n, k).unwrap();
    let mut c = vec![0.0; m * n];
    let mut run = |len: usize| {
        let view = MatMut::new(&mut c, m, n).unwrap();
        plan().run(1.0, a, b, view, Epilogue::default(), &mut vec![0; len])
    };
    run(needed).unwrap();
    let error = run(0).unwrap_err();
    assert!(matches!(error, Error::Length { expected, found: 0, .. } if expected <= needed));
    let Error::Length { expected, .. } = error else { unreachable!() };
    run(expected).unwrap();
    let error = run(expected - 1).unwrap_err();
    assert!(matches!(error, Error::Length { found, .. } if found == expected - 1), "{error}");
}

#[test]
fn packed_for_another_side() {
    let square = zeros(4, 4);
    let (a, b) = (plan().pack_a(1.0, square).unwrap(), plan().pack_b(square).unwrap());
    let refused = |a: Operand<'_, f32>, b: Operand<'_, f32>| {
        let error = refusal(plan(), 1.0, a, b, (4, 4), Epilogue::default());
        assert!(matches!(error, Error::Setting { name: "operand", .. }), "{error}");
        error.to_string()
    };
    let text = refused((&b).into(), square.into());
    assert!(text.contains("Packed(B, 4 x 4") && text.contains("side A"), "{text}");
    let text = refused(square.into(), (&a).into());
    assert!(text.contains("Packed(A, 4 x 4") && text.contains("side B"), "{text}");
}

#[test]
fn packed_for_another_set() {
    let set = plan().instruction_set();
    for other in InstructionSet::available().filter(|&other| other != set) {
        let packed: Packed<f32> =
            Gemm::<f32>::with_instruction_set(other).unwrap().pack_b(zeros(4, 4)).unwrap();
        let error = refusal(plan(), 1.0, zeros(4, 4), &packed, (4, 4), Epilogue::default());
        let text = error.to_string();
        assert!(text.contains(&other.to_string()) && text.contains(&set.to_string()), "{text}");
    }
}

#[test]
fn a_factor_for_packed_or_gathered_operands() {
    let packed = plan().pack_a(2.0, zeros(4, 4)).unwrap();
    let error = refusal(plan(), 0.5, &packed, zeros(4, 4), (4, 4), Epilogue::default());
    assert!(matches!(error, Error::Setting { name: "alpha", .. }), "{error}");
    let (store, scale, shift) = ([0; 16], [1.0; 4], [0.0; 4]);
    let rows = GatheredRows::new(&store, &[0, 1, 2, 3], &scale, &shift).unwrap();
    let error = refusal(plan(), 0.5, rows, zeros(4, 4), (4, 4), Epilogue::default());
    assert!(matches!(error, Error::Setting { name: "alpha", .. }), "{error}");
}

#[test]
fn sums_of_a_b_that_cannot_be_summed() {
    let packed = plan().pack_b(zeros(4, 4)).unwrap();
    let (store, scale, shift) = ([0; 16], [1.0; 4], [0.0; 4]);
    let rows = GatheredRows::new(&store, &[0, 1, 2, 3], &scale, &shift).unwrap();
    let operands: [Operand<'_, f32>; 3] = [(&packed).into(), rows.into(), zeros(4, 4).t().into()];
    for b in operands {
        let mut sums = [0.0; 4];
        let epilogue = Epilogue { column_sums: Some(&mut sums), ..Epilogue::default() };
        let error = refusal(plan(), 1.0, zeros(4, 4), b, (4, 4), epilogue);
        assert!(matches!(error, Error::Setting { .. }), "{b:?}: {error}");
    }
}

#[test]
fn gathered_rows_that_are_not_there() {
    let (store, scale, shift) = ([0; 12], [1.0f32; 4], [0.0; 4]);
    let error = GatheredRows::new(&store, &[0, 3, 2], &scale, &shift).unwrap_err();
    assert!(error.to_string().contains('3'), "{error}");
    let error = GatheredRows::new(&store[..11], &[0], &scale, &shift).unwrap_err();
    assert!(matches!(error, Error::Length { expected: 8, found: 11, .. }), "{error}");
    let error = GatheredRows::new(&store, &[0], &scale, &shift[..3]).unwrap_err();
    assert!(matches!(error, Error::Length { expected: 4, found: 3, .. }), "{error}");
}

#[test]
fn other_backends_take_matrices_alone() {
    let packed = plan().pack_b(zeros(4, 4)).unwrap();
    for &backend in &Backend::ALL[1..] {
        let other = plan().with_backend(backend);
        let error = refusal(other, 1.0, zeros(4, 4), &packed, (4, 4), Epilogue::default());
        assert!(matches!(error, Error::Setting { name: "operand", .. }), "{backend:?}: {error}");
    }
}

#[test]
fn a_c_whose_elements_overlap() {
    let mut c = [0.0f32; 20];
    for strides in [(2, 1), (1, 1), (0, 1), (1, 0), (-2, 1)] {
        let error = MatMut::strided(&mut c, 8, (3, 3), strides).unwrap_err();
        let found = matches!(error, Error::Overlap { rows: 3, cols: 3, .. });
        assert!(found, "{strides:?}: {error}");
    }
}

#[test]
fn views_that_reach_beyond_the_address_space() {
    let (most, least) = (usize::MAX, isize::MIN);
    let strides = [(least, least), (isize::MAX, isize::MAX), (least, isize::MAX), (1, least)];
    for strides in strides {
        let error = MatRef::strided(&ZEROS, 1, (most, most), strides).unwrap_err();
        assert!(matches!(error, Error::OutOfBounds { len: 64, .. }), "{strides:?}: {error}");
    }
    let error = MatRef::new(&ZEROS, most, 3).unwrap_err();
    assert!(matches!(error, Error::SizeOverflow { cols: 3, .. }), "{error}");
}

#[test]
fn sizes_beyond_the_address_space() {
    let huge = usize::MAX / 2;
    // One element stands for all of them.
    let vast = MatRef::strided(&ZEROS, 0, (huge, 8), (0, 0)).unwrap();
    for error in [plan().pack_a(1.0, vast).unwrap_err(), plan().pack_b(vast).unwrap_err()] {
        let found = matches!(error, Error::SizeOverflow { rows, cols: 8, .. } if rows == huge);
        assert!(found, "{error}");
    }
    let threads = plan().with_threads(Threads::Count(usize::MAX / 4));
    let error = in_pool(|| threads.scratch_bytes(huge, huge, huge)).unwrap_err();
    assert!(matches!(error, Error::SizeOverflow { .. }), "{error}");
    let error = in_pool(|| threads.scratch(1000, 1000, 1000)).unwrap_err();
    assert!(matches!(error, Error::SizeOverflow { .. }), "{error}");
}

/// Runs `work` in a pool of two threads.
fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap().install(work)
}

#[test]
fn a_given_blocking_is_the_one_in_use() {
    let (mr, nr) = plan().tile();
    let given = plan().blocking().with_mc(2 * mr).with_kc(24).with_nc(3 * nr);
    let gemm = plan().with_blocking(given);
    assert_eq!(gemm.blocking(), given);
    // Also where a derived one adapts: several tasks, and a C out of all caches.
    let many = gemm.with_threads(Threads::Count(4));
    assert_eq!(in_pool(|| many.blocking_of(5000, 5000, 5000)).unwrap(), given);
    assert_ne!(plan().blocking_of(5000, 5000, 5000).unwrap(), plan().blocking());
    // It is rounded up to whole tiles, and cut to the product.
    let odd = given.with_mc(mr + 1).with_kc(0).with_nc(1);
    let whole = given.with_mc(2 * mr).with_kc(1).with_nc(nr);
    assert_eq!(plan().with_blocking(odd).blocking(), whole);
    let small = gemm.blocking_of(1, 1, 5).unwrap();
    assert_eq!((small.mc, small.nc, small.kc), (mr, nr, 5));
}

#[test]
fn products_of_bf16_say_that_they_take_the_whole_depth() {
    // Sums that wait in a C of bf16 would be rounded.
    let bf16 = Gemm::<Bf16>::new().unwrap();
    for gemm in [bf16, bf16.with_blocking(bf16.blocking().with_kc(24))] {
        assert_eq!(gemm.blocking_of(100, 100, 50_000).unwrap().kc, 50_000);
    }
    let sums = Gemm::<Bf16ToF32>::new().unwrap();
    assert!(sums.blocking_of(100, 100, 50_000).unwrap().kc < 50_000);
}

#[test]
fn any_limit_of_reading_in_place_is_taken() {
    // A column-major A and a thin C: also where the product may be computed transposed.
    let (m, n, k) = (120, 3, 5);
    let (a, b) = (vec![1.0; m * k], vec![1.0; k * n]);
    for limit in [0, 1, usize::MAX / 2, usize::MAX] {
        let blocking = plan().blocking().with_in_place_lines(limit).with_in_place_work(limit);
        let gemm = plan().with_blocking(blocking);
        let mut c = vec![f32::NAN; m * n];
        let (a, b) = (MatRef::new(&a, k, m).unwrap().t(), MatRef::new(&b, k, n).unwrap());
        let (out, mut scratch) =
            (MatMut::new(&mut c, m, n).unwrap(), gemm.scratch(m, n, k).unwrap());
        gemm.run(1.0, a, b, out, Epilogue::default(), &mut scratch).unwrap();
        assert_eq!(c, vec![5.0; m * n], "{limit}");
    }
}

#[test]
fn scratch_memory_serves_smaller_products() {
    in_pool(smaller_products_need_no_more);
}

fn smaller_products_need_no_more() {
    let seed = 13;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut failures = Vec::new();
    for _ in 0..20_000 {
        let mut up_to = |most: usize| rng.random_range(0..=most);
        let large = (up_to(300), up_to(300), up_to(300));
        let small = (up_to(large.0), up_to(large.1), up_to(large.2));
        let blocking = plan().blocking().with_mc(up_to(100)).with_kc(up_to(60)).with_nc(up_to(200));
        let gemm = plan().with_blocking(blocking).with_threads(Threads::Count(up_to(4)));
        let len = |(m, n, k): (usize, usize, usize)| gemm.scratch_bytes(m, n, k).unwrap();
        if len(small) > len(large) {
            failures.push(format!(
                "{small:?} needs {}, {large:?} {}: {blocking:?}",
                len(small),
                len(large)
            ));
        }
    }
    let first = &failures[..failures.len().min(3)];
    assert!(first.is_empty(), "seed {seed}: {} cases:\n{}", failures.len(), first.join("\n"));
}
