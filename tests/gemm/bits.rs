//! What must not change a single bit: the number of threads, the other rows of a batch,
//! prepacking, the alignment of memory, the width of vectors, and who calls from where.

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;
use tilewise::{
    Element,
    gemm::{
        DropoutMask, Epilogue, Finish, GatheredRows, Gemm, Operand, Rule, Update,
        epilogue::Momentum, naive,
    },
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
    threads::Threads,
};

use crate::{
    cases::rounding,
    operands::{bits, product, values},
};

fn pool_of_4() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap()
}

/// Operands of products that are large enough to be divided.
struct Batch<T> {
    a: Vec<T>,
    b: Vec<T>,
    store: Vec<u8>,
    indices: Vec<u32>,
    scale: Vec<T>,
    shift: Vec<T>,
    bias: Vec<T>,
}

/// Images in the store of a batch.
const IMAGES: usize = 100;

impl<T: Element> Batch<T> {
    /// For products of (m, k) by (k, n), with k features of m gathered rows.
    fn random(seed: u64, (m, n, k): (usize, usize, usize)) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            a: values(&mut rng, m * k),
            b: values(&mut rng, k * n.max(m)),
            store: (0..IMAGES * k).map(|_| rng.random()).collect(),
            indices: (0..m).map(|_| rng.random_range(0..IMAGES as u32)).collect(),
            scale: values(&mut rng, k),
            shift: values(&mut rng, k),
            bias: values(&mut rng, n),
        }
    }

    fn rows(&self) -> GatheredRows<'_, T> {
        GatheredRows::new(&self.store, &self.indices, &self.scale, &self.shift).unwrap()
    }
}

/// Results of every kind of product of a batch: name and elements.
fn results<T: Element>(
    gemm: Gemm<T>,
    batch: &Batch<T>,
    (m, n, k): (usize, usize, usize),
) -> Vec<(&'static str, Vec<T>)> {
    let a = MatRef::new(&batch.a, m, k).unwrap();
    let b = MatRef::new(&batch.b[..k * n], k, n).unwrap();
    let (packed_a, packed_b) = (gemm.pack_a(T::ONE, a).unwrap(), gemm.pack_b(b).unwrap());
    let bias = || Epilogue::bias_relu(&batch.bias);
    let dropout = || Epilogue {
        finish: Finish::ReluDropout { mask: DropoutMask::new(0.4, 1, 2, 3), scale: T::ONE },
        ..Epilogue::bias(&batch.bias)
    };
    let mut found = vec![
        ("a product", product(gemm, a, b, Epilogue::default())),
        ("A packed", product(gemm, &packed_a, b, bias())),
        ("B packed", product(gemm, a, &packed_b, bias())),
        ("both packed", product(gemm, &packed_a, &packed_b, bias())),
        ("nothing packed", product(gemm, a, b, bias())),
        ("gathered rows", product(gemm, batch.rows(), b, dropout())),
    ];

    let mut by_columns = vec![T::ZERO; m * n];
    let mut scratch = gemm.scratch(m, n, k).unwrap();
    let c = MatMut::new(&mut by_columns, n, m).unwrap().t();
    gemm.run(T::ONE, a, b, c, Epilogue::default(), &mut scratch).unwrap();
    found.push(("C by columns", by_columns));

    // The gradient of a layer's weights, the step that it makes, and the gradient of the bias:
    // (features, m) by (m, n).
    let gradient = MatRef::new(&batch.a[..m * n.min(k)], m, n.min(k)).unwrap();
    let outputs = gradient.cols();
    let mut weights = batch.b[..k * outputs].to_vec();
    let mut velocity = batch.b[..k * outputs].to_vec();
    let mut sums = vec![T::ZERO; outputs];
    let mut scratch = gemm.scratch(k, outputs, m).unwrap();
    let (learning_rate, momentum) = (T::from_f64(0.1), T::from_f64(0.9));
    let update = Update {
        l2: T::from_f64(0.02),
        weight_decay: T::from_f64(0.01),
        rule: Rule::Momentum(Momentum { learning_rate, momentum, nesterov: true }),
    };
    let epilogue = Epilogue {
        column_sums: Some(&mut sums),
        ..Epilogue::update(update, MatMut::new(&mut velocity, k, outputs).unwrap())
    };
    let c = MatMut::new(&mut weights, k, outputs).unwrap();
    let images = Operand::GatheredTransposed(batch.rows());
    gemm.run(T::ONE, images, gradient, c, epilogue, &mut scratch).unwrap();
    found.extend([("weights", weights), ("their velocity", velocity), ("the bias's", sums)]);
    found
}

/// Both sides of every block size, few rows, few columns, deep and shallow.
const SHAPES: [(usize, usize, usize); 6] = [
    (517, 257, 300),
    (5, 1100, 700),
    (2000, 10, 301),
    (300, 3, 4000),
    (2, 5000, 400),
    (700, 600, 9),
];

fn threads_do_not_matter<T: Element>(seed: u64) {
    let pool = pool_of_4();
    for shape in SHAPES {
        let batch = Batch::<T>::random(seed, shape);
        for set in InstructionSet::available() {
            let gemm = Gemm::with_instruction_set(set).unwrap();
            let expected = results(gemm, &batch, shape);
            for tasks in [1, 2, 3, 4, 7] {
                let gemm = gemm.with_threads(Threads::Count(tasks));
                let found = pool.install(|| results(gemm, &batch, shape));
                for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                    assert!(
                        bits(found) == bits(expected),
                        "{name}, {shape:?} {set} {} seed {seed}: {tasks} tasks",
                        T::NAME
                    );
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_in_f32() {
    threads_do_not_matter::<f32>(20);
}

#[test]
fn the_number_of_threads_in_f64() {
    threads_do_not_matter::<f64>(21);
}

#[test]
fn the_width_of_vectors() {
    let seed = 22;
    for shape in SHAPES {
        let batch = Batch::<f32>::random(seed, shape);
        let mut sets = InstructionSet::available().filter(|set| set.is_fused()).map(|set| {
            let gemm = Gemm::with_instruction_set(set).unwrap();
            (set, results(gemm, &batch, shape))
        });
        let Some((first, expected)) = sets.next() else {
            return;
        };
        for (set, found) in sets {
            for ((name, found), (_, expected)) in found.iter().zip(&expected) {
                assert!(
                    bits(found) == bits(expected),
                    "{name}, {shape:?} seed {seed}: {first} and {set} differ"
                );
            }
        }
    }
}

#[test]
fn prepacking() {
    let seed = 23;
    for shape in SHAPES {
        let batch = Batch::<f32>::random(seed, shape);
        for set in InstructionSet::available() {
            let gemm = Gemm::with_instruction_set(set).unwrap();
            let found = results(gemm, &batch, shape);
            let of = |name: &str| {
                let (_, found) = found.iter().find(|(found, _)| *found == name).unwrap();
                bits(found)
            };
            for name in ["A packed", "B packed", "both packed"] {
                assert!(of(name) == of("nothing packed"), "{name}: {shape:?} {set} seed {seed}");
            }
        }
    }
}

/// A row computed with all others, with some, and alone.
fn rows_stand_alone<T: Element>(seed: u64) {
    let (m, n, k) = (61, 150, 300);
    let batch = Batch::<T>::random(seed, (m, n, k));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for set in InstructionSet::available() {
        let gemm = Gemm::with_instruction_set(set).unwrap();
        let b = MatRef::new(&batch.b[..k * n], k, n).unwrap();
        let packed = gemm.pack_b(b).unwrap();
        for (right, by) in [(Operand::from(b), "B"), (Operand::from(&packed), "packed B")] {
            for gathered in [false, true] {
                let rows = |rows: std::ops::Range<usize>| {
                    let epilogue = Epilogue::bias_relu(&batch.bias);
                    if gathered {
                        let (store, indices) = (&batch.store, &batch.indices[rows]);
                        let a = GatheredRows::new(store, indices, &batch.scale, &batch.shift);
                        product(gemm, a.unwrap(), right, epilogue)
                    } else {
                        let a = &batch.a[rows.start * k..rows.end * k];
                        product(gemm, MatRef::new(a, rows.len(), k).unwrap(), right, epilogue)
                    }
                };
                let whole = rows(0..m);
                let mut pieces: Vec<_> = (0..m).map(|i| i..i + 1).collect();
                pieces.extend((1..m).flat_map(|at| [0..at, at..m]));
                pieces.extend((0..30).map(|_| {
                    let start = rng.random_range(0..m);
                    start..rng.random_range(start + 1..=m)
                }));
                for piece in pieces {
                    assert!(
                        bits(&rows(piece.clone())) == bits(&whole[piece.start * n..piece.end * n]),
                        "rows {piece:?} by {by} {set} {} seed {seed}, gathered: {gathered}",
                        T::NAME
                    );
                }
            }
        }
    }
}

/// A C of more than two million elements is cut into deeper blocks than its parts.
#[test]
fn the_size_of_the_whole() {
    let (m, n, k) = (2100, 1010, 1300);
    let mut rng = ChaCha8Rng::seed_from_u64(27);
    let (a, b) = (values::<f32>(&mut rng, m * k), values(&mut rng, k * n));
    let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
    for set in InstructionSet::available() {
        let gemm = Gemm::with_instruction_set(set).unwrap();
        let whole = product(gemm, a, b, Epilogue::default());
        for rows in [0..700, 700..1400, 1400..2100] {
            let part = a.part(rows.clone(), 0..k).unwrap();
            let part = product(gemm, part, b, Epilogue::default());
            assert!(bits(&part) == bits(&whole[rows.start * n..rows.end * n]), "{set} {rows:?}");
        }
    }
}

#[test]
fn the_other_rows_of_a_batch_in_f32() {
    rows_stand_alone::<f32>(24);
}

#[test]
fn the_other_rows_of_a_batch_in_f64() {
    rows_stand_alone::<f64>(25);
}

/// A product with every operand at its offset from a cache line, in elements.
fn at_offsets<T: Element>(
    gemm: Gemm<T>,
    batch: &Batch<T>,
    (m, n, k): (usize, usize, usize),
    [for_a, for_b, for_c, for_scratch]: [usize; 4],
) -> Vec<T> {
    let aligned = |len: usize| tilewise::aligned::AlignedBuf::<T>::zeroed(len + 64).unwrap();
    let copy = |from: &[T], offset: usize| {
        let mut to = aligned(from.len());
        to[offset..offset + from.len()].copy_from_slice(from);
        to
    };
    let (a, b) = (copy(&batch.a, for_a), copy(&batch.b[..k * n], for_b));
    let (mut c, len) = (aligned(m * n), gemm.scratch_bytes(m, n, k).unwrap());
    let mut scratch = tilewise::aligned::AlignedBuf::<u8>::zeroed(len + 256).unwrap();
    gemm.run(
        T::ONE,
        MatRef::new(&a[for_a..for_a + m * k], m, k).unwrap(),
        MatRef::new(&b[for_b..for_b + k * n], k, n).unwrap(),
        MatMut::new(&mut c[for_c..for_c + m * n], m, n).unwrap(),
        Epilogue::bias(&batch.bias),
        &mut scratch[4 * for_scratch..4 * for_scratch + len],
    )
    .unwrap();
    c[for_c..for_c + m * n].to_vec()
}

fn alignment_does_not_matter<T: Element>(seed: u64) {
    let shape = (31, 70, 40);
    let batch = Batch::<T>::random(seed, shape);
    for set in InstructionSet::available() {
        for in_place_work in [0, 1 << 30] {
            let gemm = Gemm::with_instruction_set(set).unwrap();
            let blocking = gemm.blocking().with_in_place_work(in_place_work).with_in_place_lines(0);
            let gemm = gemm.with_blocking(blocking);
            let expected = at_offsets(gemm, &batch, shape, [0; 4]);
            for offset in 0..64 / size_of::<T>() {
                for which in 0..5 {
                    let offsets = std::array::from_fn(|operand| {
                        if which == operand || which == 4 { offset } else { 0 }
                    });
                    assert!(
                        bits(&at_offsets(gemm, &batch, shape, offsets)) == bits(&expected),
                        "{set} {} seed {seed} offsets {offsets:?} in place {in_place_work}",
                        T::NAME
                    );
                }
            }
        }
    }
}

#[test]
fn the_alignment_of_memory_in_f32() {
    alignment_does_not_matter::<f32>(26);
}

#[test]
fn the_alignment_of_memory_in_f64() {
    alignment_does_not_matter::<f64>(27);
}

#[test]
fn the_alignment_of_a_store_of_bytes() {
    let (seed, (m, n, k)) = (28, (31, 20, 77));
    let batch = Batch::<f32>::random(seed, (m, n, k));
    let b = MatRef::new(&batch.b[..k * n], k, n).unwrap();
    for set in InstructionSet::available() {
        let gemm = Gemm::with_instruction_set(set).unwrap();
        let expected = product(gemm, batch.rows(), b, Epilogue::default());
        for offset in 0..64 {
            let mut store =
                tilewise::aligned::AlignedBuf::<u8>::zeroed(offset + IMAGES * k).unwrap();
            store[offset..].copy_from_slice(&batch.store);
            let rows =
                GatheredRows::new(&store[offset..], &batch.indices, &batch.scale, &batch.shift);
            let found = product(gemm, rows.unwrap(), b, Epilogue::default());
            assert!(bits(&found) == bits(&expected), "{set} seed {seed} offset {offset}");
        }
    }
}

/// A shape and content on which a neighbor's parallel product is wrong: 5018 rows of f64 with
/// blocks of zeros, denormals and huge values.
#[test]
fn structured_operands_in_parallel() {
    let (m, n, k, gap, seed) = (5018, 43, 70, 5, 29);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut structured = |rows: usize, cols: usize, block: (usize, usize)| -> Vec<f64> {
        let mut data = values::<f64>(&mut rng, rows * (cols + gap));
        for (at, value) in data.iter_mut().enumerate() {
            let (i, j) = (at / (cols + gap), at % (cols + gap));
            *value *= [0.0, 1.0, 1e-310, 1.0, 1e150, 0.0][(i / block.0 + 5 * (j / block.1)) % 6];
            if j >= cols {
                *value = f64::NAN;
            }
        }
        data
    };
    let (a, b) = (structured(m, k, (64, 16)), structured(k, n, (8, 20)));
    let a = MatRef::strided(&a, 0, (m, k), ((k + gap) as isize, 1)).unwrap();
    let b = MatRef::strided(&b, 0, (k, n), ((n + gap) as isize, 1)).unwrap();
    let pool = pool_of_4();
    for set in InstructionSet::available() {
        let mut expected = vec![0.0; m * n];
        let c = MatMut::new(&mut expected, m, n).unwrap();
        naive::gemm(rounding(set), 1.0, a, b, c, Epilogue::default()).unwrap();
        for tasks in [1, 2, 3, 4, 7] {
            let gemm = Gemm::with_instruction_set(set).unwrap().with_threads(Threads::Count(tasks));
            let found = pool.install(|| product(gemm, a, b, Epilogue::default()));
            assert!(bits(&found) == bits(&expected), "{set} seed {seed}: {tasks} tasks");
        }
    }
}

/// A plan and packed panels for many callers, and the product that all of them must get.
fn shared_work(seed: u64) -> (Gemm<f32>, Batch<f32>, (usize, usize, usize)) {
    let shape = (160, 170, 180);
    (Gemm::new().unwrap().with_threads(Threads::Count(3)), Batch::random(seed, shape), shape)
}

#[test]
fn eight_threads_at_once() {
    let (seed, pool) = (30, pool_of_4());
    let (gemm, batch, (m, n, k)) = shared_work(seed);
    let a = MatRef::new(&batch.a, m, k).unwrap();
    let packed = gemm.pack_b(MatRef::new(&batch.b[..k * n], k, n).unwrap()).unwrap();
    let on =
        |threads| product(gemm.with_threads(threads), a, &packed, Epilogue::bias_relu(&batch.bias));
    let expected = on(Threads::Caller);
    let (run, alone) = (|| on(Threads::Count(3)), || on(Threads::Caller));
    // Half of the callers enter the pool; the others stay outside of any, alone.
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (pool, run, alone, expected) = (&pool, &run, &alone, &expected);
            scope.spawn(move || {
                for round in 0..20 {
                    let found = if caller % 2 == 0 { pool.install(run) } else { alone() };
                    let same = bits(&found) == bits(expected);
                    assert!(same, "seed {seed} caller {caller} round {round}");
                }
            });
        }
    });
}

#[test]
fn calls_from_inside_the_callers_tasks() {
    let (seed, pool) = (31, pool_of_4());
    let (gemm, batch, (m, n, k)) = shared_work(seed);
    let a = MatRef::new(&batch.a, m, k).unwrap();
    let packed = gemm.pack_b(MatRef::new(&batch.b[..k * n], k, n).unwrap()).unwrap();
    let run = || product(gemm, a, &packed, Epilogue::bias_relu(&batch.bias));
    let expected = pool.install(run);
    let differing = pool.install(|| {
        let same = |_: &u32| bits(&run()) == bits(&expected);
        (0..100u32).into_par_iter().filter(|task| !same(task)).count()
    });
    assert_eq!(differing, 0, "seed {seed}: products that differ");
}
