//! Products of bf16 against their definition, which is software: random sizes, sources, strides,
//! factors and epilogues, with ordinary numbers and with those at the edges. Every bit counts, but
//! any NaN equals any.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytemuck::Pod;
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;
use tilewise::{
    Bf16,
    gemm::{
        Backend, Bf16ToF32, Blocking, Companion, Companions, DropoutMask, Epilogue, Finish, Gemm,
        Operand, PanelElement, Product, Start, Update,
        naive::{self, Rounding},
    },
    matrix::{MatMut, MatRef},
    simd::{Denormals, InstructionSet},
    threads::Threads,
};

use crate::{
    cases::{ALPHAS, BETAS, CURRENT, Ending, Images, random_sizes},
    operands::{Heap, Layouts, Memory, Place, Strided},
};

/// A product of bf16 by its type of C.
pub trait OfBf16: Product<Left = Bf16, Right = Bf16, Sum = f32, Output = Self::C> {
    /// An element of C.
    type C: PanelElement<Value = f32>;
    const NAME: &'static str;
    /// Whether C can be weights that are updated.
    const UPDATES: bool;
}

impl OfBf16 for Bf16 {
    type C = Bf16;
    const NAME: &'static str = "bf16";
    const UPDATES: bool = false;
}

impl OfBf16 for Bf16ToF32 {
    type C = f32;
    const NAME: &'static str = "bf16 to f32";
    const UPDATES: bool = true;
}

/// Which numbers a case is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Numbers {
    /// Between -1 and 1.
    Ordinary,
    /// Infinities, NaN, zeros, denormals and huge ones among them.
    Edges,
    /// Such that products and sums are about the smallest normal number.
    Tiny,
}

impl Numbers {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..10) {
            0..6 => Self::Ordinary,
            6..8 => Self::Edges,
            _ => Self::Tiny,
        }
    }

    /// A number for an operand.
    fn operand(self, rng: &mut ChaCha8Rng) -> f32 {
        let ordinary = rng.random_range(-1.0f32..1.0);
        match self {
            Self::Ordinary => ordinary,
            Self::Edges => edge(rng, ordinary),
            Self::Tiny => ordinary * 2f32.powi(rng.random_range(-66..-60)),
        }
    }

    /// A number for C, a bias or a slot.
    fn start(self, rng: &mut ChaCha8Rng) -> f32 {
        let ordinary = rng.random_range(-1.0f32..1.0);
        match self {
            Self::Ordinary => ordinary,
            Self::Edges => edge(rng, ordinary),
            Self::Tiny => f32::MIN_POSITIVE * 4.0 * ordinary,
        }
    }
}

fn edge(rng: &mut ChaCha8Rng, ordinary: f32) -> f32 {
    let edges = [
        0.0,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::from_bits(0x0040_0000),
        f32::from_bits(0x807f_ffff),
        f32::MIN_POSITIVE,
        f32::MAX,
        -1e30,
    ];
    // Few, so that not every sum is NaN.
    if rng.random_bool(0.1) { edges[rng.random_range(0..edges.len())] } else { ordinary }
}

/// An operand and its memory.
enum Source<M: Memory> {
    Elements(Strided<Bf16, M>),
    Values(Strided<f32, M>),
    PackedElements(Strided<Bf16, M>),
    PackedValues(Strided<f32, M>),
    Gathered(Images<f32, M>),
    GatheredTransposed(Images<f32, M>),
}

impl<M: Memory> Source<M> {
    fn random(rng: &mut ChaCha8Rng, (rows, cols): (usize, usize), numbers: Numbers) -> Self {
        let shape = (rows, cols);
        let elements = |rng: &mut ChaCha8Rng| {
            Strided::with(rng, shape, Layouts::Shared, |rng| {
                // All bits, denormal ones too.
                Bf16::from_bits((numbers.operand(rng).to_bits() >> 16) as u16)
            })
        };
        let values = |rng: &mut ChaCha8Rng| {
            Strided::with(rng, shape, Layouts::Shared, |rng| numbers.operand(rng))
        };
        match rng.random_range(0..8) {
            0 => Self::PackedElements(elements(rng)),
            1 => Self::PackedValues(values(rng)),
            // Images without pixels cannot be numbered.
            2 if cols > 0 => Self::Gathered(Images::random(rng, rows, cols, Rounding::Once)),
            3 if rows > 0 => {
                Self::GatheredTransposed(Images::random(rng, cols, rows, Rounding::Once))
            }
            4 | 5 => Self::Values(values(rng)),
            _ => Self::Elements(elements(rng)),
        }
    }

    fn is_gathered(&self) -> bool {
        matches!(self, Self::Gathered(_) | Self::GatheredTransposed(_))
    }

    fn is_packed(&self) -> bool {
        matches!(self, Self::PackedElements(_) | Self::PackedValues(_))
    }

    /// The kind and the strides.
    fn key(&self) -> (u8, (isize, isize)) {
        match self {
            Self::Elements(matrix) => (0, matrix.place.strides),
            Self::Values(matrix) => (1, matrix.place.strides),
            Self::PackedElements(matrix) => (2, matrix.place.strides),
            Self::PackedValues(matrix) => (3, matrix.place.strides),
            Self::Gathered(_) => (4, (0, 0)),
            Self::GatheredTransposed(_) => (5, (0, 0)),
        }
    }

    /// The operand to be packed by the product, or before it.
    fn operand(&self) -> Operand<'_, Bf16> {
        match self {
            Self::Elements(matrix) | Self::PackedElements(matrix) => matrix.view().into(),
            Self::Values(matrix) | Self::PackedValues(matrix) => Operand::Rounded(matrix.view()),
            Self::Gathered(images) => images.rows().into(),
            Self::GatheredTransposed(images) => Operand::GatheredTransposed(images.rows()),
        }
    }

    /// The values, (rows, cols), as the definition takes them.
    fn values(&self, (rows, cols): (usize, usize)) -> Vec<f32> {
        let at = |i: usize, j: usize| match self {
            Self::Elements(matrix) | Self::PackedElements(matrix) => {
                matrix.view().get(i, j).to_f32()
            }
            Self::Values(matrix) | Self::PackedValues(matrix) => matrix.view().get(i, j),
            Self::Gathered(images) => images.matrix().get(i, j),
            Self::GatheredTransposed(images) => images.matrix().get(j, i),
        };
        (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))).map(|(i, j)| at(i, j)).collect()
    }
}

/// What makes a case a case of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    sizes: (usize, usize, usize),
    a: (u8, (isize, isize)),
    b: (u8, (isize, isize)),
    c: (isize, isize),
    factors: (usize, usize),
    numbers: Numbers,
    ending: Ending,
}

/// A product and everything it reads and writes.
struct Case<P: OfBf16, M: Memory> {
    key: Key,
    blocking: Blocking,
    alpha: f32,
    beta: f32,
    a: Source<M>,
    b: Source<M>,
    c: Strided<P::C, M>,
    bias: Option<M::Buffer<f32>>,
    ending: Ending,
    activation: Strided<P::C, M>,
    slots: [Strided<P::C, M>; 2],
    sums: Option<M::Buffer<f32>>,
    mask: DropoutMask,
}

impl<P: OfBf16, M: Memory> Case<P, M> {
    fn random(rng: &mut ChaCha8Rng, gemm: Gemm<P>) -> Self {
        let ((m, n, k), blocking) = random_sizes(rng, gemm.tile());
        let numbers = Numbers::random(rng);
        let a = Source::random(rng, (m, k), numbers);
        let b = Source::random(rng, (k, n), numbers);
        let element = |rng: &mut ChaCha8Rng| {
            let value = numbers.start(rng);
            // Of bf16 the denormal ones too.
            let upper = Bf16::from_bits((value.to_bits() >> 16) as u16).to_f32();
            let exact: P::C =
                bytemuck::pod_read_unaligned(&bytemuck::bytes_of(&value)[4 - size_of::<P::C>()..]);
            debug_assert!(size_of::<P::C>() == 4 || exact.value().to_bits() == upper.to_bits());
            exact
        };
        let layouts = if rng.random_bool(0.7) { Layouts::Contiguous } else { Layouts::Distinct };
        let mut c = Strided::<P::C, M>::with(rng, (m, n), layouts, element);
        let contiguous = c.place.strides.1 == 1 || n <= 1;
        let endings = match (contiguous, P::UPDATES) {
            (true, true) => &Ending::ALL[..],
            (true, false) => &Ending::ALL[..4],
            (false, _) => &Ending::ALL[..2],
        };
        let ending = endings[rng.random_range(0..endings.len())];
        let with_bias = contiguous && !ending.is_update() && rng.random_bool(0.4);
        let factors = if a.is_gathered() { 2 } else { ALPHAS.len() };
        let alpha = if rng.random_bool(0.5) { 0 } else { rng.random_range(0..factors) };
        let beta = if ending.is_update() { 0 } else { rng.random_range(0..BETAS.len()) };
        if !ending.is_update() && (BETAS[beta] == 0.0 || with_bias) {
            bytemuck::cast_slice_mut::<P::C, u8>(&mut c.data[..]).fill(0xff);
        }
        let bias = with_bias.then(|| {
            let mut bias = M::buffer::<f32>(rng, n);
            bias.iter_mut().for_each(|bias| *bias = numbers.start(rng));
            bias
        });
        let activation = Strided::with(rng, (m, n), Layouts::Contiguous, element);
        let slots = [(); 2].map(|()| Strided::with(rng, (m, n), Layouts::Contiguous, element));
        let summed =
            matches!(b.key(), (0 | 1, strides) if strides.1 == 1 || n <= 1 && strides.0 == 1);
        let sums = (summed && b.key().1.1 == 1 && rng.random_bool(0.3)).then(|| {
            let mut sums = M::buffer::<f32>(rng, n);
            sums.iter_mut().for_each(|sum| *sum = numbers.start(rng));
            sums
        });
        let key = Key {
            sizes: (m, n, k),
            a: a.key(),
            b: b.key(),
            c: c.place.strides,
            factors: (alpha, beta),
            numbers,
            ending,
        };
        let (mut alpha, mut beta) = (ALPHAS[alpha] as f32, BETAS[beta] as f32);
        // Factors that count as 0.
        let denormal = f32::from_bits(0x0012_3456);
        if numbers == Numbers::Edges && rng.random_bool(0.05) {
            alpha = denormal;
        }
        if numbers == Numbers::Edges && !ending.is_update() && rng.random_bool(0.05) {
            beta = denormal;
        }
        let mask = DropoutMask::new(0.3, rng.random(), 2, 3);
        Self { key, blocking, alpha, beta, a, b, c, bias, ending, activation, slots, sums, mask }
    }

    /// The epilogue, with the memory that it changes.
    fn epilogue<'e>(
        &'e self,
        slots: [&'e mut [P::C]; 2],
        column_sums: Option<&'e mut [f32]>,
    ) -> Epilogue<'e, f32, P::C> {
        let scale = 1.25;
        let start = match &self.bias {
            Some(bias) => Start::Bias(bias),
            None => Start::Scaled(self.beta),
        };
        let mut companions = Companions::default();
        let finish = match (self.ending, self.ending.rule()) {
            (_, Some(rule)) => {
                let mut places = self.slots.iter().zip(slots);
                companions = Companions::from(std::array::from_fn(|index| {
                    let (slot, memory) = places.next().unwrap();
                    let used = index < rule.slot_names().len();
                    used.then(|| Companion::Exclusive(slot.place.view_mut(memory)))
                }));
                Finish::Update(Update { l2: 0.02, weight_decay: 0.03, rule })
            }
            (Ending::Relu, _) => Finish::Relu,
            (Ending::ReluDropout, _) => Finish::ReluDropout { mask: self.mask, scale },
            (Ending::ReluGradient, _) => {
                companions = self.activation.view().into();
                Finish::ReluGradient { scale }
            }
            _ => Finish::Store,
        };
        Epilogue { start, finish, companions, column_sums }
    }

    /// Computes the product by definition and by the kernels, and compares all that is written.
    fn check(&self, rng: &mut ChaCha8Rng, gemm: Gemm<P>) -> Result<(), String> {
        let (m, n, k) = self.key.sizes;
        let zero = self.alpha == 0.0 || self.alpha.is_subnormal();
        let packed_a = self
            .a
            .is_packed()
            .then(|| gemm.pack_a(if zero { 1.0 } else { self.alpha }, self.a.operand()).unwrap());
        let packed_b = self.b.is_packed().then(|| gemm.pack_b(self.b.operand()).unwrap());
        // The factor of packed panels is in them.
        let alpha = if zero || packed_a.is_none() { self.alpha } else { 1.0 };
        let (a, b) = (self.a.values((m, k)), self.b.values((k, n)));
        let place: Place = self.c.place;
        let mut expected = Written::of(self);
        naive::gemm_bf16(
            self.alpha,
            MatRef::new(&a, m, k).unwrap(),
            MatRef::new(&b, k, n).unwrap(),
            place.view_mut(&mut expected.c),
            self.epilogue(
                expected.slots.each_mut().map(|slot| &mut slot[..]),
                expected.sums.as_deref_mut(),
            ),
        )
        .map_err(|error| format!("the definition: {error}"))?;

        let gemm = gemm.with_blocking(self.blocking);
        let guarded = |rng: &mut ChaCha8Rng, from: &[P::C]| {
            let mut copy = M::buffer::<P::C>(rng, from.len());
            copy.copy_from_slice(from);
            copy
        };
        let mut c = guarded(rng, &self.c.data);
        let mut slots = self.slots.each_ref().map(|slot| guarded(rng, &slot.data));
        let mut sums = self.sums.as_ref().map(|sums| {
            let mut copy = M::buffer::<f32>(rng, sums.len());
            copy.copy_from_slice(sums);
            copy
        });
        let mut scratch = M::buffer::<u8>(rng, gemm.scratch_bytes(m, n, k).unwrap());
        gemm.run(
            alpha,
            packed_a.as_ref().map_or_else(|| self.a.operand(), Operand::from),
            packed_b.as_ref().map_or_else(|| self.b.operand(), Operand::from),
            place.view_mut(&mut c),
            self.epilogue(slots.each_mut().map(|slot| &mut slot[..]), sums.as_deref_mut()),
            &mut scratch,
        )
        .map_err(|error| error.to_string())?;
        if !same(&c, &expected.c) {
            return Err("C differs".into());
        }
        if slots.iter().zip(&expected.slots).any(|(found, expected)| !same(found, expected)) {
            return Err("a slot differs".into());
        }
        match (&sums, &expected.sums) {
            (Some(found), Some(expected)) if !same(found, expected) => {
                Err("the sums of B differ".into())
            }
            _ => Ok(()),
        }
    }
}

/// What a product writes.
struct Written<C> {
    c: Vec<C>,
    slots: [Vec<C>; 2],
    sums: Option<Vec<f32>>,
}

impl<C: Pod + Send + Sync> Written<C> {
    /// As it is before.
    fn of<P: OfBf16<C = C>, M: Memory>(case: &Case<P, M>) -> Self {
        Self {
            c: case.c.data.to_vec(),
            slots: case.slots.each_ref().map(|slot| slot.data.to_vec()),
            sums: case.sums.as_ref().map(|sums| sums.to_vec()),
        }
    }
}

/// Whether all numbers have the same bits, or are NaN.
fn same<E: PanelElement<Value = f32>>(found: &[E], expected: &[E]) -> bool {
    found.len() == expected.len()
        && found.iter().zip(expected).all(|(x, y)| {
            let (x, y) = (x.value(), y.value());
            x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
        })
}

/// What a number of cases covered, and how they failed.
#[derive(Default)]
pub struct Census {
    keys: HashSet<Key>,
    failures: Vec<String>,
}

impl Census {
    /// Panics with the first failures, if there are any.
    pub fn expect_success(&self) {
        let first = &self.failures[..self.failures.len().min(5)];
        assert!(first.is_empty(), "{} failures:\n{}", self.failures.len(), first.join("\n"));
    }

    fn add<P: OfBf16, M: Memory>(&mut self, seed: u64, number: u64, gemm: Gemm<P>) {
        CURRENT.set(number);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        let case = Case::<P, M>::random(&mut rng, gemm);
        let outcome = catch_unwind(AssertUnwindSafe(|| case.check(&mut rng, gemm)));
        let outcome = outcome.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            Err(format!("panicked: {}", text.unwrap_or_default()))
        });
        if let Err(problem) = outcome {
            self.failures.push(format!(
                "{} {} seed {seed} case {number}: {problem}: {:?}, alpha {}, beta {}, bias {}, {:?}",
                gemm.instruction_set(),
                P::NAME,
                case.key,
                case.alpha,
                case.beta,
                case.bias.is_some(),
                case.blocking,
            ));
        }
        self.keys.insert(case.key);
    }

    fn and(mut self, other: Self) -> Self {
        self.keys.extend(other.keys);
        self.failures.extend(other.failures);
        self
    }

    /// Cases `0..count` of a seed on one instruction set.
    pub fn take<P: OfBf16, M: Memory>(set: InstructionSet, seed: u64, count: u64) -> Self {
        let gemm = Gemm::<P>::with_instruction_set(set).unwrap();
        (0..count)
            .into_par_iter()
            .fold(Self::default, |mut census, number| {
                census.add::<P, M>(seed, number, gemm);
                census
            })
            .reduce(Self::default, Self::and)
    }
}

/// Different cases of each instruction set, half of them with C in bf16.
const CASES: usize = 100_000;

#[test]
fn every_set_equals_the_definition() {
    for set in InstructionSet::available() {
        let count = CASES as u64 * 51 / 100;
        let census = Census::take::<Bf16, Heap>(set, 21, count);
        census.expect_success();
        let to_f32 = Census::take::<Bf16ToF32, Heap>(set, 22, count);
        to_f32.expect_success();
        let different = census.keys.len() + to_f32.keys.len();
        println!("{set}: {different} different cases");
        assert!(different >= CASES, "{set}: {different} different cases");
    }
}

/// Elements of bf16 between -1 and 1.
fn elements(len: usize, seed: u64) -> Vec<Bf16> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| Bf16::from_f32(rng.random_range(-1.0..1.0))).collect()
}

/// The product of two matrices, with a C of zeros.
fn product<'a, P: OfBf16>(
    gemm: Gemm<P>,
    a: impl Into<Operand<'a, Bf16>>,
    b: impl Into<Operand<'a, Bf16>>,
) -> Vec<P::C> {
    let (a, b) = (a.into(), b.into());
    let ((m, k), n) = (a.shape(), b.shape().1);
    let mut c = vec![P::C::nearest(0.0); m * n];
    let mut scratch = gemm.scratch(m, n, k).unwrap();
    let view = MatMut::new(&mut c, m, n).unwrap();
    gemm.run(1.0, a, b, view, Epilogue::default(), &mut scratch).unwrap();
    c
}

/// With the default blocking: whole blocks of the depth and of rows, divided among tasks.
fn threads_and_sets_agree<P: OfBf16>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    for (m, n, k) in [(300, 200, 2300), (70, 1100, 333), (2, 1000, 1201), (9000, 10, 301)] {
        let (a, b) = (elements(m * k, 1), elements(k * n, 2));
        let (a, b) = (MatRef::new(&a, m, k).unwrap(), MatRef::new(&b, k, n).unwrap());
        let mut expected = None;
        for set in InstructionSet::available().collect::<Vec<_>>().into_iter().rev() {
            // The portable one is slow.
            if set == InstructionSet::Portable && m * n * k > 1 << 26 && expected.is_some() {
                continue;
            }
            let gemm = Gemm::<P>::with_instruction_set(set).unwrap();
            let packed = gemm.pack_b(b).unwrap();
            for tasks in 1..=4 {
                let gemm = gemm.with_threads(Threads::Count(tasks));
                pool.install(|| {
                    let plain = product(gemm, a, b);
                    let expected = expected.get_or_insert_with(|| plain.clone());
                    assert!(same(&plain, expected), "{set}, {tasks} tasks, {m} x {n} x {k}");
                    let prepacked = product(gemm, a, &packed);
                    assert!(same(&prepacked, expected), "{set}, {tasks}, prepacked {m} {n} {k}");
                });
            }
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_sets() {
    threads_and_sets_agree::<Bf16>();
    threads_and_sets_agree::<Bf16ToF32>();
}

#[test]
fn panels_are_filled_again_by_any_number_of_tasks() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let (k, n, m) = (301, 700, 3);
    let a = elements(m * k, 1);
    let a = MatRef::new(&a, m, k).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut weights = || -> Vec<f32> { (0..k * n).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (first, second) = (weights(), weights());
    for set in InstructionSet::available() {
        let gemm = Gemm::<Bf16ToF32>::with_instruction_set(set).unwrap();
        for transposed in [false, true] {
            let view = |weights| {
                let shape = if transposed { (n, k) } else { (k, n) };
                let view = MatRef::new(weights, shape.0, shape.1).unwrap();
                Operand::Rounded(if transposed { view.t() } else { view })
            };
            let mut panels = gemm.pack_b(view(&first)).unwrap();
            pool.install(|| {
                let several = gemm.with_threads(Threads::Count(3));
                several.repack_b(view(&second), &mut panels).unwrap();
            });
            assert!(same(&product(gemm, a, &panels), &product(gemm, a, view(&second))), "{set}");
        }
        let mut panels = gemm.pack_b(view_of(&first, k, n)).unwrap();
        let error = gemm.repack_b(view_of(&first, n, k), &mut panels).unwrap_err();
        assert!(error.to_string().contains("301"), "{error}");
        let other = gemm.pack_b(view_of(&first, k, n)).unwrap();
        assert!(gemm.repack_b(&other, &mut panels).is_err(), "packed from panels");
        let mut left = gemm.pack_a(1.0, view_of(&first, k, n)).unwrap();
        assert!(gemm.repack_b(view_of(&first, k, n), &mut left).is_err(), "the other side");
    }
}

fn view_of(values: &[f32], rows: usize, cols: usize) -> Operand<'_, Bf16> {
    Operand::Rounded(MatRef::new(values, rows, cols).unwrap())
}

#[test]
fn the_setting_of_the_calling_thread_stays_as_it_is() {
    let (a, b) = (elements(40, 1), elements(40, 2));
    let (a, b) = (MatRef::new(&a, 5, 8).unwrap(), MatRef::new(&b, 8, 5).unwrap());
    for set in InstructionSet::available() {
        let gemm = Gemm::<Bf16>::with_instruction_set(set).unwrap();
        let packed = gemm.pack_b(b).unwrap();
        product(gemm, a, &packed);
        product(gemm.with_denormals(Denormals::Keep), a, b);
        assert_eq!(Denormals::current(), Denormals::Keep, "{set}");
    }
}

#[test]
fn weights_of_bf16_are_not_updated() {
    let gemm = Gemm::<Bf16>::new().unwrap();
    let (a, b, mut c) = (elements(6, 1), elements(6, 2), elements(4, 3));
    let (a, b) = (MatRef::new(&a, 2, 3).unwrap(), MatRef::new(&b, 3, 2).unwrap());
    let rule = Ending::Descent.rule().unwrap();
    let update = Update { l2: 0.0, weight_decay: 0.0, rule };
    let mut scratch = gemm.scratch(2, 2, 3).unwrap();
    let epilogue = || Epilogue::update(update, Companions::default());
    let view = MatMut::new(&mut c, 2, 2).unwrap();
    let error = gemm.run(1.0, a, b, view, epilogue(), &mut scratch).unwrap_err();
    assert!(error.to_string().contains("type of its sums"), "{error}");
    let view = MatMut::new(&mut c, 2, 2).unwrap();
    assert!(naive::gemm_bf16(1.0, a, b, view, epilogue()).is_err());
    assert!(c == elements(4, 3), "C was written before the error");
}

#[test]
fn other_backends_refuse() {
    let gemm = Gemm::<Bf16ToF32>::new().unwrap().with_backend(Backend::Naive);
    let (a, mut c) = (elements(4, 1), [0.0; 4]);
    let (a, view) = (MatRef::new(&a, 2, 2).unwrap(), MatMut::new(&mut c, 2, 2).unwrap());
    let error = gemm.run(1.0, a, a, view, Epilogue::default(), &mut []).unwrap_err();
    assert!(error.to_string().contains("tilewise"), "{error}");
}

#[test]
fn sums_of_a_deep_product_wait_nowhere() {
    // C in bf16 would round sums between blocks, were the depth divided.
    let k = 5000;
    let ones = vec![Bf16::ONE; k];
    let (a, b) = (MatRef::new(&ones, 1, k).unwrap(), MatRef::new(&ones, k, 1).unwrap());
    for set in InstructionSet::available() {
        let gemm = Gemm::<Bf16>::with_instruction_set(set).unwrap();
        assert_eq!(product(gemm, a, b)[0], Bf16::from_f32(5000.0), "{set}");
        let gemm = gemm.with_blocking(gemm.blocking().with_kc(64));
        assert_eq!(product(gemm, a, b)[0], Bf16::from_f32(5000.0), "{set}");
    }
}
