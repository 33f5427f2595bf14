//! The definition to the bit: random products of every source and epilogue on every set.

use tilewise::{Element, simd::InstructionSet};

use crate::{
    cases::{Census, Ending, Kind},
    operands::Heap,
};

/// Different cases of each instruction set and element type.
const CASES: usize = 100_000;

fn equals_the_definition<T: Element>(set: InstructionSet, seed: u64) {
    // A few cases come twice, those without elements above all.
    let census = Census::take::<T, Heap>(set, seed, CASES as u64 * 51 / 50);
    census.expect_success();
    println!(
        "{set} {}: {} different cases, {} in place, {} of them wide",
        T::NAME,
        census.distinct(),
        census.in_place,
        census.wide
    );
    assert!(census.distinct() >= CASES, "{set}: {} different cases", census.distinct());
    assert!(census.in_place >= CASES / 50, "{set}: {} cases in place", census.in_place);
    assert!(census.wide >= CASES / 500, "{set}: {} wide cases", census.wide);
    for a in Kind::ALL {
        for b in Kind::ALL {
            for ending in Ending::ALL {
                let count = census.covered.get(&(a, b, ending)).copied().unwrap_or_default();
                assert!(count >= CASES / 1000, "{set}: {count} cases of {a:?} {b:?} {ending:?}");
            }
        }
    }
}

#[test]
fn every_set_equals_the_definition_in_f32() {
    for set in InstructionSet::available() {
        equals_the_definition::<f32>(set, 1);
    }
}

#[test]
fn every_set_equals_the_definition_in_f64() {
    for set in InstructionSet::available() {
        equals_the_definition::<f64>(set, 2);
    }
}
