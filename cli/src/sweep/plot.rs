//! The plot of a sweep: a heat map of a grid of two settings, parallel coordinates of anything
//! else.

use std::error::Error;

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use toml::Value;

use crate::{
    config::word,
    sweep::{
        results::Record,
        space::{Axis, Values},
    },
};

const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: (u8, u8, u8) = (226, 234, 243);
const DEEP: (u8, u8, u8) = (16, 70, 140);
/// Cell of a heat map.
const CELL: (i32, i32) = (92, 56);
/// Space around a plot: left, top, right, bottom.
const MARGIN: (i32, i32, i32, i32) = (120, 60, 40, 70);
/// Parallel coordinates: height of the axes, and from one to the next.
const AXES: (i32, i32) = (380, 190);
/// Width of a character of a label, about.
const LABEL_CHARACTER: i32 = 7;
/// Most values that an axis has a mark for each of.
const MARKS: usize = 8;
/// A list whose largest number is this much of its smallest is drawn on a logarithmic scale.
const LOG_FROM: f64 = 20.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// The trials as SVG; those without a setting of their own are left out.
///
/// # Errors
/// Those of the drawing library.
pub(super) fn plot(axes: &[Axis], ranking: &[&Record]) -> Result<String, Box<dyn Error>> {
    match axes {
        [
            Axis { key: x, values: Values::Grid(columns) },
            Axis { key: y, values: Values::Grid(rows) },
        ] => draw((CELL.0 * columns.len() as i32, CELL.1 * rows.len() as i32), |area| {
            heat_map(area, (x, columns), (y, rows), ranking)
        }),
        _ => draw((AXES.1 * axes.len() as i32, AXES.0), |area| parallel(area, axes, ranking)),
    }
}

/// Draws on a page with margins around an area of the given size.
fn draw(
    size: (i32, i32),
    content: impl FnOnce(&Area<'_>) -> Drawn,
) -> Result<String, Box<dyn Error>> {
    let page = (size.0 + MARGIN.0 + MARGIN.2, size.1 + MARGIN.1 + MARGIN.3);
    let mut svg = String::new();
    {
        let page = (page.0.unsigned_abs(), page.1.unsigned_abs());
        let area = SVGBackend::with_string(&mut svg, page).into_drawing_area();
        area.fill(&WHITE)?;
        text(&area, "Best validation accuracy", (MARGIN.0, 26), 22, HPos::Left, INK)?;
        content(&area)?;
        area.present()?;
    }
    Ok(svg)
}

/// A color for a place from 0 to 1.
fn color(place: f64) -> RGBColor {
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * place).round() as u8;
    RGBColor(mix(PALE.0, DEEP.0), mix(PALE.1, DEEP.1), mix(PALE.2, DEEP.2))
}

/// The position of `value` between the worst and the best trial.
fn place(ranking: &[&Record], value: f64) -> f64 {
    let accuracies = || ranking.iter().map(|record| record.val_accuracy());
    let (low, high) = (
        accuracies().fold(f64::INFINITY, f64::min),
        accuracies().fold(f64::NEG_INFINITY, f64::max),
    );
    if high > low { (value - low) / (high - low) } else { 1.0 }
}

fn text(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: i32,
    side: HPos,
    color: RGBColor,
) -> Drawn {
    let style = ("sans-serif", size).into_font().color(&color).pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

fn heat_map(
    area: &Area<'_>,
    (x, columns): (&str, &[Value]),
    (y, rows): (&str, &[Value]),
    ranking: &[&Record],
) -> Drawn {
    let (left, top) = (MARGIN.0, MARGIN.1);
    for (row, y_value) in (0..).zip(rows) {
        let middle = top + CELL.1 * row + CELL.1 / 2;
        text(area, &word(y_value), (left - 10, middle), 16, HPos::Right, INK)?;
        for (column, x_value) in (0..).zip(columns) {
            let found = ranking.iter().find(|record| {
                record.settings.get(x) == Some(x_value) && record.settings.get(y) == Some(y_value)
            });
            let Some(record) = found else { continue };
            let shade = place(ranking, record.val_accuracy());
            let corner = (left + CELL.0 * column, top + CELL.1 * row);
            let opposite = (corner.0 + CELL.0 - 2, corner.1 + CELL.1 - 2);
            area.draw(&Rectangle::new([corner, opposite], color(shade).filled()))?;
            let mark = if record.diverged { "*" } else { "" };
            let label = format!("{:.4}{mark}", record.val_accuracy());
            let ink = if shade > 0.5 { WHITE } else { INK };
            text(area, &label, (corner.0 + CELL.0 / 2, middle), 17, HPos::Center, ink)?;
        }
    }
    let bottom = top + CELL.1 * rows.len() as i32;
    for (column, value) in (0..).zip(columns) {
        let at = (left + CELL.0 * column + CELL.0 / 2, bottom + 16);
        text(area, &word(value), at, 16, HPos::Center, INK)?;
    }
    let middle = left + CELL.0 * columns.len() as i32 / 2;
    text(area, x, (middle, bottom + 42), 18, HPos::Center, INK)?;
    text(area, y, (12, top - 16), 18, HPos::Left, INK)?;
    if ranking.iter().any(|record| record.diverged) {
        text(area, "* diverged", (12, bottom + 42), 15, HPos::Left, INK)?;
    }
    Ok(())
}

/// The positions of the values of one coordinate, from 0 at the bottom to 1.
enum Scale {
    Linear(f64, f64),
    Log(f64, f64),
    /// The values in their order.
    Words(Vec<String>),
}

impl Scale {
    /// For the values of an axis, or for accuracies.
    fn new(axis: Option<&Axis>, values: &[&Value]) -> Self {
        let numbers: Option<Vec<f64>> = values.iter().map(|value| number(value)).collect();
        let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) else {
            let mut words: Vec<String> = values.iter().map(|value| word(value)).collect();
            words.sort();
            words.dedup();
            return Self::Words(words);
        };
        let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let is_log = match axis.map(|axis| &axis.values) {
            Some(&Values::Range { log, .. }) => log,
            Some(_) => low > 0.0 && high / low >= LOG_FROM,
            None => false,
        };
        if is_log { Self::Log(low, high) } else { Self::Linear(low, high) }
    }

    fn place(&self, value: &Value) -> f64 {
        let part = |value: f64, low: f64, high: f64| {
            if high > low { (value - low) / (high - low) } else { 0.5 }
        };
        match self {
            Self::Linear(low, high) => part(number(value).unwrap_or(*low), *low, *high),
            Self::Log(low, high) => part(number(value).unwrap_or(*low).ln(), low.ln(), high.ln()),
            Self::Words(words) => {
                let at = words.iter().position(|known| *known == word(value)).unwrap_or(0);
                part(at as f64, 0.0, (words.len() - 1) as f64)
            }
        }
    }

    /// Values to be marked: all of few, the ends and what is between of many.
    fn marks(&self, values: &[&Value]) -> Vec<Value> {
        let mut distinct: Vec<Value> = Vec::new();
        for &value in values {
            if !distinct.contains(value) {
                distinct.push(value.clone());
            }
        }
        let quarters = || (0..5).map(|i| f64::from(i) / 4.0);
        let short = |x: f64| Value::Float(format!("{x:.2e}").parse().unwrap_or(x));
        match self {
            _ if distinct.len() <= MARKS => distinct,
            Self::Linear(low, high) => quarters().map(|q| short(low + (high - low) * q)).collect(),
            Self::Log(low, high) => quarters().map(|q| short(low * (high / low).powf(q))).collect(),
            Self::Words(_) => distinct,
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        Value::Array(elements) => match &elements[..] {
            [only] => number(only),
            _ => None,
        },
        _ => None,
    }
}

fn parallel(area: &Area<'_>, axes: &[Axis], ranking: &[&Record]) -> Drawn {
    let accuracies: Vec<Value> =
        ranking.iter().map(|record| Value::Float(record.val_accuracy())).collect();
    // The values of each coordinate, trial by trial; the accuracy last.
    let mut coordinates: Vec<(&str, Vec<&Value>)> = Vec::new();
    for axis in axes {
        let values = ranking.iter().filter_map(|record| record.settings.get(&axis.key));
        coordinates.push((&axis.key, values.collect()));
    }
    coordinates.push(("val_acc", accuracies.iter().collect()));
    let axes = axes.iter().map(Some).chain([None]);
    let scales: Vec<Scale> =
        axes.zip(&coordinates).map(|(axis, (_, values))| Scale::new(axis, values)).collect();
    let at = |coordinate: usize, value: &Value| {
        let x = MARGIN.0 + AXES.1 * coordinate as i32;
        let height = f64::from(AXES.0) * (1.0 - scales[coordinate].place(value));
        (x, MARGIN.1 + height.round() as i32)
    };
    // The best is drawn last, on top.
    for (trial, record) in ranking.iter().enumerate().rev() {
        let shade = place(ranking, record.val_accuracy());
        let points: Option<Vec<_>> = coordinates
            .iter()
            .enumerate()
            .map(|(number, (_, values))| Some(at(number, values.get(trial)?)))
            .collect();
        let style = color(shade).stroke_width(if trial == 0 { 4 } else { 2 });
        area.draw(&PathElement::new(points.unwrap_or_default(), style))?;
    }
    for (number, (name, values)) in coordinates.iter().enumerate() {
        let x = MARGIN.0 + AXES.1 * number as i32;
        let (top, bottom) = (MARGIN.1, MARGIN.1 + AXES.0);
        area.draw(&PathElement::new([(x, top), (x, bottom)], INK.stroke_width(1)))?;
        text(area, name, (x, bottom + 28), 18, HPos::Center, INK)?;
        for mark in scales[number].marks(values) {
            let (x, y) = at(number, &mark);
            area.draw(&PathElement::new([(x - 4, y), (x, y)], INK.stroke_width(1)))?;
            let label = word(&mark);
            // So that lines do not run through the label.
            let width = LABEL_CHARACTER * label.chars().count() as i32;
            let behind = [(x - 9 - width, y - 8), (x - 6, y + 8)];
            area.draw(&Rectangle::new(behind, WHITE.mix(0.8).filled()))?;
            text(area, &label, (x - 8, y), 14, HPos::Right, INK)?;
        }
    }
    Ok(())
}
