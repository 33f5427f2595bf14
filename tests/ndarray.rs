//! Arrays of the crate `ndarray` as operands: views of any strides are the same both ways, and
//! products agree with that crate's.
#![cfg(feature = "ndarray")]

use ndarray::{
    Array2, ArrayView2, ArrayViewMut2, Axis, ShapeBuilder, Slice, array,
    linalg::general_mat_mul as by_ndarray, s,
};
use proptest::{collection::vec, prelude::*};
use tilewise::{
    Error,
    gemm::{Epilogue, Gemm},
    infer::Predictor,
    matrix::{MatMut, MatRef},
    ndarray::{TilewiseDot, general_mat_mul},
    nn::{Network, Shape},
};

/// How a matrix lies in a larger array.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Along the axes of the array, backwards where negative.
    steps: (isize, isize),
    /// Elements before and behind.
    margin: usize,
    by_columns: bool,
    transposed: bool,
}

impl Cut {
    fn slice(self, axis: Axis, shape: (usize, usize)) -> Slice {
        let (rows, cols) = if self.transposed { (shape.1, shape.0) } else { shape };
        let (len, step) = [(rows, self.steps.0), (cols, self.steps.1)][axis.index()];
        let (start, len) = (self.margin as isize, len as isize * step.abs());
        Slice::new(start, Some(start + len), step)
    }

    /// The larger array, for a matrix of `shape`.
    fn array(self, shape: (usize, usize), values: &mut impl Iterator<Item = f32>) -> Array2<f32> {
        let len = |axis| self.slice(Axis(axis), shape).end.unwrap_or(0) as usize + self.margin;
        let size = (len(0), len(1)).set_f(self.by_columns);
        Array2::from_shape_simple_fn(size, || values.next().expect("enough values"))
    }

    fn view(self, array: &Array2<f32>, shape: (usize, usize)) -> ArrayView2<'_, f32> {
        let view = array.slice_each_axis(|axis| self.slice(axis.axis, shape));
        if self.transposed { view.reversed_axes() } else { view }
    }

    fn view_mut(self, array: &mut Array2<f32>, shape: (usize, usize)) -> ArrayViewMut2<'_, f32> {
        let view = array.slice_each_axis_mut(|axis| self.slice(axis.axis, shape));
        if self.transposed { view.reversed_axes() } else { view }
    }
}

fn cut() -> impl Strategy<Value = Cut> {
    let step = || prop_oneof![-3..0isize, 1..4isize];
    ((step(), step()), 0..3usize, any::<bool>(), any::<bool>()).prop_map(
        |(steps, margin, by_columns, transposed)| Cut { steps, margin, by_columns, transposed },
    )
}

/// Values again and again.
fn again(values: &[f32]) -> impl Iterator<Item = f32> {
    values.iter().copied().cycle()
}

fn bits(array: &Array2<f32>) -> Vec<u32> {
    array.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_are_the_same_both_ways(cut in cut(), shape in (0..6usize, 0..6usize)) {
        let array = cut.array(shape, &mut (0..).map(|x| x as f32));
        let view = cut.view(&array, shape);
        let matrix = MatRef::from(view);
        prop_assert_eq!(matrix.shape(), shape);
        for ((i, j), &value) in view.indexed_iter() {
            prop_assert_eq!(matrix.get(i, j), value);
        }
        let back = ArrayView2::try_from(matrix).unwrap();
        prop_assert_eq!(back, view);
        if shape.0 > 1 && shape.1 > 1 {
            prop_assert_eq!(back.strides(), view.strides());
        }
        prop_assert_eq!(ArrayView2::try_from(matrix.t()).unwrap(), view.t());
    }

    #[test]
    fn what_is_written_lands_in_its_place(cut in cut(), shape in (0..6usize, 0..6usize)) {
        let value = |i: usize, j: usize| (10 * i + j) as f32;
        let blank = cut.array(shape, &mut again(&[-1.0]));
        let (mut expected, mut by_set, mut by_array) = (blank.clone(), blank.clone(), blank);
        for ((i, j), place) in cut.view_mut(&mut expected, shape).indexed_iter_mut() {
            *place = value(i, j);
        }
        let mut matrix = MatMut::from(cut.view_mut(&mut by_set, shape));
        for (i, j) in (0..shape.0).flat_map(|i| (0..shape.1).map(move |j| (i, j))) {
            matrix.set(i, j, value(i, j));
        }
        prop_assert_eq!(&by_set, &expected);
        let matrix = MatMut::from(cut.view_mut(&mut by_array, shape));
        let mut back = ArrayViewMut2::try_from(matrix).unwrap();
        prop_assert_eq!(back.dim(), shape);
        back.indexed_iter_mut().for_each(|((i, j), place)| *place = value(i, j));
        prop_assert_eq!(by_array, expected);
    }

    #[test]
    fn products_of_whole_numbers_are_those_of_ndarray(
        (m, k, n) in (0..20usize, 0..20usize, 0..40usize),
        (a, b, c) in (cut(), cut(), cut()),
        values in vec((-8..=8i8).prop_map(f32::from), 101),
        (alpha, beta) in (-2..=2i8, -2..=2i8),
    ) {
        let mut values = again(&values);
        let (left, right) = (a.array((m, k), &mut values), b.array((k, n), &mut values));
        let (left, right) = (a.view(&left, (m, k)), b.view(&right, (k, n)));
        prop_assert_eq!(left.tilewise_dot(&right).unwrap(), left.dot(&right));

        let mut ours = c.array((m, n), &mut values);
        let mut theirs = ours.clone();
        let (alpha, beta) = (f32::from(alpha), f32::from(beta));
        by_ndarray(alpha, &left, &right, beta, &mut c.view_mut(&mut theirs, (m, n)));
        let gemm = Gemm::new().unwrap();
        let mut scratch = gemm.scratch(m, n, k).unwrap();
        let out = &mut c.view_mut(&mut ours, (m, n));
        general_mat_mul(&gemm, alpha, &left, &right, beta, out, &mut scratch).unwrap();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn products_have_the_bits_of_the_same_matrices_side_by_side(
        (m, k, n) in (1..20usize, 1..70usize, 1..40usize),
        (a, b) in (cut(), cut()),
        values in vec(-1.0f32..1.0, 211),
    ) {
        let mut values = again(&values);
        let (left, right) = (a.array((m, k), &mut values), b.array((k, n), &mut values));
        let (left, right) = (a.view(&left, (m, k)), b.view(&right, (k, n)));
        let dense = |view: ArrayView2<'_, f32>| view.iter().copied().collect::<Vec<_>>();
        let (x, y, mut z) = (dense(left), dense(right), vec![0.0; m * n]);
        let (x, y) = (MatRef::new(&x, m, k).unwrap(), MatRef::new(&y, k, n).unwrap());
        let gemm = Gemm::<f32>::new().unwrap();
        let mut scratch = gemm.scratch(m, n, k).unwrap();
        let out = MatMut::new(&mut z, m, n).unwrap();
        gemm.run(1.0, x, y, out, Epilogue::default(), &mut scratch).unwrap();
        let expected = Array2::from_shape_vec((m, n), z).unwrap();
        prop_assert_eq!(bits(&left.tilewise_dot(&right).unwrap()), bits(&expected));
    }
}

#[test]
fn interleaved_parts_are_written_at_the_same_time() {
    let mut array = Array2::<f32>::zeros((40, 60));
    let ones = Array2::<f32>::ones((40, 40));
    let (even, odd) = array.multi_slice_mut((s![.., ..;2], s![.., 1..;2]));
    std::thread::scope(|scope| {
        for (mut part, factor) in [(even, 1.0), (odd, 2.0)] {
            let ones = &ones;
            scope.spawn(move || {
                let (gemm, b) = (Gemm::new().unwrap(), ones.slice(s![.., ..30]));
                let mut scratch = gemm.scratch(40, 30, 40).unwrap();
                general_mat_mul(&gemm, factor, ones, &b, 0.0, &mut part, &mut scratch).unwrap();
            });
        }
    });
    assert!(array.indexed_iter().all(|((_, j), &x)| x == if j % 2 == 0 { 40.0 } else { 80.0 }));
}

#[test]
fn repeated_elements_are_read_and_counted() {
    let row = array![1.0f32, 2.0, 3.0];
    let repeated = row.broadcast((4, 3)).unwrap();
    assert_eq!(ArrayView2::try_from(MatRef::from(repeated)).unwrap(), repeated);
    assert_eq!(repeated.t().tilewise_dot(&repeated).unwrap(), repeated.t().dot(&repeated));
    let vast = MatRef::strided(&[1.0f32], 0, (usize::MAX / 4, 3), (0, 0)).unwrap();
    let error = ArrayView2::try_from(vast).unwrap_err();
    assert!(matches!(error, Error::SizeOverflow { cols: 3, .. }), "{error}");
    let long = MatMut::<f32>::strided(&mut [], 0, (usize::MAX, 0), (1, 1)).unwrap();
    assert!(matches!(ArrayViewMut2::try_from(long), Err(Error::SizeOverflow { .. })));
    let wide = MatMut::<f32>::strided(&mut [], usize::MAX, (0, 7), (-3, isize::MIN)).unwrap();
    assert_eq!(ArrayViewMut2::try_from(wide).unwrap().dim(), (0, 7));
}

#[test]
fn arrays_that_do_not_fit_are_errors() {
    let (a, b) = (Array2::<f64>::zeros((2, 3)), Array2::zeros((4, 5)));
    let error = a.tilewise_dot(&b).unwrap_err();
    assert!(matches!(error, Error::Shape { expected: (3, 5), found: (4, 5), .. }), "{error}");
    let gemm = Gemm::new().unwrap();
    let mut c = array![[7.0]];
    let error = general_mat_mul(&gemm, 1.0, &a, &b, 0.0, &mut c, &mut []).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }) && c == array![[7.0]], "{error}");
}

#[test]
fn predictions_are_made_from_arrays() {
    let network =
        Network::<f32>::builder(Shape::Features(6)).linear(5).relu().linear(3).build().unwrap();
    let predictor = Predictor::new(&network).unwrap();
    let mut scratch = predictor.scratch(4).unwrap();
    let x = Array2::from_shape_fn((4, 6).f(), |(i, j)| (i * j) as f32 - 2.0);
    let mut logits = Array2::zeros((4, 3));
    predictor.predict_into(x.view(), (&mut logits).into(), &mut scratch).unwrap();
    let weight = |name, shape| {
        Array2::from_shape_vec(shape, network.parameters().get(name).unwrap().to_vec()).unwrap()
    };
    let expected = x.tilewise_dot(&weight("0.weight", (6, 5))).unwrap().mapv(|x| x.max(0.0));
    let expected = expected.tilewise_dot(&weight("2.weight", (5, 3))).unwrap();
    // Initial biases are 0.
    assert_eq!(logits, expected);
}
