//! Every way that a product's sizes and strides choose, against the definition: depths around that of
//! a block, shallow blocks, strips in place, rows that collide in the L1 cache, and C in any order.

use rand::{SeedableRng, rngs::ChaCha8Rng};
use tilewise::{
    Element,
    gemm::{Epilogue, Gemm, naive},
    matrix::{MatMut, MatRef},
    simd::InstructionSet,
};

use crate::{
    cases::rounding,
    operands::{bits, values},
};

/// A matrix in memory of its own: contiguous or transposed, its lines `gap` elements longer than they
/// need be.
struct Stored<T> {
    data: Vec<T>,
    shape: (usize, usize),
    strides: (isize, isize),
}

impl<T: Element> Stored<T> {
    fn random(
        rng: &mut ChaCha8Rng,
        shape: (usize, usize),
        transposed: bool,
        line: impl Fn(usize) -> usize,
    ) -> Self {
        let (lines, len) = if transposed { (shape.1, shape.0) } else { shape };
        let line = line(len);
        let strides = if transposed { (1, line as isize) } else { (line as isize, 1) };
        Self { data: values(rng, lines * line), shape, strides }
    }

    fn view(&self) -> MatRef<'_, T> {
        MatRef::strided(&self.data, 0, self.shape, self.strides).unwrap()
    }

    fn view_mut(&mut self) -> MatMut<'_, T> {
        MatMut::strided(&mut self.data, 0, self.shape, self.strides).unwrap()
    }
}

fn equals_the_definition<T: Element>(set: InstructionSet, sizes: &[(usize, usize, usize)]) {
    let gemm = Gemm::<T>::with_instruction_set(set).unwrap();
    let exact: fn(usize) -> usize = |len| len;
    let power_of_two: fn(usize) -> usize = usize::next_power_of_two;
    for (case, &(m, n, k)) in sizes.iter().enumerate() {
        let mut scratch = gemm.scratch(m, n, k).unwrap();
        for order in 0..16 {
            let transposed = |bit: usize| order >> bit & 1 == 1;
            let line = if transposed(3) { power_of_two } else { exact };
            let mut rng = ChaCha8Rng::seed_from_u64(case as u64);
            let a = Stored::<T>::random(&mut rng, (m, k), transposed(0), line);
            let b = Stored::<T>::random(&mut rng, (k, n), transposed(1), line);
            let mut c = Stored::<T>::random(&mut rng, (m, n), transposed(2), line);
            let beta = T::from_f64([0.0, 1.0, -0.5][case % 3]);
            let mut expected = c.data.clone();
            let view = MatMut::strided(&mut expected, 0, c.shape, c.strides).unwrap();
            let (how, epilogue) = (rounding(set), || Epilogue::scaled(beta));
            naive::gemm(how, T::ONE, a.view(), b.view(), view, epilogue()).unwrap();
            gemm.run(T::ONE, a.view(), b.view(), c.view_mut(), epilogue(), &mut scratch).unwrap();
            assert!(
                bits(&c.data) == bits(&expected),
                "{m} x {n} x {k}, order {order:04b}, beta {beta}, {set}, {}",
                T::NAME
            );
        }
    }
}

fn on_every_instruction_set<T: Element>() {
    for set in InstructionSet::available() {
        let gemm = Gemm::<T>::with_instruction_set(set).unwrap();
        let (kc, (mr, nr)) = (gemm.blocking().kc, gemm.tile());
        let in_lines = gemm.blocking().in_place_lines;
        let mut sizes = Vec::new();
        // Depths around one, two and three blocks, packed and in place.
        for k in [kc - 1, kc, kc + 1, 2 * kc - 9, 2 * kc + 7, 3 * kc + 1] {
            sizes.extend([(in_lines + 2, 2 * nr + 3, k), (3, 4 * nr + 1, k), (mr + 2, nr + 5, k)]);
        }
        // Shallow blocks on both sides of their depth, with every number of rows in the last tile.
        for k in [0, 1, 2, 31, 32, 33] {
            sizes.extend((1..=mr).map(|rows| (in_lines + rows, 2 * nr + rows, k)));
        }
        // Rows of A that begin a multiple of 4 KiB apart.
        for rows in 1..=2 * mr + 1 {
            sizes.push((rows, 10, 4096 / size_of::<T>()));
        }
        equals_the_definition::<T>(set, &sizes);
    }
}

#[test]
fn every_path_equals_the_definition_in_f32() {
    on_every_instruction_set::<f32>();
}

#[test]
fn every_path_equals_the_definition_in_f64() {
    on_every_instruction_set::<f64>();
}
